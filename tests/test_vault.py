"""Secrets at rest: what the files give away (nothing), and what becomes of the key."""

from __future__ import annotations

import base64
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from marzhook import settings, signals, signing
from marzhook.endpoint import Endpoint
from marzhook.errors import DatabaseError, SettingError
from marzhook.event import NewEvent
from marzhook.store import admins, endpoints, schema, sources
from marzhook.store.database import Database
from marzhook.store.endpoints import Wanted
from marzhook.store.outbox import Outbox
from marzhook.store.vault import SEALED, Vault
from marzhook.testing import FakeClock
from postgresql import Server
from service import Service, marzhook

OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
DISCORD = "https://discord.com/api/webhooks/1234/hush-discord"
HOOK = "https://user:hush-password@shop.example/a?key=hush-query"
CLOCK = FakeClock()

Open = Callable[..., Database]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Open tmp_path/m.db with these keys in MARZHOOK_SECRET_KEY."""
    made: list[Database] = []

    def opened(*keys: str, path: Path = tmp_path / "m.db") -> Database:
        made.append(Database.open(f"sqlite:///{path}", secret_keys=keys))
        made[-1].upgrade()
        return made[-1]

    yield opened
    for database in made:
        database.close()


def fill(database: Database) -> list[str]:
    """Endpoints with every kind of secret; returns what must not be found on the disk."""
    with database.write() as tx:
        endpoints.create(tx, now=CLOCK.now(), kind="discord", url=DISCORD)
        hook = endpoints.create(tx, now=CLOCK.now(), kind="webhook", url=HOOK, secret="hush-secret")
        rotated = endpoints.rotate_secret(tx, hook.id, now=CLOCK.now())
        token_key = database.meta(tx.conn, "token_key")
    assert rotated.previous_signing_secret == hook.signing_secret
    return ["hush", hook.signing_secret[6:], rotated.signing_secret[6:], str(token_key)]


def kept(database: Database) -> list[Any]:
    """All that is sealed, as it is meant."""
    with database.read() as conn:
        return [*endpoints.all_endpoints(conn), database.meta(conn, "token_key")]


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".key"))


def stored(path: Path) -> list[Any]:
    """What the columns hold."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT id, url, secret, signing_secret, previous_signing_secret FROM endpoints")
        return [*rows.fetchall(), *connection.execute("SELECT * FROM meta WHERE key IN ('token_key', 'vault')")]


def make_plain(database: Database, **changed: Any) -> None:
    """As an older Marzhook left it: everything plain, and no key."""
    with database.read() as conn:
        found, token_key = endpoints.all_endpoints(conn), database.meta(conn, "token_key")
    with database.write() as tx:
        for one in found:
            values = {name: getattr(one, name) for name in SEALED} | changed
            tx.conn.execute(sa.update(schema.endpoints).where(schema.endpoints.c.id == one.id).values(values))
        tx.conn.execute(sa.text("UPDATE meta SET value = :k WHERE key = 'token_key'"), {"k": token_key})
        tx.conn.execute(sa.text("DELETE FROM meta WHERE key = 'vault'"))
    database.close()
    database.vault.key_file.unlink(missing_ok=True)


# -- what is on the disk


def test_the_files_give_no_secret_away(opened: Open, tmp_path: Path) -> None:
    """URLs, secrets, signing secrets (the former too) and the key of tokens are in neither the file nor its log, and come
    back as they were."""
    database = opened()
    secrets = fill(database)
    discord, hook, _ = kept(database)
    assert (discord.url, hook.url, hook.secret) == (DISCORD, HOOK, "hush-secret")
    assert kept(opened()) == kept(database)
    for _ in range(2):
        found = on_disk(tmp_path)
        assert [secret for secret in secrets if secret.encode() in found] == []
        database.close()  # which writes the log back


def test_the_key_file_is_made_once_and_is_the_owners(opened: Open, tmp_path: Path) -> None:
    """The first start makes the key file, 32 random bytes that only its owner may read; later ones leave it alone."""
    before = os.umask(0)
    try:
        opened()
    finally:
        os.umask(before)
    key = tmp_path / "m.db.key"
    assert key.stat().st_mode & 0o777 == 0o600
    text = key.read_text()
    assert len(base64.urlsafe_b64decode(text)) == 32
    opened()
    assert key.read_text() == text
    assert not list(tmp_path.glob("*.new"))
    assert opened(path=tmp_path / "other.db").vault.key_file.read_text() != text


def test_with_a_key_in_the_settings_no_file_is_made(opened: Open, tmp_path: Path) -> None:
    """MARZHOOK_SECRET_KEY is enough; it may be written in either alphabet of base64, with or without padding."""
    key = base64.b64encode(b"\xfb\xff" * 16).decode()
    fill(opened(key))
    assert not (tmp_path / "m.db.key").exists()
    assert kept(opened(key.replace("+", "-").replace("/", "_").rstrip("="))) == kept(opened(key))


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    database = Database.open(f"sqlite:///{tmp_path_factory.mktemp('vault')}/m.db")
    database.upgrade()
    database.close()
    return database.vault


@given(st.text() | st.text().map("v1:".__add__))
def test_what_is_sealed_is_revealed(vault: Vault, text: str) -> None:
    """Any text, also one that looks sealed, comes back as it was, and looks different each time."""
    assert vault.reveal(vault.seal(text)) == text
    assert vault.seal(text) != vault.seal(text)


# -- a database of an older Marzhook


def test_an_older_database_is_sealed_at_the_next_start(opened: Open, tmp_path: Path) -> None:
    """Plain values, also one that looks sealed and those of a deleted endpoint, are sealed once, and nothing of them stays
    in the file or its log."""
    database = opened()
    secrets = fill(database)
    make_plain(database, secret="v1:hush")
    path = tmp_path / "m.db"
    assert b"v1:hush" in path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE endpoints SET deleted_at = 1.0 WHERE id = 1")
        connection.commit()

    [hook, token_key] = kept(opened())
    assert (hook.secret, hook.url, hook.revision, token_key) == ("v1:hush", HOOK, 2, secrets[-1])
    found = on_disk(tmp_path)
    assert [secret for secret in secrets if secret.encode() in found] == []
    sealed = stored(path)
    assert kept(opened()) == [hook, token_key]
    assert stored(path) == sealed


def test_sealing_that_is_cut_off_changes_nothing(opened: Open, tmp_path: Path) -> None:
    """Where the start fails before its commit, all is as plain as before; the next start takes the key that was made."""
    database = opened()
    fill(database)
    before = kept(database)
    make_plain(database)
    plain = stored(tmp_path / "m.db")

    def fail() -> None:
        raise KeyboardInterrupt

    again = Database.open(f"sqlite:///{tmp_path}/m.db")
    with signals.listening("migrate.before_commit", fail), pytest.raises(KeyboardInterrupt):
        again.upgrade()
    assert stored(tmp_path / "m.db") == plain
    key = again.vault.key_file.read_text()
    again.upgrade()
    assert kept(again) == before
    assert again.vault.key_file.read_text() == key
    again.close()


@pytest.mark.parametrize("older", [False, True])
def test_a_kill_during_the_first_start_loses_nothing(opened: Open, tmp_path: Path, older: bool) -> None:
    """After a SIGKILL between the making of the key and the commit, the next start has all of it, sealed."""
    folder = tmp_path / "service"
    folder.mkdir()
    before = None
    if older:
        database = opened(path=folder / "marzhook.db")
        fill(database)
        before = kept(database)
        make_plain(database)
    with Service(folder, point="migrate.before_commit") as service:
        assert service.end() == -9
    with Service(folder) as service:
        assert service.stop() == 0
    after = kept(opened(path=folder / "marzhook.db"))
    assert before is None or after == before
    assert all(value.startswith("v1:") for row in stored(folder / "marzhook.db") for value in row[1:] if value)


def test_first_starts_at_the_same_time_agree(tmp_path: Path) -> None:
    """Whoever comes first makes the key; what each of the others seals can be read by all."""
    opened: list[Database] = []

    def start() -> None:
        database = Database.open(f"sqlite:///{tmp_path}/m.db")
        database.upgrade()
        with database.write() as tx:
            endpoints.create(tx, now=CLOCK.now(), kind="webhook", url=HOOK)
        opened.append(database)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for database in opened:
        assert [one.url for one in kept(database)[:-1]] == [HOOK] * 4
        database.close()


# -- the key is not there


@pytest.mark.parametrize(
    ("spoil", "keys", "code", "words"),
    [
        (lambda key: key.unlink(), (), "secret_key_missing", "is missing: restore"),
        (lambda key: key.unlink(), (NEW,), "secret_key_wrong", "another key than that in MARZHOOK_SECRET_KEY: restore"),
        (lambda key: key.write_text(NEW), (), "secret_key_wrong", "m.db.key: restore"),
        (lambda key: key.write_text(NEW), (OLD,), "secret_key_wrong", "in MARZHOOK_SECRET_KEY or /"),
        (lambda key: key.write_text("a key"), (), "secret_key_unreadable", "holds no key; restore"),
        (lambda key: key.write_bytes(b"\xff" * 44), (), "secret_key_unreadable", "holds no key; restore"),
        (lambda key: (key.unlink(), key.mkdir()), (), "secret_key_unreadable", "cannot read"),
    ],
)
def test_without_its_key_a_database_is_refused(
    opened: Open, tmp_path: Path, spoil: Callable[[Path], object], keys: tuple[str, ...], code: str, words: str
) -> None:
    """A key that is missing, wrong or unreadable stops the start with one line that says what to restore; nothing is
    changed, and with the key back everything is there."""
    database = opened()
    fill(database)
    before = kept(database)
    database.close()
    key = database.vault.key_file
    shutil.copy(key, tmp_path / "backup")
    spoil(key)
    content = (tmp_path / "m.db").read_bytes()

    for _ in range(2):
        with pytest.raises(DatabaseError, match=words) as caught:
            opened(*keys)
        assert caught.value.code == code
        assert str(key) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "m.db").read_bytes() == content
    if key.is_dir():
        key.rmdir()
    shutil.copy(tmp_path / "backup", key)
    assert kept(opened()) == before


def test_the_command_line_says_it_in_one_line(opened: Open, tmp_path: Path) -> None:
    """`run` and the other commands end with exit code 2 and no traceback; none of them makes a new key."""
    opened(path=tmp_path / "marzhook.db").vault.key_file.unlink()
    for arguments in (("run",), ("endpoints", "list"), ("check",)):
        done = marzhook(tmp_path, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("marzhook: the key to the secrets in ")
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "marzhook.db.key").exists()


def test_a_place_for_the_key_that_cannot_be_written(tmp_path: Path) -> None:
    """Where the key file cannot be made, the start is refused, and no database refers to a key that is not there."""
    (tmp_path / "m.db.key.new").mkdir()
    database = Database.open(f"sqlite:///{tmp_path}/m.db")
    with pytest.raises(DatabaseError, match=r"m\.db\.key: .*MARZHOOK_SECRET_KEY"):
        database.upgrade()
    (tmp_path / "m.db.key.new").rmdir()
    database.upgrade()
    assert kept(database)
    database.close()


def test_a_damaged_secret_is_named(opened: Open) -> None:
    """A value that was changed by somebody is noticed; one that was written by hand, plain, is taken as it is."""
    database = opened()
    fill(database)
    with database.write() as tx:
        tx.conn.execute(sa.text("UPDATE endpoints SET secret = 'by hand' WHERE id = 1"))
    assert kept(database)[0].secret == "by hand"
    for damaged in ("v1:", "v1:AAAA", "v1:not base64", "v1:" + base64.b64encode(bytes(40)).decode()):
        with database.write() as tx:
            tx.conn.execute(sa.text("UPDATE endpoints SET secret = :s WHERE id = 1"), {"s": damaged})
        with pytest.raises(DatabaseError, match="damaged"):
            kept(database)


def test_a_key_file_that_others_can_read_is_pointed_out(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    """A key file that was restored with too many rights works, and the log says what to type."""
    key = opened().vault.key_file
    key.chmod(0o644)
    opened()
    assert f"chmod 600 {key}" in caplog.text


# -- another key


def test_a_new_key_is_taken_into_use_by_the_service(opened: Open, tmp_path: Path) -> None:
    """With a new key before the old one, commands go on with the old one, so that a running service can read what they
    write; the service's next start seals everything anew, and the old key opens nothing any more."""
    running = opened(OLD)
    fill(running)
    command = opened(NEW, OLD)
    with command.write() as tx:
        endpoints.create(tx, now=CLOCK.now(), kind="webhook", url=HOOK)
    before = kept(command)
    assert kept(running) == before

    started = opened(NEW, OLD)
    with started.write() as tx:
        started.vault.rotate(tx.conn)
        endpoints.create(tx, now=CLOCK.now(), kind="webhook", url=HOOK)
    assert kept(started)[:3] == before[:3]
    assert kept(command) == kept(opened(NEW)) == kept(started)
    with pytest.raises(DatabaseError, match="start it anew"):
        kept(running)
    with pytest.raises(DatabaseError, match="sealed with another key"):
        opened(OLD)
    sealed = stored(tmp_path / "m.db")
    with started.write() as tx:
        started.vault.rotate(tx.conn)
    assert stored(tmp_path / "m.db") == sealed


def test_a_rotation_that_fails_changes_nothing(opened: Open, tmp_path: Path) -> None:
    """Where the transaction does not come to its end, everything is under the old key, and can be read."""
    fill(opened(OLD))
    before, sealed = kept(opened(OLD)), stored(tmp_path / "m.db")
    database = opened(NEW, OLD)

    def rotate(then: type[BaseException]) -> None:
        with database.write() as tx:
            database.vault.rotate(tx.conn)
            raise then

    with pytest.raises(KeyboardInterrupt):
        rotate(KeyboardInterrupt)
    assert stored(tmp_path / "m.db") == sealed
    assert kept(database) == kept(opened(OLD)) == before


def test_from_the_key_file_to_the_settings(opened: Open, tmp_path: Path) -> None:
    """A service that is started with MARZHOOK_SECRET_KEY beside its key file moves over to it, and needs the file no more."""
    path = tmp_path / "marzhook.db"
    fill(opened(path=path))
    before = kept(opened(path=path))
    with Service(tmp_path, MARZHOOK_SECRET_KEY=NEW) as service:
        assert service.stop() == 0
    (tmp_path / "marzhook.db.key").unlink()
    with Service(tmp_path, MARZHOOK_SECRET_KEY=NEW) as service:
        status, answer = service.call("GET", "/api/v1/endpoints")
        assert (status, [one["url"] for one in answer["endpoints"]]) == (200, [DISCORD, HOOK])
        assert service.stop() == 0
    assert kept(opened(NEW, path=path)) == before


# -- who works with it


def test_the_environments_endpoints_are_known_again(opened: Open) -> None:
    """The settings' URLs are compared with what is sealed: the next start finds its endpoints and changes nothing."""
    wanted = [Wanted("discord", DISCORD, {"name": "d"}), Wanted("webhook", HOOK, {"name": "h", "secret": "s"})]
    for database in (opened(), opened()):
        with database.write() as tx:
            endpoints.sync_environment(tx, wanted, now=CLOCK.now())
    assert [(one.url, one.revision) for one in kept(database)[:-1]] == [(DISCORD, 1), (HOOK, 1)]


def test_tokens_stay_valid(opened: Open) -> None:
    """A token that was issued before the key of tokens was sealed opens the panel afterwards."""
    database = opened()
    with database.write() as tx:
        admin = admins.create(tx, username="root", password_hash="-", is_sudo=True, now=CLOCK.now())
        token = admins.issue_token(admin, database.meta(tx.conn, "token_key") or "", now=CLOCK.now(), minutes=0)
    make_plain(database)
    with opened().read() as conn:
        assert admins.admin_of_token(conn, token, now=CLOCK.now()) == admin


@pytest.mark.parametrize("value", ["hush", OLD[:-2], f"{OLD},hush", OLD + OLD, OLD[:42] + "é"])
def test_a_malformed_key_is_refused_and_not_shown(value: str) -> None:
    """What is no key stops the start with one line that says how to make one; keys are shown nowhere."""
    with pytest.raises(SettingError, match="openssl rand -base64 32") as caught:
        settings.load({"MARZHOOK_SECRET_KEY": value}, None)
    assert "hush" not in str(caught.value)
    assert OLD[:20] not in str(caught.value)
    loaded = settings.load({"MARZHOOK_SECRET_KEY": f"{OLD}, {NEW}"}, None)
    assert loaded.secret_keys == (OLD, NEW)
    assert OLD not in repr(loaded)


def test_what_the_reference_says_of_a_lost_key_works(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With the statements of the documentation a database whose key is lost starts again; its endpoint is the same one, with
    the secret of the settings, what it is owed is still there, and a followed panel is given its login anew."""
    on_sqlite = backend == "sqlite"
    with ExitStack() as stack:
        if on_sqlite:
            address = f"sqlite:///{tmp_path}/m.db"
        else:
            server: Server = request.getfixturevalue("postgresql")
            address = server.url(stack.enter_context(server.database()))

        def started(*keys: str) -> Database:
            database = stack.enter_context(closing(Database.open(address, secret_keys=keys)))
            database.upgrade()
            return database

        url, panel = "http://127.0.0.1:9000/", "https://panel.example:8000"
        database = started() if on_sqlite else started(OLD)
        values = {"secret": "hush", "secret_mode": "plain", "signatures": "v1,v1a"}
        wanted = [Wanted("webhook", url, values)]
        with database.write() as tx:
            endpoints.sync_environment(tx, wanted, now=CLOCK.now())
            Outbox(database).publish(tx, [NewEvent("user_updated", "anna")], now=CLOCK.now())
            source = sources.create(tx, kind="marzban", url=panel, now=CLOCK.now(), username="root", password="hush")
            sources.note(tx, source, snapshot_at=CLOCK.now())
        (before,) = all_of(database)
        database.close()
        if on_sqlite:
            (tmp_path / "m.db.key").unlink()
        keys = () if on_sqlite else (NEW,)
        with pytest.raises(DatabaseError, match="A lost key"):
            started(*keys)
        reference = (Path(__file__).parent.parent / "docs/reference.md").read_text().split("### A lost key")[1]
        statements = reference.split("```sql")[1].split("```")[0]
        if on_sqlite:
            with closing(sqlite3.connect(tmp_path / "m.db")) as connection:
                connection.executescript(statements)
        else:
            [theirs] = re.findall(r"On PostgreSQL write `(.*?)` in place of `hex", reference)
            with psycopg.connect(address) as session:
                session.execute(statements.replace("hex(randomblob(24))", theirs).encode())
        database = started(*keys)
        with database.write() as tx:
            database.vault.rotate(tx.conn)
            endpoints.sync_environment(tx, wanted, now=CLOCK.now())
        (after,) = all_of(database)
        assert (after.id, after.url, after.secret, after.enabled) == (before.id, url, "hush", True)
        assert after.signing_secret != before.signing_secret
        assert len(signing.key_of(after.signing_secret)) >= 24
        assert after.signatures == before.signatures
        assert after.signing_key not in (None, before.signing_key)
        assert after.signing_key.startswith("whsk_")
        assert [owed.event.username for owed in Outbox(database).window(after.id, after=0, limit=9)] == ["anna"]
        with database.write() as tx:
            followed = sources.followed(tx.conn, panel)
            assert followed is not None
            assert followed.id == source
            sources.log_in(tx, source, username="root", password="new")
        with database.read() as conn:
            assert sources.get(conn, source).password == "new"
            assert database.meta(conn, "token_key")
            assert conn.exec_driver_sql("SELECT url FROM endpoints").scalar_one() != url


def all_of(database: Database) -> list[Endpoint]:
    with database.read() as conn:
        return endpoints.all_endpoints(conn)
