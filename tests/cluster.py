"""A Patroni cluster as operators run it: etcd, and three servers of which one leads and one follows synchronously."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from marzhook.testing import eventually
from postgresql import QUICK, binaries, free_port, kill_tree, unprivileged
from processes import die_with_parent
from programs import program

PATRONI = Path(__file__).parent.parent / ".venv" / "ha" / "bin" / "patroni"
TTL = 20
"""Seconds after which a leader that is not heard of is replaced: the least that Patroni allows, where 30 is its default."""


class Node:
    """One Patroni and its server."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name, self._cluster = name, cluster
        self.port, self.api = free_port(), free_port()
        self._data = cluster.folder / name
        self._config = cluster.folder / f"{name}.json"
        self._config.write_text(json.dumps(self._configuration()))
        self.start()

    def start(self) -> None:
        self.process = self._cluster.run(self.name, str(PATRONI), str(self._config))

    def kill(self) -> None:
        """As if the machine lost its power."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        # Patroni's server is nobody's child.
        with suppress(FileNotFoundError):
            kill_tree(int((self._data / "postmaster.pid").read_text().split()[0]))

    def members(self) -> dict[str, tuple[str, str]]:
        """Role and state of each member, as this one knows them; none when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api}/cluster", timeout=5) as answer:
                found: list[dict[str, Any]] = json.load(answer)["members"]
        except (OSError, ValueError, KeyError):
            return {}
        return {member["name"]: (member["role"], member["state"]) for member in found}

    def _configuration(self) -> dict[str, Any]:
        cluster = self._cluster
        return {
            "scope": "marzhook",
            "name": self.name,
            "restapi": {"listen": f"127.0.0.1:{self.api}", "connect_address": f"127.0.0.1:{self.api}"},
            "etcd3": {"host": f"127.0.0.1:{cluster.etcd_port}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL, "loop_wait": 2, "retry_timeout": 5,
                    "synchronous_mode": True, "synchronous_mode_strict": True,
                    "postgresql": {
                        "use_pg_rewind": True,
                        # Patroni's own default, and what a rewind needs.
                        "parameters": {**QUICK, "full_page_writes": "on", "max_connections": 100},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}", "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(self._data), "bin_dir": str(binaries()), "pgpass": str(cluster.folder / f"{self.name}.pgpass"),
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
                "authentication": {
                    "superuser": {"username": "marzhook", "password": cluster.password},
                    "replication": {"username": "replicator", "password": cluster.password},
                },
                "parameters": {"unix_socket_directories": str(cluster.folder)},
                "pg_hba": [
                    "local all all trust", "host all all 127.0.0.1/32 scram-sha-256",
                    "host replication replicator 127.0.0.1/32 scram-sha-256",
                ],
            },
        }  # fmt: skip


class Cluster:
    """Three nodes, whole from the start; `stop` removes all of it."""

    def __init__(self) -> None:
        if not PATRONI.exists():
            raise RuntimeError("there is no Patroni: these tests are run by `make test-ha`, which installs it")
        self.folder = Path(tempfile.mkdtemp(prefix="marzhook-ha-", dir="/tmp"))
        self._user = unprivileged()
        os.chown(self.folder, *self._user)
        self.password = os.urandom(12).hex()
        self.nodes: list[Node] = []
        self.etcd_port, peer = free_port(), free_port()
        self._etcd = self.run(
            "etcd", program("etcd", package="etcd-server"), "--data-dir", str(self.folder / "etcd-data"),
            "--listen-client-urls", f"http://127.0.0.1:{self.etcd_port}",
            "--advertise-client-urls", f"http://127.0.0.1:{self.etcd_port}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-cluster", f"default=http://127.0.0.1:{peer}",
        )  # fmt: skip
        try:
            for name in ("one", "two", "three"):
                self.nodes.append(Node(self, name))
            self.await_whole()
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://marzhook:{self.password}@{hosts}/postgres?target_session_attrs=read-write"

    def leader(self) -> Node | None:
        """Who leads, as those who run say."""
        for node in self.nodes:
            for name, (role, state) in node.members().items():
                if role == "leader" and state == "running":
                    return next(one for one in self.nodes if one.name == name)
        return None

    def await_whole(self) -> None:
        """One leads, one follows synchronously, and the third as well: so another leader may be lost."""

        def whole() -> bool:
            for node in self.nodes:
                if node.process.poll() is not None:
                    raise RuntimeError(f"Patroni ended: {(self.folder / f'{node.name}.log').read_text()[-2000:]}")
            return any(
                sorted(node.members().values())
                == [("leader", "running"), ("replica", "streaming"), ("sync_standby", "streaming")]
                for node in self.nodes
            )

        eventually(whole, timeout=120, what=f"a whole cluster (logs: {self.folder})")

    def run(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """As an unprivileged user; its log is in the cluster's folder."""
        uid, gid = self._user
        as_user = {"user": uid, "group": gid} if os.geteuid() == 0 else {}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd="/", env={"PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent, **as_user,
            )  # fmt: skip

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()
        self._etcd.kill()
        self._etcd.wait()
        shutil.rmtree(self.folder)
