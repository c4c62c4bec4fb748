"""The command line: which commands there are, and what exit code each error has."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

from marzhook import __version__
from marzhook.cli.output import fitting
from marzhook.errors import InvalidError, MarzhookError, SettingError, StartError, StoreBusyError

COMMANDS: Final = {
    # name: (where it is, its line in --help)
    "run": ("marzhook.cli.run:run", "Serve the API, deliver events and watch over users."),
    "worker": ("marzhook.cli.worker:worker", "Deliver events beside other processes, on PostgreSQL."),
    "workers": ("marzhook.cli.worker:workers", "List the processes that deliver, and how each fares."),
    "config": ("marzhook.cli.config:config", "Show every setting, its effective value and where it came from."),
    "check": ("marzhook.cli.check:check", "Check settings, database and endpoints; say how to mend what is wrong."),
    "send": ("marzhook.cli.send:send", "Publish one event by hand."),
    "listen": ("marzhook.cli.listen:listen", "A receiver to try with: verifies and prints what comes in."),
    "demo": (
        "marzhook.cli.demo:demo",
        "See it all in 20 seconds: a dozen users, two receivers, one that fails at first.",
    ),
    "users": ("marzhook.cli.users:app", "List, show, create, disable, enable and delete users."),
    "endpoints": ("marzhook.cli.endpoints:app", "List, show, create, edit, try, test, enable and disable endpoints."),
    "deliveries": ("marzhook.cli.deliveries:app", "List, show, retry and cancel deliveries."),
    "import": ("marzhook.cli.importing:app", "Bring a panel's users into the built-in registry."),
    "source": ("marzhook.cli.source:app", "Follow panels over their API: add, list, pause, resume, remove."),
    "ingest": ("marzhook.cli.ingest:app", "Show what panels sent and could not be taken."),
    "replay": ("marzhook.cli.replay:replay", "Owe many deliveries again."),
    "db": ("marzhook.cli.db:app", "Upgrade, check and copy the database."),
    "bench": ("marzhook.cli.bench:bench", "Measure what this machine and this disk can do."),
}
"""One line a command. The target is a function, or a `typer.Typer` where the command has commands of its own; its module
is imported only when the command is called, so `--help` stays fast."""


def exit_code(error: MarzhookError) -> int:
    """2: wrong usage or settings, or a database that cannot be used as it is just now; 1: the work failed."""
    return 2 if isinstance(error, SettingError | StartError | InvalidError | StoreBusyError) else 1


class LazyGroup(TyperGroup):
    """Imports a command when it is called, and turns errors into one line and an exit code."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, stub, rest = super().resolve_command(ctx, args)
        return name, stub if name is None else _load(name), rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MarzhookError as error:
            line = " ".join(str(error).split())
            print(fitting(f"marzhook: {line}", sys.stderr), file=sys.stderr)
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _load(name: str) -> Any:
    module, _, attribute = COMMANDS[name][0].partition(":")
    # What is imported stays: to look for garbage in it takes a tenth of a start, and something at every later search.
    gc.disable()
    target = getattr(import_module(module), attribute)
    gc.freeze()
    gc.enable()
    if not isinstance(target, typer.Typer):
        command, target = target, typer.Typer(add_completion=False)
        target.command(name)(command)
    return typer.main.get_command(target)


# Local variables in a traceback could hold a secret, so typer's own is not wanted.
app = typer.Typer(
    name="marzhook",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"marzhook {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=_version, is_eager=True),
) -> None:
    """Marzhook delivers the user events of a proxy panel to webhooks, and loses none."""


def _stub() -> None:
    """Stands for a command in --help until it is called."""


for _name, (_, _line) in COMMANDS.items():
    app.command(_name, help=_line)(_stub)


def main() -> None:
    """The entry point `marzhook`."""
    app(prog_name="marzhook")
