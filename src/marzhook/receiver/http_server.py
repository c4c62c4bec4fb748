"""The standard library's `http.server`: `ThreadingHTTPServer(address, handler(receiver)).serve_forever()`."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler

from marzhook.receiver.receiver import MAX_BODY, Answer, Receiver

TIMEOUT = 30.0
"""Seconds that a connection may be silent."""


def handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    """A request handler that takes webhooks at every path. Such a server belongs behind one that faces the internet."""

    class WebhookHandler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "webhooks"
        sys_version = ""
        timeout = TIMEOUT
        # Head and body of an answer leave in one packet.
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            known = length.isascii() and length.isdigit() and len(length) < 16
            declared = int(length) if known else 0
            body = self.rfile.read(min(declared, receiver.max_body + 1))
            if not known or declared > receiver.max_body:
                # What is left unread would be taken for the next request; but who is cut off while sending hears no answer.
                self.rfile.read(min(max(0, declared - len(body)), MAX_BODY))
                self.close_connection = True
            self._send(receiver.receive(dict(self.headers.items()), body, method=self.command))

        do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_POST

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            """The receiver logs what it refuses; an access log is the business of the server in front."""

    return WebhookHandler
