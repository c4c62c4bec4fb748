"""Secrets at rest: sealed with a key that is not in the database, so that a copy of the file gives none of them away.

Sealed are what endpoints sign and authenticate with, their URLs (passwords and tokens are in them), the logins at panels
that are followed, and the key of the admins' tokens. The key comes from MARZHOOK_SECRET_KEY, or from a file beside a SQLite
database that the first start makes.
The row `vault` of `meta` is a known word under the key in use: it tells at once whether a key is the right one, and that
nothing in this database is plain any more.

Who reads or writes a sealed column asks `vault_of(conn)`: which vault it is belongs to the file, and nobody who calls the
store has a choice there, so it travels with the connection and not through every signature.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from marzhook.errors import DatabaseError
from marzhook.store import schema
from marzhook.store.driver import is_postgresql

log = logging.getLogger(__name__)

SEALED: Final = (
    "url", "secret", "signing_secret", "previous_signing_secret", "signing_key", "previous_signing_key", "template",
)  # fmt: skip
"""The columns of `endpoints` that are never written plain."""
SEALED_META: Final = ("token_key",)
SEALED_SOURCES: Final = ("url", "password", "token")
"""The columns of `sources` that are never written plain."""

OPTION: Final = "marzhook_vault"
"""The execution option under which each of a database's connections has its vault."""

_PREFIX = "v1:"  # what follows is base64 of a nonce and of what AES-256-GCM made of the text
_NONCE = 12
_CHECK, _WORD = "vault", "marzhook"

_endpoints, _meta = schema.endpoints, schema.meta
_TABLES = ((_endpoints, SEALED), (schema.sources, SEALED_SOURCES))


class Vault:
    """Seals and reveals the secrets of one database, once `unlock` has found the key to it."""

    def __init__(self, database: str, given: Sequence[str] = (), key_file: Path | None = None) -> None:
        """`database`: its name, for people; `given`: keys from the settings; `key_file`: None where many machines share it."""
        self.key_file = key_file
        self._database = database
        self._given = tuple(given)
        self._ciphers: tuple[AESGCM, ...] = ()
        """The first is the one in use; the others are known, and may have sealed what was written before."""

    def seal(self, text: str) -> str:
        return _sealed(self._ciphers[0], text)

    def reveal(self, stored: str) -> str:
        """The text that was sealed. One that was not (somebody wrote it by hand) is itself. Raises DatabaseError."""
        if not stored.startswith(_PREFIX):
            return stored
        for cipher in self._ciphers:
            text = _revealed(cipher, stored)
            if text is not None:
                return text
        raise DatabaseError(
            f"a secret in {self._database} was sealed with a key that this process does not know, or is damaged; start it"
            " anew, with the key that the service has, or restore a backup",
            code="secret_key_wrong",
        )

    # -- start

    def unlock(self, conn: sa.Connection) -> bool:
        """Find the key to this database; False: it has none yet (see `found`). Raises DatabaseError."""
        if self._ciphers:
            return True
        check = _meta_value(conn, _CHECK)
        if check is None:
            return False
        ciphers = [AESGCM(key) for key in self._keys()]
        # What is written has to be readable for the others who have this file open: the key in use stays in use until the
        # service rotates it.
        right = [cipher for cipher in ciphers if _revealed(cipher, check) == _WORD]
        if not right:
            raise self._locked_out(missing=not ciphers)
        self._ciphers = (right[0], *(cipher for cipher in ciphers if cipher is not right[0]))
        return True

    def found(self, conn: sa.Connection) -> bool:
        """Within a write transaction: give the database its key, make the secrets of its own that it lacks, and seal what an
        older Marzhook has left plain.

        False: another process was first. The key file is on the disk before anything refers to it, and a transaction that
        fails leaves all as it was. Raises DatabaseError.
        """
        if _meta_value(conn, _CHECK) is not None:
            return False
        keys = self._keys() or [_decoded(self._make_key_file())]
        cipher = AESGCM(keys[0])
        if not is_postgresql(conn):
            # Zeroes over what was plain: a freed cell would keep it. Nothing was ever plain on PostgreSQL.
            conn.exec_driver_sql("PRAGMA secure_delete=ON")
        _seal_all(conn, str, cipher)
        for key in SEALED_META:
            if _meta_value(conn, key) is None:
                conn.execute(sa.insert(_meta).values(key=key, value=_sealed(cipher, secrets.token_hex(32))))
        conn.execute(sa.insert(_meta).values(key=_CHECK, value=_sealed(cipher, _WORD)))
        return True

    def rotate(self, conn: sa.Connection) -> None:
        """Within a write transaction: seal all with the first key, where another one is in use. Only the service does it,
        as it starts: everybody who is started later has the same settings, and so both keys."""
        self.unlock(conn)
        check, keys = _meta_value(conn, _CHECK), self._keys()
        if not keys:
            raise self._locked_out(missing=True)
        cipher = AESGCM(keys[0])
        if check is None or _revealed(cipher, check) == _WORD:
            return
        _seal_all(conn, self.reveal, cipher)
        conn.execute(sa.update(_meta).where(_meta.c.key == _CHECK).values(value=_sealed(cipher, _WORD)))
        # The older ones stay known: should this transaction fail, all is under them as before.
        self._ciphers = (cipher, *self._ciphers)
        log.info("secrets are sealed with a new key; backups made before still need the old one")

    # -- keys

    def _keys(self) -> list[bytes]:
        """All that are known, the first one first: those of the settings, then the file's."""
        if self.key_file is None:
            return [_decoded(key) for key in self._given]
        try:
            with self.key_file.open(encoding="ascii") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    log.warning("%s can be read by others; type: chmod 600 %s", self.key_file, self.key_file)
                text = file.read(1000).strip()
        except FileNotFoundError:
            return [_decoded(key) for key in self._given]
        except OSError as error:
            raise DatabaseError(
                f"cannot read {self.key_file}: {error.strerror}; check its owner and permissions",
                code="secret_key_unreadable",
            ) from None
        except UnicodeDecodeError:
            text = ""
        if not is_key(text):
            raise DatabaseError(
                f"{self.key_file} holds no key; restore it from a backup", code="secret_key_unreadable"
            )  # fmt: skip
        return [_decoded(key) for key in (*self._given, text)]

    def _make_key_file(self) -> str:
        if self.key_file is None:
            raise DatabaseError(
                f"{self._database} needs MARZHOOK_SECRET_KEY, which encrypts the secrets in it and is the same for every"
                " process that opens it: make one with `openssl rand -base64 32`, and keep it apart from the backups",
                code="secret_key_missing",
            )
        # Whoever comes here holds the database's write lock, so nobody else makes one.
        key = base64.urlsafe_b64encode(os.urandom(32)).decode()
        unfinished = self.key_file.with_name(self.key_file.name + ".new")
        try:
            unfinished.unlink(missing_ok=True)  # of a start that was cut off, and useless: nothing refers to it
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(key + "\n")
                file.flush()
                os.fsync(fd)
            unfinished.replace(self.key_file)
            _sync_folder(self.key_file.parent)
        except OSError as error:
            raise DatabaseError(
                f"cannot write {self.key_file}: {error.strerror}; make its folder writable, or set MARZHOOK_SECRET_KEY"
            ) from None
        return key

    def _locked_out(self, *, missing: bool) -> DatabaseError:
        advice = "set MARZHOOK_SECRET_KEY to what it was (where it is lost for good: docs/reference.md, A lost key)"
        if self.key_file is not None:
            made = "(it was made together with the database and belongs to its backups)"
            advice = f"restore {self.key_file} {made}, or {advice}"
        if missing:
            text = f"the key to the secrets in {self._database} is missing: {advice}"
            return DatabaseError(text, code="secret_key_missing")
        tried = " or ".join(
            [
                *(["MARZHOOK_SECRET_KEY"] if self._given else []),
                *([str(self.key_file)] if self.key_file is not None and self.key_file.exists() else []),
            ]
        )
        text = f"the secrets in {self._database} were sealed with another key than that in {tried}: {advice}"
        return DatabaseError(f"{text}; nothing was changed", code="secret_key_wrong")


def vault_of(conn: sa.Connection) -> Vault:
    """The vault of the database that this connection goes to, unlocked. Raises DatabaseError."""
    vault: Vault = conn.get_execution_options()[OPTION]
    if not vault.unlock(conn):
        raise DatabaseError("this database was not upgraded yet: start the service, or run `marzhook check`")
    return vault


def is_key(text: str) -> bool:
    """Whether this is 32 bytes in base64, of either alphabet."""
    return re.fullmatch(r"[A-Za-z0-9+/_-]{43}=?", text) is not None


def _decoded(key: str) -> bytes:
    return base64.urlsafe_b64decode(key.replace("+", "-").replace("/", "_").rstrip("=") + "=")


def _sealed(cipher: AESGCM, text: str) -> str:
    nonce = os.urandom(_NONCE)
    return _PREFIX + base64.b64encode(nonce + cipher.encrypt(nonce, text.encode(), None)).decode()


def _revealed(cipher: AESGCM, stored: str) -> str | None:
    try:
        sealed = base64.b64decode(stored[len(_PREFIX) :], validate=True)
        return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], None).decode()
    except (InvalidTag, binascii.Error, ValueError):
        return None


def _seal_all(conn: sa.Connection, reveal: Callable[[str], str], cipher: AESGCM) -> None:
    """Also of endpoints that were deleted: their rows stay. The revision is not raised: what it is about is the same."""
    for table, names in _TABLES:
        # Of a database that is about to be upgraded, what there is.
        if not sa.inspect(conn).has_table(table.name):
            continue
        there = {column["name"] for column in sa.inspect(conn).get_columns(table.name)}
        sealed = [name for name in names if name in there]
        for row in conn.execute(sa.select(table.c.id, *(table.c[name] for name in sealed))).mappings().all():
            values = {name: _sealed(cipher, reveal(row[name])) for name in sealed if row[name] is not None}
            conn.execute(sa.update(table).where(table.c.id == row["id"]).values(values))
    for key in SEALED_META:
        value = _meta_value(conn, key)
        if value is not None:
            conn.execute(sa.update(_meta).where(_meta.c.key == key).values(value=_sealed(cipher, reveal(value))))


def _meta_value(conn: sa.Connection, key: str) -> str | None:
    value: str | None = conn.execute(sa.select(_meta.c.value).where(_meta.c.key == key)).scalar()
    return value


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
