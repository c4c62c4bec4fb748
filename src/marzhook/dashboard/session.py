"""Who is signed in, and that a form was ours: cookies, and tokens against forged forms.

The session is the admin's token of the panel's API in an HttpOnly cookie: a new password voids it, as it voids the others.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from marzhook.signing import same

SESSION: Final = "marzhook_session"
FORM: Final = "marzhook_form"
"""Before anybody is signed in, what the token of a form is bound to."""
ONCE: Final = "marzhook_once"
"""That the next page shows a secret which was just made, for so many seconds at the most."""
ONCE_SECONDS: Final = 60
YEAR: Final = 365 * 86_400


def set_cookie(
    response: Response, request: Request, name: str, value: str, *, seconds: int | None, path: str = "/"
) -> None:
    """`seconds` None: until the browser is closed."""
    response.set_cookie(
        name, value, max_age=seconds, path=path, httponly=True, samesite="lax", secure=request.url.scheme == "https"
    )


def once(secret: str, bound_to: str, until: int) -> str:
    """What lets this session see the secret on the next page, until a Unix time. The secret is not in it, and only who knows
    it can make one, so every process that shows the page tells it from a forged one."""
    return f"{until}.{hmac.new(secret.encode(), f'{bound_to} {until}'.encode(), hashlib.sha256).hexdigest()}"


def is_once(given: str, secret: str, bound_to: str, now: float) -> bool:
    until = given.partition(".")[0]
    if not (until.isascii() and until.isdigit() and len(until) < 20 and int(until) >= now):
        return False
    return same(once(secret, bound_to, int(until)), given)


def form_token(bound_to: str) -> str:
    """What a form carries: only who can read the cookie can compute it, and other sites cannot."""
    return hmac.new(bound_to.encode(), b"form", hashlib.sha256).hexdigest()


def is_ours(bound_to: str, given: object) -> bool:
    return bool(bound_to) and isinstance(given, str) and same(form_token(bound_to), given)


def new_binding() -> str:
    return secrets.token_urlsafe(24)
