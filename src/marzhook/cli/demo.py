"""`marzhook demo`: the whole service at work for some seconds, on a temporary database, over its real API."""

from __future__ import annotations

import os
import re
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marzhook.cli import output

if TYPE_CHECKING:
    from marzhook.cli.inbox import Inbox
    from marzhook.cli.scoreboard import Scoreboard, Sums
    from marzhook.cli.story import Api

STEADY, SHAKY = "steady", "shaky"
DOWN_FOR = 4.0
"""Seconds for which the shaky receiver answers 503."""
START_WITHIN = 30.0
ARRIVE_WITHIN = 15.0
"""Seconds after the story's end in which the last events must have arrived."""


def demo(
    seconds: Annotated[float, typer.Option(min=5, max=600, help="How long the story takes.")] = 20.0,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Only the summary, as JSON.")] = False,
) -> None:
    """See it all work: a dozen users' lives, sent to two receivers, of which one fails at first."""
    from marzhook.cli.scoreboard import Scoreboard

    live = sys.stdout.isatty() and not plain and not as_json
    board = Scoreboard((STEADY, SHAKY), None if live or as_json else output.line)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            ids = _lived(stack, board, seconds, live=live, quiet=as_json)
    except KeyboardInterrupt:
        output.note("\nStopped; the service and its temporary database are gone.")
        raise typer.Exit(130) from None
    sums = board.sums(ids)
    if as_json:
        output.json_document(
            {"events": len(ids), "well": all(s.well for s in sums), "receivers": [_shown(s) for s in sums]}
        )
    else:
        _print_summary(len(ids), sums)
    if not all(s.well for s in sums):
        raise typer.Exit(1)


def _lived(stack: ExitStack, board: Scoreboard, seconds: float, *, live: bool, quiet: bool) -> set[str]:
    """Start everything, tell the story, wait for what it sent; return the ids of its messages."""
    from marzhook.cli.inbox import Checks, Inbox
    from marzhook.cli.story import Api, tell

    secret = secrets.token_urlsafe(18)
    down_for = min(DOWN_FOR, seconds / 4)
    up_at = [float("inf")]
    steady = Inbox("127.0.0.1", 0, board.receiver(STEADY), checks=Checks(secret))
    shaky = Inbox(
        "127.0.0.1", 0, board.receiver(SHAKY), checks=Checks(secret),
        plan=lambda: 200 if time.monotonic() >= up_at[0] else 503,
    )  # fmt: skip
    for inbox in (steady, shaky):
        stack.callback(inbox.stop)
        threading.Thread(target=inbox.serve_forever, args=(0.05,), daemon=True).start()
    if not quiet:
        output.line(f"Starting the service, and two receivers: {STEADY}, and {SHAKY}, which fails for {down_for:g} s.")
    url, admin, password = stack.enter_context(_service(steady, shaky, secret))
    api = Api(url)
    stack.callback(api.close)
    api.login(admin, password)
    if live:
        stack.enter_context(_shown_live(board))
    up_at[0] = time.monotonic() + down_for
    tell(api, seconds, board.happening)
    board.happening("waiting for the last deliveries")
    return _arrived(api, board)


def _arrived(api: Api, board: Scoreboard) -> set[str]:
    """Wait until everything has come, or the time is up. What there is to come, the service says."""
    deadline = time.monotonic() + ARRIVE_WITHIN
    while True:
        ids = {event["webhook_id"] for event in api.events()}
        if board.complete(ids) or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    # A moment longer: what comes a second time must be seen, too.
    time.sleep(0.3)
    return ids


@contextmanager
def _shown_live(board: Scoreboard) -> Iterator[None]:
    from rich.live import Live

    with Live(board, console=output.console(), refresh_per_second=8, vertical_overflow="crop"):
        yield


@contextmanager
def _service(steady: Inbox, shaky: Inbox, secret: str) -> Iterator[tuple[str, str, str]]:
    """`marzhook run` as a process of its own, in a temporary folder; yields its URL and its admin's name and password."""
    from marzhook.cli.story import DemoError

    # The admin's password and the secret live as long as the folder does.
    admin, password = "demo", secrets.token_urlsafe(18)
    with tempfile.TemporaryDirectory(prefix="marzhook-demo-", ignore_cleanup_errors=True) as folder:
        environment = _environment(folder) | {
            "WEBHOOK_ADDRESS": f"{steady.url},{shaky.url}",
            "WEBHOOK_SECRET": secret,
            "SUDO_USERNAME": admin,
            "SUDO_PASSWORD": password,
        }
        log = Path(folder, "service.log")
        with log.open("wb") as errors:
            # In a session of its own: Ctrl-C is for the demo, which then stops the service in order.
            process = subprocess.Popen(
                [sys.executable, "-m", "marzhook", "run"],
                cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield _address(process, log), admin, password
        except DemoError as error:
            raise DemoError(f"{error}{_end_of(log)}") from None
        finally:
            _stop(process)


def _environment(folder: str) -> dict[str, str]:
    """This process's environment without its Marzhook settings: the demo touches nothing of what is set up here."""
    from marzhook.settings import SETTINGS

    names = {setting.name for setting in SETTINGS}
    kept = {name: value for name, value in os.environ.items() if name not in names and not name.startswith("MARZHOOK_")}
    return kept | {
        "MARZHOOK_DATABASE_URL": f"sqlite:///{folder}/marzhook.db",
        "MARZHOOK_LOG_FORMAT": "text",
        "MARZHOOK_LOG_LEVEL": "warning",
        "UVICORN_HOST": "127.0.0.1",
        "UVICORN_PORT": "0",
        # Short, so that the retries are seen.
        "NUMBER_OF_RECURRENT_NOTIFICATIONS": "20",
        "RECURRENT_NOTIFICATIONS_TIMEOUT": "1",
    }


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """The URL on the first line that the service prints, once it is ready. Raises DemoError."""
    from marzhook.cli.story import DemoError

    assert process.stdout is not None
    deadline, text = time.monotonic() + START_WITHIN, b""
    while b"\n" not in text:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not chunk:
            why = "the service ended at once" if ready else f"the service was not ready within {START_WITHIN:g} s"
            raise DemoError(why)
        text += chunk
    found = re.search(rb"https?://[^\s/]+:\d+", text)
    if found is None:
        raise DemoError("the service did not say where it listens")
    return found[0].decode()


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-3:]
    return "; the end of its log: " + " | ".join(output.clean(line) for line in lines) if lines else ""


def _stop(process: subprocess.Popen[bytes]) -> None:
    # A second Ctrl-C must not leave the service behind.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def _print_summary(events: int, sums: list[Sums]) -> None:
    output.line("")
    output.table(
        ("receiver", "arrived", "retries", "each once", "in order", "median", "p99"),
        [
            (
                s.name, f"{s.arrived} of {s.expected}", s.retries, "yes" if not s.twice else f"{s.twice} came twice",
                "yes" if not s.out_of_order else f"{s.out_of_order} did not",
                None if s.median is None else output.duration(s.median), None if s.p99 is None else output.duration(s.p99),
            )
            for s in sums
        ],
        right=("arrived", "retries", "median", "p99"),
        fold=("each once", "in order"),
    )  # fmt: skip
    output.line("")
    deliveries = sum(s.arrived for s in sums)
    output.line(f"{output.counted(events, 'event')}, {output.counted(deliveries, 'delivery', 'deliveries')}.")
    if all(s.well for s in sums):
        output.line(f"Nothing was lost: what {SHAKY} refused came again, in order, and {STEADY} never waited for it.")
        output.line("Next: `make run` starts the service; WEBHOOK_ADDRESS in .env says where events go.")
    else:
        output.line("BAD: not every event arrived once and in order. Please report this with the lines above.")


def _shown(sums: Sums) -> dict[str, object]:
    return {
        "name": sums.name, "expected": sums.expected, "arrived": sums.arrived, "retries": sums.retries,
        "twice": sums.twice, "out_of_order": sums.out_of_order, "median": sums.median, "p99": sums.p99,
    }  # fmt: skip
