"""The schema's history: `versions/` holds one file a revision. Each names the one before it; numbers only tell them apart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

_HERE = Path(__file__).parent


def revisions() -> list[str]:
    """All revisions that this version knows, oldest first; the last one is its own."""
    before = dict(_links())
    found = [next(revision for revision, earlier in before.items() if earlier is None)]
    after = {earlier: revision for revision, earlier in before.items()}
    while (latest := after.get(found[-1])) is not None:
        found.append(latest)
    return found


def _links() -> Iterator[tuple[str, str | None]]:
    # Read and not imported: importing takes Alembic along, for longer than most commands run.
    for path in (_HERE / "versions").glob("[0-9]*.py"):
        found = re.search(r'^revision = "(\w+)"\ndown_revision = (?:"(\w+)"|None)$', path.read_text(), re.MULTILINE)
        assert found is not None, path.name
        yield found[1], found[2]


def upgrade(conn: sa.Connection, revision: str = "head") -> None:
    """Bring the database to a revision, the last one by default, within the connection's transaction."""
    # Imported where it is needed: it takes longer than most commands do.
    from alembic import command
    from alembic.config import Config

    config = Config()
    # `%` begins an interpolation in Alembic's configuration.
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.attributes["connection"] = conn
    command.upgrade(config, revision)
