"""Alerts through Apprise, which is an extra: it comes with `pip install 'marzhook[destinations]'`."""

from __future__ import annotations

import logging
import re
import threading
from io import StringIO
from typing import Final
from urllib.parse import unquote

from marzhook.request import Alert

MISSING: Final = "Apprise is not installed here; type: pip install 'marzhook[destinations]'"
NOT_UNDERSTOOD: Final = "Apprise does not understand this URL"
_PART = re.compile(r"[^/:@?&=#]{4,}")


def alert(work: Alert) -> tuple[int, str | None, str, float | None]:
    """Status, error and its message, and how many seconds the service is to be left alone now."""
    try:
        import apprise
    except ModuleNotFoundError:
        return 1, "other", MISSING, None
    service = apprise.Apprise()
    if not service.add(work.url):
        return 1, "other", NOT_UNDERSTOOD, None
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
    # Seconds, whatever the name says. Apprise itself keeps them only within a notification, between several recipients.
    pause = max((one.request_rate_per_sec for one in service), default=0.0)
    if told:
        return 0, None, "", pause
    return 1, "other", _masked("Apprise could not deliver it: " + " ".join(said.split()), work.url)[:500], pause


def service_of(url: str) -> str | None:
    """The name of the service to which Apprise would turn; None: it does not understand the URL.

    Raises ModuleNotFoundError where Apprise is not installed.
    """
    import apprise

    service = apprise.Apprise()
    # What it says of a URL that it does not understand is the URL.
    with apprise.LogCapture(level=logging.CRITICAL):  # type: ignore[no-untyped-call]
        understood = service.add(url)
    return str(service[0].service_name) if understood and len(service) else None


def _masked(text: str, url: str) -> str:
    """Without what might be a secret of the URL's."""
    parts = _PART.findall(url.partition("://")[2])
    for part in sorted({*parts, *map(unquote, parts)}, key=len, reverse=True):
        text = text.replace(part, "***")
    return text
