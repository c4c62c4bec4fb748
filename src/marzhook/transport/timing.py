"""What a request's connection took, as libcurl knows it."""

from __future__ import annotations

from typing import Any

import pycurl


def timing_of(curl: Any, duration: float, *, sent: bool) -> str:
    """As `delivery.Attempt.timing` has it. What was not done when it failed has all the time that was left."""
    connected = curl.getinfo(pycurl.CONNECT_TIME)
    if not connected and sent:
        return ""
    found = curl.getinfo(pycurl.NAMELOOKUP_TIME)
    secure = curl.getinfo(pycurl.APPCONNECT_TIME)
    if not sent:
        found = found or duration
        connected = connected or duration
        secure = secure or duration
    dns, connect, tls = found, max(0.0, connected - found), max(0.0, secure - connected)
    return f"{dns * 1e6:.0f} {connect * 1e6:.0f} {tls * 1e6:.0f}"
