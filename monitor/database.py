"""Opening a database: its transactions, migrations and locks, and what its errors mean."""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import orjson
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    QueuePool,
    Table,
    create_engine,
    event,
    exc,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from monitor.records import MonitorError

_BUSY_TIMEOUT_S: Final = 30.0
_ASK_AGAIN_S: Final = 0.01
# A server that went away without a word is noticed in half a minute, rather than after the kernel's hours.
_LIBPQ: Final = {
    "application_name": "sentiment-monitor",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
_EXPECTED: Final = "sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
_MIGRATING: Final = int.from_bytes(b"sm-schem")  # PostgreSQL's advisory locks are named by a number

_alembic: Final = threading.Lock()  # it keeps the migration that runs in a global


class StoreError(MonitorError):
    """The database refused; the message says which (its password masked), what failed and what to do."""


class StoreUnavailable(StoreError):
    """The database cannot be reached or is locked just now: worth trying again."""


class Database:
    """A database with these tables, created and migrated as needed; safe to share among threads.

    Raises:
        StoreUnavailable: from every method, where trying again may help.
        StoreError: from every method, where it will not.
    """

    def __init__(self, url: str) -> None:
        self._engine, self.shown_url = _engine(url)
        self._writing = self._engine.execution_options(begin="BEGIN IMMEDIATE")
        self._holder: Connection | None = None
        self._mutex = threading.Lock()
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        try:
            self._migrate()
        except BaseException:
            self._engine.dispose()
            raise

    @property
    def engine(self) -> Engine:
        """For a library with statements of its own, such as APScheduler; its errors are SQLAlchemy's."""
        return self._engine

    def close(self) -> None:
        """Disconnect, and give up the lock that is held."""
        with self._mutex:
            if self._holder is not None:
                self._holder.close()
                self._holder = None
        self._engine.dispose()

    @contextmanager
    def read(self, doing: str) -> Iterator[Connection]:
        """A transaction that only reads; `doing` completes "cannot ..." in an error's message."""
        with self.explained(doing), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self, doing: str) -> Iterator[Connection]:
        """A transaction that may write, committed as a whole at the end of the block, or not at all."""
        with self.explained(doing), self._writing.begin() as connection:
            yield connection

    def hold(self, lock: int) -> bool:
        """Take a lock among all that use this database, or make sure that it is still held; it is held until close.

        On PostgreSQL it lives as long as its connection. The call that finds it lost returns False, even if the next
        would have it again. A SQLite database serves one worker, which always has it.
        """
        if self.is_sqlite:
            return True
        with self._mutex, self.explained("take a lock"):
            if self._holder is not None:
                try:
                    self._holder.execute(select(1))
                except exc.DBAPIError:
                    self._holder.invalidate()
                    self._holder.close()
                    self._holder = None
                return self._holder is not None
            with ExitStack() as undo:
                connection = undo.enter_context(self._engine.connect())
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                if connection.scalar(select(func.pg_try_advisory_lock(lock))):
                    self._holder = connection
                    undo.pop_all()
            return self._holder is not None

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An insert that can say what is to happen on a conflict."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def upsert(
        self, table: Table, replaced: Iterable[str], where: ColumnElement[bool] | None = None
    ) -> sqlite.Insert | postgresql.Insert:
        """An insert that replaces these columns of a row that exists, if the row that exists is as `where` says."""
        insert = self.insert(table)
        return insert.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={name: insert.excluded[name] for name in replaced},
            where=where,
        )

    @contextmanager
    def explained(self, doing: str) -> Iterator[None]:
        """Turns SQLAlchemy's errors into ours."""
        try:
            yield
        except (exc.DBAPIError, exc.TimeoutError) as error:
            cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig else error
            kind, advice = _diagnosis(error, cause)
            reason = " ".join(str(cause).split())[:500]
            raise kind(f"database {self.shown_url}: cannot {doing}: {reason}; {advice}") from error

    def _migrate(self) -> None:
        """Run the migrations that are due. Workers that start together wait here for the first."""
        config = Config()
        config.set_main_option("script_location", "monitor:migrations")
        scripts = ScriptDirectory.from_config(config)
        known = {script.revision for script in scripts.walk_revisions()}
        with self.write("create or migrate its tables") as connection:
            if not self.is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))
            stored = set(MigrationContext.configure(connection).get_current_heads())
            if stored - known:
                raise StoreError(
                    f"database {self.shown_url}: its schema has the revision {', '.join(sorted(stored - known))}, "
                    f"this program knows none after {scripts.get_current_head()}: a newer version has migrated it; "
                    f"upgrade sentiment-monitor, or give another database"
                )
            if stored != set(scripts.get_heads()):
                config.attributes["connection"] = connection
                with _alembic:
                    command.upgrade(config, "head")


def _engine(url: str) -> tuple[Engine, str]:
    """An engine for the database behind `url`, and the URL as it may be shown."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError) as error:
        raise StoreError(f"database URL: not a URL; expected {_EXPECTED}") from error
    shown = parsed.difference_update_query(["password", "sslpassword"]).render_as_string()
    options: dict[str, Any] = {}
    try:
        if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
            timeout_s = float(str(parsed.query.get("timeout", _BUSY_TIMEOUT_S)))
            options["connect_args"] = {"timeout": timeout_s, "check_same_thread": False}
            if parsed.database in (None, "", ":memory:"):
                # The database is its connection: there is one, and the threads take turns with it.
                options |= {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0}
        elif parsed.drivername in ("postgresql", "postgresql+psycopg"):
            parsed = parsed.set(drivername="postgresql+psycopg")
            libpq = {name: value for name, value in _LIBPQ.items() if name not in parsed.query}
            options = {"connect_args": libpq, "pool_pre_ping": True}
        else:
            raise StoreError(f"database {shown}: {parsed.drivername} is not supported; expected {_EXPECTED}")
        engine = create_engine(parsed, hide_parameters=True, json_serializer=_json, **options)
    except ModuleNotFoundError as error:
        raise StoreError(
            f"database {shown}: {error}; install PostgreSQL's driver with pip install 'sentiment-monitor[postgres]'"
        ) from error
    except (exc.ArgumentError, ValueError) as error:
        raise StoreError(f"database {shown}: not usable; expected {_EXPECTED}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine, shown


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins every transaction, sqlite3 none
    _enter_wal(connection)  # where readers and the writer do not wait for each other
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch a database to its write-ahead log. SQLite does not wait where another connection is about to do the same
    or to write, as when workers start together on a new one: it is asked again for as long as it waits elsewhere."""
    [(timeout_ms,)] = connection.execute("PRAGMA busy_timeout")
    deadline_s = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline_s:
                raise
            time.sleep(_ASK_AGAIN_S)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that is to write takes the write lock at once, and waits for it if need be. One that reads first
    # and writes later would fail instead, if another had written in between.
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _diagnosis(error: exc.SQLAlchemyError, cause: BaseException) -> tuple[type[StoreError], str]:
    """Whether trying again may help, and what to do."""
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the primary one of an extended code
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreUnavailable, "another process keeps it locked: stop that one, or use PostgreSQL for several"
        if code == sqlite3.SQLITE_FULL:
            return StoreUnavailable, "make space on its disk"
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return StoreError, "check that its folder exists and that it may be written to"
        return StoreError, "check that the file is a database of this program and is not damaged"
    if isinstance(error, (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)):
        return StoreUnavailable, "check that the server runs, and that the URL names it and its user rightly"
    return StoreError, "check that the database is this program's own and was not changed by hand"
