"""Marzhook: reliable webhooks for the user events of Marzban-family proxy panels."""

__version__ = "0.1.0"
