"""Proof that a request comes from the sender: the raw secret, its HMAC of the body, or a Standard Webhooks signature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from marzhook import signing
from marzhook.receiver.refusal import RequestRefused

TYPE_CHECKING = False  # see `event`
if TYPE_CHECKING:
    from typing import Final, Literal

    Proof = Literal["plain", "hmac", "v1", "v1a"]
    """How a request was proven: x-webhook-secret with the secret itself or with the hex HMAC of the body; Standard Webhooks'
    HMAC-SHA256 or ed25519 signature."""

TOLERANCE: Final = 300.0
"""Seconds that a signature's timestamp may be off (Standard Webhooks, "Verifying webhook authenticity")."""
MAX_ID = 200

SECRET, ID, TIMESTAMP, SIGNATURE = "x-webhook-secret", "webhook-id", "webhook-timestamp", "webhook-signature"


class Secrets:
    """What a request may be proven with; each one suffices by itself.

    `whsec_…` is a signing secret, `whpk_…` an ed25519 public key, anything else the secret of `x-webhook-secret`. Several of
    one kind: the new and the old, while they change. Raises ValueError when there is none or one is malformed, and
    ImportError for a `whpk_` key without the package `cryptography`.
    """

    def __init__(self, secrets: str | Iterable[str], *, tolerance: float = TOLERANCE) -> None:
        every = (secrets,) if isinstance(secrets, str) else tuple(secrets)
        if not every or not all(every):
            raise ValueError(
                "a receiver needs a secret, else anybody could send to it; it is WEBHOOK_SECRET or whsec_…"
            )
        if any(one.startswith(signing.PRIVATE_PREFIX) for one in every):
            raise ValueError("a whsk_ key belongs to the sender alone; a receiver needs its public part, whpk_…")
        self._keys = [signing.key_of(one) for one in every if one.startswith(signing.PREFIX)]
        self._public = [signing.public_key_of(one) for one in every if one.startswith(signing.PUBLIC_PREFIX)]
        self._plain = [one for one in every if not one.startswith((signing.PREFIX, signing.PUBLIC_PREFIX))]
        self._tolerance = tolerance

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> Proof:
        """How the request is proven; `headers` with names in lower case, `now` in Unix seconds.

        Raises RequestRefused (403): `no_proof`, `wrong_secret`, `wrong_signature`, `bad_signature_headers`, `stale`.
        """
        signed = self._signed(headers, body, now) if self._keys or self._public else None
        if isinstance(signed, str):
            return signed
        presented = self._presented(headers, body) if self._plain else None
        if isinstance(presented, str):
            return presented
        raise signed or presented or self._no_proof()

    def _signed(self, headers: Mapping[str, str], body: bytes, now: float) -> Proof | RequestRefused | None:
        message_id, timestamp, signature = (headers.get(name, "") for name in (ID, TIMESTAMP, SIGNATURE))
        if not message_id and not timestamp and not signature:
            return None
        if not (well_formed_id(message_id) and timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
            return _refused(
                "bad_signature_headers",
                f"{ID} must be 1 to {MAX_ID} printable ASCII characters, {TIMESTAMP} Unix seconds in digits",
            )
        at = int(timestamp)
        # Lists: every key is tried, so the time tells nothing about which one is right.
        if any([signing.verify_v1(key, message_id, at, body, signature) for key in self._keys]):  # noqa: C419
            proof: Proof = "v1"
        elif any(signing.verify_v1a(key, message_id, at, body, signature) for key in self._public):
            proof = "v1a"
        else:
            return _refused(
                "wrong_signature",
                f"{SIGNATURE} does not fit these {len(body)} bytes and the keys here: the endpoint's own key is needed, "
                "and the body exactly as it was sent",
            )
        if abs(now - at) > self._tolerance:
            # Also where another secret would do: what was captured holds them all.
            raise _refused(
                "stale",
                f"the signature is of {TIMESTAMP} {at}, more than {self._tolerance:g} s from this clock's {now:.0f}: an old "
                "request that comes again, or one of the two clocks is wrong",
            )
        return proof

    def _presented(self, headers: Mapping[str, str], body: bytes) -> Proof | RequestRefused | None:
        sent = headers.get(SECRET, "")
        if not sent:
            return None
        # Servers read headers as Latin-1; senders write a secret beyond ASCII in that or in UTF-8.
        utf8 = sent.encode("latin-1", "replace").decode("utf-8", "replace")
        if any([signing.same(sent, one) | signing.same(utf8, one) for one in self._plain]):  # noqa: C419
            return "plain"
        if any([signing.same(sent.lower(), signing.hex_hmac(one, body)) for one in self._plain]):  # noqa: C419
            return "hmac"
        return _refused("wrong_secret", f"{SECRET} is neither the secret here nor its HMAC of this body")

    def _no_proof(self) -> RequestRefused:
        needed = [SECRET] if self._plain else []
        needed += [f"{ID}, {TIMESTAMP}, {SIGNATURE}"] if self._keys or self._public else []
        return _refused("no_proof", f"the request lacks {' or '.join(needed)}")


def well_formed_id(message_id: str) -> bool:
    """What is longer, or not printable ASCII, is not an id that anybody sends."""
    return 0 < len(message_id) <= MAX_ID and message_id.isascii() and message_id.isprintable()


def _refused(code: str, message: str) -> RequestRefused:
    return RequestRefused(403, code, message)
