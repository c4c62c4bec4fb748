"""The schema's history: `versions/` holds one file a revision, numbered."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

_HERE = Path(__file__).parent


def revisions() -> list[str]:
    """All revisions that this version knows, oldest first; the last one is its own."""
    return sorted(path.name.split("_")[0] for path in (_HERE / "versions").glob("[0-9]*.py"))


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
