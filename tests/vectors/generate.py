"""Writes requests.json: `python tests/vectors/generate.py`. Signs by itself, not with Marzhook's code, so that each checks the
other."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE = Path(__file__).with_name("requests.json")
NOW = 1767225600
PLAIN = "something-very-very-secret"
KEY, OLD_KEY = ("whsec_" + base64.b64encode(bytes(range(start, start + 24))).decode() for start in (1, 101))
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = "whpk_" + base64.b64encode(PRIVATE.public_key().public_bytes_raw()).decode()
OTHER_PUBLIC = (
    "whpk_" + base64.b64encode(Ed25519PrivateKey.from_private_bytes(b"o" * 32).public_key().public_bytes_raw()).decode()
)

EVENT = '{"username": "marzban_test_user", "action": "user_updated", "enqueued_at": 1680506457.636369, "tries": 0}'
SEEN = {"action": "user_updated", "username": "marzban_test_user", "enqueued_at": 1680506457.636369, "tries": 0}
PERSIAN = '{"username": "کاربر", "action": "user_created", "enqueued_at": 1767225599.5, "tries": 2}'
STANDARD = f'{{"type": "user_updated", "timestamp": "2023-04-03T07:20:57.636369Z", "data": {EVENT}}}'
FIRST, SECOND, LATER = (
    f'{{"enqueued_at": 1767225599.25, "send_at": {NOW}.5, "tries": 0, "username": "{name}", "action": "{action}"}}'
    for name, action in (("alice", "user_created"), ("bob", "user_limited"), ("alice", "user_limited"))
)
ALICE = {"action": "user_created", "username": "alice", "enqueued_at": 1767225599.25, "tries": 0}
BOB = {**ALICE, "action": "user_limited", "username": "bob"}

cases: list[dict[str, Any]] = []


def case(
    name: str, why: str, headers: dict[str, str], body: str | bytes, secrets: list[str], status: int,
    *, code: str | None = None, proof: str | None = None, results: list[str] | None = None,
    events: list[dict[str, Any]] | None = None, content_type: str = "application/json", **settings: Any,
) -> None:  # fmt: skip
    raw = body.encode() if isinstance(body, str) else body
    found: dict[str, Any] = {"name": name, "why": why, "secrets": secrets, "now": NOW, **settings}
    found["headers"] = {"content-type": content_type} | headers
    try:
        found["body"] = raw.decode()
    except UnicodeDecodeError:
        found["body_base64"] = base64.b64encode(raw).decode()
    found["expect"] = {
        "status": status, "proof": proof, "code": code, "results": results or [], "events": events or [],
    }  # fmt: skip
    cases.append(found)


def v1(body: str | bytes, *keys: str, id: str = "msg_test_1", at: int = NOW) -> dict[str, str]:
    signed = f"{id}.{at}.".encode() + (body.encode() if isinstance(body, str) else body)
    macs = (hmac.digest(base64.b64decode(key[6:]), signed, "sha256") for key in keys or (KEY,))
    signatures = " ".join("v1," + base64.b64encode(mac).decode() for mac in macs)
    return {"webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": signatures}


def v1a(body: str, *, id: str = "msg_test_1", at: int = NOW) -> dict[str, str]:
    signature = base64.b64encode(PRIVATE.sign(f"{id}.{at}.{body}".encode())).decode()
    return {"webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": "v1a," + signature}


def x(secret: str) -> dict[str, str]:
    return {"x-webhook-secret": secret}


def hexed(body: str, secret: str = PLAIN) -> dict[str, str]:
    return x(hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest())


def right() -> None:
    ok: dict[str, Any] = {"results": ["done"], "events": [SEEN]}
    signed = {"results": ["done"], "events": [SEEN | {"id": "msg_test_1"}]}
    case("plain", "the raw secret, the panel's documented request", x(PLAIN), EVENT, [PLAIN], 200, proof="plain", **ok)
    case("plain, rotated", "either of two secrets is right", x("new"), EVENT, [PLAIN, "new"], 200, proof="plain", **ok)
    case("plain, beyond ASCII", "headers are read as Latin-1", x("geheimnis-ü"), EVENT, ["geheimnis-ü"], 200,
        proof="plain", **ok)  # fmt: skip
    case("plain, UTF-8 in the header", "what UTF-8 looks like when it is read as Latin-1", x("رمز".encode().decode("latin-1")),
        EVENT, ["رمز"], 200, proof="plain", **ok)  # fmt: skip
    case("hmac", "hex HMAC-SHA256 of the body, as the panel's Flask receiver verifies", hexed(EVENT), EVENT, [PLAIN],
        200, proof="hmac", **ok)  # fmt: skip
    upper = x(hexed(EVENT)["x-webhook-secret"].upper())
    case("hmac, capitals", "hex in capitals is the same number", upper, EVENT, [PLAIN], 200, proof="hmac", **ok)
    case("v1", "Standard Webhooks, HMAC-SHA256", v1(EVENT), EVENT, [KEY], 200, proof="v1", **signed)
    case("v1, sender rotates", "signed with the old and the new key; the receiver has the old", v1(EVENT, KEY, OLD_KEY),
        EVENT, [OLD_KEY], 200, proof="v1", **signed)  # fmt: skip
    case("v1, receiver rotates", "the receiver has the old and the new key", v1(EVENT, OLD_KEY), EVENT, [KEY, OLD_KEY],
        200, proof="v1", **signed)  # fmt: skip
    unknown = v1(EVENT)
    unknown["webhook-signature"] = "v9,AAAA garbage v1, " + unknown["webhook-signature"]
    case("v1 among others", "signatures of unknown versions are passed over", unknown, EVENT, [KEY], 200, proof="v1",
        **signed)  # fmt: skip
    for name, at in (("oldest", NOW - 300), ("newest", NOW + 300)):
        case(f"v1, {name} allowed", "300 seconds off is in time", v1(EVENT, at=at), EVENT, [KEY], 200, proof="v1",
            **signed)  # fmt: skip
    case("v1a", "Standard Webhooks, ed25519", v1a(EVENT), EVENT, [PUBLIC], 200, proof="v1a", **signed)
    case(
        "v1a, rotated",
        "either of two public keys",
        v1a(EVENT),
        EVENT,
        [OTHER_PUBLIC, PUBLIC],
        200,
        proof="v1a",
        **signed,
    )
    both = v1(EVENT) | {"webhook-signature": v1(EVENT)["webhook-signature"] + " " + v1a(EVENT)["webhook-signature"]}
    case("v1 and v1a", "the receiver has the public key only", both, EVENT, [PUBLIC], 200, proof="v1a", **signed)
    case("secret beside signature", "each secret suffices: here the key is another endpoint's", v1(EVENT) | x(PLAIN), EVENT,
        [OLD_KEY, PLAIN], 200, proof="plain", **signed)  # fmt: skip
    published = v1('{"test": 2432232314}', at=1614265330)
    published |= {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/"
        "enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
    }  # fmt: skip
    for proof, key in (
        ("v1", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), ("v1a", "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="),
    ):  # fmt: skip
        case(f"{proof} of Svix", "the values with which the libraries of Standard Webhooks are tested; right, but no event",
            published, '{"test": 2432232314}', [key], 400, proof=proof, code="not_an_event", now=1614265330)  # fmt: skip


def bodies() -> None:
    def proven(name: str, why: str, body: str | bytes, status: int, **expected: Any) -> None:
        case(name, why, v1(body), body, [KEY], status, proof="v1", **expected)

    proven(
        "list",
        "the panel's list, since 0.4",
        f"[{FIRST}, {SECOND}]",
        200,
        results=["done", "done"],
        events=[ALICE, BOB],
    )
    proven("list of none", "nothing to do", "[]", 200)
    with_ids = [item[:-1] + f', "id": "msg_{n}"}}' for n, item in enumerate((FIRST, SECOND))]
    proven("list with ids", "an item may bring its own id", f"[{', '.join(with_ids)}]", 200, results=["done", "done"],
        events=[ALICE | {"id": "msg_0"}, BOB | {"id": "msg_1"}])  # fmt: skip
    proven("twins", "two equal items are two events, and one that is there again is not", f"[{FIRST}, {FIRST}]", 200,
        results=["done", "done"], events=[ALICE, ALICE])  # fmt: skip
    case("the panel's own", "no signature, no id", x(PLAIN), f"[{FIRST}]", [PLAIN], 200, proof="plain", results=["done"],
        events=[ALICE | {"id": None}])  # fmt: skip
    proven("standard", "Standard Webhooks' {type, timestamp, data}", STANDARD, 200, results=["done"], events=[SEEN])
    proven("beyond ASCII", "UTF-8, as it stands", PERSIAN, 200, results=["done"],
        events=[{"action": "user_created", "username": "کاربر", "enqueued_at": 1767225599.5, "tries": 2}])  # fmt: skip
    deepest = EVENT[:-1] + f', "a": {"[" * 63}"]]]"{"]" * 63}}}'
    proven("deep", "nested 64 deep, which is allowed; brackets in texts do not count", deepest, 200, results=["done"],
        events=[SEEN])  # fmt: skip
    proven("too deep", "nested 65 deep", EVENT[:-1] + f', "a": {"[" * 64}{"]" * 64}}}', 400, code="too_deep")
    proven("5,000 deep", "no stack holds that", "[" * 5000, 400, code="too_deep")
    proven("not JSON", "cut off by the sender, which signed what was left", EVENT[:40], 400, code="not_json")
    proven("empty", "no body", "", 400, code="not_json")
    proven("two documents", "one behind the other", EVENT + EVENT, 400, code="not_json")
    proven("form", "a=b", "username=a&action=b", 400, code="not_json")
    proven("NaN", "not JSON, although some write it", EVENT[:-1] + ', "a": NaN}', 400, code="not_json")
    proven("Latin-1", "JSON is UTF-8", EVENT.replace("_test_", "ü").encode("latin-1"), 400, code="not_utf8")
    proven("UTF-16", "JSON is UTF-8", EVENT.encode("utf-16"), 400, code="not_utf8")
    proven("UTF-8 with BOM", "a byte order mark is no JSON", b"\xef\xbb\xbf" + EVENT.encode(), 400, code="not_json")
    proven(
        "duplicate key", "which of the two is meant?", EVENT[:-1] + ', "username": "root"}', 400, code="duplicate_key"
    )
    proven("escaped duplicate key", "the same key in other characters", EVENT[:-1] + r', "user\u006eame": "root"}', 400,
        code="duplicate_key")  # fmt: skip
    proven("endless number", "becomes infinity where nobody looks", EVENT.replace("1680506457.636369", "1e999"), 400,
        code="number_out_of_range")  # fmt: skip
    proven("endless digits", "5,000 digits", EVENT[:-1] + f', "a": {"9" * 5000}}}', 400, code="number_out_of_range")
    for name, body in (
        ("number", "17"),
        ("text", '"user_created"'),
        ("object", '{"hello": "world"}'),
        ("null", "null"),
    ):
        proven(f"a {name}", "JSON, but no event", body, 400, code="not_an_event")
    case("huge", "larger than the receiver takes", v1(EVENT), EVENT, [KEY], 413, code="too_large", max_body=100)
    case("huge, unproven", "refused before anything is computed", {}, EVENT, [KEY], 413, code="too_large", max_body=100)
    case("compressed", "what is signed are the plain bytes", v1(EVENT) | {"content-encoding": "gzip"}, EVENT, [KEY], 415,
        code="encoded")  # fmt: skip
    case("text", "not announced as JSON", v1(EVENT), EVENT, [KEY], 415, code="not_json", content_type="text/plain")
    case("charset", "JSON is UTF-8", v1(EVENT), EVENT, [KEY], 415, code="wrong_charset",
        content_type="application/json; charset=iso-8859-1")  # fmt: skip
    case("charset, quoted", "UTF-8 may be said", v1(EVENT), EVENT, [KEY], 200, proof="v1", results=["done"], events=[SEEN],
        content_type='application/json; charset="UTF-8"')  # fmt: skip
    case("cut off on the way", "Content-Length promised more", x(PLAIN) | {"content-length": "107"}, EVENT, [PLAIN], 400,
        code="truncated")  # fmt: skip
    events()


def events() -> None:
    def refused(name: str, why: str, body: str) -> None:
        case(name, why, v1(body), body, [KEY], 422, proof="v1", results=["refused"])

    refused("no username", "whose event is it?", '{"action": "user_created"}')
    refused("username is a number", "not a text", EVENT.replace('"marzban_test_user"', "5"))
    refused("username with a line break", "it would forge a line of a log", EVENT.replace("_test_", r"\n"))
    refused("half a character", "a lone surrogate cannot be stored", EVENT.replace("_test_", r"\ud800"))
    refused("long username", "256 characters", EVENT.replace("marzban_test_user", "a" * 256))
    refused("action is null", "what happened?", EVENT.replace('"user_updated"', "null"))
    refused("enqueued_at is a text", "Unix seconds are a number", EVENT.replace("1680506457.636369", '"today"'))
    refused("enqueued_at beyond all years", "no calendar has it", EVENT.replace("1680506457.636369", "1e300"))
    refused("tries below zero", "it counts from 0", EVENT.replace('"tries": 0', '"tries": -1'))
    mixed = f"[{FIRST}, 5, {SECOND}]"
    case("list with one bad", "the others are handled", v1(mixed), mixed, [KEY], 422, proof="v1",
        results=["done", "refused", "done"], events=[ALICE, BOB])  # fmt: skip
    unreadable = FIRST.replace('"tries": 0', '"tries": "0"')
    held = f"[{unreadable}, {LATER}, {SECOND}]"
    case("list with bad tries", "an event that cannot be read holds nobody back", v1(held), held, [KEY], 422, proof="v1",
        results=["refused", "done", "done"], events=[{**ALICE, "action": "user_limited"}, BOB])  # fmt: skip


def forged() -> None:
    def wrong(name: str, why: str, headers: dict[str, str], secrets: list[str], code: str, body: str = EVENT) -> None:
        case(name, why, headers, body, secrets, 403, code=code)

    wrong("nothing", "no proof at all", {}, [PLAIN, KEY], "no_proof")
    wrong("empty secret", "as if there were none", x(""), [PLAIN], "no_proof")
    wrong("wrong secret", "one character less", x(PLAIN[:-1]), [PLAIN], "wrong_secret")
    wrong(
        "hmac with another secret",
        "whoever sends it does not know ours",
        hexed(EVENT, "guess"),
        [PLAIN],
        "wrong_secret",
    )
    wrong("hmac of another body", "captured, and put before another body", hexed(PERSIAN), [PLAIN], "wrong_secret")
    wrong("signature where a secret is wanted", "the receiver has no signing key", v1(EVENT), [PLAIN], "no_proof")
    wrong("secret where a signature is wanted", "the receiver has no plain secret", x(PLAIN), [KEY], "no_proof")
    wrong("signing secret in the header", "it is a key, not a password", x(KEY), [KEY], "no_proof")
    wrong("re-signed", "an old body, signed anew by somebody else", v1(EVENT, OLD_KEY), [KEY], "wrong_signature")
    wrong("changed", "one letter of the body", v1(EVENT), [KEY], "wrong_signature", EVENT.replace("test", "rest"))
    wrong("cut off", "the end of the body is missing", v1(EVENT), [KEY], "wrong_signature", EVENT[:-1])
    wrong("re-encoded", "parsed and written again on the way", v1(EVENT), [KEY], "wrong_signature",
        json.dumps(json.loads(EVENT), separators=(",", ":")))  # fmt: skip
    wrong("re-encoded, hmac", "the same", hexed(PERSIAN), [PLAIN], "wrong_secret", json.dumps(json.loads(PERSIAN)))
    wrong(
        "another id", "to be handled a second time", v1(EVENT) | {"webhook-id": "msg_test_2"}, [KEY], "wrong_signature"
    )
    fresh = v1(EVENT, at=NOW - 3600) | {"webhook-timestamp": str(NOW)}
    wrong("another time", "an old signature under a fresh timestamp", fresh, [KEY], "wrong_signature")
    wrong("replayed", "captured 301 seconds ago", v1(EVENT, at=NOW - 301), [KEY], "stale")
    wrong("from the future", "301 seconds", v1(EVENT, at=NOW + 301), [KEY], "stale")
    wrong("replayed, v1a", "captured 301 seconds ago", v1a(EVENT, at=NOW - 301), [PUBLIC], "stale")
    wrong("replayed with its secret", "what was captured holds the secret too", v1(EVENT, at=NOW - 301) | x(PLAIN),
        [KEY, PLAIN], "stale")  # fmt: skip
    wrong("v1a with another key", "not our sender", v1a(EVENT), [OTHER_PUBLIC], "wrong_signature")
    renamed = v1a(EVENT)
    renamed["webhook-signature"] = renamed["webhook-signature"].replace("v1a,", "v1,")
    wrong("v1a called v1", "a version is part of a signature", renamed, [PUBLIC, KEY], "wrong_signature")
    public_as_key = "whsec_" + PUBLIC.removeprefix("whpk_")
    wrong("v1 with the public key", "the public key is known to all, and no HMAC key", v1(EVENT, public_as_key), [PUBLIC],
        "wrong_signature")  # fmt: skip
    hexadecimal = v1(EVENT)
    hexadecimal["webhook-signature"] = "v1," + base64.b64decode(hexadecimal["webhook-signature"][3:]).hex()
    wrong("hex for base64", "another notation", hexadecimal, [KEY], "wrong_signature")
    for name, changed in (
        ("no id", {"webhook-id": ""}), ("long id", {"webhook-id": "m" * 201}), ("id beyond ASCII", {"webhook-id": "ü"}),
        ("no timestamp", {"webhook-timestamp": ""}), ("negative timestamp", {"webhook-timestamp": "-1"}),
        ("timestamp with a fraction", {"webhook-timestamp": f"{NOW}.0"}), ("Arabic digits", {"webhook-timestamp": "١٧"}),
        ("timestamp of 5,000 digits", {"webhook-timestamp": "9" * 5000}),
    ):  # fmt: skip
        wrong(name, "the headers of a signature are malformed", v1(EVENT) | changed, [KEY], "bad_signature_headers")


def written() -> str:
    """The file's content."""
    cases.clear()
    right()
    bodies()
    forged()
    return "[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in cases) + "\n]\n"


if __name__ == "__main__":
    FILE.write_text(written())
