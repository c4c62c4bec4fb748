"""`marzhook listen`: a receiver to try things out with. It verifies what comes in and prints it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marzhook.cli import output
from marzhook.errors import MarzhookError, SettingError

if TYPE_CHECKING:
    from marzhook.cli.inbox import Checks, Inbox
    from marzhook.cli.journal import Journal
    from marzhook.cli.relay import Commands
    from marzhook.endpoint import Endpoint
    from marzhook.store.database import Transaction

PARTING = 2.0
"""Seconds that a replay which is stopped waits for what it is doing."""
STAY = 0.5
"""Seconds between two looks at whether an attached listener is still an endpoint."""


def listen(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 9000,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every network.")] = "127.0.0.1",
    secret: Annotated[
        str | None, typer.Option(help="Verify x-webhook-secret: raw, or hex HMAC-SHA256 of the body.")
    ] = None,
    signing_secret: Annotated[
        str | None, typer.Option(metavar="whsec_…", help="Verify the Standard Webhooks signature.")
    ] = None,
    fail: Annotated[
        str | None, typer.Option(metavar="STATUS:TIMES", help="Answer so to the first requests, e.g. 503:3.")
    ] = None,
    delay: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to wait before each answer.")] = 0.0,
    attach: Annotated[
        bool, typer.Option("--attach", help="Be an endpoint of the service whose settings are here, until it ends.")
    ] = False,
    forward: Annotated[
        str | None, typer.Option(metavar="URL", help="Post each on to a program of yours, and answer as it does.")
    ] = None,
    command: Annotated[
        str | None, typer.Option("--exec", metavar="CMD", help="Run this for each event, with its JSON on stdin.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append each to this file, secrets among its headers.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take what --save wrote once more, and end.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a request.")] = False,
) -> None:
    """Receive webhooks here, verify them, and print them. Ctrl-C ends it."""
    from marzhook.cli.inbox import Checks, Inbox
    from marzhook.cli.journal import JsonJournal, TextJournal
    from marzhook.cli.relay import Commands, forwarder, runner, saver

    plan = Plan(fail)
    try:
        checks = Checks(secret, signing_secret)
    except ValueError as error:
        raise SettingError(
            f"--signing-secret: {error}; endpoints show theirs once, when they are made", code="usage"
        ) from None
    journal = JsonJournal() if as_json else TextJournal()
    if replay is not None and (attach or save is not None):
        raise SettingError(
            "--replay takes what was saved, and nothing new: leave --attach and --save out", code="usage"
        )
    inbox = Inbox(host, 0 if replay is not None else port, journal, checks=checks, plan=plan, delay=delay)
    commands = Commands()
    inbox.steps = [
        *([saver(save)] if save is not None else []),
        *([forwarder(forward)] if forward is not None else []),
        *([runner(command, commands)] if command is not None else []),
    ]
    # SIGTERM ends it as Ctrl-C does: scripts and process managers send that one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if replay is not None:
        _again(inbox, replay, journal, commands)
        return
    with ExitStack() as stack:
        stack.callback(inbox.server_close)
        stack.callback(inbox.stopping.set)
        stack.callback(commands.end)
        try:
            if attach:
                inbox.checks = stack.enter_context(attached(inbox, secret))
            journal.started(inbox.url, attached=attach)
            inbox.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            _ignore_signals()
    journal.ended()


def _ignore_signals() -> None:
    """From here on a second Ctrl-C must not cut off the goodbye."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _again(inbox: Inbox, file: Path, journal: Journal, commands: Commands) -> None:
    """Take saved requests as if they came now; verified by the time at which they came. Exit code 1 where one failed."""
    from marzhook.cli.relay import saved

    inbox.server_close()
    # Read as a whole first: nothing is done where a line is none.
    found = list(saved(file))
    statuses: list[int] = []
    interrupted = threading.Event()

    def take() -> None:
        for incoming in found:
            status = inbox.take(incoming.path, incoming.headers, incoming.body, incoming.at)
            if interrupted.is_set():
                return
            statuses.append(status)

    # Not here, where Ctrl-C could come between the start of a command and the word that it has started.
    taking = threading.Thread(target=take, name="replay", daemon=True)
    taking.start()
    try:
        taking.join()
    except KeyboardInterrupt:
        _ignore_signals()
        interrupted.set()
        commands.end()
        inbox.stopping.set()
        # What is on its way to a program elsewhere need not be waited for.
        taking.join(PARTING)
        output.line(f"\nStopped after {len(statuses)} of {len(found)}.")
    journal.ended()
    if len(statuses) < len(found) or any(status >= 300 for status in statuses):
        raise typer.Exit(1)


@contextmanager
def attached(inbox: Inbox, secret: str | None) -> Iterator[Checks]:
    """Be an endpoint of this folder's database while the block runs; yields what its requests must bring.

    It counts as one of the environment's, because those may be on loopback. An address that is an endpoint already stays
    what it is, also afterwards.
    """
    from marzhook.cli.inbox import Checks
    from marzhook.cli.open import ATTACHED, opened
    from marzhook.endpoint import REMOVED
    from marzhook.store import endpoints

    url = inbox.url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    with opened() as o:

        def join(tx: Transaction) -> tuple[Endpoint, bool]:
            known = next((e for e in endpoints.all_endpoints(tx.conn) if e.url == url), None)
            ours = known is None or known.disabled_reason == REMOVED
            asked = secret or o.settings.webhook_secret
            if known is None:
                known = endpoints.create(
                    tx, now=o.clock.now(), kind="webhook", url=url, source="environment", name=ATTACHED, secret=asked
                )
            elif ours:
                known = endpoints.update(tx, known.id, enabled=True, disabled_reason=None, secret=asked)
            return known, ours

        def leave(tx: Transaction) -> None:
            endpoints.disable(tx, known.id, REMOVED)
            endpoints.delete(tx, known.id, now=o.clock.now())

        known, ours = o.database.transact(join)
        endpoint_id, looked_at = known.id, [time.monotonic()]

        def stay() -> None:
            # A service that starts now takes its endpoints from its settings, and this one is not in them.
            if not ours or time.monotonic() - looked_at[0] < STAY:
                return
            looked_at[0] = time.monotonic()
            with suppress(MarzhookError):
                with o.database.read() as conn:
                    reason = endpoints.get(conn, endpoint_id).disabled_reason
                if reason == REMOVED:
                    with o.database.write() as tx:
                        endpoints.enable(tx, endpoint_id, now=o.clock.now())

        inbox.on_tick = stay
        try:
            yield Checks(known.secret, known.signing_secret)
        finally:
            if ours:
                o.database.transact(leave)


class Plan:
    """Which status the next accepted request gets: `503:3` fails the first three, then everything is well."""

    def __init__(self, fail: str | None) -> None:
        self._status, self._left = (200, 0) if fail is None else _planned(fail)
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            if self._left == 0:
                return 200
            self._left -= 1
            return self._status


def _planned(fail: str) -> tuple[int, int]:
    status, colon, times = fail.partition(":")
    if not (colon and all(part.isascii() and part.isdigit() for part in (status, times))):
        raise SettingError(
            f"--fail {fail!r} is not STATUS:TIMES; for example 503:3 fails the first three", code="usage"
        )
    if not 300 <= int(status) <= 599 or not 1 <= int(times) <= 1_000_000:
        raise SettingError(f"--fail {fail!r}: the status is 300 to 599, the times 1 to 1000000", code="usage")
    return int(status), int(times)
