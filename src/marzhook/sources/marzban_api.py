"""A panel's users over its API (Marzban's), page by page, one request at a time."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from marzhook.errors import InvalidError, PanelError
from marzhook.event import JSON

PAGE: Final = 500
"""Users a request: some 500 KB."""
TIMEOUT: Final = 60.0
"""Seconds without a byte; a panel with many users takes its time for a page."""
MAX_PAGE: Final = 64 * 2**20


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the password or the token to somebody else."""

    def redirect_request(self, *_args: Any, **_values: Any) -> None:
        return None


class PanelApi:
    """Logged in as an admin, who sees his own users, or as sudo all."""

    def __init__(self, url: str, username: str, password: str, *, ca_file: Path | None = None) -> None:
        """`url`: the panel's address, as `https://panel.example:8000`. Raises InvalidError, PanelError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise InvalidError("a panel's address looks like https://panel.example:8000", code="invalid_url")
        self._url = url.rstrip("/")
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        self._opener = urllib.request.build_opener(_NoRedirects, urllib.request.HTTPSHandler(context=context))
        self._token = ""
        form = urlencode({"username": username, "password": password, "grant_type": "password"}).encode()
        answer = self._call("/api/admin/token", form)
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise PanelError(f"{self._shown} did not answer the login as a Marzban panel does; is the address right?")
        self._token = token

    @property
    def _shown(self) -> str:
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"

    def users(self) -> Iterator[tuple[list[dict[str, JSON]], int]]:
        """Pages of users as the panel shows them, and how many there are in all, the oldest users first. Raises PanelError."""
        offset = 0
        while True:
            query = urlencode({"offset": offset, "limit": PAGE, "sort": "created_at"})
            answer = self._call(f"/api/users?{query}")
            users = answer.get("users") if isinstance(answer, dict) else None
            total = answer.get("total") if isinstance(answer, dict) else None
            if not isinstance(users, list) or type(total) is not int:
                raise PanelError(f"{self._shown} did not answer /api/users as a Marzban panel does")
            yield [user for user in users if isinstance(user, dict)], total
            offset += len(users)
            if not users or offset >= total:
                return

    def _call(self, path: str, form: bytes | None = None) -> JSON:
        request = urllib.request.Request(self._url + path, form)  # noqa: S310 - the scheme was checked
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                body = response.read(MAX_PAGE + 1)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 403) and form:
                raise PanelError(f"{self._shown} refuses this name and password", code="panel_refused") from None
            raise PanelError(f"{self._shown} answered {error.code} to {path.partition('?')[0]}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise PanelError(f"{self._shown} cannot be reached: {reason}", code="panel_unreachable") from None
        try:
            if len(body) > MAX_PAGE:
                raise ValueError("too large")
            return json.loads(body)
        except (ValueError, RecursionError):
            raise PanelError(f"{self._shown} did not answer {path.partition('?')[0]} with JSON") from None
