"""How a model folder says that its MLPs differ in width."""

from __future__ import annotations

from paredown.spec.model import ModelSpec

FIELD = "mlp_widths"
"""Config field: widths of the MLPs in block order; there only where they are unequal."""
WIDTH_FIELDS = {
    "gpt2": "n_inner", "gpt_bigcode": "n_inner", "gptj": "n_inner", "codegen": "n_inner",
    "falcon": "ffn_hidden_size", "xglm": "ffn_dim",
}  # fmt: skip
"""`model_type` -> the config's word for the width of an MLP, where a config may leave it out."""
WIDTH_FACTORS = {"recurrent_gemma": 2}
"""`model_type` -> by what the config's width of an MLP is divided."""
FIXED = {
    "bloom": "its config has no word for the width of an MLP",
    "mpt": "its config tells the width of an MLP in whole hidden sizes",
    "gemma3n_text": "its first blocks keep those neurons that stand out among all of them",
}
"""`model_type` of the language model -> why its MLPs cannot be narrowed."""


def unequal_widths(spec: ModelSpec) -> tuple[int, ...]:
    """The widths of the model's MLPs, rising, if there are several; else nothing."""
    widths = sorted({mlp.width for mlp in spec.structure.mlps})
    return tuple(widths) if len(widths) > 1 else ()
