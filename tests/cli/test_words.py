"""Command lines of other tools and of the papers' scripts, read as ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from paredown.cli.prune import _strategy
from paredown.cli.words import translated
from paredown.errors import ConfigError, StrategyError
from tests.cli.asked import say

RUN = {"--model", "-m", "--data", "-d", "--calibration-samples", "--device", "--output-dir"}
EVALUATE = {"--data", "-d", "--output", "--device"}
COMPRESS = {"--model", "--data", "--samples", "--output", "--device"}


@pytest.mark.parametrize(
    ("known", "theirs", "ours"),
    [
        (RUN, "-m a --dataset gsm8k", "-m a --data gsm8k"),
        (RUN, "--model_path a --data_path=t.txt", "--model a --data=t.txt"),
        (RUN, "--data-samples 64 --cpu", "--calibration-samples 64 --device cpu"),
        (RUN, "--output_dir x --gpu", "--output-dir x --device cuda"),
        (EVALUATE, "--model-path a --benchmark mmlu --output-dir r", "a --data mmlu --output r"),
        (EVALUATE, "--model-path=a", "a"),
        (COMPRESS, "--nsamples 128 --save_model d", "--samples 128 --output d"),
        (COMPRESS, "--data-samples 128", "--samples 128"),
        (COMPRESS, "--unknown 1 -- --dataset", "--unknown 1 -- --dataset"),
        ({"--model"}, "--model a --cpu", "--model a --cpu"),
        (COMPRESS, "--cpu=1 --model --gpu", "--cpu=1 --model --device cuda"),
    ],
)
def test_their_words_become_ours(known: set[str], theirs: str, ours: str) -> None:
    assert translated(theirs.split(), known, takes_model_first=known is EVALUATE) == ours.split()


def test_commands_read_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = say(capsys, "run", "--model_path", str(tmp_path), "--dataset", "pydoc", "--show-spec")
    assert "no option" not in said.err
    assert str(tmp_path) in said.err  # no model is there: it came so far
    said = say(capsys, "evaluate", "--model-path", str(tmp_path), "--benchmark", "mmulu")
    assert "did you mean 'mmlu'?" in said.err


def test_a_commands_own_words_stay() -> None:
    assert translated(["--output-dir", "x"], {"--output-dir", "--output"}) == ["--output-dir", "x"]


def test_prune_says_the_strategy_that_it_means() -> None:
    assert _strategy("wanda", 0.3, is_global=False) == "wanda(ratio=0.3)"
    assert _strategy("structured_afr", 0.2, is_global=True) == (
        'structured_afr(ratio=0.2, scope="global")'
    )
    assert _strategy("flap", None, is_global=False) == "flap"


def test_prune_refuses_what_does_not_prune() -> None:
    with pytest.raises(ConfigError, match="gptq does not prune; use: paredown compress -s gptq"):
        _strategy("gptq", 0.3, is_global=False)
    with pytest.raises(ConfigError, match="depth has no scope, so it takes no --global-pruning"):
        _strategy("depth", 0.3, is_global=True)
    with pytest.raises(StrategyError, match="wanda"):
        _strategy("wandaa", None, is_global=False)
