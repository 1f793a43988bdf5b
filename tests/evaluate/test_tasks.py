"""Benchmarks through lm-eval: equal to its own model, resumable, drawn alike for every model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import paredown
from paredown.analysis.divergence import kl_of_likeliest
from paredown.errors import ConfigError, DataError
from paredown.evaluate import humaneval, scores
from paredown.evaluate.items import Responses, draw
from paredown.evaluate.scores import ScoreRequest, answer_items, measure_scores
from paredown.evaluate.task_data import check_benchmarks, lm_eval_tasks, task_files
from paredown.evaluate.tasks import _fetched
from paredown.report.tables import SCORE_COLUMNS, score_rows
from paredown.spec.benchmarks import BENCHMARKS, check_text_name, expand, split_request
from paredown.spec.result import TrialResult
from paredown.spec.run import EvaluateConfig, RunConfig
from paredown.store.cache import Cache
from paredown.store.content import model_hash
from paredown.text.windows import load_tokenizer
from tests.evaluate.tasks_samples import DATA, needs_data, session_of, tiny_chatter
from tests.samples import EVALUATE


@pytest.fixture(scope="module")
def chatter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chatter(tmp_path_factory.mktemp("chatter"))


def request(folder: Path, *names: str, limit: int = 8, **settings: Any) -> ScoreRequest:
    return ScoreRequest(
        config=EvaluateConfig(benchmarks=names, limit=limit, **settings),
        data_dir=DATA,
        device="cpu",
        trust_remote_code=False,
        cache=Cache(folder / "cache"),
    )


def quiet(share: float, message: str) -> None:
    """Progress that nobody watches."""


def adapter_of(model: Path, folder: Path) -> Any:
    from paredown.evaluate.harness import HarnessModel

    responses = Responses(folder / "responses.jsonl")
    return HarnessModel(lambda: session_of(model), load_tokenizer(model), responses, quiet)


def run(name: str, adapter: Any, folder: Path, *, limit: int = 6) -> Any:
    from paredown.evaluate.tasks import run_benchmark

    return run_benchmark(
        name, adapter, limit=limit, chat_template=False, data_dir=DATA, scratch=folder
    )


@needs_data
@pytest.mark.parametrize(
    "name",
    [
        "arc_easy",
        "commonsenseqa",
        "winogrande",
        pytest.param("hellaswag", marks=pytest.mark.slow),
    ],
)
def test_scores_equal_those_of_lm_evals_own_model(chatter: Path, tmp_path: Path, name: str) -> None:
    """The same task once more, with `HFLM` in place of our adapter."""
    from lm_eval.models.huggingface import HFLM

    ours = run(name, adapter_of(chatter, tmp_path), tmp_path / "ours")
    seen: dict[tuple[Any, ...], Any] = {}

    class Theirs(HFLM):  # type: ignore[misc]
        truncated: ClassVar[set[Any]] = set()
        following: ClassVar[dict[Any, Any]] = {}
        along: ClassVar[dict[Any, Any]] = {}

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            found = super().loglikelihood(requests, disable_tqdm=True)
            seen.update(zip([r.args for r in requests], found, strict=True))
            return found

        def forget(self) -> None:
            """It notes nothing by task and row."""

    theirs = run(
        name,
        Theirs(pretrained=str(chatter), device="cpu", dtype="float32", batch_size=3),
        tmp_path / "theirs",
    )
    # What is likely after a prompt, which a KL to the base needs, is noted by ours alone.
    assert [replace(item, next=None) for item in ours.items] == list(theirs.items)
    kept = Responses(tmp_path / "responses.jsonl")
    assert len(seen) >= 12
    for args, (value, greedy) in seen.items():
        mine = kept.get(Responses.key("loglikelihood", args))
        assert mine is not None
        assert mine[0] == pytest.approx(value, rel=2e-7, abs=1e-4)
        assert mine[1] == greedy
    assert "lm-eval 0.4" in ours.how


@needs_data
def test_written_answers_equal_those_of_lm_evals_own_model(chatter: Path, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    prompts = ["Question: two and two?\nAnswer:", "a", "Why is the sky blue? " * 3]
    options = {"until": ["Q", "\n\n"], "max_gen_toks": 24, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (text, dict(options)), 0, metadata=("t", i, 1))
        for i, text in enumerate(prompts)
    ]
    theirs = HFLM(pretrained=str(chatter), device="cpu", dtype="float32", batch_size=1)
    expected = theirs.generate_until(requests, disable_tqdm=True)
    found = adapter_of(chatter, tmp_path).generate_until(requests)
    # Theirs are decoded without the prompt, and so lose the blank that they begin with.
    assert [text.removeprefix(" ") for text in found] == expected


@needs_data
def test_whole_texts_equal_those_of_lm_evals_own_model(tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = tiny_chatter(tmp_path / "short", max_position_embeddings=64)
    texts = ["It was a dark and stormy night. " * 7, "Short."]
    requests = [
        Instance("loglikelihood_rolling", {}, (text,), 0, metadata=("t", i, 1))
        for i, text in enumerate(texts)
    ]
    theirs = HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=1)
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    found = adapter_of(model, tmp_path).loglikelihood_rolling(requests)
    assert found == pytest.approx(expected, abs=1e-3)


@needs_data
@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_benchmark_has_its_rows_and_lm_evals_names(name: str) -> None:
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: str(node.value))
    benchmark = BENCHMARKS[name]
    files = task_files(benchmark, DATA)
    assert len(files) == {"mmlu": 57, "bigbench_hard": 27}.get(name, 1)
    for file in files:
        document = yaml.load(file.include.read_text(), Loader)
        assert document["task"] == file.task
        assert all(path.is_file() for path in file.rows.values())
        assert f"task: {file.task}\n" in file.yaml()


@needs_data
def test_a_killed_evaluation_goes_on_at_the_batch_where_it_stood(
    chatter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paredown.runtimes.torch.scorer import CausalScorer

    asked = request(tmp_path, "arc_easy", limit=12)
    real, calls = CausalScorer._finite_logits, Counter[str]()

    def dying(self: CausalScorer, rows: Any) -> Any:
        calls["before"] += 1
        if calls["before"] == 6:
            raise KeyboardInterrupt
        return real(self, rows)

    monkeypatch.setattr(CausalScorer, "_finite_logits", dying)
    with pytest.raises(KeyboardInterrupt):
        answer_items(chatter, asked, quiet)
    (kept,) = (tmp_path / "cache" / "responses").glob("*.jsonl")
    half = kept.read_text()
    assert 0 < len(half.splitlines()) < 48
    kept.write_text(half + '["cut sho')  # as a kill in the middle of a line leaves it

    counted: list[int] = []

    def counting(self: CausalScorer, rows: Any) -> Any:
        counted.extend(len(row.sizes) for row in rows)
        return real(self, rows)

    monkeypatch.setattr(CausalScorer, "_finite_logits", counting)
    resumed = answer_items(chatter, asked, quiet)["arc_easy"]
    of_the_probe = 3 + 3  # whether the model heeds masks
    answers = len(Responses(kept)._known)
    assert len(half.splitlines()) + sum(counted) - of_the_probe == answers
    whole = answer_items(chatter, request(tmp_path / "new", "arc_easy", limit=12), quiet)
    assert resumed == whole["arc_easy"]


@needs_data
def test_the_base_is_asked_once_and_pairs_item_by_item(
    chatter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paredown.evaluate import scores

    other = tiny_chatter(tmp_path / "other", seed=1)
    asked = request(tmp_path, "arc_easy", "truthfulqa_mc2")
    found = measure_scores(other, chatter, asked, items=tmp_path / "items", progress=quiet)
    assert [s.name for s in found] == ["arc_easy", "truthfulqa_mc2"]
    versus = found[0].versus_base
    assert versus is not None
    assert versus.n == 8
    assert versus.kl is not None
    assert versus.kl > 0  # the two have other weights
    assert versus.difference == pytest.approx(found[0].value - versus.base_value)
    assert versus.verdict.endswith(f"on arc_easy (n=8, {100 * versus.difference:+.1f} ± "
                                   f"{100 * versus.half_width:.1f} points)")  # fmt: skip
    lines = [json.loads(x) for x in (tmp_path / "items" / "arc_easy.jsonl").open()]
    assert sum(line["score"] for line in lines) / 8 == pytest.approx(found[0].value)
    mass = found[1].versus_base
    assert mass is not None
    assert (mass.lost, mass.p_value) == (None, None)

    monkeypatch.setattr(scores, "engine", lambda *a, **k: pytest.fail("a model was loaded"))
    again = measure_scores(other, chatter, asked, items=tmp_path / "again", progress=quiet)
    assert again == [
        s.model_copy(update={"items": s.items.replace("items", "again")}) for s in found
    ]


@needs_data
def test_a_user_file_is_scored_like_a_benchmark(chatter: Path, tmp_path: Path) -> None:
    choice = tmp_path / "mine.jsonl"
    choice.write_text(
        '{"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}\n'
        '{"question": "Sky?", "choices": ["blue", "green", "red"], "answer": "blue"}\n'
    )
    free = tmp_path / "free.jsonl"
    free.write_text('{"question": "2 + 2?", "answer": "4"}\n{"question": "b?", "answer": "B."}\n')
    found = answer_items(chatter, request(tmp_path, str(choice), str(free), limit=0), quiet)
    mine, written = found[str(choice)], found[str(free)]
    assert (mine.name, mine.metric, len(mine.items)) == ("mine", "acc_norm", 2)
    assert mine.chance == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert (written.metric, len(written.items)) == ("exact_match", 2)
    assert all(isinstance(item.answer, str) for item in written.items)
    assert all(item.next is not None for item in (*mine.items, *written.items))
    assert not any(item.along for item in mine.items)  # there is nothing written to go along with


@needs_data
def test_written_answers_are_compared_along_what_the_base_has_written(
    chatter: Path, tmp_path: Path
) -> None:
    """Against a model of other weights; the divergence is taken by hand from whole logits."""
    free, question = tmp_path / "free.jsonl", "b?"
    free.write_text(json.dumps({"question": question, "answer": "B."}) + "\n")
    asked = request(tmp_path, str(free), limit=0)
    other = tiny_chatter(tmp_path / "other", seed=5)
    (theirs,) = answer_items(chatter, asked, quiet)[str(free)].items
    (found,) = measure_scores(other, chatter, asked, items=tmp_path / "items", progress=quiet)
    base, mine = scores._Lazy(chatter, asked), scores._Lazy(other, asked)
    (text,) = [answer[0] for answer in base.responses()._known.values()
               if answer and isinstance(answer[0], str)]  # fmt: skip
    answer = base.tokenizer.encode(text)[:64]
    assert len(theirs.along) == len(answer) > 1
    prompt = base.tokenizer.encode(f"Question: {question}\nAnswer:")
    ids = torch.tensor([[*prompt, *answer]])

    def by_hand(model: scores._Lazy) -> list[dict[int, float]]:
        rows = next(model.session().logprobs(ids))[len(prompt) - 1 :].topk(32)
        return [
            dict(zip(i, v, strict=True)) for v, i in zip(*map(Tensor.tolist, rows), strict=True)
        ]

    wanted = [kl_of_likeliest(p, q) for p, q in zip(by_hand(base), by_hand(mine), strict=True)]
    assert found.versus_base is not None
    assert found.versus_base.kl == pytest.approx(sum(wanted) / len(answer), rel=1e-3)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_benchmark_runs(chatter: Path, tmp_path: Path, name: str) -> None:
    limit = 60 if name == "mmlu" else 2
    found = answer_items(chatter, request(tmp_path, name, limit=limit), quiet)[name]
    benchmark = BENCHMARKS[name]
    assert len(found.items) == limit
    assert found.few_shot == benchmark.few_shot
    assert found.metric.split(",")[0] == benchmark.metric
    assert all(0 <= item.score <= 1 for item in found.items)
    if name == "gsm8k":
        assert found.items[0].metrics.keys() == {"exact_match", "exact_match,flexible-extract"}
    if name == "mmlu":
        assert len({item.part for item in found.items}) == 57


@needs_data
def test_humaneval_is_written_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(humaneval, "_MAX_TOKENS", 24)
    asked = request(tmp_path, "humaneval", limit=2)
    model = tiny_chatter(tmp_path / "m", max_position_embeddings=2048)
    found = answer_items(model, asked, quiet)["humaneval"]
    assert [item.score for item in found.items] == [0.0, 0.0]
    assert found.n_available == 164
    assert "HumanEval" in found.how


@needs_data
def test_a_chat_template_that_is_not_there_is_refused(chatter: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        answer_items(chatter, request(tmp_path, "arc_easy", chat_template=True), quiet)


def test_a_draw_is_spread_nested_and_repeatable() -> None:
    sizes = {"a": 100, "b": 50, "c": 50, "d": 1}
    drawn = draw(sizes, 20, seed=1234)
    assert {part: len(rows) for part, rows in drawn.items()} == {"a": 10, "b": 5, "c": 5}
    assert draw(sizes, 20, seed=1234) == drawn
    more = draw(sizes, 40, seed=1234)
    assert all(set(drawn[part]) <= set(more[part]) for part in drawn)
    assert draw(sizes, 20, seed=1) != drawn
    assert all(rows == sorted(rows) for rows in more.values())
    assert draw(sizes, 0, seed=0)["a"] == list(range(100))
    assert sum(map(len, draw(sizes, 57, seed=0).values())) == 57


def test_a_models_hash_is_of_what_it_answers_with(tmp_path: Path) -> None:
    model = tiny_chatter(tmp_path)
    before = model_hash(model)
    (model / "paredown.json").write_text("{}")
    (model / "README.md").write_text("hello")
    assert model_hash(model) == before
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    assert model_hash(model) != before


@pytest.mark.parametrize(
    ("wanted", "text", "benchmarks"),
    [
        (["gsm8k"], "pydoc", ("gsm8k",)),
        (["truthfulqa", "mmlu"], "pydoc", ("truthfulqa_mc1", "truthfulqa_mc2", "mmlu")),
        (["self", "arc_easy", "lm-eval:piqa"], "self", ("arc_easy", "lm-eval:piqa")),
        (["wikitext2"], "wikitext2", ()),
    ],
)
def test_names_are_told_apart(wanted: list[str], text: str, benchmarks: tuple[str, ...]) -> None:
    assert split_request(wanted) == (text, benchmarks)
    config = RunConfig(model="m", data=wanted)
    assert (config.data, config.evaluate.benchmarks) == (text, benchmarks)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'arc_easy'"):
        check_text_name(split_request(["arc_esy"])[0])
    with pytest.raises(DataError, match="did you mean 'arc_easy'"):
        check_benchmarks(EvaluateConfig(benchmarks=("arc_esy",)), None)
    with pytest.raises(DataError, match="'pydoc' is no benchmark"):
        expand(["pydoc"])
    assert expand(["truthfulqa"]) == ("truthfulqa_mc1", "truthfulqa_mc2")
    with pytest.raises(DataError, match="both texts"):
        split_request(["pydoc", "self"])


def test_rows_that_are_not_there_are_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"arc_easy: .*train.jsonl is not there; check --data-dir"):
        check_benchmarks(EvaluateConfig(benchmarks=("arc_easy",)), tmp_path)
    with pytest.raises(DataError, match="humaneval needs a local copy"):
        check_benchmarks(EvaluateConfig(benchmarks=("humaneval",)), None)
    assert lm_eval_tasks().is_dir()


@needs_data
def test_evaluate_reports_scores_beside_the_rest(chatter: Path, tmp_path: Path) -> None:
    other = tiny_chatter(tmp_path / "other", seed=1)
    result = paredown.evaluate(
        other,
        base=str(chatter),
        data=["arc_easy"],
        config=EVALUATE.model_copy(update={"limit": 6}),
        data_dir=DATA,
        items=tmp_path / "items",
    )
    (score,) = result.scores
    measured = result.get("arc_easy")
    assert measured is not None
    assert (measured.value, measured.n) == (score.value, 6)
    assert score.versus_base is not None
    assert "arc_easy" in score.versus_base.verdict
    assert result.value("perplexity") is not None
    assert len((tmp_path / score.items).read_text().splitlines()) == 6
    row = dict(zip(SCORE_COLUMNS, score_rows([result])[0], strict=True))
    assert (row["benchmark"], row["items"]) == ("arc_easy", "6 of 500")
    assert TrialResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.slow
@needs_data
def test_what_evaluate_records_as_quality_is_the_score_that_was_named(
    chatter: Path, tmp_path: Path
) -> None:
    other = tiny_chatter(tmp_path / "other", seed=1)
    config = EVALUATE.model_copy(update={"limit": 24})
    of_other, of_itself = (
        paredown.evaluate(
            model, base=str(chatter), data=["arc_easy"], config=config, data_dir=DATA,
            only_benchmarks=True,
        )
        for model in (other, chatter)
    )  # fmt: skip
    (score,) = of_other.scores
    assert score.versus_base is not None
    kept = score.value / score.versus_base.base_value
    assert of_other.value("quality") == pytest.approx(kept)
    assert of_other.accuracy == of_other.value("accuracy") == score.value
    assert of_other.value("quality_points") == pytest.approx(100 * score.versus_base.difference)
    assert of_itself.value("quality") == 1
    assert of_itself.accuracy == of_itself.scores[0].value


@needs_data
def test_a_candidate_that_surely_lost_is_asked_no_further(
    chatter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base that is always right, and a candidate that never is."""
    from paredown.evaluate import scores

    other = tiny_chatter(tmp_path / "other", seed=1)
    real = scores._answer

    def answers(name: str, model: Any, asked: Any, progress: Any) -> Any:
        found = real(name, model, asked, progress)
        right = float(model.folder == chatter)
        return replace(found, items=tuple(replace(item, score=right) for item in found.items))

    monkeypatch.setattr(scores, "_answer", answers)
    asked = request(tmp_path, "arc_easy", limit=80)
    (found,) = measure_scores(other, chatter, asked, items=tmp_path / "items", progress=quiet)
    assert found.stopped == "after 20 of 80 items, for a loss beyond 10 points is sure"
    assert (found.n, found.value) == (20, 0.0)
    assert found.versus_base is not None
    assert (found.versus_base.n, found.versus_base.lost) == (20, 20)
    asked = request(tmp_path, "arc_easy", limit=80, stop_loss=None)
    (whole,) = measure_scores(other, chatter, asked, items=tmp_path / "items", progress=quiet)
    assert (whole.n, whole.stopped) == (80, None)


def test_the_function_is_not_hidden_by_the_package_of_its_name() -> None:
    import paredown.api
    import paredown.evaluate.items

    assert paredown.evaluate is paredown.api.evaluate


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("arc_easy", "neither in a local folder"),
        ("lm-eval:arc_easy", "`-d arc_easy` reads a local folder"),
        ("lm-eval:piqa", "come from the hub alone"),
    ],
)
def test_rows_that_cannot_be_had_are_told_with_what_can_be_done(name: str, words: str) -> None:
    def offline() -> Mapping[str, Any]:
        raise ConnectionError("no hub\nand more")

    with pytest.raises(DataError, match=words) as found:
        _fetched(name, offline)
    assert "(no hub)" in str(found.value)
