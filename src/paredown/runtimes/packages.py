"""Model folders in the files of their engine: exported once, kept by content, opened.

Everything is measured through `open_model`: an engine that reads an artifact's own folder opens
that, another one its package in the cache. A package is the same whoever asks for it, so a second
measurement of an artifact, and every measurement of a base, finds it there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from paredown.runtimes.base import Engine, Package
from paredown.runtimes.room import has_room
from paredown.runtimes.session import Session
from paredown.spec.target import Device, Stream
from paredown.store.cache import Cache
from paredown.store.content import code, model_hash

_KIND = "packages"


def package_of(engine: Engine, folder: Path) -> Package:
    """The package of a model folder, exported if it is not there yet.

    Raises:
        ConfigError: the engine does not hold what is stored; the nearest that would do.
    """
    if not engine.own_files:
        return engine.export(folder, folder)
    key = {**code(engine.export_code), "runtime": engine.name, "model": model_hash(folder)}
    cache = Cache.default()
    kept = cache.get(_KIND, key, "")
    if kept is None:
        # In the cache's own file system, so that adopting it is a rename.
        cache.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".package-", dir=cache.folder) as scratch:
            made = engine.export(folder, Path(scratch) / "package")
            kept = cache.adopt(_KIND, key, made.folder)
    return engine.package(kept)


def open_model(
    engine: Engine,
    folder: Path,
    *,
    device: Device,
    trust_remote_code: bool = False,
    stream: Stream = "never",
) -> Session:
    """A model folder, opened in an engine; errors as of `package_of` and `Engine.open`.

    Args:
        stream: whether it may be opened to be judged only, without being loaded.
    """
    package = package_of(engine, folder)
    session = None
    if stream == "always" or (stream == "auto" and not has_room(package.nbytes, device)):
        session = engine.open_streamed(
            package.folder, device=device, trust_remote_code=trust_remote_code
        )
    if session is None:
        session = engine.open(package.folder, device=device, trust_remote_code=trust_remote_code)
    session.notes = (*package.notes, *session.notes)
    return session
