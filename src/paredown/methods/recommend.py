"""Which strategies to try first on a model, and why; from its spec and from what strategies did to
other models, without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

from pydantic import BaseModel, ConfigDict

from paredown.errors import ConfigError
from paredown.hardware.detect import Machine
from paredown.methods import registry
from paredown.methods.base import Kind
from paredown.methods.shared.groups import best_group_size
from paredown.methods.shared.knowledge import Known, known
from paredown.runtimes import registry as runtimes
from paredown.spec.model import ModelSpec
from paredown.spec.run import CalibrationConfig
from paredown.spec.sizes import memory_to_quantize
from paredown.spec.strategy import Step, Strategy, parse_strategy
from paredown.spec.target import Target
from paredown.spec.units import human_bytes

CAST = "bf16"
SMALL_MODEL = 1_000_000_000
"""Below so many parameters, 4 bits cost quality that a user notices."""
SAFE = 1.01
"""Perplexity over the base's, up to which a strategy counts as practically lossless."""
WORTH = 1.2
"""Perplexity over the base's on the small models that were measured, beyond which nothing is worth
trying: larger models lose less, but nobody wants to begin with a ruin."""
MIXTURE = "experts(ratio=0.25)"
"""What is worth trying on mixtures of experts alone."""
EIGHT = 8
LONGEST_LIST = 7
"""Suggestions: more of them would be no advice."""
MEASURED_GROUP = 64
"""Default group size, with which the known rows were measured; larger groups lose more."""


class Suggestion(BaseModel):
    """A strategy worth trying, most promising first in a list."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    strategy: str
    reason: str
    predicted_bytes: int
    """All tensors of the result, from the method's own prediction."""


def recommend(spec: ModelSpec, machine: Machine) -> list[Suggestion]:
    """Strategies that can work on this model and machine, the most promising first.

    Every one is known to the registry, has passed its own check, makes the model smaller, and
    fits into the machine's free memory while it runs. Empty for a model that is quantized already.
    """
    if spec.quantization is not None:
        return []
    target = Target(device="cuda" if machine.gpus else "cpu")
    found: list[Suggestion] = []
    for text, why in _candidates(spec, can_cast=CAST in registry.names()):
        predicted = _predicted(text, spec, machine, target)
        if predicted is not None and predicted < spec.weight_bytes:
            ratio = spec.weight_bytes / predicted
            size = f"predicted {human_bytes(predicted)}, {ratio:.1f}x smaller"
            found.append(
                Suggestion(strategy=text, reason=f"{size}; {why}", predicted_bytes=predicted)
            )
    return found[:LONGEST_LIST]


def _predicted(text: str, spec: ModelSpec, machine: Machine, target: Target) -> int | None:
    """Bytes of the result; None where it cannot be made of this model, or on this machine."""
    try:
        strategy = parse_strategy(text)
        if not _fits(strategy, spec, machine):
            return None
        made = registry.check(strategy, spec, target)
        return runtimes.load(target.runtime).weights_bytes(made)
    except ConfigError:  # it suits another model, or needs what is not installed
        return None


def calibration_tokens() -> int:
    """Tokens of calibration text that a method reads by default."""
    defaults = CalibrationConfig()
    return defaults.amount.wanted * defaults.length


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A strategy with what it did to the models that were measured.

    Attributes:
        text: with a group size that divides this model's layers.
        loss: perplexity over the base's, the median over models.
        why: in words.
    """

    text: str
    strategy: Strategy
    loss: float
    why: str


def _candidates(spec: ModelSpec, *, can_cast: bool) -> Iterator[tuple[str, str]]:
    """Strategies in the order in which they are worth trying, each with its reason.

    A model stored in 32 bits is cast first, so that what is not quantized shrinks as well. A small
    model begins with what is safe, a large one with 4 bits, of which it hardly notices.
    """
    first = ""
    if can_cast and spec.dtype in {"F32", "F64"}:
        yield CAST, "16 bits a weight at practically the same quality"
        first = f"{CAST} > "
    rows = list(_worth_trying(spec))
    alone = [row for row in rows if len(row.strategy.steps) == 1]
    safe = [row for row in alone if row.loss <= SAFE]
    # What reads no text takes seconds where the other takes minutes, for the same result.
    safe.sort(key=lambda row: (registry.reads_data(row.strategy), row.loss))
    lossy = sorted((row for row in alone if row.loss > SAFE), key=lambda row: row.loss)
    few = [row for row in lossy if _bits(row) < EIGHT]
    eight = [row for row in lossy if _bits(row) >= EIGHT]
    several = sorted((row for row in rows if row not in alone), key=lambda row: row.loss)
    begin = (safe[:1], few) if spec.parameters < SMALL_MODEL else (few, safe[:1])
    yield from _best_of_each((*begin[0], *begin[1], *eight), first)
    if spec.experts:  # behind what was measured on other models: none of those is a mixture
        yield first + MIXTURE, "a quarter of the experts of every block goes; not measured here"
    yield from _best_of_each(several, first)


def _best_of_each(rows: Iterable[_Candidate], first: str) -> Iterator[tuple[str, str]]:
    """The first row of each kind; variants of it are the search's. `first` comes before each."""
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        methods = tuple(step.method for step in row.strategy.steps)
        bits = str(row.strategy.steps[-1].params.get("bits", ""))
        if (*methods, bits) not in seen:
            seen.add((*methods, bits))
            yield first + row.text, row.why


def _bits(row: _Candidate) -> int:
    """Of a weight; methods without the parameter have one format, of 8 bits."""
    return int(row.strategy.steps[-1].params.get("bits", EIGHT))


def _worth_trying(spec: ModelSpec) -> Iterator[_Candidate]:
    """What is known and lost little, written for this model."""
    measured: dict[str, list[Known]] = {}
    for row in known():
        measured.setdefault(row.strategy, []).append(row)
    for text, rows in measured.items():
        loss = median(row.quality for row in rows)
        if loss > WORTH:
            continue
        try:
            strategy = parse_strategy(text)
            kinds = [method.kind for method, _ in registry.resolve(strategy)]
        except ConfigError:  # a method that this version, or this machine, does not have
            continue
        # Training alone was measured on the kind of text that it trained on: no prediction.
        named = {name for step in strategy.steps for name in step.params}
        if set(kinds) == {Kind.TUNING} or named & {"plan", "embedding_bits"}:
            continue
        models = ", ".join(dict.fromkeys(row.model for row in rows))
        why = f"perplexity {100 * (loss - 1):+.1f} % on {models}"
        here, grid = _with_groups(strategy, spec)
        yield _Candidate(text=str(here), strategy=here, loss=loss, why=f"{why}{grid}")


def _with_groups(strategy: Strategy, spec: ModelSpec) -> tuple[Strategy, str]:
    """The strategy with groups that divide this model's layers, and what is to be said of them."""
    last = strategy.steps[-1]
    if "group_size" not in registry.load(last.method).params_type.model_fields:
        return strategy, ""
    best = best_group_size(spec)
    if best < 0:
        group, said = -1, "; no usual group size divides every layer, so one scale per row"
    else:
        group = min(best, int(last.params.get("group_size", MEASURED_GROUP)))
        said = f"; groups of {group} divide every layer"
    step = Step(method=last.method, params={**last.params, "group_size": group})
    return Strategy(steps=(*strategy.steps[:-1], step)), said


def _fits(strategy: Strategy, spec: ModelSpec, machine: Machine) -> bool:
    """Whether the methods of a strategy that collect Hessians fit into free memory."""
    if not registry.reads_data(strategy):
        return True
    needed = memory_to_quantize(spec, calibration_tokens())
    return needed is None or needed <= machine.available_bytes
