"""axe-core, which looks a page over for what keeps people out: from npm, for the tests alone, kept beside the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from selenium.webdriver.remote.webdriver import WebDriver

VERSION = "4.11.0"
FOLDER = Path(__file__).parent.parent / ".venv" / "axe"
INSTALL = "apt-get install -y --no-install-recommends npm"
GRAVE = ("serious", "critical")
CONTRAST = "color-contrast"


@cache
def source() -> str:
    """The script. Installs it, and npm where that may be done; else fails with the line to type."""
    script = FOLDER / VERSION / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        if not shutil.which("npm") and os.geteuid() == 0 and shutil.which("apt-get"):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in ("apt-get update", INSTALL):
                subprocess.run(command.split(), env=environment, capture_output=True, check=False, timeout=600)
        assert shutil.which("npm"), f"the browser tests need npm, for axe-core; type: sudo {INSTALL}"
        command = [
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--prefix",
            str(FOLDER / VERSION),
            f"axe-core@{VERSION}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert script.exists(), f"{' '.join(command)} failed: {done.stderr[-500:]}"
    return script.read_text()


def ready(page: WebDriver) -> None:
    """Every page that is opened from now on has it: to send it to each takes longer than most of its rules."""
    page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source()})


def faults(page: WebDriver, *, contrast: bool, others: bool = True) -> list[str]:
    """What is serious or critical on the page, which was opened after `ready`, a line each: by the rule of colours and their
    contrast, which takes as long as all the others do, and by these."""
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if not others:
        options["runOnly"] = [CONTRAST]
    elif not contrast:
        options["rules"] = {CONTRAST: {"enabled": False}}
    violations: list[dict[str, Any]] = page.execute_async_script(
        "axe.run(arguments[0]).then((found) => arguments[1](found.violations))", options
    )
    return [
        f"{one['id']}: {one['help']}: {node['html'][:150]} {node['failureSummary']}"
        for one in violations
        if one["impact"] in GRAVE
        for node in one["nodes"]
    ]
