"""Times worked out by hand from rates that are easy to reckon with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paredown.hardware.catalogue import find_devices, shipped
from paredown.hardware.engines import ENGINES
from paredown.hardware.estimate import Estimate, added
from paredown.hardware.memory import Layout, Version, Work
from paredown.hardware.timing import Rates, decode_step, nominal_rates, prefill_s
from paredown.spec.weights import Precision, pieces_at
from tests.hardware.models import deepseek_v3, llama_3_8b, qwen_3_06b

VLLM, TORCH = ENGINES["vllm"], ENGINES["torch"]
RATES = Rates(
    bandwidth=1e12, compute={"16": 1e14, "int8": 2e14, "fp8": 2e14}, layer_s=0.0, error=2.0
)
ONE = Work(batch=1, context=8192, prompt=1000)
EMBEDDING = 128_256 * 4096


def llama(precision: Precision) -> Version:
    return Version(name=precision, spec=llama_3_8b(), pieces=pieces_at(llama_3_8b(), precision))


def test_a_step_reads_weights_and_cache_but_one_row_of_an_untied_embedding() -> None:
    version = llama("fp16")
    step = decode_step(version, ONE, VLLM, RATES)
    read = version.nbytes - 2 * EMBEDDING + 8192 * 131_072
    assert step.seconds.value == pytest.approx(read / 1e12)
    assert step.binds == "bandwidth"
    assert (step.seconds.low, step.seconds.high) == (
        step.seconds.value / 2, step.seconds.value * 2,
    )  # fmt: skip


def test_a_tied_embedding_is_read_as_the_head() -> None:
    spec = qwen_3_06b()
    version = Version(name="bf16", spec=spec, pieces=pieces_at(spec, "fp16"))
    step = decode_step(version, Work(batch=1, context=1, prompt=1), VLLM, RATES)
    assert step.reading == pytest.approx((version.nbytes + 28 * 2 * 8 * 128 * 2) / 1e12)


def test_four_bits_of_weights_shrink_what_is_read_not_what_is_computed() -> None:
    many = Work(batch=512, context=16, prompt=16)
    wide, narrow = (decode_step(llama(p), many, VLLM, RATES) for p in ("fp16", "int4"))
    assert narrow.reading < 0.5 * wide.reading
    assert narrow.computing == pytest.approx(wide.computing)
    assert (llama("int4").rate, llama("fp8").rate) == ("16", "fp8")
    # FP8 rounds inputs as well, so it computes at a rate of its own.
    own = decode_step(llama("fp8"), many, VLLM, RATES).computing
    assert own == pytest.approx(wide.computing / 2)
    assert wide.binds == "compute"


def test_a_prompt_takes_two_operations_per_weight_and_token() -> None:
    version, work = llama("fp16"), replace(ONE, prompt=4096, context=4097)
    found = prefill_s(version, work, VLLM, RATES)
    weights = llama_3_8b().parameters - 2 * EMBEDDING
    attention = 32 * 4 * 4096 * 4096 / 2  # half of it is masked, per token
    operations = 4096 * (2 * weights + attention) + 2 * EMBEDDING  # the head for the last token
    assert found is not None
    assert found.value == pytest.approx(operations / 1e14)
    # An engine that computes the logits of every token of the prompt takes longer.
    every = prefill_s(version, work, TORCH, RATES)
    assert every is not None
    assert every.value - found.value == pytest.approx(2 * 4095 * EMBEDDING / 1e14)


def test_of_a_mixture_few_experts_are_read_by_one_and_nearly_all_by_many() -> None:
    spec = deepseek_v3()
    version = Version(name="fp8", spec=spec, pieces=pieces_at(spec, "fp8"))
    experts = sum(p.nbytes for p in version.pieces if p.part == "experts")
    one = decode_step(version, Work(batch=1, context=1, prompt=1), VLLM, RATES).reading
    rest = one - experts * 8 / 256 / 1e12
    many = decode_step(version, Work(batch=64, context=1, prompt=1), VLLM, RATES).reading
    hit = 1 - (1 - 8 / 256) ** 64
    assert many - rest == pytest.approx(hit * experts / 1e12, rel=1e-3)
    assert rest < 0.03 * experts / 1e12


def test_devices_that_share_matrices_read_less_and_talk() -> None:
    fast = replace(RATES, link=1e30)
    alone = decode_step(llama("fp16"), ONE, VLLM, fast).seconds.value
    four = decode_step(llama("fp16"), ONE, VLLM, fast, Layout(tensor=4)).seconds.value
    assert four == pytest.approx(alone / 4 + 2 * 32 * 10e-6)
    staged = decode_step(llama("fp16"), ONE, VLLM, fast, Layout(stages=4)).seconds.value
    assert staged > alone  # one token passes all stages in turn


def test_a_format_without_a_rate_of_its_own_computes_at_16_bits() -> None:
    (old,) = find_devices(["rtx 3090"], shipped())
    rates = nominal_rates(old, VLLM)
    assert rates.compute["fp8"] == rates.compute["16"]
    assert rates.compute["int8"] != rates.compute["16"]
    (slow,) = find_devices(["arc pro b60"], shipped())  # reaches 48 % of its bandwidth
    assert nominal_rates(slow, VLLM).bandwidth == pytest.approx(0.48 * 456e9)


def test_a_device_of_unknown_peak_has_no_time_to_the_first_token() -> None:
    (m5,) = find_devices(["m5 max"], shipped())
    assert prefill_s(llama("int4"), ONE, ENGINES["llama.cpp"], nominal_rates(m5, VLLM)) is None


def test_estimates_add_their_ends_and_keep_the_weakest_source() -> None:
    total = added((Estimate.exact(10), Estimate.within(4, 2)))
    assert (total.value, total.low, total.high, total.source) == (14, 12, 18, "estimated")
    rate = Estimate.within(4, 2).inverse(8)
    assert (rate.value, rate.low, rate.high) == (2, 1, 4)
