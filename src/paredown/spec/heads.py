"""Attention heads by the groups that share a key and a value, and what is left without some."""

from __future__ import annotations

from dataclasses import dataclass

from paredown.spec.model import ModelSpec, TensorInfo, tensor_info

FAMILIES = frozenset(
    {
        "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3",
        "mixtral", "qwen2_moe", "qwen3_moe", "granite", "seed_oss", "ernie4_5",
        "hunyuan_v1_dense", "ministral", "glm", "arcee", "cohere2", "gpt_oss", "llama4_text",
    }
)  # fmt: skip
"""`model_type`s whose heads may be fewer than hidden size / head_dim: they read `head_dim`."""
EVEN = frozenset({"llama", "gemma2", "gemma3_text"})
"""Of these, the ones whose config wants a number of heads that divides the hidden size."""


@dataclass(frozen=True)
class Attention:
    """The linears of one block's attention."""

    block: int
    q: str
    k: str
    v: str
    output: str

    @property
    def sinks(self) -> str:
        """Name of the tensor of one number per query head that some families (GPT-OSS) have."""
        return f"{self.output.rpartition('.')[0]}.sinks"


@dataclass(frozen=True)
class Groups:
    """How heads are laid out: `queries` heads of `head_dim` features to each key and value."""

    count: int
    queries: int
    head_dim: int

    @property
    def query_rows(self) -> int:
        """Rows of q, and columns of the output projection, of one group."""
        return self.queries * self.head_dim


def find_attentions(spec: ModelSpec) -> tuple[Attention, ...]:
    """One per block that has separate q, k, v and o projections."""
    found = []
    for block in spec.structure.blocks:
        names = [f"{block.prefix}.self_attn.{part}_proj" for part in "qkvo"]
        if all(f"{name}.weight" in spec.by_name for name in names):
            found.append(Attention(block.index, *names))
    return tuple(found)


def find_groups(spec: ModelSpec) -> Groups | None:
    """The layout that all blocks share; None where the spec does not tell or they differ."""
    if not spec.heads or not spec.kv_heads or not spec.head_dim or spec.heads % spec.kv_heads:
        return None
    groups = Groups(spec.kv_heads, spec.heads // spec.kv_heads, spec.head_dim)
    expected = groups.count * groups.query_rows, groups.count * groups.head_dim
    for attention in find_attentions(spec):
        names = (attention.q, attention.k, attention.v)
        rows = tuple(spec.by_name[f"{name}.weight"].shape[0] for name in names)
        if rows != (expected[0], expected[1], expected[1]):
            return None
    return groups


def with_groups(spec: ModelSpec, groups: Groups, left: int) -> ModelSpec:
    """The spec with `left` groups in each block."""
    rows: dict[str, int] = {}
    columns: dict[str, int] = {}
    sinks: set[str] = set()
    for attention in find_attentions(spec):
        rows[attention.q] = columns[attention.output] = left * groups.query_rows
        rows[attention.k] = rows[attention.v] = left * groups.head_dim
        sinks.add(attention.sinks)
    tensors: list[TensorInfo] = []
    for tensor in spec.tensors:
        name, _, leaf = tensor.name.rpartition(".")
        shape = tensor.shape
        if name in rows and leaf in {"weight", "bias"}:
            shape = (rows[name], *shape[1:])
        elif name in columns and leaf == "weight":
            shape = (shape[0], columns[name])
        elif tensor.name in sinks:
            shape = (left * groups.queries,)
        tensors.append(tensor_info(tensor.name, tensor.dtype, shape))
    gone = sum(t.numel for t in spec.tensors) - sum(t.numel for t in tensors)
    return spec.with_tensors(
        tensors,
        heads=left * groups.queries,
        kv_heads=left,
        parameters=spec.parameters - gone,
        active_parameters=spec.active_parameters - gone,
    )
