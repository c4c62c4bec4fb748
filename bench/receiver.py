"""The measurements' receiver: `marzhook.cli.sink` on several ports, some of which misbehave, and over TLS.

`python -m bench.receiver fast hang slow … [--latencies] [--tls FOLDER]`: one port for each word, and behind them one
in plain HTTP that takes no events and answers whoever measures (`/report`, `/status/503`).
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from functools import partial
from pathlib import Path

from marzhook.cli.sink import ANSWER, Reception, Sink, Tally, until_left

SLOW = 2.0
"""Seconds that a slow one takes to answer."""


class Fast(Reception):
    """Answers at once; what it answers can be changed while it runs (`/status/503`)."""

    status = 200
    refused = 0

    def received(self, body: bytes) -> None:
        if Fast.status == 200:
            super().received(body)
            return
        Fast.refused += 1
        self.transport.write(b"HTTP/1.1 %d Out of order\r\nContent-Length: 0\r\n\r\n" % Fast.status)


class Hanging(Reception):
    """Takes requests and never answers."""

    def received(self, body: bytes) -> None:
        pass


class Slow(Reception):
    """Answers after SLOW seconds; what it gets is not counted."""

    def received(self, body: bytes) -> None:
        asyncio.get_running_loop().call_later(SLOW, self._answer)

    def _answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(ANSWER)


class Control(Reception):
    """Where one asks."""

    def asked(self, path: str) -> None:
        if path.startswith("/status/"):
            Fast.status = int(path.rsplit("/", 1)[1])
            text = json.dumps({"refused": Fast.refused}).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
        else:
            super().asked(path)


KINDS = {"fast": Fast, "hang": Hanging, "slow": Slow}


def receiver(*kinds: str, latencies: bool = False, tls: Path | None = None) -> Sink:
    """The process. `tls`: a folder with cert.pem and key.pem (`certificate`)."""
    flags = (["--latencies"] if latencies else []) + ([f"--tls={tls}"] if tls else [])
    return Sink(*(kinds or ("fast",)), *flags, module="bench.receiver", scheme="https" if tls else "http")


def certificate(folder: Path) -> Path:
    """Make a self-signed certificate for 127.0.0.1 in the folder; return its file, which is to be trusted."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem"


async def serve() -> None:
    flags = [word for word in sys.argv[1:] if word.startswith("--")]
    kinds = [word for word in sys.argv[1:] if not word.startswith("--")]
    Reception.tally = Tally(latencies="--latencies" in flags)
    context = None
    for flag in flags:
        if flag.startswith("--tls="):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            folder = Path(flag.removeprefix("--tls="))
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    loop = asyncio.get_running_loop()
    listen = partial(loop.create_server, host="127.0.0.1", port=0, backlog=4096)
    servers = [await listen(KINDS[kind], ssl=context) for kind in kinds]
    servers.append(await listen(Control))
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await until_left()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve())
