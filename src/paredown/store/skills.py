"""The skill memory: what each strategy of past experiments gave, in one SQLite file.

A row of evidence is one strategy in one experiment. What is called a skill is worked out from all
rows of a strategy in a family of models, so there is nothing to keep in step, and several
processes may write at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paredown.errors import ConfigError
from paredown.spec.reading import read_object
from paredown.spec.serial import SCHEMA_VERSION, canonical, content_hash, plain, readable
from paredown.spec.strategy import Strategy
from paredown.store.atomic import clear_disk_errors, write_text
from paredown.store.home import data_home

FILE = "skills.sqlite3"
APPLICATION = 0x70617265
"""In the file's header (`application_id`): "pare". SQLite files of others are refused."""
SCHEMA = 2
"""In the file's header (`user_version`)."""
BUSY_S = 30.0
"""Longest wait for another process that writes."""


class Evidence(BaseModel):
    """What one strategy gave in one experiment."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    experiment: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Hash of the experiment's request and its model's weights: who asks again adds nothing."""
    name: str = Field(max_length=200)
    """Of the experiment."""
    model: str = Field(max_length=200)
    """Last part of its name."""
    family: str = Field(min_length=1, max_length=60)
    parameters: int = Field(gt=0)
    device: str = Field(max_length=20)
    limits: dict[str, float] = {}
    """The limits that were asked for."""
    strategy: Strategy
    """Canonical."""
    worked: bool
    """On the final front, and within the limits."""
    failure: str | None = Field(default=None, max_length=40)
    """Kind of the failure, if the trial failed."""
    perplexity_ratio: float | None = Field(default=None, gt=0)
    """Over the baseline's."""
    compression_ratio: float | None = Field(default=None, gt=0)
    speedup: float | None = Field(default=None, gt=0)
    kept: dict[str, Annotated[float, Field(gt=0)]] = Field(default={}, max_length=200)
    """Share of the base's score that was kept, by benchmark; and `kl`, where the divergence on the
    text was measured: exp(-KL)."""
    n: int = Field(ge=0)
    """Independent samples behind the perplexity."""
    time: float
    """When it was recorded, seconds since 1970."""

    @property
    def key(self) -> str:
        """Identity: the same strategy in the same experiment."""
        return content_hash([self.experiment, self.strategy])

    @property
    def skill(self) -> str:
        """Short identity of the skill that this is evidence for."""
        return content_hash([self.family, self.strategy], length=8)


@final
@dataclass(frozen=True)
class SkillStore:
    """The file; made when something is first written.

    Attributes:
        path: of the file; `default_path()` unless the user has chosen another.
    """

    path: Path

    def evidence(self) -> tuple[Evidence, ...]:
        """All rows, oldest first; none where there is no file.

        Raises:
            ConfigError: the file is damaged, not a skill store, or of a newer version.
        """
        if not self.path.exists():
            return ()
        with self._open() as connection:
            rows = connection.execute("SELECT document FROM evidence ORDER BY rowid").fetchall()
        try:
            return tuple(Evidence.model_validate_json(row[0]) for row in rows)
        except ValidationError as error:
            raise self._damaged(str(error).splitlines()[0]) from None

    def add(self, evidence: Iterable[Evidence]) -> int:
        """Keep rows; one that is there already is replaced. Returns how many are new.

        Raises:
            ConfigError: as `evidence`; or the file cannot be written.
        """
        rows = [(e.key, e.skill, canonical(e)) for e in evidence]
        with clear_disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as connection:
            before = _count(connection)
            connection.executemany(
                "INSERT INTO evidence (key, skill, document) VALUES (?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET document = excluded.document",
                rows,
            )
            return _count(connection) - before

    def forget(self, skill: str | None) -> int:
        """Delete the evidence of a skill, or with None all of it. Returns how many rows."""
        if not self.path.exists():
            return 0
        with self._open() as connection:
            if skill is None:
                return connection.execute("DELETE FROM evidence").rowcount
            return connection.execute("DELETE FROM evidence WHERE skill = ?", (skill,)).rowcount

    def export(self, file: Path) -> int:
        """Write all evidence as JSON. Returns how many rows."""
        rows = self.evidence()
        write_text(file, readable({"schema_version": SCHEMA_VERSION, "evidence": plain(rows)}))
        return len(rows)

    def take(self, file: Path) -> int:
        """Add the evidence of an exported file. Returns how many rows are new.

        Raises:
            ConfigError: there is no such file, or it is no export; nothing was added.
        """
        document = read_object(file, mend="it is no export of skills")
        try:
            if document["schema_version"] > SCHEMA_VERSION:
                raise ConfigError(f"{file}: exported by a newer paredown; please upgrade")
            rows = [Evidence.model_validate(row) for row in document["evidence"]]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{file}: {where}: {first['msg']}; nothing was added") from None
        except (KeyError, TypeError):
            raise ConfigError(f"{file} is no export of skills") from None
        return self.add(rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection inside one transaction, which is undone if an error leaves it."""
        try:
            # isolation_level: transactions are begun and ended here, not by the library.
            connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise ConfigError(f"skills: cannot open {self.path}: {error}") from None
        try:
            # The write lock at once: of two that read first and write then, SQLite fails one
            # without waiting.
            connection.execute("BEGIN IMMEDIATE")
            self._require_ours(connection)
            yield connection
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise ConfigError(f"skills: {self.path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from None
        finally:
            connection.close()  # what was not committed is undone

    def _require_ours(self, connection: sqlite3.Connection) -> None:
        """Make the table in an empty file; refuse files of others and of newer versions."""
        if _pragma(connection, "user_version") > SCHEMA:
            raise ConfigError(f"skills: {self.path} was written by a newer paredown; upgrade")
        if _pragma(connection, "application_id") == APPLICATION:
            # An older file needs nothing else, because what it lacks has defaults; the mark keeps
            # versions that do not know the newer fields from reading them.
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
            return
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise ConfigError(f"skills: {self.path} is another program's; choose another --skills")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute(
            "CREATE TABLE evidence (key TEXT PRIMARY KEY, skill TEXT NOT NULL, "
            "document TEXT NOT NULL)"
        )

    def _damaged(self, detail: str) -> ConfigError:
        return ConfigError(
            f"skills: {self.path} is damaged ({detail}); move it away, name another with --skills, "
            "or do without: --no-skills"
        )


def default_path() -> Path:
    """In the user's data folder."""
    return data_home() / FILE


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM evidence").fetchone()[0])
