"""`marzhook bench`: figures for operators, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

from service import marzhook


def test_bench_measures_this_machine_and_cleans_up(tmp_path: Path) -> None:
    """Every figure is there and above 0, and the folder is as empty as before."""
    done = marzhook(tmp_path, "bench", "--events", "1000", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("events") == 1000
    latency = found.pop("latency_ms")
    assert 0 < latency["p50"] <= latency["p99"]
    assert set(found) == {
        "cores", "accepted_per_second", "commit_ms", "delivered_per_second", "bare_per_second", "share_of_bare",
    }  # fmt: skip
    assert all(value > 0 for value in found.values())
    assert not [*tmp_path.iterdir()]


def test_bench_says_where_it_cannot_write(tmp_path: Path) -> None:
    """A folder that does not exist is one line and exit code 1."""
    done = marzhook(tmp_path, "bench", "--folder", "nowhere")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["marzhook: cannot measure in nowhere: No such file or directory"]
