"""LLM.int8: bitsandbytes' eight-bit weights with outlier columns kept in 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.errors import ConfigError
from paredown.methods.base import Context, Kind, Method, Params
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.structure import select_linears
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.models.checkpoint import Checkpoint


class Int8Params(Params):
    """Parameters of `int8`."""

    threshold: Annotated[float, Field(ge=0)] = 6.0
    """Activations larger than this keep their column in 16 bits while computing."""
    skip: tuple[str, ...] = ()
    """Layers left as they are: names or wildcards, as in `["*.down_proj"]`."""


@final
class Int8(Method[Int8Params]):
    """Eight-bit weights per row, arXiv:2208.07339, by bitsandbytes."""

    name = "int8"
    kind = Kind.QUANTIZATION
    summary = "LLM.int8 by bitsandbytes; no data needed"
    params_type = Int8Params
    extra = ("bitsandbytes", "int8")

    def check(self, spec: ModelSpec, params: Int8Params, target: Target) -> None:
        if spec.experts:
            raise ConfigError(f"{spec.architecture}: int8 does not handle experts yet")
        if not select_linears(spec, params.skip):
            raise ConfigError("there is no layer to quantize: `skip` leaves out all of them")

    def predict(self, spec: ModelSpec, params: Int8Params) -> ModelSpec:
        chosen = set(select_linears(spec, params.skip))
        tensors: list[TensorInfo] = []
        for tensor in spec.tensors:
            name, _, leaf = tensor.name.rpartition(".")
            if leaf != "weight" or name not in chosen:
                tensors.append(tensor)
                continue
            rows = tensor.shape[1] if spec.model_type == "gpt2" else tensor.shape[0]
            tensors += [
                TensorInfo(name=f"{name}.weight", dtype="I8", shape=tensor.shape),
                TensorInfo(name=f"{name}.SCB", dtype="F32", shape=(rows,)),
                TensorInfo(name=f"{name}.weight_format", dtype="U8", shape=()),
            ]
        return spec.with_tensors(tensors, quantization="bitsandbytes")

    def apply(self, source: Checkpoint, out: Path, params: Int8Params, context: Context) -> Tensor:
        import torch
        from transformers import BitsAndBytesConfig

        from paredown.models.foreign import copy_side_files, quantize_on_load
        from paredown.models.probe import probe, probe_tokens

        chosen = set(select_linears(source.spec, params.skip))
        kept = [n for n in source.spec.structure.linears if n not in chosen]
        context.progress(0.1, "loading with bitsandbytes")
        model = quantize_on_load(
            source,
            BitsAndBytesConfig(
                load_in_8bit=True,
                llm_int8_threshold=params.threshold,
                llm_int8_skip_modules=["lm_head", *kept],
            ),
            device=context.device,
            trust_remote_code=context.trust_remote_code,
        )
        context.progress(0.6, "saving")
        model.save_pretrained(out)
        copy_side_files(source, out)
        with torch.no_grad():
            return probe(model, probe_tokens(source.spec.vocabulary or 2))
