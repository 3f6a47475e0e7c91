"""The versions of the database's schema, as Alembic scripts; `monitor.store` runs them when it opens a database."""
