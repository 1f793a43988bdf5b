"""Memory of serving, worked out by hand, and what other estimators get wrong."""

from __future__ import annotations

import pytest

from paredown.errors import ConfigError
from paredown.hardware.catalogue import GIB
from paredown.hardware.engines import ENGINES, habits
from paredown.hardware.memory import (
    ALONE,
    Layout,
    Version,
    Work,
    refused_layout,
    resident_bytes,
    serving_memory,
)
from paredown.spec.model import ModelSpec
from paredown.spec.weights import Precision, pieces_at, stored_pieces
from tests.hardware.models import deepseek_v3, gemma_3_27b, llama_3_8b, llama_3_70b, qwen_3_06b

TORCH, VLLM, LLAMA_CPP = ENGINES["torch"], ENGINES["vllm"], ENGINES["llama.cpp"]


def at(spec: ModelSpec, precision: Precision) -> Version:
    return Version(name=precision, spec=spec, pieces=pieces_at(spec, precision))


def cache_of(spec: ModelSpec, engine: str, context: int, **layout: int) -> float:
    work = Work(batch=1, context=context, prompt=1)
    memory = serving_memory(at(spec, "fp16"), work, habits(engine), Layout(**layout))
    assert memory.cache is not None
    return memory.cache.value


# --- Published facts, and estimators that miss them


def test_weights_of_llama_3_8b() -> None:
    """8.03 billion parameters: 16.06 GB in 16 bits, as its files have it."""
    spec = llama_3_8b()
    assert spec.parameters == 8_030_261_248
    assert at(spec, "fp16").nbytes == 16_060_522_496
    # Its linears take 6.98e9 codes of 4 bits and as many scales / 64; the rest stays at 16 bits.
    linears = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096)
    rest = spec.parameters - linears
    assert at(spec, "int4").nbytes == linears // 2 + linears // 64 * 2 + 2 * rest


def test_cache_of_llama_3_8b_is_a_gibibyte_for_8192_tokens() -> None:
    assert cache_of(llama_3_8b(), "vllm", 8192) == GIB


def test_cache_of_gemma_3_27b_depends_on_the_engine() -> None:
    """One formula for all layers is off by 682 % in the engine that keeps windows."""
    spec, context = gemma_3_27b(), 131_072
    layer = 2 * 16 * 128 * 2
    windows = layer * (10 * context + 52 * 1024)
    assert cache_of(spec, "llama.cpp", context) == windows
    assert cache_of(spec, "vllm", context) == 62 * layer * context
    assert 62 * layer * context / windows > 5


def test_cache_of_deepseek_v3_is_compressed() -> None:
    """Counted as heads, estimators are 81 % off and worse."""
    assert cache_of(deepseek_v3(), "vllm", 1000) == 70_272_000
    # A latent has no heads that could be spread: every device keeps it whole.
    assert cache_of(deepseek_v3(), "vllm", 1000, tensor=8) == 70_272_000


def test_heads_of_qwen_3_are_wider_than_its_width_over_their_number() -> None:
    """1024 / 16 = 64 would halve the cache (-50 % in an estimator that divides)."""
    assert cache_of(qwen_3_06b(), "vllm", 1) == 28 * 2 * 8 * 128 * 2


def test_eight_bits_of_a_mixture_keep_every_expert() -> None:
    spec = deepseek_v3()
    assert spec.parameters == pytest.approx(671e9, rel=0.01)
    assert spec.active_parameters == pytest.approx(37e9, rel=0.05)
    experts = sum(p.nbytes for p in at(spec, "fp8").pieces if p.part == "experts")
    assert experts > 0.95 * at(spec, "fp8").nbytes


# --- Parts


def test_a_tied_embedding_is_there_once() -> None:
    spec = qwen_3_06b()
    assert spec.tied_embeddings
    parts = {p.part: p.nbytes for p in at(spec, "fp16").pieces}
    assert parts["embedding"] == 151_936 * 1024 * 2
    assert "head" not in parts


def test_runtimes_hold_codes_in_their_own_way() -> None:
    version = at(llama_3_8b(), "int4")
    blocks = next(p for p in version.pieces if p.bits == 4)
    assert VLLM.resident(blocks) == blocks.nbytes
    assert LLAMA_CPP.resident(blocks) == blocks.numel * 4.5 / 8  # Q4_0: 18 bytes per 32 weights
    assert ENGINES["transformers"].resident(blocks) == 2 * blocks.numel  # it unpacks
    dense = next(p for p in version.pieces if p.part == "embedding")
    assert ENGINES["onnxruntime"].resident(dense) == 4 * dense.numel


def test_what_an_engine_reorders_lies_there_twice_on_a_processor() -> None:
    version = at(llama_3_8b(), "int4")
    packed = sum(p.numel for p in version.pieces if p.bits == 4)
    work = Work(batch=1, context=64, prompt=32)
    there = serving_memory(version, work, LLAMA_CPP)
    here = serving_memory(version, work, LLAMA_CPP, on_gpu=False)
    assert here.weights.value - there.weights.value == packed * 4.5 / 8
    eight = at(llama_3_8b(), "int8")
    assert (
        serving_memory(eight, work, LLAMA_CPP, on_gpu=False).weights
        == serving_memory(eight, work, LLAMA_CPP).weights
    )
    measured = serving_memory(version, work, LLAMA_CPP, on_gpu=False, process_bytes=1e8)
    assert measured.runtime.value == 1e8 + 300 * 128_256


def test_logits_of_a_prompt_count_where_the_engine_computes_them() -> None:
    spec = llama_3_8b()
    work = Work(batch=2, context=1024, prompt=1000)
    memory = serving_memory(at(spec, "fp16"), work, TORCH)
    assert memory.logits.value == 2 * 1000 * 128_256 * 2
    assert memory.logits.value > memory.activations.value
    last = serving_memory(at(spec, "fp16"), work, VLLM)
    assert last.logits.value == 2 * 128_256 * 4
    assert memory.total is not None
    # A block's activations and the logits are not alive together.
    parts = memory.weights.value + memory.logits.value + memory.runtime.value
    assert memory.cache is not None
    assert memory.total.value == parts + memory.cache.value


def test_long_prompts_are_read_in_chunks_where_the_engine_does_so() -> None:
    spec = llama_3_8b()
    short = serving_memory(at(spec, "fp16"), Work(batch=1, context=600, prompt=512), LLAMA_CPP)
    long = serving_memory(at(spec, "fp16"), Work(batch=1, context=8192, prompt=8000), LLAMA_CPP)
    assert short.activations == long.activations


def test_an_unknown_cache_leaves_the_total_unknown_and_says_why() -> None:
    spec = llama_3_8b().model_copy(update={"kv_heads": None})
    memory = serving_memory(at(spec, "fp16"), Work(batch=1, context=10, prompt=5), VLLM)
    assert memory.total is None
    assert "heads" in memory.unknown
    assert memory.known.value >= at(spec, "fp16").nbytes


def test_stored_pieces_are_the_files() -> None:
    spec = llama_3_8b()
    assert sum(p.nbytes for p in stored_pieces(spec)) == spec.weight_bytes


# --- Several devices


def test_matrices_are_cut_and_layers_are_spread() -> None:
    version = at(llama_3_70b(), "fp16")
    whole = resident_bytes(version, VLLM, ALONE)
    assert resident_bytes(version, VLLM, Layout(tensor=4)) == whole / 4
    ends = 128_256 * 8192 * 2
    staged = resident_bytes(version, VLLM, Layout(stages=4))
    # 80 layers in four stages; embedding and head lie at different ends.
    assert staged == (whole - 2 * ends) / 4 + ends
    # 80 layers in three stages: the largest has 27 of them.
    third = resident_bytes(version, VLLM, Layout(stages=3))
    assert third == pytest.approx((whole - 2 * ends) * 27 / 80 + ends)


def test_what_does_not_divide_is_refused_with_the_reason() -> None:
    spec = llama_3_8b()
    assert refused_layout(spec, Layout(tensor=8)) == ""
    assert refused_layout(spec, Layout(tensor=3)) == "32 heads do not divide by 3"
    assert refused_layout(spec, Layout(stages=40)) == "32 layers do not fill 40 stages"
    assert refused_layout(spec, Layout(tensor=16)) == ""  # 8 heads of keys, each on two devices


def test_an_unknown_runtime_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no such runtime; did you mean 'vllm'\?"):
        habits("vlm")


# --- Engines that hold more than what is stored, on a processor


def test_onnxruntime_holds_a_tied_embedding_twice_and_prompts_logits() -> None:
    spec = qwen_3_06b()
    work = Work(batch=2, context=100, prompt=60)
    memory = serving_memory(at(spec, "fp16"), work, habits("onnxruntime"), on_gpu=False)
    assert spec.tied_embeddings
    embedding = 151_936 * 1024
    assert memory.weights.value == 4 * (spec.parameters - embedding) + 9 * embedding
    assert memory.logits.value == 2 * 60 * 151_936 * 4 * 3
    # Its sessions set 1024 tokens aside behind a prompt.
    assert memory.cache is not None
    assert memory.cache.value == 2 * (100 + 1024) * 28 * 2 * 8 * 128 * 4


def test_openvino_is_fullest_while_it_converts_the_embedding() -> None:
    spec = qwen_3_06b()
    work = Work(batch=1, context=10, prompt=2)
    memory = serving_memory(at(spec, "fp16"), work, habits("openvino"), on_gpu=False)
    embedding = 151_936 * 1024
    assert memory.loading.value == 4 * embedding > memory.logits.value
    assert memory.total is not None
    parts = (memory.weights, memory.cache, memory.loading, memory.runtime)
    assert memory.total.value == sum(part.value for part in parts if part is not None)
    # Elsewhere nothing of the kind is known.
    gpu = serving_memory(at(spec, "fp16"), work, habits("openvino"))
    assert gpu.loading.value == 0
    assert gpu.weights.value == at(spec, "fp16").nbytes
