"""Mixed precision: every matrix gets the bits that pay most for their bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, final

from pydantic import BeforeValidator, Field, field_validator, model_validator

from paredown.errors import ConfigError
from paredown.methods.base import Context, Kind, Method, Params
from paredown.methods.shared.groups import check_experts, check_widths, solved_bytes
from paredown.methods.shared.units import USUAL_BPW, Choices, choices_of, predict_plan
from paredown.spec.domain import Choice
from paredown.spec.embeddings import packable_embeddings
from paredown.spec.model import ModelSpec
from paredown.spec.plan import layers_of_document, read_word
from paredown.spec.reading import read_object
from paredown.spec.scheme import Scheme
from paredown.spec.structure import matches, uses_conv1d
from paredown.spec.target import Target
from paredown.spec.units import read_bytes_text

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.store.cache import Cache

SEARCHED_BPW = (USUAL_BPW, 5.25, 3.6, 4.7, 6.3, 3.2, 3.9, 5.8)
"""Where no size is asked for: along the curve from nearly ruined to nearly nothing lost."""
KEPT_SCHEMES = 4
"""Schemes of each layer whose codes the cache is reckoned to hold at once."""


def _plan(value: Any) -> Any:
    """A plan by the path of its file, or of an artifact that has one, is what stands in it.

    A path is no content: the same file may say something else tomorrow.
    """
    if isinstance(value, str):
        path = Path(value).expanduser()
        file = path / "paredown.json" if path.is_dir() else path
        document = read_object(file)
        value = document.get("plan", document)
    if isinstance(value, dict) and "units" in value:
        return layers_of_document(value)
    return value


class MixedParams(Params):
    """Parameters of `mixed`."""

    bpw: Annotated[float | None, Field(gt=0, le=32), Choice(*SEARCHED_BPW)] = None
    """Bits per weight of the whole: all bytes of the weights files, scales and embedding included,
    over the parameters. 4.25 where neither `size`, `kl` nor `plan` is given."""
    size: Annotated[Annotated[int, Field(gt=0)] | None, BeforeValidator(read_bytes_text)] = None
    """Bytes of the weights files, at most, or a text such as `4.2GB`; in the files that the
    runtime reads."""
    kl: Annotated[float | None, Field(gt=0)] = None
    """Nats per token that may be lost against the model as it was: the smallest plan that is
    forecast to lose no more."""
    plan: Annotated[dict[str, str], BeforeValidator(_plan)] = Field(default_factory=dict)
    """The option of each layer, by name or wildcard: bits, `a` (zero-points) or `s` (symmetric),
    and the group size, as in `{"*": "4a64", "*.v_proj": "6a64"}`; `4k` is a two-level grid of
    llama.cpp, `4a32r` one with short scales; 16 leaves a layer as it is. The last pattern that
    matches decides. Or the path of a plan, or of an artifact that has one."""
    runtime: str = "torch"
    """Engine whose formats, and whose joined layers, the plan is made of."""
    tokens: Annotated[int, Field(ge=32)] = 4096
    """Calibration tokens whose gradients say what each layer is worth."""
    tune: Annotated[int | None, Field(ge=512)] = None
    """Tokens of text on which scales and norm gains are tuned afterwards against the outputs of the
    model as it was, at fixed codes: no byte is added. Kept only where the KL on windows that
    nothing was fitted to falls. Both models are in memory meanwhile; None: nothing is tuned."""
    skip: tuple[str, ...] = ()
    """Layers left as they are: names or wildcards, as in `["*.down_proj"]`."""

    @model_validator(mode="before")
    @classmethod
    def _one_request(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        given = [name for name in ("bpw", "size", "kl", "plan") if fields.get(name)]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]}: give one of them")
        return fields if given else fields | {"bpw": USUAL_BPW}

    @field_validator("plan")
    @classmethod
    def _known_words(cls, value: dict[str, str]) -> dict[str, str]:
        for word in value.values():
            read_word(word)
        return value

    def budget(self, spec: ModelSpec, choices: Choices) -> int:
        """Bytes of the weights files, at most, of a plan that is to be found; for a KL, a guess."""
        if self.size is not None:
            return self.size
        if self.kl is not None:
            return choices.nearest(self.kl, spec.parameters)
        return int((self.bpw or USUAL_BPW) * spec.parameters / 8)


@final
class Mixed(Method[MixedParams]):
    """Bits chosen matrix by matrix, by a second-order forecast of the KL; codes by `gptq`.

    What each matrix costs at each width is the change of its outputs, weighted by how much the
    model's own predictions depend on them (the diagonal of Fisher, labels drawn from the model).
    Embedding and head are judged by the KL that is measured when they alone are rounded. Three
    plans near the budget are measured to bring both to one scale; an integer solver takes the
    best plan within the budget. Nothing is stored but what any packed model has.
    """

    name = "mixed"
    kind = Kind.QUANTIZATION
    summary = "bits chosen matrix by matrix for a size, on calibration text; codes by gptq"
    params_type = MixedParams
    needs_data = True

    def check(self, spec: ModelSpec, params: MixedParams, target: Target) -> None:
        if params.runtime != target.runtime:
            raise ConfigError(
                f"mixed: the plan would be made of what {params.runtime} holds, but the model is "
                f'for {target.runtime}; write mixed(runtime="{target.runtime}")'
            )
        check_experts(spec)
        choices = choices_of(spec, params.runtime, params.skip)
        if params.tune is not None:
            check_tunable(spec)
        if params.plan:
            planned(spec, params)
            return
        choices.require(params.budget(spec, choices))

    def knows_bytes(self, params: MixedParams) -> bool:
        # Which plan is best within a budget is known once layers were measured.
        return bool(params.plan)

    def predict(self, spec: ModelSpec, params: MixedParams) -> ModelSpec:
        if params.plan:
            return predict_plan(spec, planned(spec, params))
        choices = choices_of(spec, params.runtime, params.skip)
        return predict_plan(spec, choices.flat_plan(params.budget(spec, choices)))

    def disk(self, spec: ModelSpec, params: MixedParams, cache: Cache) -> tuple[int, int]:
        untuned = 0 if params.tune is None else self.predict(spec, params).weight_bytes
        return untuned, KEPT_SCHEMES * solved_bytes(spec, cache)

    def apply(self, source: Checkpoint, out: Path, params: MixedParams, context: Context) -> Tensor:
        if params.tune is None:
            return self._write(source, out, params, context)
        from paredown.methods.shared.tuned_plan import tuned

        untuned = context.scratch / "untuned"
        untuned.mkdir(parents=True)
        # Of the progress, what plans take; tuning takes as long as the rest on a small model.
        halved = replace(context, progress=lambda s, m: context.progress(0.5 * s, m))
        logits = self._write(source, untuned, params, halved)
        return tuned(source, untuned, logits, out, params.tune, context)

    def _write(
        self, source: Checkpoint, out: Path, params: MixedParams, context: Context
    ) -> Tensor:
        from paredown.methods.shared.frontier import Frontier
        from paredown.methods.shared.plan_bank import PlanBank

        choices = choices_of(source.spec, params.runtime, params.skip)
        if params.plan:
            schemes = planned(source.spec, params)
            head = any(name in schemes for name in packable_embeddings(source.spec))
            return PlanBank(source, choices, context, head=head).write(out, schemes, None)
        frontier = Frontier(source, choices, context, tokens=params.tokens)
        if params.kl is not None:
            found = frontier.smallest(params.kl)
        else:
            found = frontier.best(params.budget(source.spec, choices))
        return frontier.bank.write(out, found.schemes, found.record)


def check_tunable(spec: ModelSpec) -> None:
    """Refuse models whose scales cannot be tuned.

    Raises:
        ConfigError: experts, or layers that are no linear ones.
    """
    if spec.experts or uses_conv1d(spec):
        what = "experts" if spec.experts else "Conv1D layers"
        raise ConfigError(
            f"mixed: tune: scales of {what} are not tuned yet ({spec.architecture}); leave it out"
        )


def planned(spec: ModelSpec, params: MixedParams) -> dict[str, Scheme]:
    """Scheme by layer name of a plan that was given, without the layers that `skip` names.

    Raises:
        ConfigError: a pattern that matches no layer, groups that do not divide one, or a plan that
            leaves all layers as they are.
    """
    choices: Choices = choices_of(spec, params.runtime, params.skip)
    names = [name for u in choices.units for name in u.unit.layers]
    every = dict.fromkeys((*names, *spec.structure.linears, *packable_embeddings(spec)))
    found: dict[str, Scheme | None] = {}
    for pattern, word in params.plan.items():
        named = [name for name in every if matches(name, pattern)]
        if not named:
            raise ConfigError(f"plan: {pattern!r} matches no layer; names look like {names[-1]!r}")
        found |= dict.fromkeys(named, read_word(word))
    schemes = {name: s for name in names if (s := found.get(name)) is not None}
    if not schemes:
        raise ConfigError("plan: it leaves all layers as they are")
    check_widths(spec, schemes)
    return schemes
