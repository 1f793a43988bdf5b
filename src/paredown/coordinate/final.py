"""After the search: the base and the front on the larger set of benchmark items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from paredown.coordinate.state import Run
from paredown.coordinate.turn import time_limit
from paredown.judge.front import find_front
from paredown.pipeline import trial
from paredown.report.write import write_progress_files
from paredown.spec.result import Failure, TrialResult
from paredown.spec.run import RunConfig
from paredown.store.experiment import read_experiment


def pending(results: Sequence[TrialResult], config: RunConfig) -> list[TrialResult]:
    """The base and those on the front that were scored, and not yet on the larger set."""
    if config.final_limit is None or config.final_limit == config.evaluate.limit:
        return []
    front = find_front(results, config.objectives)
    compressed = [r for r in results if r.episode > 0 and r in front and r.scores and r.artifact]
    base = [r for r in results if r.episode == 0 and r.scores]
    if not compressed:  # nothing to compare the base with
        return []
    return [r for r in (*base, *compressed) if not _is_final(r, config.final_limit)]


def _is_final(result: TrialResult, limit: int) -> bool:
    wanted = [score.n_available if limit == 0 else min(limit, score.n_available)
              for score in result.scores]  # fmt: skip
    return all(score.final and score.n >= n for score, n in zip(result.scores, wanted, strict=True))


def score_front(run: Run) -> None:
    """Ask the base and the front the items that the search left out, the base first.

    What was answered before is not asked again, and a run that is killed goes on where it stood.
    What could not be scored keeps the scores of the search; an event says why.
    """
    config = run.prepared.config
    for result in pending(run.experiment.results(), config):
        if run.interrupt.asked:
            _note(run, result, "skipped", "the run was interrupted; --resume goes on")
        elif (left := time_limit(run)) <= 0:
            _note(run, result, "skipped", "the budget is spent")
        else:
            _score(run, result, left)
    write_progress_files(read_experiment(run.experiment.folder))


def _score(run: Run, result: TrialResult, timeout_s: float) -> None:
    limit = run.prepared.config.final_limit
    if limit is None:
        raise AssertionError("nothing is pending without a limit")
    why = f"scores on {'all' if limit == 0 else limit} items"
    found = ask(run, result, limit=limit, timeout_s=timeout_s, why=why)
    if isinstance(found, TrialResult):
        _note(run, found, "ok", None)
    else:
        _note(run, result, "failed", found.message)


def ask(
    run: Run,
    result: TrialResult,
    *,
    limit: int,
    timeout_s: float,
    why: str,
    action: Literal["final", "further"] = "final",
) -> TrialResult | Failure:
    """Score a result that is kept on more items, and record it; or why that failed.

    Args:
        limit: items per benchmark; 0 means all.
        why: told to the display.
        action: whether all of the front is scored, or this one for a decision.
    """
    episode, config = result.episode, run.prepared.config
    run.listen("final", {"episode": episode, "action": action, "reason": why})
    found = trial.rescore(
        run.bench,
        result,
        run.experiment.episode(episode),
        limit=limit,
        timeout_s=timeout_s,
        baseline=next((r for r in run.experiment.results() if r.episode == 0), None),
        limits=config.limits,
        quality=config.quality,
        watch=lambda stage, share, message: run.listen(
            "progress", {"episode": episode, "stage": stage, "share": share, "message": message}
        ),
    )
    if isinstance(found, TrialResult):
        run.experiment.finish(found)
    return found


def _note(run: Run, result: TrialResult, status: str, reason: str | None) -> None:
    run.experiment.events.add(
        "final_scores",
        episode=result.episode,
        status=status,
        reason=reason,
        scores=shown_scores(result),
    )


def shown_scores(result: TrialResult) -> list[dict[str, Any]]:
    """Scores as events tell them."""
    return [{"benchmark": s.name, "value": s.value, "n": s.n} for s in result.scores]
