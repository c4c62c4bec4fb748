"""`marzhook demo`, the first thing that people run."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import pytest
from rich.console import Console

from command_line import Running, marzhook_process
from marzhook.cli.inbox import Received
from marzhook.cli.scoreboard import Scoreboard
from marzhook.receiver import ReceivedEvent


@pytest.fixture
def temp(tmp_path: Path) -> Path:
    folder = tmp_path / "temp"
    folder.mkdir()
    return folder


def test_everything_arrives_at_both_receivers(tmp_path: Path, temp: Path) -> None:
    """Each event arrives once and in order at both receivers, the failing one was retried, and nothing is left behind."""
    ended = marzhook_process(
        tmp_path, "demo", "--seconds", "5", "--json", TMPDIR=str(temp), WEBHOOK_ADDRESS="http://nope.invalid/"
    )
    summary = json.loads(ended.stdout)
    steady, shaky = summary["receivers"]
    assert summary["well"]
    assert summary["events"] >= 30
    assert steady["arrived"] == shaky["arrived"] == summary["events"]
    assert steady["retries"] == 0 < shaky["retries"]
    assert list(temp.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["temp"]


def test_plain_lines_show_the_lives_of_users(tmp_path: Path, temp: Path) -> None:
    """In a pipe it prints lines without colours: creation, limit, expiry, renewal, deletion, the refusals and the sums."""
    text = marzhook_process(tmp_path, "demo", "--seconds", "5", TMPDIR=str(temp)).stdout
    for part in ("user_created", "user_limited", "user_expired", "user_enabled", "user_deleted", "answered 503", "p99"):
        assert part in text
    assert "\x1b" not in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_it_cleans_up(tmp_path: Path, temp: Path, number: int) -> None:
    """Ctrl-C in the middle stops the service and removes its folder."""
    with Running(tmp_path, "demo", "--seconds", "60", "--plain", TMPDIR=str(temp)) as demo:
        demo.line("user_created")
        assert len(list(temp.iterdir())) == 1
        assert demo.stop(number) == 130
    assert list(temp.iterdir()) == []


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    """Every event takes one line, whole, also late in the story and after many refusals."""
    board = Scoreboard(("steady", "shaky"))
    tell = {name: board.receiver(name) for name in board.names}
    for number, (at, action) in enumerate([(0.0, "user_created"), (11.0, "reached_usage_percent")]):
        event = ReceivedEvent(action, "golnaz", enqueued_at=at)
        for name, status, when in (("steady", 200, 0.02), *[("shaky", 503, 1.0)] * 5, ("shaky", 200, 4.02)):
            tell[name](
                Received(at + when, "/", status, "event", (event,), b"", f"msg_a_{number}", False, None, None)
            )  # fmt: skip
    console = Console(width=80, height=30, file=io.StringIO(), color_system=None)
    console.print(board)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    (row,) = (line for line in lines if "reached_usage_percent" in line)
    assert row.split("  ")[0].strip().startswith("11.0 s reached_usage_percent golnaz")
    assert "4.02 s after 5 x 503" in row
    assert len([line for line in lines if line.strip()]) == 5  # head, rule, two events, the sum
