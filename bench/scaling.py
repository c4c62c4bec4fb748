"""What workers cost, and a simulation of them: from the processor time of one worker to the rate of several.

One worker is measured: how much of a processor it, the server and the receiver need for a delivery. From that the
simulation (SimPy) says how fast two and four are on the same cores, and then those are measured, too. docs/scaling.md
reckons on from there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.figure import Figure, Measured, Options
from bench.receiver import receiver
from bench.workers import Shared, server
from marzhook.cli.bench import CONCURRENCY

BATCH = 500
"""Deliveries that are settled in one transaction."""
AHEAD = 10
"""Batches that a worker may be ahead of what is settled."""
BIG_MACHINES = ((8, 4), (16, 8), (32, 16))
"""Cores and workers, to reckon with."""


@dataclass(frozen=True)
class Cost:
    """Seconds of a core for one delivery."""

    worker: float
    server: float
    receiver: float
    waiting: float = 0.0
    """For which a worker waits although a core is free: its two threads for each other, and for the server."""


def measure(options: Options) -> Measured:
    import simpy  # noqa: F401 - told here, before anything is measured, where it is missing

    rates: dict[int, list[float]] = {1: [], 2: [], 4: []}
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, receiver() as sink, server() as postgresql:
        ours = Shared(postgresql, Path(made), options.events, sink.url)
        for _ in range(options.rounds):
            for workers, found in rates.items():
                spent: list[tuple[float, float, float]] = []
                found.append(ours.drain(sink, workers, [], spent))
                if workers == 1:
                    costs.append(Cost(*(seconds / options.events for seconds in spent[0])))
    cost = Cost(*(median(getattr(one, name) for one in costs) for name in ("worker", "server", "receiver")))
    cores = os.cpu_count() or 1
    # The one worker is taken as it was measured; what is simulated, and checked, are several.
    computing = 1 / simulate(cost, workers=1, cores=cores, deliveries=options.events)
    cost = replace(cost, waiting=max(0.0, 1 / median(rates[1]) - computing))
    figures = [
        Figure("a delivery costs the worker", cost.worker * 1e6, "us of a core"),
        Figure("a delivery costs the server", cost.server * 1e6, "us of a core"),
        Figure("a delivery costs the receiver", cost.receiver * 1e6, "us of a core"),
        Figure("and the worker waits", cost.waiting * 1e6, "us"),
    ]
    for workers, found in rates.items():
        simulated = simulate(cost, workers=workers, cores=cores, deliveries=options.events)
        figures += [
            Figure.of(f"{workers} workers on {cores} cores, measured", found, "events/s"),
            Figure("  simulated", simulated, "events/s"),
        ]
        if workers > 1:
            share = simulated / median(found)
            figures.append(Figure("  simulated over measured", share, "x", at_least=0.8, at_most=1.25))
    for more, workers in BIG_MACHINES:
        rate = simulate(cost, workers=workers, cores=more, deliveries=options.events * workers, receivers=workers)
        figures.append(Figure(f"{workers} workers on {more} cores, simulated", rate, "events/s"))
    return Measured(figures)


def simulate(cost: Cost, *, workers: int, cores: int, deliveries: int, receivers: int = 1) -> float:
    """Deliveries a second of so many workers, which share the cores with the server and the receivers. No network, no disk."""
    import simpy

    env = simpy.Environment()
    core = simpy.Resource(env, cores)
    receiving = [simpy.Resource(env, 1) for _ in range(receivers)]
    left = [deliveries // workers] * workers

    def computing(seconds: float) -> Iterator[Any]:
        with core.request() as turn:
            yield turn
            yield env.timeout(seconds)

    def received(count: int, place: int) -> Iterator[Any]:
        with receiving[place % receivers].request() as turn:  # one thread each
            yield turn
            yield from computing(cost.receiver * count)

    def settled(queue: Any) -> Iterator[Any]:
        while True:
            count = yield queue.get()
            if not count:
                return
            yield from computing(cost.server * count)

    def worker(number: int) -> Iterator[Any]:
        queue = simpy.Store(env, AHEAD)
        settler = env.process(settled(queue))
        unsettled = 0
        while left[number]:
            count = min(CONCURRENCY, left[number])
            left[number] -= count
            # What is in flight is at the receiver while the worker makes the next requests.
            answer = env.process(received(count, number))
            yield from computing(cost.worker * count)
            yield env.timeout(cost.waiting * count)
            yield answer
            unsettled += count
            if unsettled >= BATCH:
                yield queue.put(unsettled)
                unsettled = 0
        yield queue.put(unsettled or 0)
        if unsettled:
            yield queue.put(0)
        yield settler

    for number in range(workers):
        env.process(worker(number))
    env.run()
    return deliveries / float(env.now)
