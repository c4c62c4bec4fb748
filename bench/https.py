"""Throughput against a receiver over TLS, on kept-alive connections, beside the bare libcurl loop over TLS."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.figure import Figure, Measured, Options, alternating, ratio
from bench.limit import bare
from bench.receiver import certificate, receiver
from bench.service import Backlog

OURS = "Marzhook over TLS"
BARE = "bare libcurl loop over TLS (the limit)"


def measure(options: Options) -> Measured:
    count = options.events
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made:
        trusted = certificate(Path(made))
        with receiver(tls=Path(made)) as sink:
            backlog = Backlog(Path(made, "backlog"), count, sink.url, MARZHOOK_CA_FILE=str(trusted))
            rates = alternating(
                options.rounds,
                {
                    OURS: lambda: backlog.drain(sink)[0],
                    BARE: lambda: count / bare(sink.url, count, ca_file=str(trusted)),
                },
            )
    figures = [Figure.of(name, found, "events/s") for name, found in rates.items()]
    return Measured(
        [*figures, Figure("Marzhook over the bare libcurl loop", ratio(rates[OURS], rates[BARE]), "x", at_least=0.8)]
    )
