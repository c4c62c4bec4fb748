"""What was settled, told to the log and the metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from marzhook import trace_context
from marzhook.delivery import DEAD, PENDING, Settlement
from marzhook.endpoint import Endpoint
from marzhook.telemetry import Metrics, Try, log_deliveries

log = logging.getLogger(__name__)


def tell(batch: Sequence[Settlement], known: Mapping[int, Endpoint], metrics: Metrics, *, now: float) -> None:
    """`known`: the endpoints, by id; `now`: Unix seconds."""
    names = {id_: f"{id_}:{endpoint.name}" for id_, endpoint in known.items()}
    verbose = log.isEnabledFor(logging.INFO)
    tries, rows = [], []
    for s in batch:
        delivery, attempt, state, *_ = s
        endpoint = names.get(delivery.endpoint_id) or str(delivery.endpoint_id)
        result = attempt.error or attempt.status
        if state == PENDING:
            tries.append(Try(endpoint, result, attempt.duration))
        else:
            tries.append(Try(endpoint, result, attempt.duration, state, now - delivery.event.enqueued_at))
        if verbose or state == DEAD:
            rows.append(_told(s, endpoint))
    metrics.observe(tries)
    log_deliveries(log, rows)


def _told(s: Settlement, endpoint: str) -> dict[str, object]:
    """One try as the log tells it."""
    event, attempt = s.delivery.event, s.attempt
    return {
        "outcome": "failed" if s.state == PENDING else s.state,
        "event": event.id, "action": event.action, "username": event.username, "endpoint": endpoint,
        "tries": s.tries, "status": attempt.status, "ms": round(attempt.duration * 1000, 1),
        **({"error": attempt.error, "why": attempt.message} if attempt.error else {}),
        **({"due_at": s.due_at.isoformat(timespec="seconds")} if s.due_at else {}),
        **(_trace_of(s) if event.traceparent else {}),
    }  # fmt: skip


def _trace_of(s: Settlement) -> dict[str, str]:
    event = s.delivery.event
    span = trace_context.span_id(event.traceparent, s.delivery.endpoint_id, event.id, s.attempt.number)
    return {"trace_id": event.traceparent[3:35], "span_id": span}
