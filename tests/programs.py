"""Programs that tests need beside Python's: found, or installed with Debian's packages, or named."""

from __future__ import annotations

import os
import shutil
import subprocess


def program(name: str, *, package: str) -> str:
    """Its path. Installs the package where that may be done; else fails with the line to type."""
    found = _found(name)
    install = f"apt-get install -y --no-install-recommends {package}"
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in ("apt-get update", install):
            subprocess.run(command.split(), env=environment, capture_output=True, check=False, timeout=600)
        found = _found(name)
    assert found, f"this test needs {name}; type: sudo {install}"
    return found


def _found(name: str) -> str | None:
    # Debian has some in a folder that only root has on its path.
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
