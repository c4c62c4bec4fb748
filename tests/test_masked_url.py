"""What logs, metrics and error messages may show of a URL."""

from __future__ import annotations

import pytest

from marzhook.endpoint import masked_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:9000/", "http://127.0.0.1:9000/"),
        ("https://shop.example/hook", "https://shop.example/hook"),
        ("https://shop.example", "https://shop.example"),
        ("https://user:hunter2@shop.example:8443/hook?token=hunter2", "https://shop.example:8443/hook?…"),
        ("https://discord.com/api/webhooks/1/hunter2", "https://discord.com/api/…"),
        ("https://hooks.slack.com/services/T0/B0/hunter2", "https://hooks.slack.com/services/…"),
        ("https://shop.example/hunter2hunter2hunter2hunter2", "https://shop.example/…"),
        ("http://[::1]:9000/a/b", "http://[::1]:9000/a/…"),
    ],
)
def test_a_url_is_shown_without_what_may_be_a_password(url: str, shown: str) -> None:
    """User info, query and the further path stay out; host, port and the path's first word tell which endpoint it is."""
    assert masked_url(url) == shown
