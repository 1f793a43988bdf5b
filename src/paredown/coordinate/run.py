"""One experiment from request to report."""

from __future__ import annotations

import os
import platform
from contextlib import ExitStack
from pathlib import Path

from paredown.advise.client import Advisor
from paredown.advise.prompts import SKILL_ROWS, Background
from paredown.artifact.description import library_versions
from paredown.coordinate.choice import Choice, arms, choose_coordinator, opened_advisor
from paredown.coordinate.energy import RunMeter
from paredown.coordinate.final import pending, score_front
from paredown.coordinate.graph import run_graph
from paredown.coordinate.interrupt import Interrupt
from paredown.coordinate.memory import known_before, remember, skill_store
from paredown.coordinate.nodes import Listener, Run, measure_baseline
from paredown.coordinate.setup import Plan, check_same, default_name, folder_name, prepare
from paredown.coordinate.skills import Skill, lines, skills_of, transferable
from paredown.coordinate.steering import Steering, outstanding
from paredown.errors import ExperimentError
from paredown.pipeline.bench import Bench
from paredown.pipeline.executors.local import LocalExecutor, memory_limit
from paredown.report.write import write_report
from paredown.search.base import Policy
from paredown.search.policies import registry as policies
from paredown.spec.run import RunConfig
from paredown.spec.serial import plain
from paredown.store.atomic import require_writable
from paredown.store.experiment import (
    Experiment,
    ExperimentRecord,
    is_experiment,
    lock,
    read_experiment,
)
from paredown.store.skills import SkillStore

DEFAULT_FOLDER = Path("data/experiments")


def run_experiment(
    config: RunConfig,
    *,
    name: str | None = None,
    output_dir: Path = DEFAULT_FOLDER,
    resume: bool = False,
    listen: Listener = lambda event, fields: None,
    steering: Steering | None = None,
) -> ExperimentRecord:
    """Search for compressed versions of a model; everything lands in `output_dir/name`.

    Args:
        config: the request.
        name: experiment name; None makes one from model, text and settings.
        output_dir: folder that holds experiments.
        resume: go on with an experiment that exists.
        listen: told of decisions, progress and results as they come.
        steering: takes the user's commands while the run goes on.

    Ctrl-C ends the run after the trial in flight, with the report; a second one ends it at once.

    Raises:
        ConfigError: the request is wrong; nothing was started.
        ExperimentError: the experiment exists (and `resume` is off, or settings differ).
    """
    steering = steering or Steering()
    with ExitStack() as at_end:
        at_end.callback(steering.detach)
        folder = output_dir / (default_name(config) if name is None else folder_name(name))
        require_writable(output_dir)
        choice = choose_coordinator(config)
        store = skill_store(config)
        skills = () if store is None else skills_of(store.evidence())
        config = _settled(folder, config, resume=resume)
        if resume and _is_finished(folder, config):
            return read_experiment(folder)
        memory = memory_limit(config.worker_memory_gb)
        executor = at_end.enter_context(LocalExecutor(memory_bytes=memory))
        executor.start()  # torch is imported there while the request is checked here
        plan = prepare(config)
        return _run_plan(folder, plan, executor, choice, store, skills, listen, steering)


def _run_plan(
    folder: Path,
    plan: Plan,
    executor: LocalExecutor,
    choice: Choice,
    store: SkillStore | None,
    skills: tuple[Skill, ...],
    listen: Listener,
    steering: Steering,
) -> ExperimentRecord:
    handle = lock(folder)
    try:
        with opened_advisor(choice, plan.config) as advisor:
            experiment = _open(folder, plan)
            _announce(choice, plan, experiment, listen)
            policy = _policy(plan, experiment, advisor, skills)
            with RunMeter(plan.config, experiment.events) as meter:
                told = meter.after_results(listen)
                run = _make_run(plan, experiment, executor, policy, told, steering)
                try:
                    reason = _search(run)
                finally:  # whatever ended it: what was finished is worth knowing
                    meter.note()
                    remember(folder, store)
            experiment.events.add("stopped", reason=reason)
            write_report(read_experiment(folder), reason)
            return read_experiment(folder)
    finally:
        os.close(handle)


def _settled(folder: Path, config: RunConfig, *, resume: bool) -> RunConfig:
    """The config to run with; an existing experiment must be asked for, and be the same."""
    if not is_experiment(folder):
        return config
    check_same(folder, read_experiment(folder).config, config)
    if not resume:
        raise ExperimentError(
            f"experiment {folder.name!r} exists already; continue it with --resume, "
            "or choose another --experiment-name"
        )
    return config


def _is_finished(folder: Path, config: RunConfig) -> bool:
    if not is_experiment(folder):
        return False
    record = read_experiment(folder)
    done = record.final is not None and len(record.trials) >= config.episodes
    return done and not pending(record.results, config)


def _open(folder: Path, plan: Plan) -> Experiment:
    about = {
        "name": folder.name,
        "model": {"name": plan.base.name, "sha256": plan.base.hash},
        "device": plan.target.device,
        "versions": {**library_versions(), "python": platform.python_version()},
        "hardware": plain(plan.machine),
    }
    experiment = Experiment.create(folder, plan.config, plan.base.spec, about)
    (folder / "final_results.json").unlink(missing_ok=True)
    methods = dict.fromkeys(step.method for s in plan.space.strategies for step in s.steps)
    experiment.events.add(
        "started",
        episodes=plan.config.episodes,
        strategies=len(plan.space.strategies),
        methods=tuple(methods),
    )
    for label, reason in plan.space.refused.items():
        experiment.events.add("refused", strategy=label, reason=reason)
    return experiment


def _announce(choice: Choice, plan: Plan, experiment: Experiment, listen: Listener) -> None:
    """Say which coordinator there is, and why."""
    document = choice.document(plan.config, len(plan.space.first_of_methods()))
    experiment.events.add("coordinator", **document)
    listen("coordinator", document)
    wishes = str(outstanding(experiment))
    if wishes:  # of an earlier session
        listen("wishes", {"text": wishes})


def _policy(
    plan: Plan, experiment: Experiment, advisor: Advisor | None, skills: tuple[Skill, ...]
) -> Policy:
    """What proposes: the classical policy, the LLM beside it, after a start from skills."""
    config = plan.config
    known = transferable(skills, plan.base.spec)
    background = Background(
        spec=plan.base.spec,
        config=config,
        device=plan.target.device,
        skills=lines(known, SKILL_ROWS),
    )
    start, remembered = known_before(plan, experiment, known)
    return policies.create(
        config.policy,
        seed=config.seed,
        objectives=config.objectives,
        start=start,
        remembered=remembered,
        arms=arms(advisor, config, background, experiment.events),
    )


def _make_run(
    plan: Plan,
    experiment: Experiment,
    executor: LocalExecutor,
    policy: Policy,
    listen: Listener,
    steering: Steering,
) -> Run:
    config = plan.config
    steering.attach(plan, experiment)
    return Run(
        plan=plan,
        experiment=experiment,
        bench=Bench(
            base=plan.base,
            text=plan.text,
            calibration=config.calibration,
            evaluate=config.evaluate,
            device=plan.target.device,
            seed=config.seed,
            executor=executor,
            trust_remote_code=config.trust_remote_code,
        ),
        policy=policy,
        listen=listen,
        interrupt=Interrupt(tell=lambda: listen("interrupted", {})),
        steering=steering,
    )


def _search(run: Run) -> str:
    """Measure the baseline, then turn the loop; returns why it ended."""
    if earlier := run.experiment.results():
        run.listen("earlier", {"results": earlier})
    try:
        with run.interrupt:
            measure_baseline(run)
            reason = run_graph(run)
            score_front(run)
            return reason
    except KeyboardInterrupt:
        run.experiment.events.add("stopped", reason="stopped at once by the user (Ctrl-C)")
        raise
