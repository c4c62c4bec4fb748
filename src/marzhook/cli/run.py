"""`marzhook run`: the service."""

from __future__ import annotations

import gc
import sys
from typing import Annotated

import typer

from marzhook import settings as settings_module
from marzhook.api.app import create_app
from marzhook.api.server import Server
from marzhook.cli import output
from marzhook.dashboard.site import install
from marzhook.runtime import Runtime, hold_signals, wait_for_signal
from marzhook.store import endpoints
from marzhook.telemetry import configure_logging

SWITCH_INTERVAL = 0.0005
"""Seconds."""
NEW_OBJECTS = 20_000
"""Objects made meanwhile that let the collector look for cycles: more than a batch of deliveries has, which form none."""


def run(
    no_dispatch: Annotated[
        bool, typer.Option("--no-dispatch", help="Send nothing here: `marzhook worker` does (PostgreSQL only).")
    ] = False,
) -> None:
    """Serve the API, deliver events and watch over users, until Ctrl-C or SIGTERM."""
    settings = settings_module.load()
    configure_logging(settings.log_format, settings.log_level)
    # Before anything starts: a signal that comes early is kept, not fatal.
    hold_signals()
    tune_interpreter()
    runtime = Runtime(settings, dispatches=not no_dispatch)
    try:
        app = create_app(runtime.services)
        dashboard = install(app, runtime.services)
        server = Server(app, settings.host, settings.port, proxies=settings.proxies)
        runtime.address = server.own_address
        runtime.start()
        server.start()
        _greet(server.address, runtime)
        wait_for_signal()
        # First no new work over the API, then the rest: what was acknowledged is on disk. Before that, pages that follow
        # along let go of their connections, which the server would wait for.
        dashboard.close()
        server.stop()
    finally:
        runtime.stop()


def tune_interpreter() -> None:
    """For a process that sends."""
    # The dispatcher gives the interpreter's lock away at every system call and wants it back at once; with Python's default
    # of 5 ms a thread that computes (settling, the API) would keep it waiting that long each time.
    sys.setswitchinterval(SWITCH_INTERVAL)
    # Modules and what they hold stay for good.
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 20, 20)


def _greet(address: str, runtime: Runtime) -> None:
    """What a person wants to know now. On standard output, for people; the log goes to standard error."""
    # No line is longer than 80 columns, wherever the address is a usual one: terminals break in the middle of a word.
    lines = [f"Marzhook is ready at {address} (the dashboard)", f"  The API and its documentation: {address}/docs"]
    if runtime.new_admin:
        name, password = runtime.new_admin
        lines += [
            f"First admin: {name}   password: {password}",
            "  (shown this once; SUDO_USERNAME and SUDO_PASSWORD set your own)",
        ]
    with runtime.services.database.read() as conn:
        count = len([one for one in endpoints.all_endpoints(conn) if one.enabled])
    if count:
        lines.append(f"Events go to {count} endpoint{'s' if count > 1 else ''}.")
    else:
        command = output.command_line_of(sys.argv[0])
        lines += [
            "No endpoint is set (WEBHOOK_ADDRESS in .env): events are kept, and go nowhere.",
            f"To see a first delivery, open {address} and press",
            '"Use the inbox", or type these, each in a terminal of its own:',
            f"  {command} listen --port 9000 --attach",
            f"  {command} send user_created alice",
        ]
    print("\n".join(lines), flush=True)
