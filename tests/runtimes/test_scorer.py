"""The scorer: shared prompts change nothing, and what is too long is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.errors import ConfigError, DivergedError
from paredown.runtimes.session import TOP, Pair, Scored, Session
from paredown.runtimes.torch.scorer import CausalScorer
from tests.evaluate.tasks_samples import scorer_of, session_of, tiny_chatter

FORKS = [
    [Pair((5, 6, 7, 8), (10, 11)), Pair((5, 6, 7, 8), (12, 13, 14)), Pair((5, 6, 7, 8), (10,))],
    [Pair((20, 21), (9,)), Pair((20, 21), (8,)), Pair((20, 21), (7,))],
    [Pair((3, 4, 30), (40, 41)), Pair((3, 4, 31, 32), (40, 41))],
    [Pair((50,), (51, 52, 53, 54, 55))],
]


def by_hand(model: Any, pair: Pair) -> tuple[float, bool]:
    """One pair alone, from the logits of the whole text."""
    ids = torch.tensor([[*pair.context, *pair.continuation]])
    with torch.inference_mode():
        logp = model(ids).logits[0].float().log_softmax(-1)
    n = len(pair.continuation)
    picked = logp[-n - 1 : -1]
    targets = torch.tensor(pair.continuation)
    total = float(picked.gather(1, targets[:, None]).sum())
    return total, bool((picked.argmax(-1) == targets).all())


def all_scores(scorer: CausalScorer, groups: list[list[Pair]]) -> list[list[Scored]]:
    found = dict(scorer.score(groups))
    return [found[i] for i in range(len(groups))]


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2"])
def test_answers_side_by_side_score_as_each_alone(tmp_path: Path, family: str) -> None:
    scorer = scorer_of(tiny_chatter(tmp_path, family))
    assert scorer._shares
    for group, scored in zip(FORKS, all_scores(scorer, FORKS), strict=True):
        for pair, found in zip(group, scored, strict=True):
            value, greedy = by_hand(scorer.model, pair)
            assert found.loglikelihood == pytest.approx(value, abs=1e-4)
            assert (found.greedy, found.truncated) == (greedy, False)


def likeliest_by_hand(model: Any, context: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """The likeliest tokens after a prompt, from the model's own logits."""
    with torch.inference_mode():
        values, ids = model(torch.tensor([context])).logits[0, -1].float().log_softmax(-1).topk(TOP)
    return ids.tolist(), values.tolist()


def test_what_may_follow_a_prompt_is_told_with_every_answer(tmp_path: Path) -> None:
    scorer = scorer_of(tiny_chatter(tmp_path))
    for group, scored in zip(FORKS, all_scores(scorer, FORKS), strict=True):
        for pair, found in zip(group, scored, strict=True):
            assert found.next is not None
            ids, logprobs = likeliest_by_hand(scorer.model, pair.context)
            assert list(found.next.ids[:8]) == ids[:8]
            assert found.next.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_what_may_follow_a_prompt_is_told_with_a_text(tmp_path: Path) -> None:
    scorer = scorer_of(tiny_chatter(tmp_path))
    prompts = [(5, 6, 7, 8, 9), (20, 21)]  # of two lengths, so that one is padded
    for i, written in scorer.generate(prompts, stops=(), max_tokens=3):
        assert written.next is not None
        ids, logprobs = likeliest_by_hand(scorer.model, prompts[i])
        assert list(written.next.ids[:8]) == ids[:8]
        assert written.next.logprobs == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("one_pass", [True, False])
def test_what_may_come_along_a_given_text(tmp_path: Path, one_pass: bool) -> None:
    """In one pass over each text, and the way of engines that score and tell nothing else."""
    session = session_of(tiny_chatter(tmp_path))
    pairs = [Pair((5, 6, 7), (8, 9, 10, 11)), Pair((20,), (21,)), Pair((3, 4), (5, 5))]
    found = dict(session.along(pairs) if one_pass else Session.along(session, pairs))
    for i, pair in enumerate(pairs):
        assert len(found[i]) == len(pair.continuation)
        for k, told in enumerate(found[i]):
            context = (*pair.context, *pair.continuation[:k])
            ids, logprobs = likeliest_by_hand(session.model, context)
            assert list(told.ids[:8]) == ids[:8]
            assert told.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_a_greedy_answer_is_told(tmp_path: Path) -> None:
    scorer = scorer_of(tiny_chatter(tmp_path))
    with torch.inference_mode():
        best = int(scorer.model(torch.tensor([[5, 6, 7]])).logits[0, -1].argmax())
    other = best % 100 + 1
    group = [[Pair((5, 6, 7), (best,)), Pair((5, 6, 7), (other,))]]
    assert [s.greedy for s in all_scores(scorer, group)[0]] == [True, False]


def test_small_batches_and_no_sharing_give_the_same(tmp_path: Path) -> None:
    model = tiny_chatter(tmp_path)
    together = all_scores(scorer_of(model), FORKS)
    for options in ({"batch_tokens": 1}, {"share_prompts": False}):
        alone = all_scores(scorer_of(model, **options), FORKS)
        for a, b in zip(together, alone, strict=True):
            assert [s.greedy for s in a] == [s.greedy for s in b]
            for x, y in zip(a, b, strict=True):
                assert x.loglikelihood == pytest.approx(y.loglikelihood, abs=1e-4)


def test_sharing_computes_the_prompt_once(tmp_path: Path) -> None:
    model = tiny_chatter(tmp_path)
    group = [[Pair(tuple(range(1, 41)), (k, k + 1)) for k in (50, 60, 70, 80)]]
    seen = {}
    for share in (True, False):
        scorer = scorer_of(model, share_prompts=share)
        tokens: list[int] = []
        hook = scorer.model.register_forward_pre_hook(
            lambda module, args, tokens=tokens: tokens.append(args[0].numel())
        )
        all_scores(scorer, group)
        hook.remove()
        seen[share] = sum(tokens)
    assert seen == {True: 40 + 4, False: 4 * 41}


def test_a_model_that_ignores_masks_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CausalScorer, "_mask", lambda self, rows, width: {})
    scorer = scorer_of(tiny_chatter(tmp_path))
    assert not scorer._shares
    for group, scored in zip(FORKS, all_scores(scorer, FORKS), strict=True):
        for pair, found in zip(group, scored, strict=True):
            assert found.loglikelihood == pytest.approx(by_hand(scorer.model, pair)[0], abs=1e-4)


def test_a_short_window_of_attention_is_respected(tmp_path: Path) -> None:
    folder = tiny_chatter(tmp_path, "mistral", sliding_window=4)
    scorer = scorer_of(folder)
    group = [Pair(tuple(range(1, 30)), (40, 41)), Pair(tuple(range(1, 30)), (42, 43))]
    for pair, found in zip(group, all_scores(scorer, [group])[0], strict=True):
        assert found.loglikelihood == pytest.approx(by_hand(scorer.model, pair)[0], abs=1e-4)


def test_too_long_a_prompt_loses_its_beginning_and_says_so(tmp_path: Path) -> None:
    scorer = scorer_of(tiny_chatter(tmp_path, max_position_embeddings=16))
    fits = Pair(tuple(range(1, 16)), (20, 21))
    long = Pair((99, *range(1, 16)), (20, 21))
    a, b = all_scores(scorer, [[fits], [long]])
    assert (a[0].truncated, b[0].truncated) == (False, True)
    assert a[0].loglikelihood == pytest.approx(b[0].loglikelihood, abs=1e-5)


def test_a_broken_model_has_diverged(tmp_path: Path) -> None:
    scorer = scorer_of(tiny_chatter(tmp_path))
    with torch.no_grad():
        scorer.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="not finite"):
        all_scores(scorer, FORKS)
    with pytest.raises(DivergedError, match="not finite"):
        list(scorer.generate([[5, 6]], stops=["x"], max_tokens=2))


def test_texts_are_greedy_and_end_at_the_stop(tmp_path: Path) -> None:
    scorer = scorer_of(tiny_chatter(tmp_path))
    prompts = [[5, 6, 7], [8], list(range(20, 40))]
    texts = dict(scorer.generate(prompts, stops=[], max_tokens=12))
    for i, prompt in enumerate(prompts):
        ids = list(prompt)
        with torch.inference_mode():
            for _ in range(12):
                ids.append(int(scorer.model(torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] == scorer.tokenizer.eos_token_id:
                    break
        whole, head = scorer.tokenizer.batch_decode([ids, prompt], skip_special_tokens=True)
        assert texts[i].text == whole.removeprefix(head)
    stop = texts[0].text[4:6]
    again = dict(scorer.generate(prompts, stops=[stop], max_tokens=12))
    assert again[0].text == texts[0].text[: texts[0].text.index(stop)]
    assert [t.truncated for t in again.values()] == [False] * 3


def test_answers_longer_than_the_context_are_refused(tmp_path: Path) -> None:
    scorer = scorer_of(tiny_chatter(tmp_path, max_position_embeddings=32))
    with pytest.raises(ConfigError, match="32 tokens, and the model's context is 32"):
        list(scorer.generate([[5]], stops=[], max_tokens=32))
    (_, written), *_ = scorer.generate([[5] * 20], stops=[], max_tokens=20)
    assert written.truncated
