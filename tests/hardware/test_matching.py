"""Which devices, how many, and at what cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paredown.hardware.catalogue import Accelerator, find_devices, shipped
from paredown.hardware.engines import ENGINES, usual
from paredown.hardware.matching import Fit, NoFit, Stream, fit, match, saved_by
from paredown.hardware.memory import Version, Work
from paredown.spec.model import ModelSpec
from paredown.spec.weights import Precision, pieces_at
from tests.hardware.models import deepseek_v3, llama_3_8b, llama_3_70b

VLLM = ENGINES["vllm"]
CHAT = Work(batch=1, context=4096, prompt=512)


def at(spec: ModelSpec, precision: Precision) -> Version:
    return Version(name=precision, spec=spec, pieces=pieces_at(spec, precision))


def device(name: str) -> Accelerator:
    (found,) = find_devices([name], shipped())
    return found


def fits(spec: ModelSpec, precision: Precision, name: str, work: Work | Stream = CHAT) -> Fit:
    found = fit(at(spec, precision), device(name), usual(device(name)), work)
    assert isinstance(found, Fit), found
    return found


def test_llama_70b_needs_two_a100_in_16_bits_and_one_in_4() -> None:
    wide = fits(llama_3_70b(), "fp16", "a100 80gb sxm")
    assert (wide.devices, wide.layout.tensor, wide.binds) == (2, 2, "memory")
    narrow = fits(llama_3_70b(), "int4", "a100 80gb sxm")
    assert (narrow.devices, narrow.binds) == (1, "bandwidth")
    assert narrow.memory.total is not None
    assert narrow.memory.total.value <= narrow.limit_bytes


def test_numbers_are_those_that_the_heads_divide_by() -> None:
    """Llama-3-8B on small cards: three would hold it, four can share its 32 heads."""
    tiny = replace_memory(device("rtx 4090"), 8.0)
    found = fit(at(llama_3_8b(), "fp16"), tiny, VLLM, CHAT)
    assert isinstance(found, Fit)
    assert (found.devices, found.layout.tensor) == (4, 4)
    odd = llama_3_8b().model_copy(update={"heads": 6, "kv_heads": 6})
    staged = fit(at(odd, "fp16"), tiny, VLLM, CHAT)
    assert isinstance(staged, Fit)
    assert (staged.layout.tensor, staged.layout.stages) == (2, 2)  # 6 heads, but not by 4


def replace_memory(found: Accelerator, gib: float) -> Accelerator:
    return found.model_copy(update={"memory_gb": gib, "memory_usable_gib": gib})


def test_deepseek_v3_takes_whole_machines() -> None:
    found = fits(deepseek_v3(), "fp8", "h200 sxm")
    assert found.devices == 8
    assert fits(deepseek_v3(), "fp16", "h100 sxm").devices % 8 == 0


def test_one_processor_stays_one() -> None:
    """No second Mac joins a first one."""
    version = at(llama_3_70b(), "fp16")
    found = fit(version, device("m2 max"), ENGINES["llama.cpp"], CHAT)
    assert isinstance(found, NoFit)
    assert "141.1 GB of weights" in found.reason
    assert isinstance(fit(version, device("m2 ultra"), ENGINES["llama.cpp"], CHAT), Fit)


def test_an_engine_that_does_not_run_there_is_no_choice() -> None:
    found = fit(at(llama_3_8b(), "int4"), device("m3 ultra"), VLLM, CHAT)
    assert isinstance(found, NoFit)
    assert found.reason == "vllm does not run on it"


def test_costs_are_the_rent_over_the_tokens() -> None:
    found = fits(llama_3_8b(), "int4", "l4")
    assert found.cost is not None
    assert (found.cost.hour_low, found.cost.hour_high) == (0.44, 0.78)
    per_hour = found.tokens_per_s.value * 3600
    assert found.cost.million_high == pytest.approx(0.78 / per_hour * 1e6)
    assert found.cost.basis == "rent, 2026-03"
    assert found.joules_per_token is not None
    assert found.joules_per_token.high == pytest.approx(72 / found.tokens_per_s.value)


def test_bought_devices_cost_their_price_and_electricity() -> None:
    version, card = at(llama_3_8b(), "int4"), device("rtx 4090")
    found = fit(version, card, VLLM, CHAT, on_prem=True)
    assert isinstance(found, Fit)
    assert found.cost is not None
    assert found.cost.hour_low == pytest.approx(1599 / (3 * 8760) + 0.4 * 0.45 * 0.10)
    assert "street prices differ" in found.cost.basis


def test_a_stream_gets_copies_until_it_is_carried() -> None:
    few = Stream(requests_per_s=1, prompt=512, output=128)
    many = replace(few, requests_per_s=200)
    one, several = (fits(llama_3_8b(), "fp16", "l4", stream) for stream in (few, many))
    assert one.copies == 1
    assert several.copies > 5
    assert several.binds == "requests"
    # Little's law (arrivals x time in the system) must fit into the batches.
    assert several.ttft_s is not None
    seconds = several.ttft_s.value + 128 * several.tpot_s.value
    assert 200 * seconds <= several.copies * several.batch * 1.3
    assert several.tokens_per_s.value == 200 * 128


def test_a_goal_for_latency_is_kept_or_refused_with_what_it_takes() -> None:
    goal = Stream(requests_per_s=5, prompt=512, output=128, ttft_s=1.0, tpot_s=0.03)
    found = fits(llama_3_8b(), "int4", "h100 sxm", goal)
    assert found.ttft_s is not None
    assert found.ttft_s.value <= 1.0
    assert found.tpot_s.value <= 0.03
    hard = replace(goal, tpot_s=0.0005)
    refused = fit(at(llama_3_8b(), "fp16"), device("l4"), VLLM, hard)
    assert isinstance(refused, NoFit)
    assert "a token takes about" in refused.reason


def test_the_cheapest_comes_first_and_what_has_no_price_last() -> None:
    pairs = [(d, usual(d)) for d in shipped()]
    found, refused = match([at(llama_3_70b(), "int4")], pairs, CHAT)
    costs = [f.cost.million_low * f.cost.million_high for f in found if f.cost is not None]
    assert costs == sorted(costs)
    priced = [f.cost is not None for f in found]
    assert priced == sorted(priced, reverse=True)
    assert len(found) + len(refused) == len(pairs)


def test_what_the_next_smaller_version_saves_is_said() -> None:
    pairs = [(device(n), usual(device(n))) for n in ("a100 80gb sxm", "l40s")]
    spec = llama_3_70b()
    found, _ = match([at(spec, "fp16"), at(spec, "int4")], pairs, CHAT)
    (line,) = saved_by(found)
    assert line.startswith("int4: 1x ")
    assert "instead of 2x" in line or "instead of 4x" in line
    assert line.endswith("USD/h")
