"""Characters that are seen only by what they do to others, or not at all: how a page shows them."""

from __future__ import annotations

import unicodedata
from typing import Any, Final

from markupsafe import Markup

# Zero-width joiners belong to Persian; all else of this category (direction overrides, tags …) can make a text lie.
_KEPT: Final = frozenset("\n\t\u200c\u200d")


def unseen(character: str) -> bool:
    """Whether it is seen only by what it does to others, or not at all."""
    return character not in _KEPT and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn")


def harmless(value: Any) -> Any:
    """What a template puts out. Characters that are seen only by what they do to others are shown by their number."""
    if value is None:
        return ""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return "".join(f"⟨U+{ord(c):04X}⟩" if unseen(c) else c for c in value)
