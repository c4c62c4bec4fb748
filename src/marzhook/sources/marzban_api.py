"""A panel's users over its API (Marzban's), page by page, one request at a time."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from marzhook.errors import InvalidError, PanelError
from marzhook.event import JSON

PAGE: Final = 500
"""Users a request: some 500 KB."""
TIMEOUT: Final = 60.0
"""Seconds without a byte; a panel with many users takes its time for a page."""
MAX_PAGE: Final = 64 * 2**20
MAX_BACK: Final = 2**12
"""Pages to go back at once, where they shift: two million users."""
MAX_WALKS: Final = 5
"""How often to go through all pages, where there are fewer users on them than there are."""


@cache
def _public() -> ssl.SSLContext:
    """The machine's own certificate authorities: to read them all takes 40 ms, and every followed panel needs the same."""
    return ssl.create_default_context()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the password or the token to somebody else."""

    def redirect_request(self, *_args: Any, **_values: Any) -> None:
        return None


class PanelApi:
    """As an admin, who sees his own users, or as sudo all. Logs in when it is first asked, and when the panel wants it."""

    def __init__(
        self,
        url: str,
        username: str = "",
        password: str = "",
        *,
        token: str = "",
        ca_file: Path | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        """`url`: the panel's address, as `https://panel.example:8000`. `token`: instead of a name and a password.

        Raises InvalidError.
        """
        parts = urlsplit(url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.query
            or parts.fragment
            or parts.username
        ):
            raise InvalidError("a panel's address looks like https://panel.example:8000", code="invalid_url")
        self._url = url.rstrip("/")
        context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else _public()
        self._opener = urllib.request.build_opener(_NoRedirects, urllib.request.HTTPSHandler(context=context))
        self._login = {"username": username, "password": password, "grant_type": "password"} if password else None
        self._token = token
        self._timeout = timeout

    @property
    def _shown(self) -> str:
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"

    def sees_all(self) -> bool:
        """Whether the panel shows this admin the users of all, and not only his own; one that does not say is believed to.
        Raises PanelError where it is not there, or refuses the login."""
        try:
            answer = self._call("/api/admin")
        except PanelError as error:
            if error.code != PanelError.code:
                raise
            return True
        return not (isinstance(answer, dict) and answer.get("is_sudo") is False)

    def users(self) -> Iterator[tuple[list[dict[str, JSON]], int]]:
        """Pages of users as the panel shows them, each user once, and how many there are in all, the oldest users first.

        Nobody is left out who is there from the first page to the last, whoever else is deleted or comes meanwhile: a page
        begins with the last user of the one before, and where all its users are new, others may have moved past it. Raises
        PanelError.
        """
        found: set[str] = set()
        offset, back, walks = 0, 1, 1
        while True:
            page, places, total = self.page(offset)
            new = {key: user for user in page if (key := _key(user)) not in found}
            if offset and len(new) == len(page):
                # As far back again each time: many may have been deleted at once.
                if back > MAX_BACK:
                    raise self._incomplete(len(found), total)
                offset, back = max(0, offset - back * PAGE), 2 * back
                continue
            found |= new.keys()
            yield [*new.values()], total
            back = 1 if new else back
            if places and offset + places < total:
                offset += max(1, places - 1)
            elif len(found) >= total:
                return
            elif walks == MAX_WALKS:
                raise self._incomplete(len(found), total)
            else:
                offset, walks = 0, walks + 1

    def _incomplete(self, found: int, total: int) -> PanelError:
        return PanelError(
            f"{self._shown} showed only {found} of its {total} users, who change while they are read; try again"
        )

    def page(self, offset: int) -> tuple[list[dict[str, JSON]], int, int]:
        """Users from there on, the oldest first; how many places they take; how many there are in all. Raises PanelError."""
        query = urlencode({"offset": offset, "limit": PAGE, "sort": "created_at,username"})
        answer = self._call(f"/api/users?{query}")
        users = answer.get("users") if isinstance(answer, dict) else None
        total = answer.get("total") if isinstance(answer, dict) else None
        if not isinstance(users, list) or type(total) is not int:
            raise PanelError(f"{self._shown} did not answer /api/users as a Marzban panel does")
        return [user for user in users if isinstance(user, dict)], len(users), total

    def user(self, username: str) -> dict[str, JSON] | None:
        """One user; None: the panel says that there is none. Raises PanelError, with code `panel_hidden` where this admin may
        not see him."""
        try:
            answer = self._call(f"/api/user/{quote(username, safe='')}")
        except _NoUserError:
            return None
        if not isinstance(answer, dict) or not isinstance(answer.get("username"), str):
            raise PanelError(f"{self._shown} did not answer /api/user as a Marzban panel does")
        return answer

    def _call(self, path: str) -> JSON:
        if not self._token:
            self._log_in()
        try:
            return self._request(path)
        except PanelError as error:
            if error.code != "panel_refused" or self._login is None:
                raise
        # The token has expired, or the panel was set up anew.
        self._log_in()
        return self._request(path)

    def _log_in(self) -> None:
        if self._login is None:
            raise PanelError(f"there is neither a password nor a token for {self._shown}", code="panel_refused")
        self._token = ""
        answer = self._request("/api/admin/token", urlencode(self._login).encode())
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise PanelError(f"{self._shown} did not answer the login as a Marzban panel does; is the address right?")
        self._token = token

    def _request(self, path: str, form: bytes | None = None) -> JSON:
        request = urllib.request.Request(self._url + path, form)  # noqa: S310 - the scheme was checked
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                body = response.read(MAX_PAGE + 1)
        except urllib.error.HTTPError as error:
            raise self._refusal(error, path.partition("?")[0], form) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise PanelError(f"{self._shown} cannot be reached: {reason}", code="panel_unreachable") from None
        try:
            if len(body) > MAX_PAGE:
                raise ValueError("too large")
            return json.loads(body)
        except (ValueError, RecursionError):
            raise PanelError(f"{self._shown} did not answer {path.partition('?')[0]} with JSON") from None

    def _refusal(self, error: urllib.error.HTTPError, path: str, form: bytes | None) -> PanelError:
        with error:
            detail = _detail(error)
        if error.code in (401, 403) and form:
            return PanelError(f"{self._shown} refuses this name and password", code="panel_refused")
        if error.code == 401:
            return PanelError(f"{self._shown} refuses this token", code="panel_refused")
        shown = "/api/user/…" if path.startswith("/api/user/") else path
        if shown != path and error.code == 403 and detail:
            return PanelError(f"{self._shown} does not show this user", code="panel_hidden")
        # "Not Found" is what is said of paths. Whatever stands before a panel that is down answers 404 without JSON.
        if shown != path and error.code == 404 and detail not in ("", "Not Found"):
            return _NoUserError(f"{self._shown} has no such user")
        return PanelError(f"{self._shown} answered {error.code} to {shown}")


def _key(user: dict[str, JSON]) -> str:
    name = user.get("username")
    return name if isinstance(name, str) else json.dumps(user)


class _NoUserError(PanelError):
    """The panel says so itself."""


def _detail(error: urllib.error.HTTPError) -> str:
    """What the panel says, where it is the panel that says something."""
    try:
        answer = json.loads(error.read(64 * 1024))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return ""
    detail = answer.get("detail") if isinstance(answer, dict) else None
    return detail if isinstance(detail, str) else ""
