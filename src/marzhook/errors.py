"""Everything that Marzhook raises on purpose.

    MarzhookError
    ├── SettingError            a setting is malformed                        (CLI exit 2)
    ├── StartError              the service cannot start here and now         (CLI exit 2)
    │   ├── DatabaseError         not a database, read-only, unreachable
    │   ├── DatabaseNewerError    made by a newer Marzhook
    │   └── AlreadyRunningError   another process holds the database
    ├── OwnershipLostError      another worker may send by now what this one was sending
    ├── StoreBusyError          the database could not be written just now    (HTTP 503, CLI exit 2)
    │   ├── TransientError        nothing was changed, and the same may work at once
    │   └── OutcomeUnknownError   it went away during the commit
    ├── InvalidError            the caller's data is wrong                    (HTTP 422, CLI exit 2)
    │   └── InvalidUserError      a field of a user, as the panel reports it
    ├── NotFoundError           no such thing                                 (HTTP 404)
    ├── ConflictError           it is already there, or in the wrong state    (HTTP 409)
    ├── PanelError              a panel did not answer as it should           (CLI exit 1)
    ├── RenderError             a template makes nothing of this event
    ├── ConditionError          a filter's condition cannot be evaluated for this event
    ├── UnauthorizedError       who are you?                                  (HTTP 401)
    ├── ForbiddenError          you may not                                   (HTTP 403)
    └── ThrottledError          not now, but in some seconds                  (HTTP 429)

Each has a machine-readable `code`; its message says what is wrong and what to do. HTTP statuses are mapped
here, for all faces that speak HTTP, exit codes in `marzhook.cli.main`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_NOTHING: Final[Mapping[str, str | int]] = {}


class MarzhookError(Exception):
    """Base of all; `code` is stable, the message is for people."""

    code = "error"
    reason = ""
    """What exactly is wrong, as the end of a sentence that a face can translate; empty where there are no words for it."""
    values: Mapping[str, str | int] = _NOTHING
    """What `reason` has in places like `%(found)s`; `line`: the line that all of it is about."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class SettingError(MarzhookError):
    code = "invalid_setting"


class StartError(MarzhookError):
    code = "cannot_start"


class DatabaseError(StartError):
    code = "database_unusable"


class DatabaseNewerError(StartError):
    code = "database_newer"


class AlreadyRunningError(StartError):
    code = "already_running"


class OwnershipLostError(MarzhookError):
    code = "ownership_lost"


class StoreBusyError(MarzhookError):
    code = "store_busy"


class TransientError(StoreBusyError):
    """Nothing was changed: the transaction met another one, or the connection was lost before its commit."""


class OutcomeUnknownError(StoreBusyError):
    """The commit's answer was lost. Only what recognises itself, by an idempotency key, may be repeated."""

    code = "outcome_unknown"


class InvalidError(MarzhookError):
    """`field`: the one that is wrong, as a form calls it; empty where the code says enough."""

    code = "invalid"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str = "",
        reason: str = "",
        values: Mapping[str, str | int] = _NOTHING,
    ) -> None:
        super().__init__(message, code=code)
        self.field = field
        self.reason = reason
        self.values = values


class InvalidUserError(InvalidError):
    """A user's field is wrong; `fields` maps each field to what is wrong, as the panel's API shows it."""

    code = "invalid_user"

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {text}" for name, text in fields.items()))
        self.fields = fields


class NotFoundError(MarzhookError):
    code = "not_found"


class ConflictError(MarzhookError):
    code = "conflict"


class PanelError(MarzhookError):
    code = "panel_failed"


class RenderError(MarzhookError):
    code = "render_failed"

    def __init__(self, message: str, *, reason: str = "", values: Mapping[str, str | int] = _NOTHING) -> None:
        super().__init__(message)
        self.reason = reason
        self.values = values


class ConditionError(MarzhookError):
    code = "condition_failed"


class UnauthorizedError(MarzhookError):
    code = "unauthorized"


class ForbiddenError(MarzhookError):
    code = "forbidden"


class ThrottledError(MarzhookError):
    """`seconds`: after so many it may be tried again."""

    code = "throttled"

    def __init__(self, message: str, *, code: str | None = None, seconds: int = 1) -> None:
        super().__init__(message, code=code)
        self.seconds = seconds


_STATUS: Final[dict[type[MarzhookError], int]] = {
    InvalidError: 422,
    NotFoundError: 404,
    ConflictError: 409,
    UnauthorizedError: 401,
    ForbiddenError: 403,
    ThrottledError: 429,
    StoreBusyError: 503,
    # The database became unusable while the service runs: nothing that the caller could mend, perhaps later.
    DatabaseError: 503,
}
# Codes whose status is not that of their class.
_CODE_STATUS: Final = {"malformed_json": 400, "invalid_sort": 400, "body_too_large": 413}


def http_status(error: MarzhookError) -> int:
    """The HTTP status of one of our errors; 500 for those that no request should ever meet."""
    if error.code in _CODE_STATUS:
        return _CODE_STATUS[error.code]
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)
