"""The shared vectors hold: for the receiver kit, for the library of Standard Webhooks, and for whoever reads them."""

from __future__ import annotations

import base64
import json
import runpy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from marzhook.receiver import ReceivedEvent, Receiver, RequestRefused, Secrets

FOLDER = Path(__file__).parent / "vectors"
VECTORS: list[dict[str, Any]] = json.loads((FOLDER / "requests.json").read_text())


def body_of(vector: dict[str, Any]) -> bytes:
    text = vector.get("body")
    return base64.b64decode(vector["body_base64"]) if text is None else text.encode()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_the_kit_does_as_the_vector_says(vector: dict[str, Any]) -> None:
    """Status, reason, what becomes of each event, and what the handlers get are as written; what is refused calls none."""
    expect, seen = vector["expect"], list[ReceivedEvent]()
    settings = {"max_body": vector["max_body"]} if "max_body" in vector else {}
    receiver = Receiver(vector["secrets"], clock=lambda: float(vector["now"]), **settings)
    receiver.on("*")(seen.append)
    answer = receiver.receive(vector["headers"], body_of(vector))
    assert answer.status == expect["status"], answer.body
    assert json.loads(answer.body).get("code") == expect["code"]
    assert [result.what for result in answer.results] == expect["results"]
    assert len(seen) == len(expect["events"])
    for event, expected in zip(seen, expect["events"], strict=True):
        assert {name: getattr(event, name) for name in expected} == expected
    # The same request again: a duplicate where its events have ids, else as before; never handled a second time.
    before = len(seen)
    receiver.receive(vector["headers"], body_of(vector))
    assert len(seen) - before == sum(event.id is None for event in seen[:before])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_the_proof_is_the_one_that_the_vector_names(vector: dict[str, Any]) -> None:
    """How a request is proven is as written; where it is not, the refusal is a 403 with the code."""
    secrets, expect = Secrets(vector["secrets"]), vector["expect"]
    if expect["proof"]:
        assert secrets.verify(vector["headers"], body_of(vector), vector["now"]) == expect["proof"]
    elif expect["status"] == 403:
        with pytest.raises(RequestRefused) as caught:
            secrets.verify(vector["headers"], body_of(vector), vector["now"])
        assert (caught.value.status, caught.value.code) == (403, expect["code"])
        assert not any(secret in str(caught.value) for secret in vector["secrets"])


@pytest.mark.parametrize("vector", [v for v in VECTORS if "webhook-signature" in v["headers"]], ids=lambda v: v["name"])
def test_the_reference_library_agrees_on_v1(vector: dict[str, Any]) -> None:
    """The `standardwebhooks` package computes the signature that a v1 vector carries, and none that a forged one carries."""
    keys = [secret for secret in vector["secrets"] if secret.startswith("whsec_")]
    headers, expect = vector["headers"], vector["expect"]
    if not keys or expect["code"] in ("bad_signature_headers", "not_utf8"):
        return
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    signed = {Webhook(key).sign(headers["webhook-id"], at, body_of(vector).decode()) for key in keys}
    right = not signed.isdisjoint(headers["webhook-signature"].split(" "))
    assert right == (expect["code"] != "wrong_signature" and expect["proof"] != "plain")


def test_the_file_is_what_the_generator_writes() -> None:
    """`requests.json` was not edited by hand, and names each of its cases once."""
    generator = runpy.run_path(str(FOLDER / "generate.py"))
    assert (FOLDER / "requests.json").read_text() == generator["written"]()
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)
