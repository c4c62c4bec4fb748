"""Commands: a program with an event on its standard input, ended with all that it started when its time is up."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from marzhook.request import MAX_RESPONSE, Command
from marzhook.transport.stop import Stop

NOTHING: Final = nullcontext()
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""Of the service's environment: the rest holds its secrets."""


class Programs:
    """Which programs may be run: named ones, and all in named folders, wherever links to them lie."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = tuple(Path(path).resolve() for path in allowed)

    def permit(self, program: str) -> bool:
        path = Path(program).resolve()
        return any(path == allowed or allowed in path.parents for allowed in self._allowed)


def run(command: Command, programs: Programs, timeout: float, stop: Stop) -> tuple[int, str | None, str, bytes]:
    """Exit status, error and its message, and the end of stderr."""
    if not programs.permit(command.argv[0]):
        return 1, "other", f"{command.argv[0]} may not be run: MARZHOOK_EXEC_ALLOW does not name it", b""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(command.environment)
    return execute(command.argv, command.stdin, environment, timeout, stop, folder="/")


def execute(
    argv: Sequence[str],
    text: bytes,
    environment: Mapping[str, str],
    timeout: float,
    stop: Stop,
    *,
    folder: str | None = None,
    starting: AbstractContextManager[object] = NOTHING,
) -> tuple[int, str | None, str, bytes]:
    """The same of any program, in this folder (None: the caller's), with `text` on its standard input.

    `starting` is entered before it is started, and left when `stop` ends it.
    """
    # A file and no pipe: who does not read his input neither blocks nor fails.
    with starting, tempfile.TemporaryFile() as stdin:
        stdin.write(text)
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                argv, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, cwd=folder,
                start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return 1, "other", f"it cannot be run: {reason}", b""
        stop.on(lambda: _kill(process))
    try:
        tail, in_time = _watched(process, timeout)
    finally:
        stop.on(None)
        _kill(process) if process.poll() is None else None
        process.wait()
        assert process.stderr
        process.stderr.close()
    if not in_time:
        return 1, "timeout", f"it did not end within {timeout:g} s, and was killed with all that it had started", tail
    if process.returncode < 0:
        return 1, "other", f"signal {-process.returncode} ended it", tail
    return process.returncode, None, "", tail


def _watched(process: subprocess.Popen[bytes], timeout: float) -> tuple[bytes, bool]:
    """The end of stderr, where it says why it failed, and whether it ended in time. What it started may go on, and may hold
    stderr open."""
    assert process.stderr
    errors, tail, deadline = process.stderr.fileno(), b"", time.monotonic() + timeout
    os.set_blocking(errors, False)
    ended = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(errors, select.POLLIN)
    poll.register(ended, select.POLLIN)
    try:
        while True:
            left = deadline - time.monotonic()
            ready = dict(poll.poll(max(0.0, left) * 1000))
            if errors in ready and (data := _read(errors)) is not None:
                tail = (tail + data)[-MAX_RESPONSE:]
                if not data:
                    poll.unregister(errors)
            if ended in ready:
                return (tail + (_read(errors) or b""))[-MAX_RESPONSE:], True
            if left <= 0:
                return tail, False
    finally:
        os.close(ended)


def _read(fd: int) -> bytes | None:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        # Not reaped yet, so the number is still its own.
        os.killpg(process.pid, signal.SIGKILL)
