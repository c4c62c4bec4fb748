"""A Telegram Bot API on loopback that behaves like the real one: its limits, its refusals, and their words."""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

TOKEN = "123456789:AAE-fake_token_of_a_bot_that_is_none0"
KNOWN = {"b", "strong", "i", "em", "u", "s", "code", "pre", "a", "blockquote"}


@dataclass
class Chat:
    """`moved`: the number of the supergroup that it became."""

    messages: list[str] = field(default_factory=list)
    times: deque[float] = field(default_factory=deque)
    blocked: bool = False
    moved: int | None = None


class BotApi:
    """`chats` are those that the bot may write to; the others do not exist."""

    def __init__(self, *chats: int | str, patient: bool = True) -> None:
        """`patient`: takes any number of messages a second."""
        self.chats: dict[int | str, Chat] = {chat: Chat() for chat in chats}
        self.patient = patient
        self.refused: list[dict[str, Any]] = []
        self.answers: deque[tuple[int, dict[str, Any]]] = deque()
        """What is answered first, whatever comes."""
        self._seen: queue.SimpleQueue[tuple[int | str, str]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def message(self, timeout: float = 20.0) -> tuple[int | str, str]:
        """The next message that is shown in a chat."""
        return self._seen.get(timeout=timeout)

    def _answer(self, path: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path != f"/bot{TOKEN}/sendMessage":
            return _error(404 if "/bot" not in path else 401, "Unauthorized")
        with self._lock:
            if self.answers:
                return self.answers.popleft()
            chat = self.chats.get(message["chat_id"])
            if chat is None:
                return _error(400, "Bad Request: chat not found")
            if chat.blocked:
                return _error(403, "Forbidden: bot was blocked by the user")
            if chat.moved is not None:
                return _error(
                    400,
                    "Bad Request: group chat was upgraded to a supergroup chat",
                    migrate_to_chat_id=chat.moved,
                )
            shown = re.sub(r"<[^>]*>", "", message["text"])
            if not shown.strip():
                return _error(400, "Bad Request: message text is empty")
            if len(shown.encode("utf-16-le")) // 2 > 4096 + 5 * shown.count("&"):
                return _error(400, "Bad Request: message is too long")
            problem = _unclosed(message["text"]) if message.get("parse_mode") == "HTML" else None
            if problem:
                return _error(400, f"Bad Request: can't parse entities: {problem}")
            wait = self._wait(message["chat_id"], chat)
            if wait:
                return _error(429, f"Too Many Requests: retry after {wait}", retry_after=wait)
            chat.messages.append(message["text"])
            self._seen.put((message["chat_id"], message["text"]))
            return 200, {"ok": True, "result": {"message_id": len(chat.messages)}}

    def _wait(self, number: int | str, chat: Chat) -> int:
        now = time.monotonic()
        group = isinstance(number, str) or number < 0
        least, most, within = (0.95, 20, 60.0) if group else (0.95, 1 << 30, 60.0)
        if (
            not self.patient
            and chat.times
            and (now - chat.times[-1] < least or _recent(chat.times, now, within) >= most)
        ):
            return 3
        chat.times.append(now)
        return 0

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = api._answer(self.path, json.loads(body))
                if status != 200:
                    api.refused.append(answer)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            log_message: Callable[..., None] = lambda *_: None

        return Handler

    def __enter__(self) -> BotApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _recent(times: deque[float], now: float, within: float) -> int:
    return sum(now - moment < within for moment in times)


def _error(code: int, description: str, **parameters: int) -> tuple[int, dict[str, Any]]:
    body = {"ok": False, "error_code": code, "description": description}
    return code, body | ({"parameters": parameters} if parameters else {})


def _unclosed(text: str) -> str | None:
    counted: dict[str, int] = defaultdict(int)
    for slash, tag in re.findall(r"<(/?)([a-z-]+)[^>]*>", text):
        if tag not in KNOWN:
            return f'Unsupported start tag "{tag}"'
        counted[tag] += -1 if slash else 1
    left = next((tag for tag, count in counted.items() if count), None)
    return f"Can't find end tag corresponding to start tag {left}" if left else None
