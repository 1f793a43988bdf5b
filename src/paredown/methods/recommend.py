"""Which strategies to try first on a model, and why; from its spec alone, without torch."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from paredown.errors import ConfigError
from paredown.hardware.detect import Machine
from paredown.methods import registry
from paredown.methods.shared.groups import best_group_size
from paredown.spec.model import ModelSpec
from paredown.spec.run import CalibrationConfig
from paredown.spec.sizes import memory_to_quantize
from paredown.spec.strategy import Strategy, parse_strategy
from paredown.spec.target import Target
from paredown.spec.units import human_bytes

CAST = "bf16"
SMALL_MODEL = 1_000_000_000
"""Below so many parameters, 4 bits cost quality that a user notices."""


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
    known = registry.names()
    found: list[Suggestion] = []
    for text, why in _candidates(spec, can_cast=CAST in known):
        strategy = parse_strategy(text)
        is_known = all(step.method in known for step in strategy.steps)
        if not is_known or not _fits(strategy, spec, machine):
            continue
        try:
            predicted = registry.check(strategy, spec, target).weight_bytes
        except ConfigError:
            continue
        if predicted < spec.weight_bytes:
            ratio = spec.weight_bytes / predicted
            size = f"predicted {human_bytes(predicted)}, {ratio:.1f}x smaller"
            found.append(
                Suggestion(strategy=text, reason=f"{size}; {why}", predicted_bytes=predicted)
            )
    return found


def calibration_tokens() -> int:
    """Tokens of calibration text that a method reads by default."""
    defaults = CalibrationConfig()
    return defaults.amount.wanted * defaults.length


def _candidates(spec: ModelSpec, *, can_cast: bool) -> Iterator[tuple[str, str]]:
    """Strategies in the order in which they are worth trying, each with its reason.

    A model stored in 32 bits is cast first, so that what is not quantized shrinks as well.
    """
    group = best_group_size(spec)
    grid = f"group_size={group}"
    even = (
        f"groups of {group} divide every layer"
        if group > 0
        else "no usual group size divides every layer, so one scale per row"
    )
    first = ""
    if can_cast and spec.dtype in {"F32", "F64"}:
        yield CAST, "16 bits a weight at practically the same quality"
        first = f"{CAST} > "
    four = f"{first}gptq(bits=4, {grid})", f"the best 4 bits, fitted to calibration text; {even}"
    eight = f"{first}rtn(bits=8, {grid})", f"close to lossless and needs no data; {even}"
    if spec.parameters < SMALL_MODEL:
        yield eight
        yield four[0], f"{four[1]}; below 1B parameters compare its quality with 8 bits"
    else:
        yield four
        yield eight
    yield f"{first}int8", "8 bits in the format of bitsandbytes, which plain transformers loads"
    yield f"{first}rtn(bits=4, {grid})", "a quick look at 4 bits, no data; gptq is usually better"
    yield (
        f"{first}l2_structured(ratio=0.2)",
        "every fifth MLP neuron removed, less work in any runtime; costs more quality than 8 bits",
    )
    yield (
        f"{first}l2_structured(ratio=0.2) > gptq(bits=4, {grid})",
        "the smallest of these, for when memory decides",
    )


def _fits(strategy: Strategy, spec: ModelSpec, machine: Machine) -> bool:
    """Whether the methods of a strategy that collect Hessians fit into free memory."""
    if not registry.reads_data(strategy):
        return True
    needed = memory_to_quantize(spec, calibration_tokens())
    return needed is None or needed <= machine.available_bytes
