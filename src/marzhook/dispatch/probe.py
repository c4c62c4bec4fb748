"""One request to one endpoint, now, outside the queue: what `marzhook check --send` and `endpoints test` show."""

from __future__ import annotations

from dataclasses import dataclass

from marzhook.clock import Clock
from marzhook.delivery import Delivery, Verdict
from marzhook.destinations.kinds import destination
from marzhook.endpoint import Endpoint
from marzhook.errors import RenderError
from marzhook.event import TEST_ACTION, Event
from marzhook.request import Response
from marzhook.transport.carriers import Carriers


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What the receiver made of a test event."""

    accepted: bool
    response: Response
    secret_mode: str | None
    """How the secret was sent that the answer is to; None: the endpoint has none."""


def probe_event(clock: Clock, username: str = "marzhook_test_user") -> Event:
    """An event that is in no database; receivers know it by its action."""
    return Event(0, TEST_ACTION, username, clock.now().timestamp())


def probe(
    endpoint: Endpoint,
    event: Event,
    clock: Clock,
    transport: Carriers,
    *,
    instance: str,
    connect_timeout: float = 5.0,
    timeout: float = 15.0,
) -> ProbeResult:
    """Send the event and wait for the answer, as a delivery's first try would. The transport must be the caller's own."""
    target = destination(endpoint, instance=instance, connect_timeout=connect_timeout, timeout=timeout)
    try:
        item, request = target.made(Delivery(endpoint.id, event), clock.now())
    except RenderError as error:
        return ProbeResult(False, Response(clock.now(), 0.0, error="render", message=str(error)), None)
    items, mode = [item], target.mode([item])
    tried = 0
    while True:
        transport.send(request, None)
        finished = transport.poll(0.0)
        while not finished:
            finished = transport.poll(1.0)
        response: Response = finished[0][1]
        tried += 1
        other = target.other_mode(mode, response) if tried == 1 else None
        if other is None:
            break
        mode = other
        request = target.request(items, [event.id], clock.now(), mode=mode)
    accepted = response.error is None and target.judge(response, clock.now()).verdict is Verdict.ACCEPTED
    return ProbeResult(accepted, response, mode if endpoint.secret else None)
