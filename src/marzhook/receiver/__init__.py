"""The receiver kit: what people put into their own servers to take Marzhook's webhooks, and the panel's own.

    from marzhook.receiver import ReceivedEvent, Receiver

    receiver = Receiver(secret="whsec_…")

    @receiver.on("user_created")
    def welcome(event: ReceivedEvent) -> None: ...

It verifies, reads every body form, handles each event once, and answers so that one bad event holds nobody else up. Put it
behind a URL with one of the adapters: `marzhook.receiver.flask`, `.starlette` (FastAPI), `.django`, `.aiohttp`, `.wsgi`,
`.asgi`, `.http_server`. `marzhook.receiver.database` remembers handled events in a database, in the handlers' own transaction.

It needs the standard library only; ed25519 signatures (`v1a`) need `cryptography`, an adapter needs its framework.
"""

from marzhook.receiver.dedupe import Dedupe, Memory, Session
from marzhook.receiver.event import ReceivedEvent
from marzhook.receiver.receiver import Answer, Receiver
from marzhook.receiver.refusal import EventRefused, RequestRefused
from marzhook.receiver.secrets import Secrets

__all__ = [
    "Answer", "Dedupe", "EventRefused", "Memory", "ReceivedEvent", "Receiver", "RequestRefused", "Secrets", "Session",
]  # fmt: skip
