"""`marzhook check`: do the settings, the database and every endpoint's address work? What is wrong, and how to mend it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marzhook.cli import output
from marzhook.cli.open import ATTACHED, Opened, nowhere, opened
from marzhook.endpoint import LOCAL_KINDS, REMOVED, Endpoint, masked_url
from marzhook.errors import MarzhookError

if TYPE_CHECKING:
    from marzhook.cli.reach import Reach
    from marzhook.dispatch.probe import ProbeResult
    from marzhook.store.sources import Source

_UNFOLLOWED = ("failing", "unfinished")


def check(
    send: Annotated[
        bool, typer.Option("--send", help="Also send a test event (marzhook_test) to each endpoint.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the settings, the database, and whether every endpoint can be reached. Sends nothing unless asked."""
    with opened(trial=True) as o:
        o.sync_endpoints()
        found = _found(o)
        reaches = _reaches(o, found)
        results: dict[int, ProbeResult] = {}
        if send:
            with Sender(o) as post:
                results = {e.id: post(e) for e, r in zip(found, reaches, strict=True) if e.enabled and not r.problem}
        holder = o.database.holder()
        remarks = _remarks(o, holder)
        followed = _followed(o)
        direct, in_the_way = o.settings.worker_database_url, _in_the_way(o)
        if in_the_way and not direct:
            remarks.append(f"only `marzhook run --no-dispatch` works with these settings: {in_the_way}")
    wrong = sum(r.problem is not None for r in reaches) + sum(not result.accepted for result in results.values())
    wrong += sum(state in _UNFOLLOWED for _, state in followed) + bool(direct and in_the_way)
    ok = bool(found) and wrong == 0
    if as_json:
        output.json_document(
            {
                "ok": ok,
                "database": {"path": o.place, "exists": not o.trial, "service": holder},
                "worker_database": {"problem": in_the_way} if direct else None,
                "remarks": remarks,
                "endpoints": [
                    _endpoint_shown(e, r, results.get(e.id)) for e, r in zip(found, reaches, strict=True)
                ],
                "sources": [
                    {"id": one.id, "url": masked_url(one.url), "state": state, "error": one.error} for one, state in followed
                ],
            }
        )  # fmt: skip
    else:
        output.line("ok   settings")
        if o.trial:
            output.line(f"     {nowhere(o.place)}")
        else:
            output.line(
                f"ok   database {o.place}, " + (f"held by {holder}" if holder else "no service is running on it")
            )
            output.line(f"ok   {_key(o)}")
        if direct and not o.trial:
            output.line(
                "BAD  MARZHOOK_WORKER_DATABASE_URL" if in_the_way else "ok   the server's own address, for workers"
            )
            if in_the_way:
                output.line(f"     {in_the_way}")
        for remark in remarks:
            output.line(f"     note: {remark}")
        for endpoint, reached in zip(found, reaches, strict=True):
            _print_endpoint(endpoint, reached, results.get(endpoint.id))
        for source, state in followed:
            _print_source(source, state)
        output.line(_summary(found, wrong, send))
    if not ok:
        raise typer.Exit(1)


class Sender:
    """Sends test events with a transport of its own."""

    def __init__(self, o: Opened) -> None:
        from marzhook.runtime import carriers

        self._o = o
        self._transport = carriers(o.settings, o.clock)
        with o.database.read() as conn:
            self._instance = o.database.meta(conn, "instance") or ""

    def __call__(self, endpoint: Endpoint) -> ProbeResult:
        from marzhook.dispatch.probe import probe, probe_event

        clock, settings = self._o.clock, self._o.settings
        return probe(
            endpoint, probe_event(clock), clock, self._transport, instance=self._instance,
            connect_timeout=settings.connect_timeout, timeout=settings.request_timeout,
        )  # fmt: skip

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()


def answer_words(result: ProbeResult) -> str:
    """What came back of a test event, and where it was refused, what that means."""
    response = result.response
    took = output.duration(response.duration)
    if response.error == "render":
        return f"nothing could be made for it: {response.message}"
    if response.error is not None:
        return f"no answer after {took}: {response.message or response.error}"
    words = f"{'accepted' if result.accepted else 'refused'} with {response.status} after {took}"
    if result.secret_mode is not None and result.accepted:
        way = "the secret itself" if result.secret_mode == "plain" else "its HMAC of the body"
        words += f"; x-webhook-secret was taken as {way} ({result.secret_mode})"
    return words if result.accepted else f"{words}. {_meaning(response.status or 0, result)}"


def answer_shown(result: ProbeResult) -> dict[str, Any]:
    """The same as JSON; seconds."""
    response = result.response
    return {
        "accepted": result.accepted, "status": response.status, "error": response.error, "message": response.message,
        "duration": response.duration, "secret_mode": result.secret_mode if result.accepted else None,
        "response": response.body.decode("utf-8", "replace"),
    }  # fmt: skip


def _meaning(status: int, result: ProbeResult) -> str:
    if status in (401, 403):
        if result.secret_mode is None:
            return "It wants a secret: set WEBHOOK_SECRET to the receiver's."
        return "It does not take the secret: WEBHOOK_SECRET must be the same on both sides."
    if 300 <= status < 400:
        to = result.response.headers.get("location", "")
        return "Redirects are not followed: put the final address into the settings" + (
            f" ({masked_url(to)})." if "://" in to else "."
        )
    if status in (404, 405):
        return "The receiver is there, but takes no webhooks at this path: check the end of the address."
    if status == 410:
        return "The receiver says that it wants no more: remove the address, or ask its owner."
    if status == 429:
        return "The receiver is asked too often: wait a little and check again."
    head = " ".join(result.response.body.decode("utf-8", "replace").split())[:200]
    return "The receiver failed: look into its log." + (f" It said: {head}" if head else "")


def _found(o: Opened) -> list[Endpoint]:
    from marzhook.store import endpoints

    with o.database.read() as conn:
        return [endpoint for endpoint in endpoints.all_endpoints(conn) if endpoint.disabled_reason != REMOVED]


def _followed(o: Opened) -> list[tuple[Source, str]]:
    """Panels that are followed, each with how that goes."""
    from marzhook.cli.source import state_of
    from marzhook.store import sources

    with o.database.read() as conn:
        return [(source, state_of(source)) for source in sources.all_sources(conn)]


def _reaches(o: Opened, found: list[Endpoint]) -> list[Reach]:
    from marzhook.cli.reach import reach
    from marzhook.cli.ready import ready
    from marzhook.runtime import programs
    from marzhook.transport.guard import Guard

    settings = o.settings
    guard = Guard(settings.allow_addresses)
    ca_file = str(settings.ca_file) if settings.ca_file else None

    def one(endpoint: Endpoint) -> Reach:
        if endpoint.kind in LOCAL_KINDS:
            return ready(endpoint, programs(settings), settings.connect_timeout)
        return reach(endpoint, timeout=settings.connect_timeout, guard=guard, ca_file=ca_file)

    # Side by side: ten that do not answer take as long as one.
    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(one, found))


def _in_the_way(o: Opened) -> str | None:
    """Why a worker could not start with these settings; None: it could."""
    try:
        o.database.prove_session()
    except MarzhookError as error:
        return str(error)
    return None


def _remarks(o: Opened, holder: str | None) -> list[str]:
    from marzhook.runtime import environment_endpoints
    from marzhook.store import inbox

    found = []
    if o.settings.unused:
        found.append(f"in .env, but the panel's alone and not used here: {', '.join(o.settings.unused)}")
    if o.settings.telegram_token and not (o.settings.telegram_admins or o.settings.telegram_channel):
        found.append("TELEGRAM_API_TOKEN is set, but no chat: set TELEGRAM_ADMIN_ID or TELEGRAM_LOGGER_CHANNEL_ID, too")
    if holder is not None:
        with o.database.read() as conn:
            inbox_url = inbox.address(o.database, conn)
        wanted = {one.address for one in environment_endpoints(o.settings, inbox_url=inbox_url)}
        running = {e.address for e in _found(o) if e.source == "environment" and e.name != ATTACHED}
        if wanted != running:
            found.append("the running service has other addresses than these settings: restart it to take them over")
    return found


def _key(o: Opened) -> str:
    """Where the key to the database's secrets is, which its backups need too."""
    if o.settings.secret_keys:
        return "key to its secrets: MARZHOOK_SECRET_KEY; no backup can be used without it"
    return f"key to its secrets: {o.database.vault.key_file}; no backup can be used without it"


def _endpoint_shown(endpoint: Endpoint, reached: Reach, result: ProbeResult | None) -> dict[str, Any]:
    return {
        "id": endpoint.id, "url": masked_url(endpoint.url), "enabled": endpoint.enabled,
        "problem": reached.problem, "mend": reached.mend or None, "remarks": list(reached.remarks),
        "test": None if result is None else answer_shown(result),
    }  # fmt: skip


def _print_endpoint(endpoint: Endpoint, reached: Reach, result: ProbeResult | None) -> None:
    good = reached.problem is None and (result is None or result.accepted)
    output.line(f"{'ok  ' if good else 'BAD '} endpoint {endpoint.id}  {masked_url(endpoint.url)}")
    output.line(f"     {reached.problem or reached.words}")
    if reached.mend:
        output.line(f"     {reached.mend}")
    for remark in reached.remarks:
        output.line(f"     note: {remark}")
    if not endpoint.enabled:
        output.line(
            f"     note: it is off ({endpoint.disabled_reason or 'no reason given'});"
            f" `marzhook endpoints enable {endpoint.id}` sends to it again"
        )
    if result is not None:
        output.line(f"     test event: {answer_words(result)}")


def _print_source(source: Source, state: str) -> None:
    output.line(f"{'BAD ' if state in _UNFOLLOWED else 'ok  '} source {source.id}  {masked_url(source.url)}: {state}")
    if state == "unfinished":
        output.line("     its first snapshot was cut off; `marzhook source add` takes it anew")
    elif state == "failing":
        output.line(f"     {source.error}")
        output.line(
            "     It is asked again by itself, and nothing is lost; `marzhook source add` gives it another login."
        )
    elif state == "paused":
        output.line(f"     note: `marzhook source resume {source.id}` follows it again")


def _summary(found: list[Endpoint], wrong: int, sent: bool) -> str:
    if not found:
        return (
            "BAD  no endpoint is set, so events go nowhere\n"
            '     Write WEBHOOK_ADDRESS = "http://127.0.0.1:9000/" (or your own) into .env.'
        )
    if wrong:
        return f"\n{output.counted(wrong, 'thing')} to mend."
    return "\nAll is well." if sent else "\nAll is well. `marzhook check --send` sends each endpoint a test event."
