"""Settings: what is read, what is refused, and what is never shown."""

from __future__ import annotations

import dataclasses
import re
from ipaddress import ip_network
from pathlib import Path

import pytest

from marzhook.errors import SettingError
from marzhook.event import DOCUMENTED_ACTIONS, PANEL_ACTIONS
from marzhook.retry import RetryPolicy
from marzhook.settings import PANEL_ONLY, SETTINGS, Settings, load, opentelemetry

EXAMPLE = Path(__file__).parent.parent / ".env.example"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / ".env"
    path.write_text(text, encoding="utf-8")
    return path


def refused(name: str, value: str) -> str:
    """The error's one line."""
    with pytest.raises(SettingError) as caught:
        load({name: value}, None)
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    return message


def source(settings: Settings, name: str) -> str:
    return next(entry.source for entry in settings.entries if entry.name == name)


def test_defaults() -> None:
    """With nothing set, every setting has the design's default."""
    settings = load({}, None)
    assert settings.webhook_addresses == ()
    assert settings.webhook_secret is None
    assert (settings.webhook_secret_mode, settings.webhook_detail, settings.webhook_format) == ("auto", "safe", "event")
    assert settings.send_interval is None
    assert settings.retry_policy == RetryPolicy()
    assert settings.published_actions == set(PANEL_ACTIONS)
    assert (settings.usage_percents, settings.days_left) == ((80,), (3,))
    assert (settings.host, settings.port) == ("127.0.0.1", 8787)
    assert settings.proxies == (ip_network("127.0.0.1"), ip_network("::1"))
    assert settings.database_url == "sqlite:///marzhook.db"
    assert (settings.connect_timeout, settings.request_timeout, settings.endpoint_concurrency) == (5.0, 15.0, 32)
    assert (settings.allow_addresses, settings.ca_file) == ((), None)
    assert (settings.log_format, settings.log_level, settings.token_minutes) == ("auto", "info", 1440)
    assert {entry.source for entry in settings.entries} == {"default"}


def test_table_is_complete() -> None:
    """Every field of Settings comes from exactly one row of the table, or is derived from several."""
    derived = {"retry_policy", "published_actions", "otel", "entries", "unused"}
    fields = [setting.field for setting in SETTINGS if setting.field]
    assert sorted(fields) == sorted({field.name for field in dataclasses.fields(Settings)} - derived)
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
    assert not PANEL_ONLY & {setting.name for setting in SETTINGS}
    assert all(setting.doc for setting in SETTINGS)


def test_documented_env_file(tmp_path: Path) -> None:
    """The quoting and spacing of the panel's documentation is read as it stands."""
    path = written(
        tmp_path,
        'WEBHOOK_ADDRESS = "http://127.0.0.1:9000/,http://127.0.0.1:9001/"\n'
        'WEBHOOK_SECRET = "something-very-very-secret"\n',
    )
    settings = load({}, path)
    assert settings.webhook_addresses == ("http://127.0.0.1:9000/", "http://127.0.0.1:9001/")
    assert settings.webhook_secret == "something-very-very-secret"


def test_environment_wins(tmp_path: Path) -> None:
    """The environment wins over `.env`, and each value says where it came from."""
    path = written(tmp_path, "# a comment\n\n\nUVICORN_PORT = 1000\nexport UVICORN_HOST='::1'  # inside\n")
    settings = load({"UVICORN_PORT": "2000"}, path)
    assert (settings.host, settings.port) == ("::1", 2000)
    assert source(settings, "UVICORN_PORT") == "environment"
    assert source(settings, "UVICORN_HOST") == ".env line 5"
    assert source(settings, "WEBHOOK_FORMAT") == "default"


def test_no_interpolation(tmp_path: Path) -> None:
    """A dollar sign in a value is a dollar sign."""
    path = written(tmp_path, 'WEBHOOK_SECRET = "a$HOME${UVICORN_PORT}b"\n')
    assert load({"HOME": "/root"}, path).webhook_secret == "a$HOME${UVICORN_PORT}b"


def test_env_file_may_be_missing(tmp_path: Path) -> None:
    """A `.env` that does not exist is no error; one that cannot be read or decoded is."""
    assert load({}, tmp_path / ".env").port == 8787
    with pytest.raises(SettingError, match="cannot be read"):
        load({}, tmp_path)
    (tmp_path / ".env").write_bytes(b"WEBHOOK_SECRET = \xff\xfe\n")
    with pytest.raises(SettingError, match="not UTF-8"):
        load({}, tmp_path / ".env")


def test_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    """A file that was saved on Windows reads like any other."""
    path = tmp_path / ".env"
    path.write_bytes(b'\xef\xbb\xbfUVICORN_PORT = "9"\r\n\r\nWEBHOOK_FORMAT = list\r\n')
    settings = load({}, path)
    assert (settings.port, settings.webhook_format) == (9, "list")
    assert source(settings, "WEBHOOK_FORMAT") == ".env line 3"


@pytest.mark.parametrize(
    "line", ['WEBHOOK_SECRET = "hunter2', "WEBHOOK_SECRET", 'WEBHOOK_SECRET = "hunter2" x', "= hunter2", "hunter2: x"]
)
def test_unreadable_line(tmp_path: Path, line: str) -> None:
    """A line that cannot be parsed is refused with file and line, and without what may be a secret."""
    path = written(tmp_path, f"UVICORN_PORT = 1\n\n{line}\n")
    with pytest.raises(SettingError) as caught:
        load({}, path)
    message = str(caught.value)
    assert message.startswith(f"{path} line 3 ")
    # pytest puts the line into the name of the directory.
    assert "hunter2" not in message.removeprefix(str(path))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("WEBHOOK_ADRESS", "WEBHOOK_ADDRESS"),
        ("webhook_secret", "WEBHOOK_SECRET"),
        ("MARZHOOK_DATABSE_URL", "MARZHOOK_DATABASE_URL"),
        ("TELEGRAM_API_TOKN", "TELEGRAM_API_TOKEN"),
    ],
)
def test_typo_in_env_file(tmp_path: Path, name: str, nearest: str) -> None:
    """An unknown name in `.env` is refused with its line and the nearest known name."""
    path = written(tmp_path, f"\n{name} = 1\n")
    with pytest.raises(SettingError, match=re.escape(f"{name} in {path} line 2") + f".*did you mean {nearest}"):
        load({}, path)


def test_unknown_name_that_resembles_nothing(tmp_path: Path) -> None:
    """Where no known name is near, the error says where all are listed."""
    with pytest.raises(SettingError, match=r"QQQ .* \.env\.example"):
        load({}, written(tmp_path, "QQQ = 1\n"))


def test_unknown_names_in_the_environment() -> None:
    """In the environment only names with Marzhook's prefix are Marzhook's, and a typo in one is refused."""
    assert load({"WEBHOOK_ADRESS": "x", "PATH": "/bin"}, None).webhook_addresses == ()
    with pytest.raises(SettingError, match="did you mean MARZHOOK_LOG_LEVEL"):
        load({"MARZHOOK_LOGLEVEL": "debug"}, None)


def test_names_of_the_panel(tmp_path: Path) -> None:
    """The panel's other settings are accepted and listed as not used, once each."""
    text = "XRAY_JSON = /x.json\nTELEGRAM_PROXY_URL=x\nUVICORN_PORT=8000\nXRAY_JSON = /y.json\n"
    settings = load({}, written(tmp_path, text))
    assert settings.unused == ("XRAY_JSON", "TELEGRAM_PROXY_URL")
    assert settings.port == 8000


def test_set_twice(tmp_path: Path) -> None:
    """A setting that is in `.env` twice is refused: which one wins would be a guess."""
    with pytest.raises(SettingError, match=r"UVICORN_PORT in .* line 2 is already set in \.env line 1"):
        load({}, written(tmp_path, "UVICORN_PORT=1\nUVICORN_PORT=2\n"))


@pytest.mark.parametrize("name", [s.name for s in SETTINGS if s.default is None])
def test_empty_is_unset(name: str) -> None:
    """An empty value of a setting without a default means that it is not set, also over `.env`."""
    entry = next(entry for entry in load({name: ""}, None).entries if entry.name == name)
    assert entry.value is None


def test_empty_environment_hides_env_file(tmp_path: Path) -> None:
    """An empty variable switches off what `.env` sets."""
    assert load({"WEBHOOK_SECRET": ""}, written(tmp_path, "WEBHOOK_SECRET=x\n")).webhook_secret is None


def test_empty_lists() -> None:
    """An empty list is a list without items; an empty number is malformed."""
    settings = load({"NOTIFY_REACHED_USAGE_PERCENT": "", "WEBHOOK_ADDRESS": ""}, None)
    assert (settings.usage_percents, settings.webhook_addresses) == ((), ())
    assert "a whole number" in refused("UVICORN_PORT", "")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("UVICORN_PORT", "65536", "a whole number from 0 to 65535"),
        ("UVICORN_PORT", "-1", "a whole number"),
        ("UVICORN_PORT", "1_0", "a whole number"),
        ("UVICORN_PORT", "٣", "a whole number"),
        ("UVICORN_PORT", "9" * 5000, "a whole number"),
        ("UVICORN_HOST", "http://x", "without a port"),
        ("UVICORN_HOST", "localhost:80", "without a port"),
        ("UVICORN_HOST", "1.2.3.400", "without a port"),
        ("UVICORN_HOST", "", "without a port"),
        ("WEBHOOK_FORMAT", "xml", "one of event, list, standard"),
        ("WEBHOOK_SECRET_MODE", "none", "one of plain, hmac, auto"),
        ("WEBHOOK_DETAIL", "all", "one of none, safe, full"),
        ("JOB_SEND_NOTIFICATIONS_INTERVAL", "0", "more than 0"),
        ("JOB_SEND_NOTIFICATIONS_INTERVAL", "nan", "more than 0"),
        ("JOB_SEND_NOTIFICATIONS_INTERVAL", "1e9", "a number of seconds"),
        ("MARZHOOK_CONNECT_TIMEOUT", "fast", "a number of seconds"),
        ("MARZHOOK_ENDPOINT_CONCURRENCY", "0", "from 1 to 1000"),
        ("NUMBER_OF_RECURRENT_NOTIFICATIONS", "1001", "from 0 to 1000"),
        ("RECURRENT_NOTIFICATIONS_TIMEOUT", "0", "from 1"),
        ("NOTIFY_STATUS_CHANGE", "maybe", "true or false"),
        ("NOTIFY_REACHED_USAGE_PERCENT", "80,101", "from 1 to 100"),
        ("NOTIFY_DAYS_LEFT", "3;7", "separated by commas"),
        ("MARZHOOK_ALLOW_ADDRESSES", "10.0.0.1/8", "no bits set after the prefix"),
        ("MARZHOOK_CA_FILE", "/nowhere/ca.pem", "exists and can be read"),
        ("MARZHOOK_CA_FILE", "x" * 5000, "exists and can be read"),
        ("MARZHOOK_LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("MARZHOOK_LOG_FORMAT", "xml", "one of auto, text, json"),
        ("MARZHOOK_DATABASE_URL", "marzhook.db", "sqlite:///marzhook.db"),
        ("MARZHOOK_DATABASE_URL", "sqlite://", "a file"),
        ("MARZHOOK_DATABASE_URL", "sqlite:///:memory:", "a file"),
        ("SUDO_USERNAME", "a\tb", "control characters"),
        ("SUDO_USERNAME", "a" * 35, "1 to 34 printable"),
        ("SUDO_PASSWORD", "p" * 1025, "at most 1024"),
        ("WEBHOOK_ADDRESS", "127.0.0.1:9000", "must start with http"),
        ("WEBHOOK_ADDRESS", "http://", "no host"),
        ("WEBHOOK_ADDRESS", "http://a/,http://A:80", "twice"),
    ],
)
def test_malformed(name: str, value: str, expected: str) -> None:
    """A malformed value stops the start with one short line: the setting, where it is set, and what is expected."""
    message = refused(name, value)
    assert expected in message
    assert "(environment)" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEBHOOK_SECRET", "hunter2\nx-evil: 1"),
        ("WEBHOOK_SECRET", " hunter2"),
        ("WEBHOOK_SECRET", "hunter2€"),
        ("MARZHOOK_INGEST_SECRET", "hunter2\x85"),
        ("SUDO_PASSWORD", "hunter2\x00"),
        ("DISCORD_WEBHOOK_URL", "discord.com/api/webhooks/1/hunter2"),
        ("WEBHOOK_ADDRESS", "http://u:hunter2@h/#f"),
        ("WEBHOOK_ADDRESS", "http://h/?t=hunter2,http://h/?t=hunter2"),
        ("MARZHOOK_DATABASE_URL", "mysql+pymysql://u:hunter2@h/db"),
        ("MARZHOOK_DATABASE_URL", "oracle://u:hunter2@h/db"),
        ("MARZHOOK_DATABASE_URL", "postgresql://u:x@hunter2@h/db"),
        ("MARZHOOK_DATABASE_URL", "postgresql://u:7/hunter2@h/db?sslmode=disable"),
        ("MARZHOOK_DATABASE_URL", "postgresql://u:p?a@hunter2@h/db"),
        ("MARZHOOK_DATABASE_URL", "postgresql://u:hunter2/x?user=c@h/db"),
        ("MARZHOOK_WORKER_DATABASE_URL", "postgres://u@x:hunter2@h/db"),
        ("MARZHOOK_SQL_URL", "postgresql://u:x@hunter2@h/db"),
        ("MARZHOOK_SQL_URL", "postgresql://u:x/y@hunter2@h/db"),
    ],
)
def test_errors_keep_secrets(name: str, value: str) -> None:
    """The error about a malformed value does not show what may be a secret in it."""
    assert "hunter2" not in refused(name, value)


def test_other_databases() -> None:
    """MySQL and MariaDB are refused with what to take instead; PostgreSQL's URLs are libpq's own, with several hosts too."""
    for url in ("mysql+pymysql://u:p@h/db", "mariadb://u:p@h/db"):
        told = refused("MARZHOOK_DATABASE_URL", url)
        assert f"M{url[1:5]}" in told.replace("SQL", "sql").replace("aDB", "adb")
        assert "is not supported, and not needed: Marzhook keeps its data in a file" in told
        assert "postgresql://user:password@host/database" in told
    assert "oracle is not supported, and not needed" in refused("MARZHOOK_DATABASE_URL", "oracle://u:p@h/db")
    for url in ("postgresql+asyncpg://u:p@h/db", "sqlite+aiosqlite:///marzhook.db"):
        assert "expected an address without a driver's name" in refused("MARZHOOK_DATABASE_URL", url)
    for url in (
        "postgresql://u:hunter2@h/db?sslpassword=hunter2&password=hunter2",
        "postgresql://u:p@h/db",
        "postgres://h1:5432,h2/db?target_session_attrs=read-write",
        "postgresql://u:x%40y%2Fz@h/db?application_name=a/b@c",
    ):
        settings = load({"MARZHOOK_DATABASE_URL": url}, None)
        assert settings.database_url == url
        assert "hunter2" not in str(settings.entries) + repr(settings)
    assert "expected a file" in refused("MARZHOOK_DATABASE_URL", "postgresql:db")


def test_values_that_are_taken(tmp_path: Path) -> None:
    """Lists are sorted and freed of repeats, words are taken in any case, port 0 and IPv6 are fine."""
    ca = tmp_path / "ca.pem"
    ca.touch()
    settings = load(
        {
            "NOTIFY_REACHED_USAGE_PERCENT": "90, 80,90,",
            "NOTIFY_DAYS_LEFT": "7,1",
            "WEBHOOK_FORMAT": "List",
            "UVICORN_HOST": "::",
            "UVICORN_PORT": "0",
            "MARZHOOK_ALLOW_ADDRESSES": "10.0.0.0/8, 192.168.1.7, fd00::/8",
            "MARZHOOK_CA_FILE": str(ca),
            "MARZHOOK_DATABASE_URL": "sqlite:////var/lib/m.db",
            "JOB_SEND_NOTIFICATIONS_INTERVAL": "0.5",
        },
        None,
    )
    assert (settings.usage_percents, settings.days_left) == ((80, 90), (1, 7))
    assert (settings.webhook_format, settings.host, settings.port) == ("list", "::", 0)
    assert settings.allow_addresses == (ip_network("10.0.0.0/8"), ip_network("192.168.1.7/32"), ip_network("fd00::/8"))
    assert (settings.ca_file, settings.send_interval) == (ca, 0.5)
    assert settings.database_url == "sqlite:////var/lib/m.db"
    assert load({"FORWARDED_ALLOW_IPS": "*"}, None).proxies == (ip_network("0.0.0.0/0"), ip_network("::/0"))


@pytest.mark.parametrize(
    ("environ", "policy"),
    [
        ({"NUMBER_OF_RECURRENT_NOTIFICATIONS": "5"}, RetryPolicy.fixed(5, 180)),
        ({"RECURRENT_NOTIFICATIONS_TIMEOUT": "10"}, RetryPolicy.fixed(3, 10)),
        ({"NUMBER_OF_RECURRENT_NOTIFICATIONS": "0"}, RetryPolicy.fixed(0, 180)),
        (
            {"NUMBER_OF_RECURRENT_NOTIFICATIONS": "2", "RECURRENT_NOTIFICATIONS_TIMEOUT": "1"},
            RetryPolicy.fixed(2, 1),
        ),
    ],
)
def test_retry_policy(environ: dict[str, str], policy: RetryPolicy) -> None:
    """Either of Marzban's two settings chooses its schedule; the other one then has Marzban's default."""
    settings = load(environ, None)
    assert settings.retry_policy == policy
    shown = {entry.name: entry.value for entry in settings.entries}
    assert shown["NUMBER_OF_RECURRENT_NOTIFICATIONS"] == len(policy.delays)
    assert shown["RECURRENT_NOTIFICATIONS_TIMEOUT"] is not None


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.actions], ids=lambda s: s.name)
def test_published_actions(setting: object) -> None:
    """Each NOTIFY_… setting switches off its own actions and no other's; together they gate all of the panel's."""
    name, actions = setting.name, set(setting.actions)  # type: ignore[attr-defined]
    assert load({name: "False"}, None).published_actions == set(PANEL_ACTIONS) - actions
    everything = [action for s in SETTINGS for action in s.actions]
    assert sorted(everything) == sorted(PANEL_ACTIONS)
    assert set(DOCUMENTED_ACTIONS) <= set(everything)


def test_ingest_secret() -> None:
    """The ingest secret is WEBHOOK_SECRET unless it is set, and says so."""
    settings = load({"WEBHOOK_SECRET": "a"}, None)
    assert (settings.ingest_secret, source(settings, "MARZHOOK_INGEST_SECRET")) == ("a", "WEBHOOK_SECRET")
    settings = load({"WEBHOOK_SECRET": "a", "MARZHOOK_INGEST_SECRET": "b"}, None)
    assert (settings.ingest_secret, source(settings, "MARZHOOK_INGEST_SECRET")) == ("b", "environment")


def test_nothing_secret_is_shown() -> None:
    """Neither the representation nor the entries show a secret, a password in a URL or a Discord token."""
    settings = load(
        {
            "WEBHOOK_SECRET": "hunter2-secret",
            "SUDO_PASSWORD": "hunter2",
            "MARZHOOK_INGEST_SECRET": "hunter2",
            "DISCORD_WEBHOOK_URL": "https://discord.com/api/webhooks/1/hunter2",
            "WEBHOOK_ADDRESS": "https://u:hunter2@example.com/?token=hunter2",
        },
        None,
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in repr(settings.entries)
    assert "set (14 characters)" in repr(settings)
    assert settings.sudo_password == "hunter2"


def test_example_changes_nothing() -> None:
    """A copy of `.env.example` is the same as no `.env` at all."""
    assert load({}, EXAMPLE) == load({}, None)


def test_example_is_complete(tmp_path: Path) -> None:
    """`.env.example` names every setting once, and each of its lines works when it is uncommented."""
    lines = re.findall(r"^# ([A-Z_]+ = .*)$", EXAMPLE.read_text("utf-8"), re.MULTILINE)
    named = sorted(line.split(" = ")[0] for line in lines)
    assert [name for name in named if name not in opentelemetry.NAMES] == sorted(setting.name for setting in SETTINGS)
    ca = written(tmp_path, "")
    text = "\n".join(lines).replace("/etc/ssl/certs/ca-certificates.crt", str(ca))
    load({}, written(tmp_path, text))
