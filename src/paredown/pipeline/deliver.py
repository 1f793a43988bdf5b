"""Make a package of an artifact, prove it in its engine, and put it in its place. No torch here.

Nothing is at the output before everything is proved; what was there before is kept beside it.
"""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from glob import escape
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from paredown.artifact.description import read_description
from paredown.deploy.beside import Served, prove_served
from paredown.deploy.card import handover, license_files, license_of, model_card
from paredown.deploy.files import service_files
from paredown.deploy.package import (
    MODEL,
    RECORD,
    PackageRecord,
    Previous,
    ServingSettings,
    read_record,
    version_of,
    write_documents,
    write_sums,
)
from paredown.deploy.proof import ANSWER_TOKENS, FILE, Proof
from paredown.deploy.serve import server_command
from paredown.deploy.sizing import Wishes, size
from paredown.errors import ConfigError
from paredown.hardware.detect import Machine
from paredown.methods import registry
from paredown.pipeline.bench import Bench, Clock
from paredown.pipeline.messages import DeployDone, DeployJob, ScoreJob
from paredown.runtimes.base import Engine, Package, require_read
from paredown.runtimes.registry import engine
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.packed import weights_bytes
from paredown.spec.progress import StageProgress
from paredown.spec.result import Measurement
from paredown.spec.scores import TaskScore
from paredown.spec.strategy import Strategy
from paredown.spec.units import human_bytes
from paredown.store.atomic import new_folder, write_json, write_text
from paredown.store.content import model_hash

_FOREVER_S = 365 * 86400.0
_PARTIAL = 1.2
"""Room for a package over the artifact's weights: grids become blocks of the engine."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be delivered.

    Attributes:
        artifact: model folder.
        out: where the package goes; a package that is there is kept as `NAME@VERSION`.
        name: under which it is served.
        largest_kl: from the artifact, nats per token, that the engine's arithmetic may cause.
        wishes: of how it is served.
    """

    artifact: Path
    out: Path
    name: str
    largest_kl: float
    wishes: Wishes


@dataclass(frozen=True)
class Delivered:
    """A package that was proved."""

    folder: Path
    record: PackageRecord
    settings: ServingSettings
    proof: Proof
    kept: Path | None
    """Where the package lies that was at the output before."""


def deliver(
    bench: Bench, order: Order, machine: Machine, scratch: Path, *, watch: StageProgress | None
) -> Delivered:
    """Export, prove, describe, and rename into place.

    Args:
        bench: names base, text, benchmarks, device and runtime.
        scratch: folder for what is needed meanwhile, such as the base in the engine's files.

    Raises:
        ConfigError: the request is wrong, or the engine does not hold the artifact.
        TrialFailed: the worker came to nothing, or the package is not the artifact.
        ServerError: its server does not start, dies, or answers nonsense.
    """
    runtime, spec = engine(bench.runtime), infer_spec(order.artifact)
    require_read(runtime, spec, bench.device, what=str(order.artifact))
    runtime.require_server(order.wishes.cache)
    _require_place(order.out)
    _require_disk(order, bench.base.spec, scratch)
    settings = partial(
        size,
        spec,
        wishes=order.wishes,
        machine=machine,
        name=order.name,
        context=bench.base.spec.context,
        runtime=bench.runtime,
        caches=runtime.caches,
    )
    settings(nbytes=weights_bytes(order.artifact))  # what cannot fit is told before the work
    clock = Clock(bench, scratch, _FOREVER_S, watch)
    with new_folder(order.out) as folder:
        done = clock.run(
            DeployJob(
                device=bench.device, runtime=bench.runtime,
                trust_remote_code=bench.trust_remote_code, artifact=order.artifact,
                out=folder / MODEL, base_out=scratch / "base", largest_kl=order.largest_kl,
                held_out=bench.held_out, config=bench.evaluate,
            )
        )  # fmt: skip
        scores = _scores(clock, bench, order.artifact)
        record = _record(bench, order, runtime, spec, done, folder / MODEL)
        sized = settings(nbytes=done.nbytes)
        served = _served(runtime, record, sized, done, folder, scratch, watch)
        proof = _proof(runtime, record, machine, done, scores, served)
        _write(folder, record, sized, proof, runtime, bench.base.folder)
        kept = _keep(order.out, record)
    return Delivered(order.out, record, sized, proof, kept)


def _require_place(out: Path) -> None:
    """See that a package may be put there.

    Raises:
        ConfigError: something else is there.
    """
    if out.exists() and not (out / RECORD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is no package; choose a new folder with -o")


def _require_disk(order: Order, base: ModelSpec, scratch: Path) -> None:
    needs = {
        order.out.parent: _PARTIAL * weights_bytes(order.artifact),
        scratch: 2.0 * base.parameters,  # in 16 bits, as every engine holds what is not compressed
    }
    by_disk: dict[int, list[Path]] = {}
    for place in needs:
        by_disk.setdefault(place.stat().st_dev, []).append(place)
    for places in by_disk.values():
        needed, free = sum(needs[place] for place in places), shutil.disk_usage(places[0]).free
        if needed > free:
            raise ConfigError(
                f"the disk of {places[0]} has {human_bytes(free)} left, and the package beside its "
                f"base needs {human_bytes(needed)}; free some space, or choose another -o"
            )


def _scores(clock: Clock, bench: Bench, artifact: Path) -> tuple[TaskScore, ...]:
    if not bench.evaluate.benchmarks:
        return ()
    done = clock.run(
        ScoreJob(
            device=bench.device, runtime=bench.runtime, trust_remote_code=bench.trust_remote_code,
            model=artifact, base=bench.base.folder, data_dir=bench.text.data_dir,
            config=bench.evaluate,
        )
    )  # fmt: skip
    return done.scores


def _record(
    bench: Bench, order: Order, runtime: Engine, spec: ModelSpec, done: DeployDone, model: Path
) -> PackageRecord:
    described, hashed = read_description(order.artifact), version_of(model)
    return PackageRecord(
        name=order.name, runtime=runtime.name, version=hashed, nbytes=done.nbytes,
        base=bench.base.name, base_hash=bench.base.hash,
        strategy="" if described is None else _label(described["strategy"]),
        artifact_hash=model_hash(order.artifact), context=bench.base.spec.context,
        license=license_of(bench.base.folder), libraries=_libraries(runtime),
        previous=_previous(order.out, hashed),
    )  # fmt: skip


def _label(strategy: Any) -> str:
    """A strategy as people read it: parameters at their default are left out."""
    return registry.label(Strategy.model_validate(strategy))


def _previous(out: Path, hashed: str) -> Previous | None:
    """The package that is at the output now, and where it will be when the new one is there.

    One of the same version is no step back: it is replaced, and what was before it stays so.
    """
    if not (out / RECORD).is_file():
        # Killed between the two renames, a delivery has moved it aside and put nothing there.
        aside = [p for p in out.parent.glob(f"{escape(out.name)}@*") if (p / RECORD).is_file()]
        if not aside:
            return None
        last = max(aside, key=lambda p: p.stat().st_ctime)
        return Previous(version=read_record(last).version, folder=f"../{last.name}")
    before = read_record(out)
    if before.version == hashed:
        return before.previous
    return Previous(version=before.version, folder=f"../{_kept_name(out, before.version)}")


def _kept_name(out: Path, hashed: str) -> str:
    return f"{out.name}@{hashed[:12]}"


def _keep(out: Path, record: PackageRecord) -> Path | None:
    """Move the package at the output aside, so that it can be gone back to."""
    if record.previous is None or not out.exists():
        return None
    if read_record(out).version == record.version:
        return None
    kept = out.parent / _kept_name(out, record.previous.version)
    if kept.exists():  # the same version was there before, byte for byte
        shutil.rmtree(kept)
    return out.rename(kept)


def _served(
    runtime: Engine,
    record: PackageRecord,
    settings: ServingSettings,
    done: DeployDone,
    folder: Path,
    scratch: Path,
    watch: StageProgress | None,
) -> Served:
    """What its server does, beside the base's; nothing of an engine without a server."""

    packages = [
        Package(runtime=runtime.name, folder=place, nbytes=nbytes)
        for place, nbytes in (
            (folder / MODEL, done.nbytes),
            (scratch / "base", done.base_nbytes),
        )
    ]

    def start(package: Package, host: str, port: int) -> tuple[str, ...] | None:
        return server_command(runtime, package, settings, host=host, port=port)

    if start(packages[0], settings.host, settings.port) is None:
        return Served(golden=done.golden, kl=None, pairs=(), peak_bytes=None)
    return prove_served(
        *(partial(start, package) for package in packages),
        name=settings.name, golden=done.golden, answer_tokens=ANSWER_TOKENS, scratch=scratch,
        progress=lambda share, message: None if watch is None else watch("serve", share, message),
    )  # fmt: skip


def _proof(
    runtime: Engine,
    record: PackageRecord,
    machine: Machine,
    done: DeployDone,
    scores: tuple[TaskScore, ...],
    served: Served,
) -> Proof:
    quality: tuple[Measurement, ...] = done.quality
    return Proof(
        runtime=runtime.name, engine=_libraries(runtime),
        machine=f"{machine.cpu or platform.machine()}, {machine.logical_cores} processors",
        measured_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), version=record.version,
        golden=served.golden, tokens=done.tokens, vocabulary=done.vocabulary,
        answer_tokens=ANSWER_TOKENS, quality=quality, exactness=done.exactness, scores=scores,
        served=served.pairs, served_kl=served.kl, energy=done.energy,
        peak_bytes=served.peak_bytes, notes=done.notes,
    )  # fmt: skip


def _write(
    folder: Path, record: PackageRecord, settings: ServingSettings, proof: Proof, runtime: Engine,
    base: Path,
) -> None:  # fmt: skip
    """All files beside the engine's own, the checksums last."""
    write_documents(folder, record, settings)
    write_json(folder / FILE, proof)
    write_text(folder / "README.md", model_card(record, proof))
    for file in license_files(base):
        shutil.copyfile(file, folder / file.name)
    if travelling := runtime.server_files():
        for place, file in travelling.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / place)
        files = service_files(record, settings, _requirements(runtime))
        for name, text in files.items():
            write_text(folder / name, text)
        write_text(folder / "HANDOVER.md", handover(record, settings, proof))
    write_sums(folder)


def _libraries(runtime: Engine) -> dict[str, str]:
    found = {}
    for name in ("paredown", *_distributions(runtime)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _distributions(runtime: Engine) -> list[str]:
    """The installed packages that bring the engine's module, and those of its server."""
    needs = runtime.needs
    if needs.module is None:
        return []
    known = packages_distributions()
    found = (name for module in (needs.module, *needs.server) for name in known.get(module, ()))
    return list(dict.fromkeys(found))


def _requirements(runtime: Engine) -> tuple[str, ...]:
    return tuple(f"{name}=={version(name)}" for name in _distributions(runtime))
