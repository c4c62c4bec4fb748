"""A receiver in a process of its own, on loopback: obeys, and remembers what it was sent.

Run as a script (with a port, 0 for any, and an address) it prints its port and serves until its standard input closes.
`POST /_do` sets how the next requests are treated (`hold`: they are answered when the next order comes; `brief`: of each is
remembered only what came, whence and when), `GET /_seen` tells what came, `POST /_forget` empties the memory. Every other
request is a delivery.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from typing import Any

OK = {"mode": "answer", "status": 200, "headers": {}, "body": "ok", "delay": 0.0, "secret": None, "times": None,
    "refuse": None, "only": None, "hold": False, "brief": False,
}  # fmt: skip


class Receiver:
    def __init__(self) -> None:
        self.behaviour: dict[str, Any] = dict(OK)
        self.seen: list[dict[str, Any]] = []
        self.changed = asyncio.Condition()
        self.in_flight = 0
        self.most_in_flight = 0
        self.open = 0
        self.orders = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while await self.exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cancelled: the test has ended, and asyncio would complain about who still hangs
        finally:
            self.open -= 1
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head[:-4].split("\r\n")
        method, target, _ = first.split(" ")
        headers = [line.split(": ", 1) for line in lines]
        length = int(next((v for k, v in headers if k.lower() == "content-length"), "0"))
        body = await reader.readexactly(length)
        if target.startswith("/_"):
            return await self.control(target, body, writer)
        how = dict(self.behaviour)
        if how["times"] is not None:
            self.behaviour["times"] -= 1
            if self.behaviour["times"] <= 0:
                self.behaviour = dict(OK)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self.deliver(how, method, target, headers, body, writer)
        finally:
            self.in_flight -= 1

    async def deliver(
        self, how: dict[str, Any], method: str, target: str, headers: list[list[str]], body: bytes,
        writer: asyncio.StreamWriter,
    ) -> bool:  # fmt: skip
        status = how["status"]
        secret = next((v for k, v in headers if k.lower() == "x-webhook-secret"), None)
        if how["secret"] is not None and secret != how["secret"]:
            status = 403
        if how["refuse"] is not None and how["refuse"] in body.decode():
            status = 422
        mode = how["mode"] if how["only"] is None or how["only"] in body.decode() else "answer"
        record = {
            "at": time.time(), "method": method, "path": target, "headers": headers, "body": body.decode(),
            "answered": status if mode == "answer" else None,
        }  # fmt: skip
        if how["brief"]:
            event = json.loads(body)
            record = {
                "at": record["at"], "answered": record["answered"], "from": writer.get_extra_info("peername")[0],
                "id": next((v for k, v in headers if k.lower() == "webhook-id"), None),
                "username": event["username"], "number": event["number"],
            }  # fmt: skip
        # Before the answer: who is answered can rely on it, also when we are killed in between.
        await self.remember(record)
        if how["hold"]:
            orders = self.orders
            async with self.changed:
                await self.changed.wait_for(lambda: self.orders > orders)
        if how["delay"]:
            await asyncio.sleep(how["delay"])
        match mode:
            case "hang":
                await asyncio.sleep(3600)
            case "reset":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
                await writer.drain()
                # Linger 0: the close becomes a RST.
                writer.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))
                return False
            case "close":
                return False
            case "garbage":
                writer.write(b"\x00\x01 this is not HTTP \r\n\r\n")
                await writer.drain()
                return False
            case "drip":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while True:
                    writer.write(b".")
                    await writer.drain()
                    await asyncio.sleep(how.get("every", 1.0))
            case "huge":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
                for _ in range(1024):
                    writer.write(b"x" * 1048576)
                    await writer.drain()
                return False
            case "endless":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while True:
                    writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
                    await writer.drain()
            case _:
                answer = how["body"].encode()
                more = "".join(f"{k}: {v}\r\n" for k, v in how["headers"].items())
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(answer)}\r\n{more}\r\n".encode() + answer)
                await writer.drain()
        return True

    async def remember(self, record: dict[str, Any]) -> None:
        self.seen.append(record)
        async with self.changed:
            self.changed.notify_all()

    async def control(self, target: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        answer: Any = None
        if target == "/_do":
            self.behaviour = {**OK, **json.loads(body)}
            self.orders += 1
            async with self.changed:
                self.changed.notify_all()
        elif target == "/_forget":
            self.seen.clear()
            self.most_in_flight = 0
        elif target.startswith("/_wait/"):
            count, seconds = target.removeprefix("/_wait/").split("/")
            try:
                async with asyncio.timeout(float(seconds)), self.changed:
                    await self.changed.wait_for(lambda: len(self.seen) >= int(count))
            except TimeoutError:
                pass
            answer = len(self.seen)
        elif target.startswith("/_seen/"):
            answer = self.seen[int(target.removeprefix("/_seen/")) :]
        elif target == "/_most":
            answer = self.most_in_flight
        elif target == "/_open":
            answer = self.open - 1  # not the one that asks
        text = json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        await writer.drain()
        return True


async def main(port: int, host: str) -> None:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.connection, host, port, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    stdin = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    await stdin.read()  # the test has ended


if __name__ == "__main__":
    port, host = (*sys.argv[1:], *("0", "127.0.0.1")[len(sys.argv) - 1 :])
    asyncio.run(main(int(port), host))
