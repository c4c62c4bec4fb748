"""Alerts through Apprise, which is an extra: it comes with `pip install 'marzhook[destinations]'`."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from io import StringIO
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from marzhook.request import LONGEST_ALERT, Alert

if TYPE_CHECKING:
    from apprise import Apprise

MISSING: Final = "Apprise is not installed here; type: pip install 'marzhook[destinations]'"
NOT_UNDERSTOOD: Final = "Apprise does not understand this URL"
_PART = re.compile(r"[^/:@?&=#]{4,}")


def alert(work: Alert, timeout: float, begin: Callable[[float, float], None]) -> tuple[int, str | None, str]:
    """Status, error and its message. `timeout`: seconds that one recipient may take.

    `begin` is told, before anything is sent, how many seconds all of it may take, and how many the service is to be left
    alone afterwards.
    """
    try:
        import apprise
    except ModuleNotFoundError:
        return 1, "other", MISSING
    service = apprise.Apprise()
    if not service.add(work.url):
        return 1, "other", NOT_UNDERSTOOD
    recipients, pause = _recipients(service), _pause(service)
    if problem := _too_many(recipients, pause):
        return 1, "other", problem
    # Apprise tells one after the other. Who gave it up before the last one would tell all of them once more, and again.
    begin(min(LONGEST_ALERT, recipients * timeout + (recipients - 1) * pause), pause)
    # The log is the process's: without the filter, what is said of one endpoint would be told of another one too.
    logger, mine = logging.getLogger("apprise"), threading.get_ident()
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    captured = StringIO()
    handler = logging.StreamHandler(captured)
    handler.setLevel(logging.WARNING)
    handler.addFilter(lambda record: record.thread == mine)
    logger.addHandler(handler)
    try:
        told = service.notify(title=work.title, body=work.text, body_format=apprise.NotifyFormat.TEXT)
        said = captured.getvalue()
    finally:
        logger.removeHandler(handler)
    if told:
        return 0, None, ""
    return 1, "other", _masked("Apprise could not deliver it: " + " ".join(said.split()), work.url)[:500]


def _recipients(service: Apprise) -> int:
    return max(1, sum(len(one) for one in service))


def _pause(service: Apprise) -> float:
    """Seconds, whatever the name says. Apprise itself keeps them only within a notification, between several recipients."""
    return max((float(one.request_rate_per_sec) for one in service), default=0.0)


def _too_many(recipients: int, pause: float) -> str:
    if (recipients - 1) * pause <= LONGEST_ALERT / 2:
        return ""
    most = int(LONGEST_ALERT / 2 / pause) + 1
    return (
        f"this URL names {recipients} recipients, of whom its service takes one in {pause:g} s; make several endpoints of"
        f" it, with {most} recipients each at the most"
    )


def service_of(url: str) -> tuple[str | None, str]:
    """The name of the service to which Apprise would turn, and what is wrong; None: it does not understand the URL.

    Raises ModuleNotFoundError where Apprise is not installed.
    """
    import apprise

    service = apprise.Apprise()
    # What it says of a URL that it does not understand is the URL.
    with apprise.LogCapture(level=logging.CRITICAL):  # type: ignore[no-untyped-call]
        understood = service.add(url)
    if not understood or not len(service):
        return None, NOT_UNDERSTOOD
    return str(service[0].service_name), _too_many(_recipients(service), _pause(service))


def _masked(text: str, url: str) -> str:
    """Without what might be a secret of the URL's."""
    parts = _PART.findall(url.partition("://")[2])
    for part in sorted({*parts, *map(unquote, parts)}, key=len, reverse=True):
        text = text.replace(part, "***")
    return text
