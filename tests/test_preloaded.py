from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import preloaded
from command_line import environment

RUN = """
import os, sys, preloaded
from pathlib import Path

preloaded.start("marzhook", "listen", "--port", "0", folder=Path.cwd(), environment=os.environ, log=sys.stdout)
sys.stdin.read()
"""


@pytest.mark.timeout(30)
def test_what_was_started_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    """However hard: the process that forks, and all that it has forked."""
    with subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=environment(PYTHONPATH=str(Path(preloaded.__file__).parent)), text=True,
    ) as run:  # fmt: skip
        assert run.stdout
        assert "Listening on" in run.stdout.readline()
        run.kill()
        # At its end nobody has this pipe any more.
        run.stdout.read()
