"""What the kit raises: a request that is not taken, an event that is not wanted.

Exception
├── RequestRefused   the whole request: not proven, not readable; answered with its status, no handler was called
└── EventRefused     one event: malformed, or a handler says that it will never be good
"""

from __future__ import annotations


class RequestRefused(Exception):
    """Answered with `status` and `{"code", "detail"}`. `code` is stable, the message is for people.

    The status tells Marzhook how to go on. 403: it speaks of the sender, so the request is tried again on the long
    schedule. 400, 413, 415: it speaks of the body, which is tried three times more; a list that is refused is sent in halves.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class EventRefused(Exception):
    """Raise it in a handler when an event will never be good, however often it comes; the message goes to the sender."""
