"""Alerts through Apprise, which is an extra: it comes with `pip install 'marzhook[destinations]'`."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from io import StringIO
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from marzhook.request import LONGEST_ALERT, Alert

if TYPE_CHECKING:
    from apprise import Apprise

MISSING: Final = "Apprise is not installed here; type: pip install 'marzhook[destinations]'"
NOT_UNDERSTOOD: Final = "Apprise does not understand this URL"
TOO_MANY: Final = (
    "this URL names %(recipients)s recipients, of whom its service takes one in %(pause)s s; make several endpoints of it,"
    " with %(most)s recipients each at the most"
)
_UNHEARD: Final = logging.NullHandler()
_PART = re.compile(r"[^/:@?&=#]{4,}")


def alert(work: Alert, timeout: float, begin: Callable[[float, float], None]) -> tuple[int, str | None, str]:
    """Status, error and its message. `timeout`: seconds that one recipient may take.

    `begin` is told, before anything is sent, how many seconds all of it may take, and how many the service is to be left
    alone afterwards.
    """
    try:
        service = _service(work.url)
    except ModuleNotFoundError:
        return 1, "other", MISSING
    if not service:
        return 1, "other", NOT_UNDERSTOOD
    recipients, pause = _recipients(service), _pause(service)
    if values := _too_many(recipients, pause):
        return 1, "other", TOO_MANY % values
    # Apprise tells one after the other. Who gave it up before the last one would tell all of them once more, and again.
    begin(min(LONGEST_ALERT, recipients * timeout + (recipients - 1) * pause), pause)
    # The log is the process's: without the filter, what is said of one endpoint would be told of another one too.
    logger, mine = logging.getLogger("apprise"), threading.get_ident()
    captured = StringIO()
    handler = logging.StreamHandler(captured)
    handler.setLevel(logging.WARNING)
    handler.addFilter(lambda record: record.thread == mine)
    logger.addHandler(handler)
    try:
        told = service.notify(title=work.title, body=work.text, body_format="text")
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


def _too_many(recipients: int, pause: float) -> Mapping[str, str | int]:
    """What TOO_MANY says of so many; empty: they are not."""
    if (recipients - 1) * pause <= LONGEST_ALERT / 2:
        return {}
    return {"recipients": recipients, "pause": f"{pause:g}", "most": int(LONGEST_ALERT / 2 / pause) + 1}


def _service(url: str) -> Apprise:
    """What Apprise makes of the URL; empty: it does not understand it. Raises ModuleNotFoundError where it is not there."""
    import apprise

    # What it says of a URL that it does not understand is most of the URL, which is nobody's to read.
    logger = logging.getLogger("apprise")
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    logger.addHandler(_UNHEARD)
    service = apprise.Apprise()
    service.add(url)
    return service


def service_of(url: str) -> tuple[str | None, Mapping[str, str | int]]:
    """The name of the service to which Apprise would turn (None: it does not understand the URL), and what TOO_MANY says of
    its recipients, where they are too many.

    Raises ModuleNotFoundError where Apprise is not installed.
    """
    service = _service(url)
    if not service:
        return None, {}
    return str(service[0].service_name), _too_many(_recipients(service), _pause(service))


def _masked(text: str, url: str) -> str:
    """Without what might be a secret of the URL's."""
    parts = _PART.findall(url.partition("://")[2])
    for part in sorted({*parts, *map(unquote, parts)}, key=len, reverse=True):
        text = text.replace(part, "***")
    return text
