"""Stage 3: carry the strategies out, measure them, and ask base and artifact the same things."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from paredown.coordinate.asking import ask
from paredown.coordinate.run import run_experiment
from paredown.coordinate.setup import default_name
from paredown.coordinate.steering import Steering
from paredown.errors import ConfigError
from paredown.judge.limits import check
from paredown.lab.checkpoints import Design, Exchange, Implementation
from paredown.lab.context import Lab, now
from paredown.lab.design import limit_of
from paredown.lab.sentences import BUILT_IN_PROMPTS
from paredown.methods import registry
from paredown.pipeline.messages import AnswerDone
from paredown.report.findings import find
from paredown.spec.reading import read_object
from paredown.spec.serial import content_hash
from paredown.spec.strategy import Strategy
from paredown.store.atomic import write_json
from paredown.store.content import model_hash
from paredown.store.experiment import (
    Experiment,
    ExperimentRecord,
    is_experiment,
    read_experiment,
)

_CODE = 1


def depends_on(lab: Lab, design: Design) -> dict[str, str]:
    """What the stage is made from: of the design only what it chose."""
    config = lab.config
    measured = (config.data, config.data_dir, config.evaluate, config.calibration, config.seed,
                config.device, config.trust_remote_code)  # fmt: skip
    return {
        "model": lab.base.hash,
        "chosen strategies": content_hash(list(design.chosen)),
        "constraints": content_hash(config.constraints),
        "how it is measured": content_hash([str(part) for part in measured]),
        "prompts": content_hash([list(messages(lab)), config.answer_tokens]),
        "machine": lab.machine.id,
        "code": str(_CODE),
    }


def messages(lab: Lab) -> tuple[str, ...]:
    """The user's prompts, or those that are built in."""
    return lab.config.prompts or BUILT_IN_PROMPTS


def implement(lab: Lab, design: Design) -> Implementation:
    """Run the experiment, let the judge decide, and ask what was decided on.

    Raises:
        ConfigError: a strategy cannot run on this model.
        KeyboardInterrupt: the user has stopped it before everything was carried out.
    """
    strategies = [registry.canonical(text) for text in design.chosen]
    record = _carried_out(lab, strategies)
    wanted = {strategy.hash for strategy in strategies}
    results = tuple(r for r in record.trials if r.strategy and r.strategy.hash in wanted)
    if len(results) < len(wanted) or record.baseline is None:
        raise KeyboardInterrupt
    choice = find(record).recommendation
    undecided = Implementation(
        made_at=now(), made_from=depends_on(lab, design),
        experiment=str(record.folder.relative_to(lab.folder)), baseline=record.baseline,
        results=results, episode=choice.episode, reason=choice.reason, limits=(), asked=None,
        is_chat=False, exchanges=(),
    )  # fmt: skip
    return ask_again(lab, undecided)


def ask_again(lab: Lab, made: Implementation) -> Implementation:
    """The stage, with limits and answers of the result that it names."""
    result = made.result
    limits = () if result is None else tuple(
        limit_of(one) for one in check(result, made.baseline, lab.config.constraints.limits)
    )  # fmt: skip
    is_chat, exchanges = _exchanges(lab, made)
    return made.model_copy(
        update={
            "limits": limits, "asked": made.episode, "is_chat": is_chat, "exchanges": exchanges
        }
    )  # fmt: skip


def _carried_out(lab: Lab, strategies: list[Strategy]) -> ExperimentRecord:
    """The experiment, with every strategy that was chosen tried in it."""
    request = lab.config.run_config(1)
    name = default_name(request)
    folder = lab.experiments / name
    begun: set[str] = set()
    if is_experiment(folder):  # of the stage before, of a design that was edited, or killed
        in_flight = Experiment(folder).in_flight()
        begun = {r.strategy.hash for r in read_experiment(folder).trials if r.strategy}
        begun |= {one.strategy.hash for one in in_flight}
    episodes = len(begun | {strategy.hash for strategy in strategies})
    request = lab.config.run_config(episodes)
    with lab.teller.experiment(request) as listen:
        return run_experiment(
            request,
            name=name,
            output_dir=lab.experiments,
            resume=is_experiment(folder),
            listen=listen,
            steering=Steering(first=[str(strategy) for strategy in strategies]),
        )


def artifact_of(lab: Lab, record: Implementation) -> Path | None:
    """The folder of what goes on to deployment; the base's own where that is the base.

    Raises:
        ConfigError: the checkpoint names an episode of which nothing was kept.
    """
    if record.episode is None:
        return None
    if record.episode == 0:
        return lab.base.folder
    result = record.result
    folder = None
    if result is not None and result.artifact is not None:
        folder = lab.folder / record.experiment / result.artifact
    if folder is None or not folder.is_dir():
        kept = ", ".join(str(r.episode) for r in record.results if r.artifact is not None)
        raise ConfigError(
            f"3-implementation.json: episode {record.episode} keeps no artifact; give one of "
            f"{kept or 'none'}, or 0 for the base"
        )
    return folder


def _exchanges(lab: Lab, made: Implementation) -> tuple[bool, tuple[Exchange, ...]]:
    """Whether messages were put into a template, and what base and result say to each."""
    base = _answers(lab, lab.base.folder, lab.base.hash)
    artifact, theirs = artifact_of(lab, made), None
    if artifact is not None and made.episode:
        theirs = _answers(lab, artifact, model_hash(artifact))
    said = [None] * len(base.answers) if theirs is None else list(theirs.answers)
    pairs = zip(messages(lab), base.answers, said, strict=True)
    return base.is_chat, tuple(Exchange(message=m, base=b, artifact=a) for m, b, a in pairs)


def _answers(lab: Lab, model: Path, key: str) -> AnswerDone:
    """A model's answers, kept in the lab: a stage that was killed asks nobody twice."""
    config = lab.config
    asked = [key, list(messages(lab)), config.answer_tokens, config.constraints.runtime,
             config.device, lab.machine.id]  # fmt: skip
    path = lab.folder / "answers" / f"{content_hash(asked)}.json"
    if path.is_file():
        try:
            return AnswerDone.model_validate(read_object(path))
        except (ConfigError, ValidationError):  # damaged: it is asked again
            path.unlink()
    with lab.teller.job() as watch:
        found = ask(
            model, messages(lab), max_tokens=config.answer_tokens,
            runtime=config.constraints.runtime, device=config.device,
            trust_remote_code=config.trust_remote_code, watch=watch,
        )  # fmt: skip
    write_json(path, found)
    return found
