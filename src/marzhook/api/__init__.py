"""The HTTP API: Marzban's users API, and Marzhook's own under /api/v1/."""
