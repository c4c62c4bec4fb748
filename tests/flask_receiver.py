"""A receiver that does what the panel's documentation page shows, with Flask; it also remembers what it understood."""

from __future__ import annotations

import hashlib
import hmac
import sys

from flask import Flask, Response, abort, jsonify, request
from werkzeug.serving import make_server

SECRET = "something-very-very-secret"
app = Flask(__name__)
understood: list[dict[str, object]] = []


@app.post("/")
def receive() -> Response:
    raw = request.get_data()
    expected = hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, request.headers.get("x-webhook-secret", "")):
        abort(403)
    payload = request.get_json()
    understood.append({"action": payload["action"], "username": payload["username"]})
    return Response(status=200)


@app.get("/understood")
def tell() -> Response:
    return jsonify(understood)


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.port, flush=True)
    sys.stderr = open("/dev/null", "w")  # noqa: SIM115 - a line for every request, for the process's whole life
    server.serve_forever()
