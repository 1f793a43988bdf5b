"""Progress while answers are written."""

from __future__ import annotations

from pathlib import Path

from paredown.evaluate.harness import Pace
from tests.evaluate.tasks_samples import scorer_of, tiny_chatter


def test_time_left_is_a_bound_until_the_first_answers_are_done() -> None:
    told: list[tuple[float, str]] = []
    seconds = 100.0
    pace = Pace(40, lambda share, text: told.append((share, text)), clock=lambda: seconds)
    seconds += 10  # a quarter of the longest possible text of 16 answers: 4 of 40 answers
    pace.step(16, 0.25)
    assert told[-1] == (0.1, "0 of 40 answers, at most 1m30s left")
    answers = pace.watched(iter("ab"))
    next(answers)
    next(answers)
    seconds = 120.0
    pace.step(16, 0.5)
    assert told[-1][0] == (1 + 8) / 40
    assert told[-1][1] == "1 of 40 answers, about 1m09s left"
    assert list(pace.watched(iter(range(39))))[-1] == 38
    assert told[-1] == (1.0, "40 of 40 answers")


def test_every_token_is_told(tmp_path: Path) -> None:
    scorer = scorer_of(tiny_chatter(tmp_path))
    told: list[tuple[int, float]] = []
    list(
        scorer.generate(
            [[5, 6], [7]], stops=[], max_tokens=4, step=lambda n, share: told.append((n, share))
        )
    )
    assert told == [(2, 0.25), (2, 0.5), (2, 0.75), (2, 1.0)]
