"""The usual way to send webhooks from Python: a Celery task that calls requests, over Redis. Where both are installed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time

from marzhook.cli.bench import PATIENCE, SECRET, USERS
from marzhook.cli.sink import Sink

BROKER = "BENCH_BROKER"
PROCESSES = 8


def missing() -> str:
    """What is not installed; empty: all is there."""
    found = [name for name in ("celery", "redis") if importlib.util.find_spec(name) is None]
    return ", ".join(found + ([] if shutil.which("redis-server") else ["redis-server"]))


def rate(sink: Sink, count: int) -> float:
    """Tasks a second from the first arrival to the last, all queued before."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, BROKER: f"redis://127.0.0.1:{port}/0"}
    os.environ[BROKER] = environment[BROKER]
    # Appended at every write, as durable as it gets: Marzhook's are on disk, too.
    durable = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    redis = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", *durable],
        stdout=subprocess.DEVNULL, cwd=os.environ.get("TMPDIR", "/tmp"),
    )  # fmt: skip
    worker = None
    try:
        _listening(port)
        sink.report()
        from bench.celery_task import send

        with send.app.connection_for_write(environment[BROKER]) as connection:
            for number in range(count):
                body = {
                    "username": f"user{number % USERS}", "action": "user_updated", "enqueued_at": time.time(), "tries": 0,
                }  # fmt: skip
                # To this Redis: the application remembers that of the first round.
                send.apply_async((sink.url, json.dumps(body), SECRET), connection=connection)
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "bench.celery_task", "worker", "-c", str(PROCESSES), "-l", "ERROR"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline, done, first = time.monotonic() + PATIENCE, 0, None
        while done < count and time.monotonic() < deadline:
            time.sleep(0.2)
            report = sink.report()
            done, first = done + report["count"], first or report["first"]
            last = report["last"] or time.monotonic()
        return done / (last - first) if first else 0.0
    finally:
        for process in (worker, redis):
            if process is not None:
                process.terminate()
                process.wait(30)


def _listening(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("redis-server does not listen")
