"""What goes to an endpoint in one request, and what its answer comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from marzhook.delivery import Delivery, Outcome, Settlement
from marzhook.request import Response

if TYPE_CHECKING:
    from marzhook.dispatch.sender import Sender


@dataclass(slots=True)
class Shipment:
    """One request on its way, and what it carries."""

    sender: Sender
    deliveries: list[Delivery]
    items: list[str]
    mode: str
    first: Response | None = None
    """The refusal that made it go out a second time, in another mode."""
    again: bool = False
    """Whether its deliveries failed before."""
    problem: str | None = None
    """Why it cannot be sent at all."""

    @property
    def traced(self) -> Delivery | None:
        """The first delivery that belongs to a trace: a request can carry on no more than one. None: none does."""
        for delivery in self.deliveries:
            if delivery.event.traceparent:
                return delivery
        return None


class Answer(NamedTuple):
    """What a response comes to."""

    settlements: list[Settlement]
    outcome: Outcome
    learned: Mapping[str, Any] = MappingProxyType({})
    """What the endpoint's columns should say from now on."""
    recovered: bool = False
    """The endpoint is back after an outage."""
