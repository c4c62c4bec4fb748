"""What importing the receiver kit adds to the start of an interpreter that has imported nothing yet."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from bench.figure import Figure, Measured, Options, alternating

SOURCE = Path(__file__).parent.parent / "src"


def measure(options: Options) -> Measured:
    nothing, kit = "pass", "import marzhook.receiver"
    _milliseconds(kit)  # compiles it, where nobody did
    found = alternating(options.scaled(31, 3), {code: lambda code=code: _milliseconds(code) for code in (nothing, kit)})
    added = [with_it - without for without, with_it in zip(found[nothing], found[kit], strict=True)]
    return Measured([
        Figure.of("an interpreter that imports nothing", found[nothing], "ms"),
        Figure.of("one that imports the receiver kit", found[kit], "ms"),
        Figure("the receiver kit by itself", median(found[kit]) - median(found[nothing]), "ms", at_most=50, each=added),
    ])  # fmt: skip


def _milliseconds(code: str) -> float:
    started = time.perf_counter()
    # Without the environment: it may forbid to keep what was compiled.
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCE)}, check=True)
    return (time.perf_counter() - started) * 1000
