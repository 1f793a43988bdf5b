"""A decoder as a stateful model of OpenVINO, drawn operation by operation.

Its inputs are those of OpenVINO's libraries for generation: token ids, mask, positions and the
order of beams; keys and values are state.

Source: transformers' modeling_llama.py, modeling_qwen2.py and modeling_qwen3.py; operations of
opset 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as op

_MASKED = -65504.0
"""Smallest half-precision number: the mask may be computed in it."""
HEAD = "lm_head"

Linear = Callable[[Any, str], Any]
"""The product of numbers with a layer by name, its bias added."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What the graph needs of a config."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    normalizes_heads: bool
    """Whether q and k are normalized by head, as in Qwen 3."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How the graph gets at numbers."""

    linear: Linear
    embed: Callable[[Any], Any]
    """Rows of the embedding for token ids."""
    vector: Callable[[str], Any]
    """A stored vector by its name, float32."""


class Decoder:
    """Draws one model."""

    def __init__(self, shape: Shape, frequencies: Any, scaling: float, weights: Weights) -> None:
        """Take what it is drawn from.

        Args:
            frequencies: (head_dim / 2,) inverse frequencies of the rotary positions.
            scaling: of their cosines and sines.
        """
        self._shape, self._weights = shape, weights
        self._frequencies, self._scaling = frequencies, scaling
        self._sinks: list[Any] = []

    def model(self) -> ov.Model:
        """The whole model; logits of every token that is read."""
        pair = ov.PartialShape([-1, -1])
        ids = _input("input_ids", pair, ov.Type.i64)
        mask = _input("attention_mask", pair, ov.Type.i64)
        positions = _input("position_ids", pair, ov.Type.i64)
        beams = _input("beam_idx", ov.PartialShape([-1]), ov.Type.i32)
        hidden = self._weights.embed(ids)
        rotary, allowed = self._rotary(positions), _allowed(ids, mask)
        for i in range(self._shape.layers):
            hidden = self._layer(i, hidden, rotary, allowed, beams)
        logits = self._weights.linear(self._norm(hidden, "model.norm.weight"), HEAD)
        result = op.result(logits)
        result.get_output_tensor(0).set_names({"logits"})
        return ov.Model([result], self._sinks, [ids, mask, positions, beams], "decoder")

    def _layer(self, i: int, hidden: Any, rotary: Any, allowed: Any, beams: Any) -> Any:
        name, linear = f"model.layers.{i}", self._weights.linear
        normed = self._norm(hidden, f"{name}.input_layernorm.weight")
        hidden = op.add(hidden, self._attention(i, normed, rotary, allowed, beams))
        normed = self._norm(hidden, f"{name}.post_attention_layernorm.weight")
        gate, up = linear(normed, f"{name}.mlp.gate_proj"), linear(normed, f"{name}.mlp.up_proj")
        inner = op.multiply(op.swish(gate), up)
        return op.add(hidden, linear(inner, f"{name}.mlp.down_proj"))

    def _attention(self, i: int, normed: Any, rotary: Any, allowed: Any, beams: Any) -> Any:
        shape, name = self._shape, f"model.layers.{i}.self_attn"
        q, k, v = (
            self._heads(self._weights.linear(normed, f"{name}.{leaf}_proj"), count)
            for leaf, count in (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads))
        )
        if shape.normalizes_heads:
            q, k = self._norm(q, f"{name}.q_norm.weight"), self._norm(k, f"{name}.k_norm.weight")
        order = _ints([0, 2, 1, 3])  # (batch, heads, tokens, features)
        q, k, v = (op.transpose(each, order) for each in (q, k, v))
        q, k = _rotated(q, rotary, shape.head_dim), _rotated(k, rotary, shape.head_dim)
        k, v = self._kept(f"{i}.key", k, beams), self._kept(f"{i}.value", v, beams)
        k, v = self._spread(k), self._spread(v)
        found = op.scaled_dot_product_attention(q, k, v, allowed, causal=False)
        found = op.reshape(
            op.transpose(found, order), _ints([0, 0, shape.heads * shape.head_dim]), True
        )
        return self._weights.linear(found, f"{name}.o_proj")

    def _heads(self, x: Any, count: int) -> Any:
        return op.reshape(x, _ints([0, 0, count, self._shape.head_dim]), True)

    def _norm(self, x: Any, name: str) -> Any:
        squares = op.reduce_mean(op.power(x, _floats([2.0])), _ints([-1]), True)
        root = op.sqrt(op.add(squares, _floats([self._shape.epsilon])))
        return op.multiply(
            op.multiply(x, op.divide(_floats([1.0]), root)), self._weights.vector(name)
        )

    def _rotary(self, positions: Any) -> tuple[Any, Any]:
        """Cosines and sines, (batch, 1, tokens, head_dim)."""
        rates = op.constant(self._frequencies.reshape(1, -1, 1).astype(np.float32))
        whole = op.convert(op.unsqueeze(positions, _ints([1])), "f32")
        batch = op.gather(op.shape_of(positions), _ints([0]), _ints([0]))
        wide = op.broadcast(
            rates, op.concat([batch, _ints([len(self._frequencies)]), _ints([1])], 0)
        )
        angles = op.transpose(op.matmul(wide, whole, False, False), _ints([0, 2, 1]))
        both = op.concat([angles, angles], -1)
        found = []
        for wave in (op.cos(both), op.sin(both)):
            scaled = wave if self._scaling == 1.0 else op.multiply(wave, _floats([self._scaling]))
            found.append(op.unsqueeze(scaled, _ints([1])))
        return found[0], found[1]

    def _kept(self, name: str, new: Any, beams: Any) -> Any:
        """What was read before, and behind it what is new."""
        shape = self._shape
        variable = f"past_key_values.{name}present.{name}"
        batch = op.gather(op.shape_of(beams), _ints([0]), _ints([0]))
        size = op.concat([batch, _ints([shape.kv_heads]), _ints([0]), _ints([shape.head_dim])], 0)
        empty = op.broadcast(_floats([0.0]), size)
        partial = ov.PartialShape([-1, shape.kv_heads, -1, shape.head_dim])
        past = op.read_value(empty, variable, ov.Type.f32, partial)
        whole = op.concat([op.gather(past, beams, _ints([0])), new], 2)
        self._sinks.append(op.assign(whole, variable))
        return whole

    def _spread(self, x: Any) -> Any:
        """Keys or values of a group of heads, for each of them."""
        shape = self._shape
        each = shape.heads // shape.kv_heads
        if each == 1:
            return x
        wide = op.unsqueeze(x, _ints([2]))  # (batch, kv heads, 1, tokens, features)
        size = op.shape_of(wide)
        first, rest = (op.gather(size, _ints(part), _ints([0])) for part in ([0, 1], [3, 4]))
        wide = op.broadcast(wide, op.concat([first, _ints([each]), rest], 0))
        return op.reshape(wide, _ints([0, shape.heads, -1, shape.head_dim]), True)


def _rotated(x: Any, rotary: tuple[Any, Any], head_dim: int) -> Any:
    half = head_dim // 2
    first, second = op.variadic_split(x, _int(-1), _ints([half, half])).outputs()
    turned = op.concat([op.multiply(second, _floats([-1.0])), first], -1)
    return op.add(op.multiply(x, rotary[0]), op.multiply(turned, rotary[1]))


def _allowed(ids: Any, mask: Any) -> Any:
    """(batch, 1, tokens, all tokens): 0 where a token may look, else a very small number."""
    count = op.gather(op.shape_of(ids), _int(1), _int(0))
    total = op.gather(op.shape_of(mask), _int(1), _int(0))
    keys = op.range(_int(0), total, _int(1), "i64")
    queries = op.range(op.subtract(total, count), total, _int(1), "i64")
    earlier = op.less_equal(op.unsqueeze(keys, _ints([0])), op.unsqueeze(queries, _ints([1])))
    real = op.unsqueeze(op.convert(mask, "boolean"), _ints([1, 2]))
    both = op.logical_and(op.unsqueeze(earlier, _ints([0, 1])), real)
    return op.select(both, _floats([0.0]), _floats([_MASKED]))


def _input(name: str, shape: ov.PartialShape, kind: ov.Type) -> Any:
    found = op.parameter(shape, kind, name)
    found.get_output_tensor(0).set_names({name})
    return found


def _ints(values: list[int]) -> Any:
    return op.constant(np.array(values, dtype=np.int64))


def _int(value: int) -> Any:
    return op.constant(np.array(value, dtype=np.int64))


def _floats(values: list[float]) -> Any:
    return op.constant(np.array(values, dtype=np.float32))
