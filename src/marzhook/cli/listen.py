"""`marzhook listen`: a receiver to try things out with. It verifies what comes in and prints it."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marzhook.cli import output
from marzhook.errors import MarzhookError, SettingError

if TYPE_CHECKING:
    from marzhook.cli.inbox import Checks, Inbox, Received
    from marzhook.cli.relay import Commands
    from marzhook.endpoint import Endpoint
    from marzhook.receiver import ReceivedEvent
    from marzhook.store.database import Transaction

PARTING = 2.0
"""Seconds that a replay which is stopped waits for what it is doing."""
STAY = 0.5
"""Seconds between two looks at whether an attached listener is still an endpoint."""
MAX_SHOWN = 16 * 1024
"""Characters of a body of unknown shape that are printed."""


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
    from marzhook.cli.relay import Commands, forwarder, runner, saver

    plan = Plan(fail)
    try:
        checks = Checks(secret, signing_secret)
    except ValueError as error:
        raise SettingError(
            f"--signing-secret: {error}; endpoints show theirs once, when they are made", code="usage"
        ) from None
    journal = _JsonJournal() if as_json else _Journal(secret_asked=bool(secret))
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


def _again(inbox: Inbox, file: Path, journal: _Journal | _JsonJournal, commands: Commands) -> None:
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
                        endpoints.enable(tx, endpoint_id)

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


class _Journal:
    """Prints what comes in for people to read."""

    def __init__(self, *, secret_asked: bool) -> None:
        self._secret_asked = secret_asked
        self._lock = threading.Lock()
        self._requests = self._events = self._refused = 0
        self._console = output.console()

    def started(self, url: str, *, attached: bool) -> None:
        command = output.command_line_of(sys.argv[0])
        output.line(f"Listening on {url}  (Ctrl-C ends)")
        if attached:
            output.line(f"This is an endpoint of the service now. Next: `{command} send user_created alice`.")
            return
        output.line(
            f'Next, in .env: WEBHOOK_ADDRESS = "{url}"; then `make run`, and `{command} send user_updated test_user`.'
        )

    def __call__(self, received: Received) -> None:
        with self._lock:
            self._requests += 1
            self._events += len(received.events)
            self._refused += received.status >= 300
            for text, style in _lines(received):
                self._console.print(output.clean(text), style=style, overflow="fold")

    def ended(self) -> None:
        output.line(
            f"\nReceived {output.counted(self._events, 'event')} in {output.counted(self._requests, 'request')}"
            + (f", {self._refused} of them not accepted." if self._refused else ".")
        )


class _JsonJournal:
    """Prints one JSON object a line: the address first, then each request, a count at the end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._events = 0

    def started(self, url: str, *, attached: bool) -> None:
        self._print({"listening": url, "attached": attached})

    def __call__(self, received: Received) -> None:
        with self._lock:
            self._requests += 1
            self._events += len(received.events)
            self._print(as_json(received))

    def ended(self) -> None:
        self._print({"requests": self._requests, "events": self._events})

    def _print(self, value: dict[str, Any]) -> None:
        print(json.dumps(value), flush=True)


def as_json(received: Received) -> dict[str, Any]:
    """A request as `listen --json` prints it; `body` is text where it is not JSON."""
    body: Any
    try:
        body = json.loads(received.body)
    except (ValueError, RecursionError):
        body = received.body.decode("utf-8", "replace")
    return {
        "at": received.at, "path": received.path, "status": received.status, "kind": received.kind,
        "webhook_id": received.message_id, "again": received.again,
        "secret": received.secret, "signature": received.signature, "body": body, "notes": list(received.notes),
    }  # fmt: skip


GOOD, BAD, QUIET = "green", "red", "dim"


def _lines(received: Received) -> list[tuple[str, str]]:
    at = output.local_time(_datetime(received.at), milliseconds=True)[11:]
    answered = f"answered {received.status}"
    style = GOOD if received.status < 300 else BAD
    found: list[tuple[str, str]] = []
    for event in received.events:
        parts = [at, event.action, event.username]
        parts.append(f"tries {event.tries}")
        if event.enqueued_at is not None:
            parts.append(output.duration(received.at - event.enqueued_at))
        parts.append(answered + (" (again)" if received.again else ""))
        found.append(("  ".join(parts), style))
        found += [("    " + line, QUIET) for line in details(event)]
    if not received.events:
        what = {"discord": "Discord message", "json": "JSON of another shape", "text": "not JSON"}.get(
            received.kind, received.kind
        )
        found.append((f"{at}  {what} on {received.path}  {answered}", style))
        found += [("    " + line, "") for line in _unknown(received)]
    found += [("    " + words, BAD) for words in _complaints(received)]
    found += [("    " + line, style) for words in received.notes for line in words.splitlines()]
    verified = [
        text
        for text in (
            f"x-webhook-secret right ({received.secret})" if received.secret in ("plain", "hmac") else "",
            "signature right" if received.signature == "valid" else "",
        )
        if text
    ]
    if verified:
        found.append(("    " + ", ".join(verified), QUIET))
    return found


def _complaints(received: Received) -> list[str]:
    found = []
    if received.secret == "missing":
        found.append("no x-webhook-secret came: set WEBHOOK_SECRET on the sender, the same as --secret here")
    if received.secret == "wrong":
        found.append(
            "x-webhook-secret is neither the secret nor its HMAC of this body: WEBHOOK_SECRET and --secret differ"
        )
    if received.signature == "missing":
        found.append("no Standard Webhooks signature came (webhook-id, webhook-timestamp, webhook-signature)")
    if received.signature == "wrong":
        found.append("the signature is wrong: --signing-secret is not this endpoint's")
    if received.signature == "stale":
        found.append("the signature's time is more than 5 minutes off: one of the two clocks is wrong")
    return found


def details(event: ReceivedEvent) -> list[str]:
    """What followed the four keys, a line each; the user in brief."""
    found = [f"by {event.by.get('username')}"] if event.by else []
    found += [f"user: {_user(event.user)}"] if event.user else []
    for name, value in event.extra.items():
        if value is not None:
            found.append(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return found


def _user(user: Mapping[str, Any]) -> str:
    parts = [str(user.get("status", "?"))]
    used, limit, expire = user.get("used_traffic"), user.get("data_limit"), user.get("expire")
    if isinstance(used, int):
        parts.append(f"{output.size(used)} of {output.size(limit if isinstance(limit, int) and limit else None)} used")
    if isinstance(expire, int) and 0 < expire < 253402300800:  # the year 10000
        parts.append(f"expires {output.local_time(_datetime(expire))}")
    return ", ".join(parts)


def _unknown(received: Received) -> list[str]:
    if received.kind == "discord":
        return [
            line for embed in json.loads(received.body)["embeds"] if isinstance(embed, dict) for line in _embed(embed)
        ]
    if received.kind == "json":
        text = json.dumps(json.loads(received.body), indent=2, ensure_ascii=False)
    else:
        text = received.body.decode("utf-8", "replace")
    if len(text) > MAX_SHOWN:
        text = text[:MAX_SHOWN] + f"\n… {len(text) - MAX_SHOWN} further characters (--json shows all)"
    return text.splitlines()


def _embed(embed: dict[str, Any]) -> list[str]:
    found = [str(embed[name]) for name in ("title", "description") if embed.get(name)]
    fields = embed.get("fields")
    for one in fields if isinstance(fields, list) else []:
        if isinstance(one, dict):
            found.append(f"{one.get('name')}: {one.get('value')}")
    return [line for text in found for line in text.splitlines()]


def _datetime(seconds: float) -> Any:
    from marzhook.clock import from_unix

    return from_unix(seconds)
