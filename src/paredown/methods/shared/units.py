"""What a plan chooses among: the units of a model, and what the target's runtime holds of each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from paredown.analysis.allocation import Allocation, Priced, best_within, interval, last_within
from paredown.errors import ConfigError
from paredown.methods.shared.groups import packed_tensors_of, predict_schemes
from paredown.runtimes import registry as runtimes
from paredown.runtimes.base import Engine, Offer
from paredown.spec.embeddings import copy_of_tied, packable_embeddings
from paredown.spec.filesize import frame_bytes, most_bytes, stored_bytes
from paredown.spec.layers import Format, LayerOption, LayerUnit, dense_option
from paredown.spec.model import ModelSpec
from paredown.spec.plan import PlanRecord, UnitPlan, scheme_word
from paredown.spec.scheme import GridKind, Scheme
from paredown.spec.structure import matches, matrix_shape, select_linears
from paredown.spec.units import human_bytes

BITS = (2, 3, 4, 5, 6, 8)
"""Widths that a plan may choose; 7 bits are never worth what they take."""
UNIFORM_BITS = (3, 4, 5, 6, 8)
"""Widths of the uniform plans that others are compared with."""
USUAL_BPW, USUAL_KL = 4.25, 0.15
"""Bits per weight where nothing is said, and about what they cost a small model."""
KL_PER_BIT = 3.6
"""By what the KL of the best plan falls with a bit per weight of the whole, as seen between 3 and
6 of them."""
_USUAL_GROUP = 64
"""Smaller groups and symmetric grids were seen to add nothing to a choice among these widths."""


@dataclass(frozen=True)
class UnitOptions:
    """A unit and what it may become.

    Attributes:
        unit: its layers.
        schemes: fewest bits first; None, as it is stored, comes last.
        nbytes: of each, in the files of the runtime: in an artifact's own, all stored tensors of
            the unit with their entries in the header.
        numel: weights of the unit.
        is_embedding: whether it is the embedding or the head.
    """

    unit: LayerUnit
    schemes: tuple[Scheme | None, ...]
    nbytes: tuple[int, ...]
    numel: int
    is_embedding: bool

    @property
    def rounded(self) -> tuple[Scheme, ...]:
        """The schemes among the options."""
        return tuple(scheme for scheme in self.schemes if scheme is not None)


@dataclass(frozen=True)
class Choices:
    """All units of a model that a plan decides about, embedding and head first.

    Attributes:
        fixed: bytes of everything that no plan changes, headers included.
        runtime: in whose files bytes are counted.
    """

    units: tuple[UnitOptions, ...]
    fixed: int
    runtime: str

    @property
    def interval(self) -> tuple[int, int]:
        """Bytes of the smallest and of the largest weights files that a plan can give."""
        least, most = interval(self.priced_flat())
        return self.fixed + least, self.fixed + most

    def priced_flat(self) -> list[list[Priced]]:
        """Options priced as if all weights were alike: what is known without any calibration."""
        return [
            [
                Priced(0.0 if s is None else float(u.numel) * 4.0**-s.bits, n)
                for s, n in zip(u.schemes, u.nbytes, strict=True)
            ]
            for u in self.units
        ]

    def within(self, priced: Sequence[Sequence[Priced]], budget: int) -> Allocation:
        """The best plan whose weights files take at most `budget` bytes.

        Raises:
            ConfigError: no plan is so small.
        """
        self.require(budget)
        return best_within(priced, budget - self.fixed)

    def require(self, budget: int) -> None:
        """See that a plan can be so small, and need not be larger.

        Raises:
            ConfigError: with the interval of sizes that can be had.
        """
        least, most = self.interval
        if least <= budget <= most:
            return
        which = "smaller than the smallest" if budget < least else "larger than the largest"
        raise ConfigError(
            f"{budget} bytes ({human_bytes(budget)}) are {which} plan: between {least} "
            f"({human_bytes(least)}) and {most} bytes ({human_bytes(most)}) of weights files can "
            "be had, scales, embedding and headers included"
        )

    def schemes(self, chosen: Sequence[int]) -> dict[str, Scheme]:
        """Scheme by layer name of an allocation; layers that stay as they are are left out."""
        picked = [u.schemes[i] for u, i in zip(self.units, chosen, strict=True)]
        return {
            name: scheme
            for u, scheme in zip(self.units, picked, strict=True)
            if scheme is not None
            for name in u.unit.layers
        }

    def nearest(self, kl: float, parameters: int) -> int:
        """A guess at the bytes of a plan with this KL, before anything was measured."""
        least, most = self.interval
        return min(most, max(least, int(usual_bits(kl) * parameters / 8)))

    def flat_plan(self, budget: int) -> dict[str, Scheme]:
        """A plan of about that size that nothing was measured for: what a prediction shows."""
        self.require(budget)
        found = last_within(self.priced_flat(), budget - self.fixed)
        assert found is not None  # the interval was asked
        return self.schemes(found.chosen)


def choices_of(spec: ModelSpec, runtime: str, skip: tuple[str, ...] = ()) -> Choices:
    """What a runtime holds of every unit of an uncompressed model.

    Args:
        skip: layers that stay as they are, by name or wildcard.

    Raises:
        ConfigError: nothing of the model can be rounded, or `skip` matches nothing.
    """
    key = ("choices", runtime, skip)
    if key not in spec.derived:
        spec.derived[key] = _choices_of(spec, runtime, skip)
    found: Choices = spec.derived[key]
    return found


def _choices_of(spec: ModelSpec, runtime: str, skip: tuple[str, ...]) -> Choices:
    embeddings = packable_embeddings(spec)
    spared = [name for name in embeddings if any(matches(name, p) for p in skip)]
    wanted = {*select_linears(spec, skip), *embeddings} - {*spared}
    own = _own_files(runtime)
    units, dense = [], 0
    # Hundreds of units of a few kinds, each of which has one tuple of offers.
    chosen: dict[int, tuple[Scheme, ...]] = {}
    options = runtimes.load(runtime).options(spec)
    for unit, offers in options.items():
        if not wanted.issuperset(unit.layers):
            continue
        if id(offers) not in chosen:
            chosen[id(offers)] = _chosen(offers, spec.dtype)
        schemes = chosen[id(offers)]
        if not schemes:
            continue
        every = (*schemes, None)
        shapes = [matrix_shape(spec, name) for name in unit.layers]
        nbytes = tuple(unit_bytes(spec, unit, scheme, own) for scheme in every)
        dense += nbytes[-1]
        units.append(
            UnitOptions(
                unit=unit,
                schemes=every,
                nbytes=nbytes,
                numel=sum(rows * width for rows, width in shapes),
                is_embedding=any(name in embeddings for name in unit.layers),
            )
        )
    if not units:
        raise ConfigError(
            f"mixed: {runtime} holds no integer grid of any layer of this {spec.architecture}"
        )
    units.sort(key=lambda u: not u.is_embedding)
    if own is not None:
        fixed = own.weights_bytes(spec) - dense + own.other_bytes(spec)
        return Choices(tuple(units), fixed, runtime)
    decided = {f"{name}.weight" for u in units for name in u.unit.layers}
    if (copy := copy_of_tied(spec)) and any(u.is_embedding for u in units):
        decided.add(f"{copy}.weight")
    digits = len(str(spec.weight_bytes))
    rest = sum(stored_bytes(t, digits) for t in spec.tensors if t.name not in decided)
    return Choices(tuple(units), rest + frame_bytes(spec.weight_bytes), runtime)


def _chosen(offers: Sequence[Offer], dtype: str) -> tuple[Scheme, ...]:
    """Of each width the grid that keeps most for its bytes, fewest bits first.

    An engine may store a grid in a type that holds a better one too: 4 bits with zero-points in
    that of 5 without. Such a grid is no option, nor is a width of which all grids are such. What
    an engine has of grids of its own joins them where it is worth its bytes.
    """
    stored = [o for o in offers if _is_grid(o.option, dtype)]
    grids = [o for o in stored if Scheme.of(o.option).kind is GridKind.AFFINE]
    found = []
    for bits in BITS:
        alike = [o for o in grids if o.option.bits == bits and not _is_beaten(o, grids)]
        if alike:
            found.append(min(alike, key=lambda o: _rank(Scheme.of(o.option))))
    own = [o for o in stored if o not in grids]
    found += [o for o in own if not _is_beaten(o, own)]
    kept = [Scheme.of(o.option) for o in found if not own or not _is_dominated(o, found)]
    return tuple(sorted(kept, key=lambda scheme: scheme.effective_bits))


def _is_grid(option: LayerOption, dtype: str) -> bool:
    """Whether it is an integer grid; those of one level have scales in the model's dtype."""
    is_plain = option.format is Format.GRID and option.scale_dtype == dtype
    return is_plain or option.format is Format.SUPERBLOCK


def _is_dominated(offer: Offer, others: Iterable[Offer]) -> bool:
    """Whether another grid that loses less, or as little, takes fewer bytes, or as many."""
    bits = Scheme.of(offer.option).effective_bits
    pairs = ((Scheme.of(o.option).effective_bits, o.nbytes) for o in others)
    return any(
        other >= bits and nbytes <= offer.nbytes and (other, nbytes) != (bits, offer.nbytes)
        for other, nbytes in pairs
    )


def _is_beaten(offer: Offer, others: Iterable[Offer]) -> bool:
    """Whether a grid of more bits, or one alike in finer groups, takes no more bytes."""
    own = offer.option
    return any(
        other.nbytes <= offer.nbytes
        and (
            other.option.bits > own.bits
            or (
                (other.option.bits, other.option.symmetric) == (own.bits, own.symmetric)
                and other.option.group_size > 0
                and (own.group_size < 0 or other.option.group_size < own.group_size)
            )
        )
        for other in others
    )


def _rank(scheme: Scheme) -> tuple[int, int, bool]:
    # Groups of 64; of others the nearest, finer before coarser; whole rows last.
    size = scheme.group_size if scheme.group_size > 0 else 1 << 20
    coarser = size > _USUAL_GROUP
    apart = size // _USUAL_GROUP if coarser else _USUAL_GROUP // size
    return coarser, apart, scheme.symmetric


def _own_files(runtime: str) -> Engine | None:
    """The engine, where it reads files of its own instead of the artifact's."""
    found = runtimes.load(runtime)
    return found if isinstance(found, Engine) and found.own_files else None


def unit_bytes(
    spec: ModelSpec, unit: LayerUnit, scheme: Scheme | None, engine: Engine | None = None
) -> int:
    """What is stored of a unit on a scheme, headers included; None: of the unit as it is.

    Args:
        engine: in whose own files; None: in the artifact's.
    """
    if engine is not None:
        option = dense_option(spec.dtype) if scheme is None else scheme.option(spec.dtype)
        return sum(engine.option_bytes(option, matrix_shape(spec, name)) for name in unit.layers)
    digits = len(str(spec.weight_bytes))
    copy = copy_of_tied(spec)
    total = 0
    for name in unit.layers:
        if scheme is not None:
            shape = matrix_shape(spec, name)
            stored = packed_tensors_of(name, shape, scheme, spec.dtype)
        else:
            stored = (spec.by_name[f"{name}.weight"],)
            if copy and name in packable_embeddings(spec):  # stored twice as long as it is dense
                stored += (spec.by_name[f"{copy}.weight"],)
        total += sum(stored_bytes(tensor, digits) for tensor in stored)
    return total


def usual_bits(kl: float) -> float:
    """Bits per weight at which the best plan usually has this KL: a guess, within a bit or so."""
    return USUAL_BPW + math.log(USUAL_KL / kl) / math.log(KL_PER_BIT)


def predict_plan(spec: ModelSpec, schemes: Mapping[str, Scheme]) -> ModelSpec:
    """The spec of a model whose layers have these schemes; itself where none has any."""
    return predict_schemes(spec, schemes) if schemes else spec


def plain_record(spec: ModelSpec, choices: Choices, schemes: Mapping[str, Scheme]) -> PlanRecord:
    """A plan as it is, without a forecast."""
    own = _own_files(choices.runtime)
    units = []
    for found in choices.units:
        scheme = schemes.get(found.unit.layers[0])
        nbytes = unit_bytes(spec, found.unit, scheme, own)
        units.append(UnitPlan(layers=found.unit.layers, option=scheme_word(scheme), nbytes=nbytes))
    made = predict_plan(spec, schemes)
    total = most_bytes(made) if own is None else own.weights_bytes(made) + own.other_bytes(spec)
    return PlanRecord(parameters=spec.parameters, nbytes=total, units=tuple(units))


def uniform_plans(choices: Choices) -> list[dict[str, Scheme]]:
    """For each width the plan in which all units have it, fewest bits first.

    The embedding has no fewer than 4 bits: it was never worth it. A unit that the runtime does not
    hold in a width has the next wider one; what comes out the same is told once.
    """
    made: list[dict[str, Scheme]] = []
    for bits in UNIFORM_BITS:
        plan: dict[str, Scheme] = {}
        for unit in choices.units:
            least = max(bits, 4) if unit.is_embedding else bits
            wide = [scheme for scheme in unit.rounded if scheme.bits >= least]
            if wide:
                plan |= dict.fromkeys(unit.unit.layers, wide[0])
        if plan and plan not in made:
            made.append(plan)
    return made
