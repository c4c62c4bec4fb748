"""The variables of OpenTelemetry, which have their own rules: its specification's "Environment Variable Specification".

They are taken from `.env` as well, and handed on as they are: `marzhook.otel` looks what they ask for.
"""

from __future__ import annotations

from typing import Final

from marzhook.endpoint import masked_url

NAMES: Final = frozenset(
    {
        "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER",
        "OTEL_TRACES_SAMPLER_ARG", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER",
        "OTEL_METRIC_EXPORT_INTERVAL",
        *(
            f"OTEL_{queue}_{what}"
            for queue in ("BSP", "BLRP")
            for what in ("SCHEDULE_DELAY", "MAX_QUEUE_SIZE", "MAX_EXPORT_BATCH_SIZE")
        ),
        *(
            f"OTEL_EXPORTER_OTLP_{signal}{what}"
            for signal in ("", "TRACES_", "METRICS_", "LOGS_")
            for what in (
                "ENDPOINT", "HEADERS", "TIMEOUT", "PROTOCOL", "COMPRESSION", "CERTIFICATE", "CLIENT_KEY",
                "CLIENT_CERTIFICATE",
            )
        ),
    }
)  # fmt: skip


def shown(name: str, value: str) -> str:
    """The value as anyone may see it: headers hold tokens, and addresses may hold passwords."""
    if name.endswith("_HEADERS"):
        return f"set ({len(value)} characters)"
    if not name.endswith("_ENDPOINT"):
        return value
    try:
        return masked_url(value)
    except ValueError:
        return f"set ({len(value)} characters)"
