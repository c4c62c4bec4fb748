"""Panels whose webhooks Marzhook takes: each adapter is pure, from a request's headers and body to events or rejections."""

from __future__ import annotations

from typing import Final

from marzhook.sources.panels.base import Panel
from marzhook.sources.panels.marzban import Marzban
from marzhook.sources.panels.marzneshin import Marzneshin
from marzhook.sources.panels.pasarguard import PasarGuard
from marzhook.sources.panels.remnawave import Remnawave

PANELS: Final[dict[str, Panel]] = {
    panel.name: panel for panel in (Marzban(), PasarGuard(), Marzneshin(), Remnawave())
}  # fmt: skip
"""By the last word of their route, `/ingest/<name>`."""
