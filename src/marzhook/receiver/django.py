"""Django: `path("webhook", view(receiver))`, and `Receiver(…, dedupe=database())` for handlers that use the ORM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from marzhook.receiver.database import DBAPI, KEEP, TABLE
from marzhook.receiver.receiver import Receiver


def view(receiver: Receiver) -> Callable[[HttpRequest], HttpResponse]:
    """A view without CSRF protection (the request proves itself) and without ATOMIC_REQUESTS (each event is a transaction)."""

    def marzhook_webhook(request: HttpRequest) -> HttpResponse:
        # Not request.body: DATA_UPLOAD_MAX_MEMORY_SIZE would hold it to 2.5 MB.
        body = request.read(receiver.max_body + 1)
        answer = receiver.receive(request.headers, body, method=str(request.method))
        return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))

    exempt: Callable[[HttpRequest], HttpResponse] = csrf_exempt(transaction.non_atomic_requests(marzhook_webhook))
    return exempt


def database(using: str = "default", *, table: str = TABLE, keep: float = KEEP) -> DBAPI:
    """Remembers events in Django's database: what handlers do there, with the ORM too, is committed with the event's mark."""

    def connect() -> Any:
        connection = connections[using]
        connection.set_autocommit(False)
        return connection

    return DBAPI(
        connect, release=lambda connection: connection.set_autocommit(True), table=table, paramstyle="format", keep=keep
    )
