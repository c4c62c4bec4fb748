"""deploy/Dockerfile as what it is for: an image that is built, run, used and stopped. By buildah, which needs no daemon."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from marzhook.testing import eventually
from receivers import Receiver
from service import Service

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

ROOT: Final = Path(__file__).parent.parent
DOCKERFILE: Final = (ROOT / "deploy/Dockerfile").read_text()
CERTIFICATES: Final = "--volume /etc/ssl/certs:/etc/ssl/certs:ro"
"""Whom this machine trusts is trusted in a build, too: a company's proxy signs with a key of its own."""

Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


class Container(Service):
    """A service in a container; its files stay there."""

    def __init__(self, folder: Path, environment: Mapping[str, str], command: Sequence[str], **settings: str) -> None:
        self._environment, self._command = environment, command
        super().__init__(folder, UVICORN_HOST="127.0.0.1", **settings)

    def _start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Any:
        given = [word for name, value in environment.items() if name != "PATH" for word in ("--env", f"{name}={value}")]
        return subprocess.Popen(
            ["buildah", "run", *given, "service", "--", *self._command],
            env=self._environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def stop(self, *, timeout: float = 30.0) -> int:
        """As `docker stop` does: buildah passes no signal on, so the container's own process gets it."""
        os.kill(_innermost(self.process.pid), signal.SIGTERM)
        return self.end(timeout=timeout)

    def kill(self) -> None:
        os.kill(_innermost(self.process.pid), signal.SIGKILL)
        self.end()


def _innermost(process: int) -> int:
    """The one that it has started, and so on: without a namespace of their own they are processes as all others."""
    while children := [
        one for file in Path(f"/proc/{process}/task").glob("*/children") for one in file.read_text().split()
    ]:
        process = int(children[0])
    return process


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """With images and containers of its own, which are gone afterwards. Without a runtime: that wants what containers in
    containers do not get."""
    storage = tmp_path / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/images"\nrunroot = "{tmp_path}/run"\n')
    found = {**os.environ, "CONTAINERS_STORAGE_CONF": str(storage), "BUILDAH_ISOLATION": "chroot"}
    yield {name: value for name, value in found.items() if not name.startswith(("PIP_", "MARZHOOK_"))}
    subprocess.run(["buildah", "rm", "--all"], env=found, capture_output=True, check=False)
    subprocess.run(["buildah", "rmi", "--all", "--force"], env=found, capture_output=True, check=False)
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def shell(tmp_path: Path, environment: Mapping[str, str]) -> Shell:
    """Runs lines as an operator types them, in a copy of what the image is made of."""
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", ".dockerignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("src", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def run(lines: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-e", "-c", lines], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return run


def built(shell: Shell) -> None:
    """The image `marzhook`, upon the base that it names, or where that is out of reach, upon one as the guide makes it."""
    [base] = re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    pulled = shell(f"buildah pull {base}")
    lines = "buildah bud --format docker -t marzhook -f deploy/Dockerfile ."
    if pulled.returncode:
        why = f"{base} cannot be had: {pulled.stderr.strip().splitlines()[-1]}"
        [lines] = re.findall(
            r"^(debootstrap .*?)^```", (ROOT / "docs/operating.md").read_text(), re.MULTILINE | re.DOTALL
        )
        if os.geteuid() != 0 or not shutil.which("debootstrap"):
            pytest.skip(f"{why}; and another base is made by root, with debootstrap")
        print(f"\n{why}; made with debootstrap instead")
    made = shell(lines.replace("buildah bud", f"buildah bud {CERTIFICATES}"))
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-2000:]


@pytest.mark.skipif(not shutil.which("buildah"), reason="no buildah on this machine")
def test_the_image_serves(tmp_path: Path, shell: Shell, environment: Mapping[str, str]) -> None:
    """It is built; its service is ready, as its own user and with its data in its volume; an event arrives; what watches it
    finds it well; SIGTERM ends it with 0."""
    built(shell)
    image = json.loads(shell("buildah inspect --type image marzhook").stdout)["Docker"]["config"]
    assert (image["User"], image["WorkingDir"], list(image["Volumes"])) == ("marzhook", "/data", ["/data"])
    assert shell("buildah from --name service marzhook").returncode == 0
    command = [*image["Entrypoint"], *image["Cmd"]]
    with Receiver() as receiver, Container(tmp_path, environment, command, WEBHOOK_ADDRESS=receiver.url) as service:
        status, _ = service.call("POST", "/api/v1/events", {"action": "user_created", "username": "ann"})
        assert status == 202
        receiver.wait(1)
        assert [event["username"] for event in receiver.accepted()] == ["ann"]
        eventually(lambda: service.call("GET", "/readyz", token=False)[0] == 200)
        python, *look = image["Healthcheck"]["Test"][1:]
        look = [word.replace("127.0.0.1:8787", f"127.0.0.1:{service.port}") for word in look]
        watched = subprocess.run(
            ["buildah", "run", "service", "--", python, *look],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert watched.returncode == 0, watched.stderr
        assert service.stop(timeout=60) == 0
