"""Processes of Marzhook that are forked from one which has already imported it.

A start costs a second of processor time, nearly all of it for imports, and the tests start some hundreds. What runs is the
same, with an environment, a folder and files of its own. Where an environment says something about Python itself, or another
command has to run it, an interpreter is started as ever.

Run as a script, this is the process that forks: it is told what to start over the socket on its standard input. It ends with
whoever holds the other end, and what it has started ends with it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from processes import die_with_parent

PRELOADED: Final = (
    "marzhook.testing", "marzhook.cli.main", "marzhook.cli.run", "marzhook.cli.worker", "marzhook.store.shards",
    "marzhook.store.sessions",
)  # fmt: skip
MODULES: Final = {"marzhook": "marzhook.cli.main", "marzhook.testing": "marzhook.testing"}
"""For `python -m …`: where its `main` is."""
LONGEST: Final = 2**17
"""Bytes of an order."""


class Forked:
    """A process that was forked: what `subprocess.Popen` gives of it, as far as the tests need that."""

    def __init__(self, pid: int, status: socket.socket, stdout: IO[str] | None, stderr: IO[str] | None) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                told = self._status.recv(16)
            except (BlockingIOError, TimeoutError):
                return None
            # It tells nothing when it was ended itself.
            self.returncode = int(told) if told else -signal.SIGKILL
            self._status.close()
        return self.returncode


Process = Forked | subprocess.Popen[str]


def start(
    module: str,
    *arguments: str,
    folder: Path,
    environment: Mapping[str, str],
    log: IO[str] | None = None,
    through: Sequence[str] = (),
) -> Process:
    """`python -m module arguments…`; what it says goes to pipes, or to the file `log`. `through`: a command that runs it."""
    if through or any(name.startswith("PYTHON") and os.environ.get(name) != environment[name] for name in environment):
        return subprocess.Popen(
            [*through, sys.executable, "-m", module, *arguments],
            cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log or subprocess.PIPE,
            stderr=log or subprocess.PIPE, text=True,
        )  # fmt: skip
    return _parent().fork(MODULES[module], arguments, folder, environment, log)


def run(module: str, *arguments: str, folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The same to its end, for a minute at most. Raises subprocess.TimeoutExpired."""
    process = start(module, *arguments, folder=folder, environment=environment)
    assert process.stdout
    assert process.stderr
    said: list[str] = []
    with process.stdout, process.stderr:
        reader = threading.Thread(target=lambda: said.append(process.stderr.read()), daemon=True)
        reader.start()
        stdout = process.stdout.read()
        reader.join()
    return subprocess.CompletedProcess([module, *arguments], process.wait(60), stdout, *said)


class _Parent:
    """The process that forks, seen from here."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen([sys.executable, __file__], stdin=theirs)
        atexit.register(self._end)

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()

    def fork(
        self, module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], log: IO[str] | None
    ) -> Forked:
        order = json.dumps([module, arguments, str(folder), dict(environment)]).encode()
        status, theirs = socket.socketpair()
        reads: list[IO[str] | None] = [None, None]
        writes = []
        if log is None:
            for place in (0, 1):
                read, write = os.pipe()
                reads[place] = os.fdopen(read, encoding="utf-8")
                writes.append(write)
        else:
            writes = [os.dup(log.fileno()) for _ in range(2)]
        socket.send_fds(self._socket, [order], [theirs.fileno(), *writes])
        theirs.close()
        for write in writes:
            os.close(write)
        return Forked(int(status.recv(16)), status, reads[0], reads[1])


_parents: list[_Parent] = []


def _parent() -> _Parent:
    if not _parents:
        _parents.append(_Parent())
    return _parents[0]


# -- the process that forks


def _serve(orders: socket.socket) -> Any:
    """Fork as told, and tell how each one ended, until nobody is there to tell; in a child, return its `main`."""
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    children: dict[int, int] = {}
    waiting = selectors.DefaultSelector()
    waiting.register(orders, selectors.EVENT_READ)
    waiting.register(woken, selectors.EVENT_READ)
    while True:
        ready = {key.fileobj for key, _ in waiting.select()}
        if woken in ready:
            woken.recv(4096)
            _reap(children)
        if orders in ready:
            order, given, _, _ = socket.recv_fds(orders, LONGEST, 3)
            if not order:
                raise SystemExit
            pid = os.fork()
            if not pid:
                # Not with who asked for it: the thread that did may end before the test does.
                die_with_parent(signal.SIGKILL)
                for mine in (waiting, woken, wake, orders):
                    mine.close()
                return _become(order, given)
            status, *files = given
            os.write(status, str(pid).encode())
            children[pid] = status
            for file in files:
                os.close(file)


def _reap(children: dict[int, int]) -> None:
    while children:
        pid, code = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        status = children.pop(pid)
        try:
            os.write(status, str(os.waitstatus_to_exitcode(code)).encode())
        except BrokenPipeError:
            pass  # nobody wants to know
        os.close(status)


def _become(order: bytes, given: Sequence[int]) -> Any:
    """This process is the new one: let go of the parent's things, and take its own."""
    module, arguments, folder, environment = json.loads(order)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, stdout, stderr = given
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    sys.argv = ["marzhook", *arguments]
    return importlib.import_module(module).main


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    _serve(socket.socket(fileno=os.dup(0)))()
