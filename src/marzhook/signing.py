"""Signatures of requests, with the standard library only.

Two schemes: Standard Webhooks (https://www.standardwebhooks.com, "v1": HMAC-SHA256 over `id.timestamp.body`, base64) and
the panel's documented one (hex HMAC-SHA256 of the body in `x-webhook-secret`).
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import secrets

PREFIX = "whsec_"


def new_secret() -> str:
    """A fresh `whsec_` secret of 24 random bytes, the length that Standard Webhooks recommends."""
    return PREFIX + base64.b64encode(secrets.token_bytes(24)).decode()


def key_of(secret: str) -> bytes:
    """The key bytes of a `whsec_` secret. Raises ValueError where it is not one."""
    if not secret.startswith(PREFIX):
        raise ValueError(f"a signing secret starts with {PREFIX}")
    try:
        return base64.b64decode(secret[len(PREFIX) :], validate=True)
    except binascii.Error:
        raise ValueError(f"a signing secret is {PREFIX} followed by base64") from None


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104), where the same few keys sign many messages: their pads are hashed once. `hmac.digest` begins
    anew each time and takes three times as long."""
    inner, outer = _padded(key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(message)
    outer.update(inner.digest())
    return outer.digest()


@functools.lru_cache(maxsize=4096)
def _padded(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    if len(key) > 64:
        key = hashlib.sha256(key).digest()
    key = key.ljust(64, b"\0")
    return hashlib.sha256(bytes(b ^ 0x36 for b in key)), hashlib.sha256(bytes(b ^ 0x5C for b in key))


def sign_v1(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """`v1,<base64>` over `id.timestamp.body`; timestamp in Unix seconds."""
    mac = hmac_sha256(key, b"%s.%d.%s" % (message_id.encode(), timestamp, body))
    return "v1," + binascii.b2a_base64(mac, newline=False).decode()


def verify_v1(key: bytes, message_id: str, timestamp: int, body: bytes, header: str) -> bool:
    """Whether one of the space-separated signatures in `header` is right (compared in constant time)."""
    expected = sign_v1(key, message_id, timestamp, body).encode()
    # A list, not a generator: every candidate is compared, so the time tells nothing about which one matched.
    # "replace": a header may hold anything, also what is no text.
    return any([hmac.compare_digest(expected, one.encode("utf-8", "replace")) for one in header.split(" ")])  # noqa: C419


def hex_hmac(secret: str, body: bytes) -> str:
    """Hex HMAC-SHA256 of the body, as the panel's documented Flask receiver computes it."""
    return hmac_sha256(secret.encode(), body).hex()


def same(a: str, b: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(a.encode("utf-8", "surrogatepass"), b.encode("utf-8", "surrogatepass"))
