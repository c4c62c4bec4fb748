"""What the docs show, taken out of their pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def pages() -> list[Path]:
    """Every page that people read, in any language."""
    return [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: str | Path, language: str) -> list[str]:
    """A page's examples in a language, in their order; `page` from the project's root."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def runner(page: str) -> Callable[[str], dict[str, Any]]:
    """Runs the page's Python one after the other, up to the example that contains a text; gives what they defined."""

    def run(part: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "shown"}
        for block in blocks(page, "python"):
            exec(compile(block, page, "exec"), names)
            if part in block:
                return names
        raise AssertionError(f"no example has {part!r}")

    return run
