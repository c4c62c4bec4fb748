"""For machines that watch: is it alive, is it ready, how is it doing. No login; nothing secret is shown.

Many of them ask with HEAD: the status is all that they want.
"""

from __future__ import annotations

from fastapi import APIRouter, Response

from marzhook.api.context import ServicesDep, answer, example

router = APIRouter(tags=["Health"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="Is the process alive?", responses=example({"status": "ok"}))
async def alive() -> Response:
    """200 as long as it answers at all: a reason to restart it where it does not."""
    return answer({"status": "ok"})


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    summary="Should it get traffic?",
    responses={
        **example({"status": "ready"}),
        **example({"status": "not ready", "reasons": ["the dispatcher is not running"]}, "Not now", 503),
    },
)
async def ready(services: ServicesDep) -> Response:
    """503 with the reasons while it should be left alone."""
    # Nothing here waits. And no thread is needed: all may be waiting for the database just then.
    reasons = services.not_ready()
    if reasons:
        return answer({"status": "not ready", "reasons": reasons}, 503)
    return answer({"status": "ready"})


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
def metrics(services: ServicesDep) -> Response:
    """Queue depth, oldest due age, deliveries by endpoint and outcome, latencies, review lag."""
    body, content_type = services.metrics.render()
    return Response(body, headers={"Content-Type": content_type})
