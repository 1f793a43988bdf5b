"""What a runtime is: an engine that holds, opens, scores, times and serves an artifact. No torch.

A *runtime* makes claims: which options it holds, which layers it joins. They are asked while
planning, before anything is compressed. An *engine* is a runtime that is driven here as well: it
turns an artifact into a *package* (an artifact in its own files), and opens that as a *session*,
through which everything is measured.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, ClassVar

from paredown.errors import ConfigError, MissingExtraError
from paredown.spec.embeddings import packable_embeddings
from paredown.spec.layers import LayerOption, LayerUnit, dense_option, grid_option, option_bytes
from paredown.spec.model import ModelSpec
from paredown.spec.packed import weights_bytes
from paredown.spec.result import Evidence
from paredown.spec.scheme import GridKind
from paredown.spec.structure import layer_shape, matrix_shape
from paredown.spec.target import Device

if TYPE_CHECKING:
    from paredown.runtimes.session import Session

GROUPS = (16, 32, 64, 128, -1)
"""Group sizes that are offered to a search, where a runtime holds them and they divide."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """Whether a runtime holds something exactly, and how that is known."""

    holds: bool
    evidence: Evidence = "documented"
    why: str = ""
    """Why not; or, of an untested claim, what is untested."""
    mend: str = ""
    """What would do instead."""

    @staticmethod
    def refused(why: str, mend: str = "") -> Claim:
        """It does not hold it."""
        return Claim(holds=False, why=why, mend=mend)


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What an engine needs besides paredown itself."""

    module: str | None = None
    """Module that must be importable."""
    extra: str | None = None
    """Extra of paredown that installs it."""
    binary: str | None = None
    """Program that must be on the path."""
    server: tuple[str, ...] = ()
    """Modules that its server needs besides."""
    devices: tuple[Device, ...] = ("cpu", "cuda")
    """Where it runs."""
    probe: Callable[[], str | None] | None = None
    """Says what is missing, of an engine that is no module of this Python."""

    def missing(self) -> str | None:
        """What is not here, in words; None where all is."""
        if self.probe is not None:
            return self.probe()
        if self.module is not None and find_spec(self.module) is None:
            package = f"'paredown[{self.extra}]'" if self.extra else self.module
            mend = f"pip install {package}"
            return f"module {self.module!r} is not installed; {mend}"
        if self.binary is not None and which(self.binary) is None:
            return f"program {self.binary!r} is not on the path"
        return None


@dataclass(frozen=True, slots=True)
class Offer:
    """An option that a runtime holds for a unit, and what it takes."""

    option: LayerOption
    nbytes: int
    """Of all layers of the unit, scales and shapes included; exact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """An artifact in the files of a runtime."""

    runtime: str
    folder: Path
    nbytes: int
    """Of its weights files."""
    notes: tuple[str, ...] = ()
    """What a user should know of how it was written."""


SERVER = "server.py"
"""File that serves a package where there is no paredown."""
KEY_VARIABLE = "PAREDOWN_API_KEY"
"""Environment variable with the key that a server asks for: arguments of a process are public."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """How a package is served.

    Attributes:
        name: under which the model is listed; None: that of its folder.
        context: tokens of one request, prompt and answer together; None: all that the model takes.
        slots: requests that are worked on at once.
        queue: requests that may wait, further ones are refused; None: the server's default.
        threads: of the processor; None: as many as the process may use.
        cache: how keys and values are stored, in the engine's own words; None: its default.
    """

    name: str | None = None
    context: int | None = None
    slots: int = 1
    queue: int | None = None
    threads: int | None = None
    cache: str | None = None


class Runtime(ABC):
    """What an engine can hold. Stateless; subclasses are final.

    Class attributes:
        name: how users call it.
        summary: one line for listings.
        source: where its claims come from.
        needs: what must be here to run it.
        evidence: how it is known that it reads what it is said to hold.
        grids: kinds of integer grids that are offered to a search; others bring nothing there.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[Needs]
    evidence: ClassVar[Evidence] = "documented"
    grids: ClassVar[tuple[GridKind, ...]] = (GridKind.AFFINE,)

    @abstractmethod
    def holds(
        self, spec: ModelSpec, unit: LayerUnit, option: LayerOption, device: Device | None = None
    ) -> Claim:
        """Whether all layers of a unit can be stored as `option`, exactly.

        Args:
            spec: of the model before or after compression; layers are found by name.
            device: where it will run; None: anywhere that the engine runs.
        """

    def joins(self, spec: ModelSpec) -> tuple[LayerUnit, ...]:
        """The units of a model: block linears, embedding and head. Here: each stands alone."""
        return tuple(LayerUnit((name,)) for name in _layers(spec))

    def reads(self, spec: ModelSpec, device: Device | None = None) -> Claim:
        """Whether the engine loads a whole artifact, from what is stored of every layer.

        The spec may be predicted or read from a folder; nothing is loaded.
        """
        whole = self._whole(spec)
        if not whole.holds:
            return whole
        unsure = whole if whole.evidence == "untested" else None
        asked: set[tuple[LayerOption, tuple[str, ...]]] = set()
        for unit in self.joins(spec):
            options = {spec.options.get(name) for name in unit.layers}
            if options == {None}:
                continue
            if len(options) > 1:
                return self._split(spec, unit)
            option = next(o for o in options if o is not None)
            # A model has hundreds of units of a few kinds; what is asked depends on kind alone.
            kind = option, tuple(name.rpartition(".")[2] for name in unit.layers)
            if kind in asked:
                continue
            asked.add(kind)
            claim = self.holds(spec, unit, option, device)
            if not claim.holds:
                return self._with_nearest(claim, spec, unit, option, device)
        return unsure or Claim(holds=True, evidence=self.evidence)

    def options(
        self, spec: ModelSpec, device: Device | None = None
    ) -> dict[LayerUnit, tuple[Offer, ...]]:
        """What a search may choose from, for every unit of an uncompressed model, smallest first.

        As it is stored, and on every integer grid that the engine holds and whose groups divide
        the unit's layers.
        """
        found: dict[LayerUnit, tuple[Offer, ...]] = {}
        known: dict[tuple[object, ...], tuple[Offer, ...]] = {}
        for unit in self.joins(spec):
            shapes = [matrix_shape(spec, name) for name in unit.layers]
            # A model has hundreds of units of a few kinds, as in `reads`.
            kind = (*shapes, *(name.rpartition(".")[2] for name in unit.layers))
            if kind not in known:
                offers = [
                    Offer(option, sum(self.option_bytes(option, shape) for shape in shapes))
                    for option in self._candidates(spec, shapes)
                    if self.holds(spec, unit, option, device).holds
                ]
                known[kind] = tuple(sorted(offers, key=lambda offer: offer.nbytes))
            found[unit] = known[kind]
        return found

    def option_bytes(self, option: LayerOption, shape: tuple[int, int]) -> int:
        """Bytes that a (rows, inputs) matrix takes in the engine's files; exact."""
        return option_bytes(option, shape)

    def weights_bytes(self, spec: ModelSpec) -> int:
        """Bytes of all weights of a model in the engine's files, as far as the spec tells."""
        return spec.weight_bytes

    def nearest(
        self, spec: ModelSpec, unit: LayerUnit, option: LayerOption, device: Device | None = None
    ) -> LayerOption | None:
        """The grid most like `option` that the engine holds; None where it holds none.

        More bits come before fewer: what is offered instead should not cost quality.
        """
        grids = (
            grid_option(bits, group, symmetric=symmetric, scale_dtype=option.scale_dtype or "BF16")
            for bits in range(2, 9)
            for group in dict.fromkeys((option.group_size, *GROUPS))
            for symmetric in (True, False)
        )
        held = [grid for grid in grids if self.holds(spec, unit, grid, device).holds]
        return min(held, key=lambda grid: _distance(option, grid), default=None)

    def _whole(self, spec: ModelSpec) -> Claim:
        """What the engine says of the model apart from its layers' options."""
        return Claim(holds=True, evidence=self.evidence)

    def _candidates(self, spec: ModelSpec, shapes: list[tuple[int, int]]) -> list[LayerOption]:
        fits = [g for g in GROUPS if g < 0 or all(width % g == 0 for _, width in shapes)]
        return [
            dense_option(spec.dtype),
            *(
                grid_option(bits, group, symmetric=symmetric, scale_dtype=spec.dtype)
                for bits in range(2, 9)
                for group in fits
                for symmetric in (True, False)
            ),
        ]

    def _split(self, spec: ModelSpec, unit: LayerUnit) -> Claim:
        said = "; ".join(
            f"{name.rpartition('.')[2]}: {spec.options.get(name, 'as it is')}"
            for name in unit.layers[:3]
        )
        return Claim.refused(
            f"it joins {unit.name} and needs one option for all of them ({said})",
            "give them the same bits, or `skip` all of them",
        )

    def _with_nearest(
        self, claim: Claim, spec: ModelSpec, unit: LayerUnit, option: LayerOption,
        device: Device | None,
    ) -> Claim:  # fmt: skip
        if claim.mend:
            return claim
        near = self.nearest(spec, unit, option, device)
        if near is None:
            return replace(claim, mend="leave the layer out with `skip`")
        shapes = [shape for name in unit.layers if (shape := layer_shape(spec, name)) is not None]
        taken = sum(8 * self.option_bytes(near, shape) for shape in shapes)
        price = f" ({taken / sum(map(math.prod, shapes)):.3g} bits a weight)" if shapes else ""
        return replace(claim, mend=f"the nearest it holds: {near}{price}")


class Engine(Runtime):
    """A runtime that is driven here.

    Class attributes:
        own_files: whether it reads files of its own, which `export` writes; else the artifact's.
        kl_bound: mean KL from the artifact in float32, nats per token of random tokens (on which
            rounding shows most), that its arithmetic explains; what differs by more is another
            model.
        export_code: of `export`; goes up when it would write other files of the same artifact.
        caches: how its server may store keys and values, in its own words; the usual way first.
    """

    own_files: ClassVar[bool] = False
    export_code: ClassVar[int] = 1
    kl_bound: ClassVar[float] = math.inf
    caches: ClassVar[tuple[str, ...]] = ("f16",)

    @abstractmethod
    def export(self, artifact: Path, out: Path) -> Package:
        """Turn an artifact into the engine's files in the new folder `out`.

        They hold exactly the numbers that the artifact holds: never a second rounding. An engine
        that reads the artifact's own folder writes nothing, and its package is that folder.

        Raises:
            ConfigError: the engine does not hold what is stored; the nearest that would do.
        """

    def package(self, folder: Path) -> Package:
        """The package that lies in a folder.

        Raises:
            ModelError: there is none.
        """
        return Package(runtime=self.name, folder=folder, nbytes=weights_bytes(folder))

    def other_bytes(self, spec: ModelSpec) -> int:
        """Bytes of its own files besides the weights (tokenizer, names of tensors), at most.

        Asked of the uncompressed model in its folder; 0 where it is not told.
        """
        return 0

    def stored_kinds(self, package: Package) -> dict[str, int] | None:
        """Bytes of `weights`, `scales` and `embeddings` in the engine's own files.

        None where they are the artifact's.
        """
        return None

    @abstractmethod
    def open(self, folder: Path, *, device: Device, trust_remote_code: bool = False) -> Session:
        """Load a package, in this process or in one that the session knows.

        Raises:
            ModelError: files that are missing, damaged or not understood.
            MissingExtraError: what the engine needs is not installed.
        """

    def open_streamed(
        self, folder: Path, *, device: Device, trust_remote_code: bool = False
    ) -> Session | None:
        """A package that is judged without being loaded, in memory that does not grow with it.

        None: the engine cannot do that.

        Raises:
            ConfigError: not with what is stored in this one.
        """
        return None

    def server(
        self, package: Package, *, host: str, port: int, serving: Serving = Serving()
    ) -> tuple[str, ...] | None:
        """The command that serves a package behind OpenAI's API; None: it has no server.

        It asks for the key in `KEY_VARIABLE`, where there is one, answers what it was sent before
        a SIGTERM, and then ends.

        Raises:
            MissingExtraError: a module that the server needs is not installed.
        """
        return None

    def server_files(self) -> Mapping[str, Path]:
        """What serves a package without paredown and travels with it, by its place there.

        `SERVER` is run with what the engine needs. None of them: the package can only be served
        where paredown is installed.
        """
        return {}

    def require(self) -> None:
        """See that all is here that the engine needs.

        Raises:
            MissingExtraError: with the command that gets it.
        """
        needs = self.needs
        if needs.module is not None and needs.extra is not None and find_spec(needs.module) is None:
            raise MissingExtraError(f"runtime {self.name!r}", needs.module, needs.extra)
        if (missing := needs.missing()) is not None:
            raise ConfigError(f"runtime {self.name!r}: {missing}")

    def require_server(self, cache: str | None) -> None:
        """See that all is here that its server needs, and that it stores keys and values so.

        Raises:
            MissingExtraError: with the command that gets it.
            ConfigError: which caches there are.
        """
        self.require()
        for module in self.needs.server:
            if find_spec(module) is None:
                raise MissingExtraError(f"the server of {self.name!r}", module, "serve")
        if cache is not None and cache not in self.caches:
            raise ConfigError(
                f"cache {cache!r}: the server of {self.name} stores keys and values as "
                f"{', '.join(self.caches)}"
            )


def folder_package(runtime: Runtime, artifact: Path, spec: ModelSpec) -> Package:
    """The package of an engine that reads an artifact's own folder: nothing is written.

    Raises:
        ConfigError: the engine does not hold what is stored.
    """
    require_read(runtime, spec, what=str(artifact))
    return Package(runtime=runtime.name, folder=artifact, nbytes=weights_bytes(artifact))


def require_read(
    runtime: Runtime, spec: ModelSpec, device: Device | None = None, *, what: str
) -> None:
    """See that a runtime loads a model.

    Raises:
        ConfigError: why it does not, and what would do.
    """
    claim = runtime.reads(spec, device)
    if not claim.holds:
        mend = f"; {claim.mend}" if claim.mend else ""
        raise ConfigError(f"{what}: {runtime.name} cannot load it: {claim.why}{mend}")


def _layers(spec: ModelSpec) -> Iterable[str]:
    """Block linears, then embedding and head; packed ones included, dense ones as well."""
    dense = spec.structure.linears
    return dict.fromkeys((*dense, *spec.options, *packable_embeddings(spec)))


def _distance(wanted: LayerOption, grid: LayerOption) -> tuple[float, ...]:
    """Sorts grids by how much they differ from what was wanted."""
    # Fewer bits cost quality, so a bit less counts for more than several bits more.
    bits = grid.bits - wanted.bits
    step = bits if bits >= 0 else -4 * bits
    rows = 1 << 20  # a group per row, as a number of inputs that exceeds any group
    sizes = (s if s > 0 else rows for s in (wanted.group_size, grid.group_size))
    apart = abs(math.log2(next(sizes)) - math.log2(next(sizes)))
    return step + 0.5 * (grid.symmetric != wanted.symmetric), apart
