"""`python -m bench [NAME…] [--json] [--events N] [--rounds N] [--quick]`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.figure import Measured, Options

NAMES = (
    "throughput", "backlog", "isolation", "fairness", "waiting", "latency", "recovery", "ingest", "panel",
    "review", "both", "https", "workers", "scaling", "churn", "pages", "open_pages", "first_view", "receiver_import",
)  # fmt: skip
OUT = Path(__file__).parent / "out"


def main() -> None:
    options, names, as_json = _arguments()
    begun = time.monotonic()
    document: dict[str, Any] = {"machine": _machine(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    if options.quick:
        document["quick"] = True
    say = (lambda _text: None) if as_json else print
    say(f"{document['machine']}{'; quick: a look, not figures to quote' if options.quick else ''}")
    failed = False
    for name in names:
        say(f"\n{name}")
        started = time.monotonic()
        try:
            measured: Measured = importlib.import_module(f"bench.{name}").measure(options)
        except Exception as error:
            # The others are worth having all the same.
            failed = True
            document[name] = {"failed": f"{type(error).__name__}: {error}"}
            say(f"  FAILED: {error}")
            traceback.print_exc(file=sys.stderr)
            continue
        document[name] = {
            "figures": [figure.shown() for figure in measured.figures],
            "seconds": round(time.monotonic() - started, 1),
            "plots": [str(path.relative_to(OUT.parent.parent)) for path in measured.write_plots(OUT)],
        }
        for figure in measured.figures:
            say(figure.line())
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        print(f"\nTook {time.monotonic() - begun:.0f} s. Plots are in {OUT}.")
    raise SystemExit(1 if failed else 0)


def _arguments() -> tuple[Options, list[str], bool]:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure Marzhook side by side with others, on loopback.",
        epilog=f"Names: {', '.join(NAMES)}.",
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure; none: all")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--events", type=int, help="events a measurement delivers (30,000; quick 6,000)")
    parser.add_argument("--rounds", type=int, help="how often each is measured, in turn (3; quick 1)")
    parser.add_argument("--quick", action="store_true", help="all of it in less than 3 minutes, coarsely")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(NAMES)}")
    events = given.events or (6_000 if given.quick else 30_000)
    rounds = given.rounds or (1 if given.quick else 3)
    if events < 1000 or rounds < 1:
        parser.error("--events is at least 1000, --rounds at least 1")
    return Options(events, rounds, given.quick), given.names or list(NAMES), given.json


def _machine() -> str:
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")),
        platform.machine(),
    )  # fmt: skip
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}"


if __name__ == "__main__":
    main()
