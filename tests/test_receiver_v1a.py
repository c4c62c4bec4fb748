"""ed25519 signatures of Standard Webhooks ("v1a")."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzhook import signing

PRIVATE = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
MESSAGE = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
SIGNATURE = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="


def test_the_published_values_are_reproduced() -> None:
    """Key, public part and signature are those with which other libraries of Standard Webhooks are tested."""
    assert signing.public_part(PRIVATE) == PUBLIC
    assert signing.sign_v1a(signing.private_key_of(PRIVATE), *MESSAGE) == SIGNATURE
    assert signing.verify_v1a(signing.public_key_of(PUBLIC), *MESSAGE, f"v1,AAAA {SIGNATURE}")


def test_the_seed_alone_is_a_key_too() -> None:
    """Some libraries write a private key without its public half."""
    seed = base64.b64decode(PRIVATE.removeprefix("whsk_"))[:32]
    assert signing.public_part("whsk_" + base64.b64encode(seed).decode()) == PUBLIC


@given(message_id=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40),
    timestamp=st.integers(0, 4_000_000_000), body=st.binary(max_size=200), data=st.data())  # fmt: skip
def test_what_is_signed_verifies_and_what_is_changed_does_not(
    message_id: str, timestamp: int, body: bytes, data: st.DataObject
) -> None:
    """verify(sign(x)) holds; with one bit of the signature flipped, another id, time or body it does not."""
    private, public = signing.private_key_of(PRIVATE), signing.public_key_of(PUBLIC)
    signature = signing.sign_v1a(private, message_id, timestamp, body)
    assert signing.verify_v1a(public, message_id, timestamp, body, signature)
    assert not signing.verify_v1a(public, message_id + "x", timestamp, body, signature)
    assert not signing.verify_v1a(public, message_id, timestamp + 1, body, signature)
    assert not signing.verify_v1a(public, message_id, timestamp, body + b"x", signature)
    raw = bytearray(base64.b64decode(signature[4:]))
    place = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[place // 8] ^= 1 << place % 8
    forged = "v1a," + base64.b64encode(bytes(raw)).decode()
    assert not signing.verify_v1a(public, message_id, timestamp, body, forged)


@given(header=st.text(st.characters(), max_size=60))
def test_no_header_makes_verification_stumble(header: str) -> None:
    """Whatever comes as a header is answered with no, never with an exception."""
    assert not signing.verify_v1a(signing.public_key_of(PUBLIC), *MESSAGE, header)


def test_new_keys_are_new_and_whole() -> None:
    """A fresh key signs what its public part verifies, and no other's does."""
    one, other = signing.new_private_key(), signing.new_private_key()
    signature = signing.sign_v1a(signing.private_key_of(one), *MESSAGE)
    assert signing.verify_v1a(signing.public_key_of(signing.public_part(one)), *MESSAGE, signature)
    assert not signing.verify_v1a(signing.public_key_of(signing.public_part(other)), *MESSAGE, signature)


@pytest.mark.parametrize("bad", ["", "whsec_AAAA", "whsk_", "whsk_AAAA", "whsk_ÄÄÄÄ", "whsk_!!!!", PUBLIC])
def test_a_malformed_private_key_is_refused(bad: str) -> None:
    """What is no private key raises ValueError, which does not repeat it."""
    with pytest.raises(ValueError) as caught:
        signing.private_key_of(bad)
    assert bad in ("", "whsk_") or bad not in str(caught.value)


def test_halves_that_do_not_fit_are_refused() -> None:
    """A private key whose public half is another's would sign what nobody can verify."""
    raw = base64.b64decode(PRIVATE.removeprefix("whsk_"))
    with pytest.raises(ValueError):
        signing.private_key_of("whsk_" + base64.b64encode(raw[:32] + bytes(32)).decode())


@pytest.mark.parametrize("bad", ["", "whpk_", "whpk_AAAA", "whpk_ÄÄÄÄ", PRIVATE])
def test_a_malformed_public_key_is_refused(bad: str) -> None:
    """What is no public key raises ValueError."""
    with pytest.raises(ValueError):
        signing.public_key_of(bad)
