"""Signatures of requests.

Two schemes with the standard library only: Standard Webhooks (https://www.standardwebhooks.com, "v1": HMAC-SHA256 over
`id.timestamp.body`, base64) and the panel's documented one (hex HMAC-SHA256 of the body in `x-webhook-secret`). A third,
Standard Webhooks' "v1a" (ed25519 over the same), where the package `cryptography` is installed: who can verify it cannot
sign, so a receiver that is broken into gives no key away.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import os

TYPE_CHECKING = False  # not typing's: what receivers import, they import quickly (`marzhook.receiver.event`)
if TYPE_CHECKING:
    from typing import Any

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PREFIX = "whsec_"
PRIVATE_PREFIX, PUBLIC_PREFIX = "whsk_", "whpk_"
"""Of ed25519 keys, as Standard Webhooks serializes them ("Signature scheme")."""


def new_secret() -> str:
    """A fresh `whsec_` secret of 24 random bytes, the length that Standard Webhooks recommends."""
    # As `secrets` does it, whose import brings six further modules into every receiver.
    return PREFIX + base64.b64encode(os.urandom(24)).decode()


def key_of(secret: str) -> bytes:
    """The key bytes of a `whsec_` secret. Raises ValueError where it is not one."""
    key = _decoded(secret, PREFIX, "a signing secret")
    if not key:
        raise ValueError(f"a signing secret is {PREFIX} and something behind it")  # else anybody could sign
    return key


def _decoded(text: str, prefix: str, what: str) -> bytes:
    if not text.startswith(prefix):
        raise ValueError(f"{what} starts with {prefix}")
    try:
        return base64.b64decode(text[len(prefix) :], validate=True)
    except ValueError:  # not base64, or not even ASCII
        raise ValueError(f"{what} is {prefix} followed by base64") from None


def _signed(message_id: str, timestamp: int, body: bytes) -> bytes:
    return b"%s.%d.%s" % (message_id.encode(), timestamp, body)


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
    mac = hmac_sha256(key, _signed(message_id, timestamp, body))
    return "v1," + binascii.b2a_base64(mac, newline=False).decode()


def verify_v1(key: bytes, message_id: str, timestamp: int, body: bytes, header: str) -> bool:
    """Whether one of the space-separated signatures in `header` is right (compared in constant time)."""
    expected = sign_v1(key, message_id, timestamp, body).encode()
    # A list, not a generator: every candidate is compared, so the time tells nothing about which one matched.
    # "replace": a header may hold anything, also what is no text.
    return any([hmac.compare_digest(expected, one.encode("utf-8", "replace")) for one in header.split(" ")])  # noqa: C419


def new_private_key() -> str:
    """A fresh `whsk_` ed25519 key: seed and public key, 64 bytes, as the libraries of Standard Webhooks write it."""
    private = _ed25519().Ed25519PrivateKey.generate()
    return (
        PRIVATE_PREFIX
        + base64.b64encode(private.private_bytes_raw() + private.public_key().public_bytes_raw()).decode()
    )


def private_key_of(key: str) -> Ed25519PrivateKey:
    """A `whsk_` key (64 bytes, or the seed's 32), ready to sign. Raises ValueError, and ImportError without `cryptography`."""
    raw = _decoded(key, PRIVATE_PREFIX, "an ed25519 private key")
    if len(raw) not in (32, 64):
        raise ValueError(f"an ed25519 private key is {PRIVATE_PREFIX} followed by 64 or 32 bytes in base64")
    private: Ed25519PrivateKey = _ed25519().Ed25519PrivateKey.from_private_bytes(raw[:32])
    if raw[32:] not in (b"", private.public_key().public_bytes_raw()):
        raise ValueError("the two halves of the ed25519 private key do not belong together")
    return private


def public_key_of(key: str) -> Ed25519PublicKey:
    """A `whpk_` key, ready to verify. Raises ValueError, and ImportError without `cryptography`."""
    raw = _decoded(key, PUBLIC_PREFIX, "an ed25519 public key")
    if len(raw) != 32:
        raise ValueError(f"an ed25519 public key is {PUBLIC_PREFIX} followed by 32 bytes in base64")
    public: Ed25519PublicKey = _ed25519().Ed25519PublicKey.from_public_bytes(raw)
    return public


def public_part(key: str) -> str:
    """The `whpk_` key that verifies what the `whsk_` key signs."""
    return PUBLIC_PREFIX + base64.b64encode(private_key_of(key).public_key().public_bytes_raw()).decode()


def sign_v1a(key: Ed25519PrivateKey, message_id: str, timestamp: int, body: bytes) -> str:
    """`v1a,<base64>` over `id.timestamp.body`; timestamp in Unix seconds."""
    return "v1a," + binascii.b2a_base64(key.sign(_signed(message_id, timestamp, body)), newline=False).decode()


def verify_v1a(key: Ed25519PublicKey, message_id: str, timestamp: int, body: bytes, header: str) -> bool:
    """Whether one of the space-separated signatures in `header` is right."""
    from cryptography.exceptions import InvalidSignature

    signed = _signed(message_id, timestamp, body)
    for one in header.split(" "):
        try:
            key.verify(_decoded(one, "v1a,", "a signature"), signed)
        except (ValueError, InvalidSignature):
            continue
        return True
    return False


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ImportError(
            "ed25519 keys (whsk_, whpk_) need the package cryptography: pip install cryptography"
        ) from None
    return ed25519


def hex_hmac(secret: str, body: bytes) -> str:
    """Hex HMAC-SHA256 of the body, as the panel's documented Flask receiver computes it."""
    return hmac_sha256(secret.encode(), body).hex()


def same(a: str, b: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(a.encode("utf-8", "surrogatepass"), b.encode("utf-8", "surrogatepass"))
