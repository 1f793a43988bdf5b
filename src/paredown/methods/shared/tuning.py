"""What the methods that train have in common: their parameters, checks, sizes, and the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from paredown.errors import ConfigError
from paredown.methods.base import Context, Params, Training
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec, tensor_info
from paredown.spec.packed import float_dtype, linear_shapes
from paredown.spec.structure import is_expert, matches, uses_conv1d

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.spec.target import Device
    from paredown.train.recovery import Adapter, Teacher
    from paredown.train.training import Recipe

_MAMBA = frozenset({"mamba", "mamba2", "falcon_mamba", "falcon_h1"})
CHECKS = 4
"""How often the held-out loss is measured on the way."""
HELD_OUT_TOKENS = 4096
"""Tokens of held-out text; an eighth of the training text where that is less."""
FORWARD_TOKENS = {"cpu": 512, "cuda": 4096}
"""Tokens per forward pass; a step's passes add up."""


class TuningParams(Params):
    """Parameters of every training."""

    learning_rate: Annotated[float | None, Field(gt=0, le=1)] = None
    """Peak, after a warm-up and before a cosine down to 0. None: 2e-3 for adapters, 1e-4 for all
    weights."""
    tokens: Annotated[int, Field(ge=128)] = 32768
    """Tokens of training text; the held-out part comes on top."""
    epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over these tokens."""
    minutes: Annotated[float | None, Field(gt=0)] = None
    """End after so many minutes if the tokens last longer. The result then depends on how fast the
    machine is."""
    window: Annotated[int, Field(ge=16)] = 256
    """Tokens per window of text."""
    batch_tokens: Annotated[int, Field(ge=16)] = 512
    """Tokens per step of the optimiser."""
    text: str | None = None
    """Training text, a source or a file; None: the text on which the run calibrates."""
    recompute: bool = False
    """Compute activations twice instead of keeping them: less memory, a third more time."""
    seed: int = 0
    """Start of the adapter, order of the text, dropout."""

    def content(self, data_dir: Path | None) -> dict[str, str]:
        if self.text is None:
            return {}
        from paredown.text.texts import open_source

        return {"text": open_source(self.text, data_dir=data_dir).content("calibration")}


class AdapterParams(TuningParams):
    """Parameters of a LoRA adapter."""

    rank: Annotated[int, Field(ge=1), Choice(8, 32)] = 8
    """Inner width of the adapter: each layer gets rank x (inputs + outputs) weights."""
    alpha: Annotated[int, Field(ge=1)] = 16
    """The adapter's output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs that is dropped in training."""
    targets: tuple[str, ...] = ()
    """Layers with an adapter: names or wildcards, as in `["*.down_proj"]`; empty: all of the
    blocks. Experts of a mixture, and output projections of Mamba, get none."""


def check_tuning(
    spec: ModelSpec, params: TuningParams, name: str, *, trains_all: bool = True
) -> None:
    """Refuse models and texts that cannot be trained on.

    Args:
        trains_all: whether all weights are trained, or those of an adapter.

    Raises:
        ConfigError: experts where all weights are trained, no blocks, an adapter already, a format
            without gradient, a window longer than the model's context, no such text.
    """
    if spec.experts and trains_all:
        raise ConfigError(
            f"{spec.architecture}: {name} trains all weights, and does not train experts yet; use "
            "lora, which trains the layers between them"
        )
    if not linear_shapes(spec):
        raise ConfigError(
            f"{spec.architecture}: no layer of a transformer block with a known shape was found, "
            f"so {name} does not know what to train"
        )
    if spec.adapter:
        raise ConfigError(
            f"{name}: the model keeps an adapter already; train that one with more tokens instead"
        )
    if spec.quantization is not None:
        _check_format(spec, name)
    if spec.context is not None and params.window > spec.context:
        raise ConfigError(
            f"window = {params.window} is longer than the model's context of {spec.context}"
        )
    if params.text is not None:
        _check_text(params.text)


def _check_format(spec: ModelSpec, name: str) -> None:
    if uses_conv1d(spec):
        raise ConfigError(
            f"{spec.architecture}: {name} over packed Conv1D layers is not there yet; "
            f"put {name} before the quantization"
        )
    readable = {"weight_packed", "SCB", "weight.absmax"}
    layers = linear_shapes(spec)
    for layer in layers:
        dense = spec.by_name.get(f"{layer}.weight")
        # What an earlier step has left dense in a packed model can carry an adapter as it is.
        is_float = dense is not None and dense.dtype in {"F32", "F16", "BF16"}
        if not is_float and not any(f"{layer}.{leaf}" in spec.by_name for leaf in readable):
            raise ConfigError(
                f"{name} over {spec.quantization} weights stored like {layer!r} is not there yet; "
                f"put {name} before the quantization"
            )


def _check_text(name: str) -> None:
    from paredown.text.texts import check_calibration, open_source

    open_source(name)
    check_calibration(name, evaluation="")


def chosen_layers(spec: ModelSpec, params: AdapterParams) -> dict[str, tuple[int, int]]:
    """(rows, width) of every layer that gets an adapter.

    Raises:
        ConfigError: a pattern of `targets` matches no layer.
    """
    shapes = linear_shapes(spec)
    for pattern in params.targets:
        if not any(matches(name, pattern) for name in shapes):
            raise ConfigError(
                f"targets: {pattern!r} matches no layer; names look like {next(iter(shapes))!r}"
            )
    shapes = {n: s for n, s in shapes.items() if _carries(spec, n)}
    if not params.targets:
        return shapes
    chosen = {n: s for n, s in shapes.items() if any(matches(n, p) for p in params.targets)}
    if not chosen:
        raise ConfigError("targets: only layers are named that carry no adapter, such as experts")
    return chosen


def _carries(spec: ModelSpec, name: str) -> bool:
    """Whether a layer can carry an adapter: transformers keeps the experts of a block in one
    tensor, and Mamba's kernels take the output projection's weight past its module."""
    is_read = spec.text_type in _MAMBA and name.endswith(".out_proj")
    return not (is_expert(name) or is_read)


def check_adapter(spec: ModelSpec, params: AdapterParams, name: str) -> None:
    """`check_tuning`, and refuse ranks that are no less than a layer's width.

    Raises:
        ConfigError: as `check_tuning`; no layer for a pattern; the rank is too large.
    """
    check_tuning(spec, params, name, trains_all=False)
    # The layer with the shortest side is the first that a rank is too large for.
    layer, shape = min(chosen_layers(spec, params).items(), key=lambda item: min(item[1]))
    if params.rank > min(shape):
        raise ConfigError(
            f"rank = {params.rank}: layer {layer!r} has only {min(shape)} "
            f"{'outputs' if shape[0] < shape[1] else 'inputs'}; use rank <= {min(shape)}, "
            "or leave the layer out with `targets`"
        )


def predict_adapter(spec: ModelSpec, params: AdapterParams) -> ModelSpec:
    """The same spec where the adapter is merged; with the adapter's tensors where it is kept."""
    if spec.quantization is None:
        return spec
    dtype = float_dtype(spec)
    tensors = []
    for name, (rows, width) in chosen_layers(spec, params).items():
        for leaf, shape in (("lora_A", (params.rank, width)), ("lora_B", (rows, params.rank))):
            key = f"base_model.model.{name}.{leaf}.weight"
            tensors.append(tensor_info(key, dtype, shape))
    return spec.model_copy(update={"adapter": tuple(sorted(tensors, key=lambda t: t.name))})


def adapter_of(spec: ModelSpec, params: AdapterParams) -> Adapter:
    """What `paredown.train.recovery` puts on the model."""
    from paredown.train.recovery import Adapter

    return Adapter(
        layers=tuple(chosen_layers(spec, params)),
        rank=params.rank,
        alpha=params.alpha,
        dropout=params.dropout,
    )


def training_of(context: Context) -> Training:
    """The context's training text and teacher."""
    if context.training is None:
        raise AssertionError("a step that trains needs `training` in its context")
    return context.training


def _recipe(params: TuningParams, device: Device, *, trains_all: bool) -> Recipe:
    """How to train; `trains_all` weights take smaller steps than an adapter."""
    from paredown.train.training import Recipe

    return Recipe(
        learning_rate=params.learning_rate or (1e-4 if trains_all else 2e-3),
        batch=max(1, params.batch_tokens // params.window),
        forward=max(1, FORWARD_TOKENS[device] // params.window),
        epochs=params.epochs,
        minutes=params.minutes,
        checks=CHECKS,
        seed=params.seed,
    )


def train(
    source: Checkpoint,
    out: Path,
    params: TuningParams,
    context: Context,
    *,
    adapter: Adapter | None,
    teacher: Teacher | None,
) -> Tensor:
    """Train `source` and write the result to `out`; an earlier, killed run is continued.

    Returns:
        Logits of the result on the probe.

    Raises:
        DivergedError: training made the model no better.
        DataError: the text is too short.
    """
    from paredown.blocks.hessians import tensor_hash
    from paredown.store.content import code, model_hash
    from paredown.train.recovery import Recovery, recover
    from paredown.train.training import Resumable

    context.progress(0.0, "reading the text and loading the model")
    count = max(1, params.tokens // params.window)
    held = max(1, min(HELD_OUT_TOKENS, params.tokens // 8) // params.window)
    windows = training_of(context).windows(count + held, params.window, params.text)
    recipe = _recipe(params, context.device, trains_all=adapter is None)
    key = {
        **code(2),
        "model": context.source_hash,
        "tokens": tensor_hash(windows),  # the held-out ones too: they decide what is kept
        "device": context.device,
        "params": params,
        "teacher": None if teacher is None else model_hash(teacher.folder),
    }
    recovery = Recovery(
        source,
        adapter=adapter,
        teacher=teacher,
        held_out=windows[:held],
        recipe=recipe,
        recompute=params.recompute,
        device=context.device,
        trust_remote_code=context.trust_remote_code,
    )
    return recover(
        recovery,
        out,
        windows[held:],
        recipe,
        resumable=Resumable(context.cache, key),
        progress=lambda share, message: context.progress(0.05 + 0.9 * share, message),
    )
