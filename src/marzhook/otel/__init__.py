"""OpenTelemetry (extra `otel`): traces, metrics and logs over OTLP/HTTP, switched on by the standard OTEL_… variables.

Nothing of OpenTelemetry is imported before `start` has found that it is wanted. What is told is put into bounded queues and
sent by threads of its own (`channel.py`): a collector that is slow, gone or hung costs what it is told, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from marzhook.errors import SettingError, StartError

if TYPE_CHECKING:
    from marzhook.otel.sending import Sending

SIGNALS: Final = ("TRACES", "METRICS", "LOGS")
COMMON: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


def start(values: Mapping[str, str]) -> Sending | None:
    """Begin to send what these variables ask for; None: nothing.

    Raises SettingError for what Marzhook cannot do, and StartError where the extra is not installed.
    """
    signals = wanted(values)
    if not signals:
        return None
    # OpenTelemetry reads them by itself, and knows of no `.env`.
    for name, value in values.items():
        os.environ.setdefault(name, value)
    try:
        from marzhook.otel.sending import Sending
    except ImportError as error:
        raise StartError(
            f"{COMMON} is set, and OpenTelemetry is not installed ({error.name}); type: pip install 'marzhook[otel]',"
            " or take the setting away",
            code="otel_missing",
        ) from None
    return Sending(values, signals)


def wanted(values: Mapping[str, str]) -> frozenset[str]:
    """Those of SIGNALS that have an endpoint and are not switched off. Raises SettingError."""
    if values.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return frozenset()
    return frozenset(signal for signal in SIGNALS if _has_endpoint(values, signal))


def _has_endpoint(values: Mapping[str, str], signal: str) -> bool:
    own = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"
    name = own if values.get(own) else COMMON
    endpoint = values.get(name)
    exporter = values.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    if not endpoint or exporter == "none":
        return False
    if exporter != "otlp":
        raise SettingError(f"OTEL_{signal}_EXPORTER is {exporter!r}; expected otlp or none")
    protocol = values.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or values.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        raise SettingError(
            f"the OTLP protocol for {signal.lower()} is {protocol!r}; Marzhook speaks http/protobuf alone: leave"
            f" OTEL_EXPORTER_OTLP_PROTOCOL out, and point {name} to the collector's port for it (4318)"
        )
    try:
        parts = urlsplit(endpoint)
        if parts.scheme in ("http", "https") and parts.hostname:
            return True
    except ValueError:
        pass
    # Not shown: it may hold a password.
    raise SettingError(f"{name} is no address; expected http://… or https://…, like http://127.0.0.1:4318")
