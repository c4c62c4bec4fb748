"""The receiver kit stands by itself: standard library only, and quick to import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"
HEAVY = {
    "asyncio", "concurrent", "cryptography", "dataclasses", "datetime", "email", "http", "inspect", "logging", "pathlib",
    "random", "selectors", "socket", "sqlite3", "ssl", "traceback", "typing", "urllib", "uuid",
}  # fmt: skip


def bare(code: str) -> str:
    """What this prints in an interpreter that has nothing but the standard library and Marzhook's own files."""
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_importing_it_loads_little() -> None:
    """The kit imports none of the standard library's heavy parts, no third party, and of Marzhook only its signing; fewer
    than 85 modules in all. How long that takes: `python -m bench receiver_import`."""
    loaded = set(bare("import sys, marzhook.receiver; print(*sys.modules)").split())
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    ours = {name for name in loaded if name.startswith("marzhook") and not name.startswith("marzhook.receiver")}
    assert ours == {"marzhook", "marzhook.signing"}
    assert all(name.partition(".")[0] in {*sys.stdlib_module_names, "marzhook"} or "_" in name for name in loaded)
    assert len(loaded) < 85


def test_a_base_install_receives_and_tests() -> None:
    """Without any extra: every adapter of the standard library, the databases, and `marzhook.testing` for one's own tests."""
    printed = bare(
        "import marzhook.receiver.wsgi, marzhook.receiver.asgi, marzhook.receiver.http_server\n"
        "from marzhook.receiver import Receiver\n"
        "from marzhook.receiver.database import SQLite\n"
        "from marzhook.testing import webhook_request\n"
        "receiver = Receiver('whsec_AAAA', dedupe=SQLite(':memory:'))\n"
        "receiver.on('user_created')(lambda event: print(event.username))\n"
        "for format in ('event', 'list', 'standard'):\n"
        "    request = webhook_request({'action': 'user_created', 'username': format}, secret='whsec_AAAA', format=format)\n"
        "    assert receiver.receive(request.headers, request.body).status == 200\n"
    )
    assert printed.split() == ["event", "list", "standard"]


def test_without_cryptography_the_rest_works() -> None:
    """A `whpk_` key without the package says what to install, at the start; other secrets need it not."""
    printed = bare(
        "from marzhook.receiver import Receiver\n"
        "Receiver(['whsec_AAAA', 'plain'])\n"
        "try: Receiver('whpk_' + 'A' * 43 + '=')\n"
        "except ImportError as error: print(error)\n"
    )
    assert "pip install cryptography" in printed
