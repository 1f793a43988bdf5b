"""Scores on benchmarks, and how they compare with the base model's on the same items."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Outcome = Literal["no loss", "small loss", "loss", "gain", "unclear"]


class Comparison(BaseModel):
    """One model against its base, item by item."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    n: int
    """Items that both answered."""
    base_value: float
    """The base model's score on these items."""
    difference: float
    """Mean score minus the base's; better is positive."""
    low: float
    high: float
    """95 % interval of the difference."""
    lost: int | None
    """Items right before and wrong after; None where scores are not right or wrong."""
    gained: int | None
    """Items wrong before and right after."""
    changed: int | None
    """Items whose answer is another one, right or wrong; None where that was not recorded."""
    p_value: float | None
    """McNemar's exact test of no change; None where scores are not right or wrong."""
    margin: float
    """Difference that would not matter to the user."""
    equivalent: bool
    """Whether two one-sided tests at 5 % show the difference to be within the margin."""
    kl: float | None = None
    """KL(base, this model) of the token after each item's prompt, nats per token; None where the
    engine does not tell what follows."""
    kl_stderr: float | None = None
    """Of its mean over the items; None where there is one item."""
    verdict: str
    """The outcome in words."""

    @property
    def outcome(self) -> Outcome:
        """What the comparison shows, and no more.

        `no loss` takes the equivalence test, not merely the lack of a difference; a difference is
        one if McNemar's test rejects at 5 %, or, where scores are not right or wrong, if the 95 %
        interval leaves zero out. A `small loss` is shown, and shown to be within the margin.
        """
        shown = not self.low <= 0 <= self.high if self.p_value is None else self.p_value < 0.05
        if shown and self.difference > 0:
            return "gain"
        if shown:
            return "small loss" if self.equivalent else "loss"
        return "no loss" if self.equivalent else "unclear"

    @property
    def half_width(self) -> float:
        """Of the interval, on its longer side."""
        return max(self.high - self.difference, self.difference - self.low)


class Part(BaseModel):
    """One subject or task of a benchmark that has several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    n: int


class TaskScore(BaseModel):
    """The score of one model on one benchmark."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    metric: str
    """Of the value, as lm-eval calls it, e.g. `acc_norm` or `exact_match,strict-match`."""
    value: float
    """Mean over the items."""
    stderr: float | None
    low: float
    high: float
    """95 % interval of the value."""
    n: int
    """Items that were scored."""
    n_available: int
    """Items in the rows that were at hand."""
    n_truncated: int
    """Items whose prompt did not fit into the model's context and lost its beginning."""
    few_shot: int
    """Solved examples in each prompt."""
    chance: float | None
    """What guessing scores."""
    higher_is_better: bool = True
    other: dict[str, float] = {}
    """The benchmark's further metrics, on the same items."""
    parts: dict[str, Part] = {}
    """By subject or task, for a benchmark that has several."""
    rows: str
    """Where the rows came from."""
    how: str
    """The protocol in words."""
    items: str
    """File of the single items, relative to the results."""
    final: bool = False
    """Asked after the search, on a larger set: of the front and the base, or for a decision."""
    versus_base: Comparison | None = None
    """None for the base itself."""
    stopped: str | None = None
    """Why only a part of the items was asked; None where all were."""
