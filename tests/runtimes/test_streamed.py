"""A model judged block by block answers what it answers when it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from paredown.errors import ConfigError
from paredown.runtimes.session import Pair, Session
from paredown.runtimes.torch.runtime import Torch
from paredown.runtimes.torch.streamed import StreamedSession
from paredown.testing.runtimes import make
from paredown.testing.tiny import tiny_model

WINDOWS = torch.randint(1, 90, (5, 24), generator=torch.Generator().manual_seed(1))
# Of prompts, answers and lengths of several kinds; two share a prompt.
GROUPS = [
    [Pair((1, 2, 3), (4, 5)), Pair((1, 2, 3), (9,))],
    [Pair(tuple(range(1, 40)), (7, 8, 9))],
    [Pair((50,), (60, 61)), Pair((50,), (62,)), Pair((50,), (63, 1, 1, 1))],
]
STRATEGIES = [
    "rtn(bits=4, group_size=32)",
    "rtn(bits=8, group_size=32, embedding_bits=8)",
    "smoothquant",
    "random_structured(ratio=0.3)",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny model, or what a strategy makes of it, by name."""
    root, made = tmp_path_factory.mktemp("streamed"), dict[str, Path]()

    def get(name: str) -> Path:
        if name not in made:
            place = root / f"{len(made)}"
            place.mkdir()
            made[name] = make(name, place) if name in STRATEGIES else tiny_model(place / "m", name)
        return made[name]

    return get


def opened(place: Path) -> tuple[Session, StreamedSession]:
    whole = Torch().open(place, device="cpu")
    whole.for_many_tokens()
    return whole, StreamedSession(place)


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen2_moe", "gpt2", *STRATEGIES])
def test_logits_are_those_of_the_loaded_model(folder: Callable[[str], Path], name: str) -> None:
    whole, streamed = opened(folder(name))
    for one, other in zip(whole.logprobs(WINDOWS), streamed.logprobs(WINDOWS), strict=True):
        assert one.shape == other.shape
        kl = (one.exp() * (one - other)).sum(-1)
        assert float(kl.abs().max()) < 1e-4


@pytest.mark.parametrize("name", ["llama", STRATEGIES[0]])
def test_scores_are_those_of_the_loaded_model(folder: Callable[[str], Path], name: str) -> None:
    whole, streamed = opened(folder(name))
    one, other = dict(whole.score(GROUPS)), dict(streamed.score(GROUPS))
    assert one.keys() == other.keys() == {0, 1, 2}
    for group in one:
        for mine, theirs in zip(one[group], other[group], strict=True):
            assert mine.loglikelihood == pytest.approx(theirs.loglikelihood, abs=0.05)
            assert mine.truncated == theirs.truncated
    pairs = [pair for group in GROUPS for pair in group]
    along, again = dict(whole.along(pairs)), dict(streamed.along(pairs))
    assert {k: len(v) for k, v in along.items()} == {k: len(v) for k, v in again.items()}


def test_several_passes_say_what_one_says(folder: Callable[[str], Path]) -> None:
    one, several = (StreamedSession(folder("llama"), states_bytes=n) for n in (1 << 29, 1 << 14))
    assert several.tokens_at_once < WINDOWS.numel()
    for a, b in zip(one.logits(WINDOWS), several.logits(WINDOWS), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert {k: v[0].greedy for k, v in one.score(GROUPS)} == {
        k: v[0].greedy for k, v in several.score(GROUPS)
    }


def test_hidden_states_are_those_that_make_the_logits(folder: Callable[[str], Path]) -> None:
    streamed = StreamedSession(folder("llama"))
    for hidden, logits in streamed.hidden(WINDOWS):
        assert torch.allclose(streamed.readout.logits(hidden), logits.float(), atol=1e-3)


def test_it_tells_how_far_it_is(folder: Callable[[str], Path]) -> None:
    streamed, told = StreamedSession(folder("llama")), list[float]()
    streamed.told = lambda share, message: told.append(share)
    list(streamed.logits(WINDOWS))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_what_needs_all_of_it_is_refused(folder: Callable[[str], Path]) -> None:
    streamed = StreamedSession(folder("llama"))
    with pytest.raises(ConfigError, match="writing text needs all of it"):
        streamed.generate([[1]], stops=(), max_tokens=2)
    with pytest.raises(ConfigError, match="timing it needs all of it"):
        streamed.prefill(WINDOWS[:1])


def test_a_block_at_a_time_is_in_memory(folder: Callable[[str], Path]) -> None:
    """Behind a pass every block is empty again, packed ones included."""
    for name in ("llama", STRATEGIES[0], "smoothquant"):
        streamed = StreamedSession(folder(name))
        list(streamed.logits(WINDOWS))
        for block in streamed.model.model.layers:
            assert all(p.is_meta for p in block.parameters())
            assert all(b.is_meta or b.numel() < 64 for b in block.buffers())
