"""What Alembic runs to migrate: the scripts that are due, over the connection and in the transaction it is handed."""

from alembic import context

from monitor.schema import METADATA

# SQLite changes a table by copying it (`render_as_batch`), PostgreSQL in place; one script serves both.
context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)
context.run_migrations()
