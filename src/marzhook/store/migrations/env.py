"""Alembic runs on the connection that `Database.upgrade` brings, inside its transaction."""

from alembic import context

from marzhook.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most of a table in place: Alembic copies it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
