"""Signatures, held against what receivers really use to verify them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from marzhook import signing
from marzhook.destinations.webhook import Webhook
from marzhook.endpoint import Endpoint

KEYS = st.binary(min_size=1, max_size=64)
IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
TIMES = st.integers(0, 4_000_000_000)


def headers_of(secrets: Endpoint, now: datetime, item: str = '{"username": "a"}') -> tuple[dict[str, str], bytes]:
    request = Webhook(secrets, instance="i").request([item], [1], now, mode="plain")
    return dict(request.headers), request.body


def test_the_reference_library_accepts_what_is_signed() -> None:
    """A receiver that uses the `standardwebhooks` package verifies a request, and refuses it once a byte has changed."""
    secret = signing.new_secret()
    headers, body = headers_of(Endpoint(1, "n", "webhook", "http://x/", signing_secret=secret), datetime.now(UTC))
    assert Verifier(secret).verify(body, headers) == {"username": "a"}
    with pytest.raises(WebhookVerificationError):
        Verifier(secret).verify(body.replace(b"a", b"b"), headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(signing.new_secret()).verify(body, headers)


def test_while_secrets_overlap_both_are_good() -> None:
    """After a rotation a receiver that has the old secret and one that has the new verify the same request, until the
    overlap has ended."""
    old, new, now = signing.new_secret(), signing.new_secret(), datetime.now(UTC)
    endpoint = Endpoint(
        1, "n", "webhook", "http://x/", signing_secret=new, previous_signing_secret=old,
        previous_expires_at=now + timedelta(seconds=1),
    )  # fmt: skip
    headers, body = headers_of(endpoint, now)
    for secret in (old, new):
        assert Verifier(secret).verify(body, headers)
    later, body = headers_of(endpoint, now + timedelta(seconds=1))
    assert Verifier(new).verify(body, later)
    with pytest.raises(WebhookVerificationError):
        Verifier(old).verify(body, later)


def test_a_new_secret_is_random_and_of_the_recommended_length() -> None:
    """A fresh secret holds 24 bytes and never comes twice."""
    secrets = {signing.new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(signing.key_of(secret)) == 24 for secret in secrets)


@pytest.mark.parametrize("bad", ["", "hunter2", "WHSEC_AAAA", "whsec_!!!!", "whsec_AAA", "whsec_ÄÄÄÄ"])
def test_a_malformed_signing_secret_is_refused(bad: str) -> None:
    """What is not `whsec_` and base64 raises ValueError, and the error does not repeat the secret."""
    with pytest.raises(ValueError) as caught:
        signing.key_of(bad)
    assert not bad or bad not in str(caught.value)


def test_the_hex_hmac_is_what_the_panels_flask_receiver_computes() -> None:
    """The documented receiver's `hmac.new(secret, request.data, sha256).hexdigest()` equals what is sent."""
    secret, body = "something-very-very-secret", '{"username": "مرزبان"}'.encode()
    expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(signing.hex_hmac(secret, body), expected)


@given(key=KEYS, message_id=IDS, timestamp=TIMES, body=st.binary(max_size=200))
def test_what_is_signed_verifies(key: bytes, message_id: str, timestamp: int, body: bytes) -> None:
    """verify(sign(x)) holds for every key, id, time and body, also among other signatures."""
    signature = signing.sign_v1(key, message_id, timestamp, body)
    assert signing.verify_v1(key, message_id, timestamp, body, signature)
    assert signing.verify_v1(key, message_id, timestamp, body, f"v1,AAAA {signature} v1a,BBBB")
    mac = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    assert signature == "v1," + base64.b64encode(mac).decode()


@given(key=KEYS, message_id=IDS, timestamp=TIMES, body=st.binary(min_size=1, max_size=200), data=st.data())
def test_any_flipped_bit_is_noticed(
    key: bytes, message_id: str, timestamp: int, body: bytes, data: st.DataObject
) -> None:
    """One flipped bit of body or signature, another id or another second, and verification fails."""
    signature = signing.sign_v1(key, message_id, timestamp, body)
    place = data.draw(st.integers(0, len(body) * 8 - 1))
    changed = bytearray(body)
    changed[place // 8] ^= 1 << place % 8
    assert not signing.verify_v1(key, message_id, timestamp, bytes(changed), signature)
    assert not signing.verify_v1(key, message_id, timestamp + 1, body, signature)
    assert not signing.verify_v1(key, message_id + "x", timestamp, body, signature)
    mac = bytearray(base64.b64decode(signature[3:]))
    place = data.draw(st.integers(0, len(mac) * 8 - 1))
    mac[place // 8] ^= 1 << place % 8
    forged = "v1," + base64.b64encode(bytes(mac)).decode()
    assert not signing.verify_v1(key, message_id, timestamp, body, forged)


@given(header=st.text(st.characters(), max_size=60))
def test_no_header_makes_verification_stumble(header: str) -> None:
    """Whatever comes as a header, also what is no text, is answered with no, never with an exception."""
    assert not signing.verify_v1(b"key", "id", 1, b"body", header)


@given(a=st.text(st.characters(), max_size=20), b=st.text(st.characters(), max_size=20))
def test_comparing_secrets_is_equality(a: str, b: str) -> None:
    """`same` says what `==` says, for any text."""
    assert signing.same(a, b) == (a == b)
    assert signing.same(a, a)
