"""Run as a script: sends much, and ends with an error where memory or descriptors have grown by it."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from marzhook.clock import SystemClock
from marzhook.request import Request
from marzhook.transport.http import HttpTransport

PAGE = 4096


def resident() -> int:
    """Bytes of memory that the process has just now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def send(transport: HttpTransport, url: str, count: int, *, at_once: int, body: bytes, guarded: bool = False) -> None:
    started = ended = 0
    while ended < count:
        while started < count and started - ended < at_once:
            # A body of its own for each, as in life.
            transport.send(Request(url, ("x: y",), body + b"%d" % started, 5.0, 5.0, guarded), started)
            started += 1
        ended += len(transport.poll(1.0))


def main(good: str, refused: str) -> None:
    transport = HttpTransport(SystemClock())

    def round_of_all(count: int) -> None:
        send(transport, good, count, at_once=20, body=b"x" * 2000)
        send(transport, refused, count // 2, at_once=20, body=b"")
        send(transport, good, count // 2, at_once=20, body=b"", guarded=True)

    round_of_all(500)
    memory, files = resident(), len(os.listdir("/proc/self/fd"))
    round_of_all(2500)
    grown, more = resident() - memory, len(os.listdir("/proc/self/fd")) - files
    print(f"{grown} bytes, {more} descriptors")
    assert more <= 2
    assert grown < 4_000_000
    memory = resident()
    send(transport, good, 200, at_once=200, body=b"x" * 262_144)
    kept = resident() - memory
    print(f"{kept} bytes are kept after 200 large requests at once")
    assert kept < 25_000_000
    transport.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
