"""One experiment from request to report."""

from __future__ import annotations

import os
import platform
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from paredown.advise.client import Advisor
from paredown.advise.prompts import SKILL_ROWS, Background
from paredown.artifact.description import library_versions
from paredown.coordinate.agenda import Agenda, agenda
from paredown.coordinate.budget import budget_left
from paredown.coordinate.coordinator import (
    Coordinator,
    arms,
    choose_coordinator,
    llm_policy,
    opened_advisor,
)
from paredown.coordinate.crew import Crew
from paredown.coordinate.door import Door
from paredown.coordinate.elsewhere import measure_elsewhere, promise_elsewhere, unmeasured
from paredown.coordinate.energy import RunMeter
from paredown.coordinate.final import pending, score_front
from paredown.coordinate.further import ask_further
from paredown.coordinate.graph import run_graph
from paredown.coordinate.identity import CONTENT, content_of, require_same_content
from paredown.coordinate.interrupt import Interrupt
from paredown.coordinate.memory import Beginning, beginning, remember, skill_store
from paredown.coordinate.nodes import measure_baseline
from paredown.coordinate.remaining import Remaining, with_time_left
from paredown.coordinate.setup import Prepared, check_same, default_name, folder_name, prepare
from paredown.coordinate.skills import Skill, lines, skills_of, transferable
from paredown.coordinate.state import Listener, Run
from paredown.coordinate.steering import Steering, outstanding
from paredown.errors import ConfigError, ExperimentError
from paredown.pipeline.bench import Bench
from paredown.pipeline.disk import require_disk
from paredown.pipeline.executors.base import Executor
from paredown.pipeline.executors.choose import executor_of
from paredown.report.write import write_report, write_summary
from paredown.search.base import Policy
from paredown.search.policies import registry as policies
from paredown.spec.progress import Progress
from paredown.spec.run import RunConfig
from paredown.spec.serial import plain
from paredown.store.atomic import require_writable
from paredown.store.elsewhere import read_elsewhere
from paredown.store.events import read_events
from paredown.store.experiment import (
    Experiment,
    ExperimentRecord,
    is_experiment,
    lock,
    read_experiment,
)
from paredown.store.skills import SkillStore

DEFAULT_FOLDER = Path("data/experiments")
AT_ONCE = "stopped at once by the user (Ctrl-C)"


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
        # However this ends, whoever waits with a command gets an answer.
        at_end.callback(steering.detach)
        folder = output_dir / (default_name(config) if name is None else folder_name(name))
        require_writable(output_dir)
        coordinator = choose_coordinator(config)
        store = skill_store(config)
        skills = () if store is None else skills_of(store.evidence())
        config = _settled(folder, config, resume=resume)
        preparing = _preparing(listen)
        if is_experiment(folder):
            require_same_content(read_experiment(folder), content_of(config, preparing))
            if _is_finished(folder, config):
                return read_experiment(folder)
        # Torch is imported there while the request is checked here.
        executor = at_end.enter_context(executor_of(config, folder, before=_measured_on(folder)))
        prepared = prepare(config, preparing, executor.place)
        first = prepared.space.first_of_methods().values()
        require_disk(first, prepared.base.spec, output_dir, at_once=config.workers)
        return _run_prepared(
            folder, prepared, executor, coordinator, store, skills, listen, steering
        )


def plan_experiment(
    config: RunConfig, *, output_dir: Path = DEFAULT_FOLDER,
    listen: Listener = lambda event, fields: None,
) -> Agenda:  # fmt: skip
    """What a run would do first, and what it would need; nothing is measured, and nothing is left.

    Raises:
        ConfigError: the run would be refused.
    """
    coordinator, store = choose_coordinator(config), skill_store(config)
    with ExitStack() as looking:
        place = None
        if config.executor != "local":  # nothing is begun on it: only looked at
            place = looking.enter_context(executor_of(config, output_dir)).place
        prepared = prepare(config, _preparing(listen), place)
    first = prepared.space.first_of_methods().values()
    require_disk(first, prepared.base.spec, output_dir, at_once=config.workers)
    with TemporaryDirectory(prefix="paredown-plan-") as scratch:
        experiment = _open(Path(scratch) / "plan", prepared, _preparing(listen))
        known = transferable(
            () if store is None else skills_of(store.evidence()), prepared.base.spec
        )
        begins = beginning(prepared, experiment, known)
        _announce(coordinator, prepared, experiment, begins, listen)
        return agenda(prepared, begins, output_dir, done=0)


def _run_prepared(
    folder: Path,
    prepared: Prepared,
    executor: Executor,
    coordinator: Coordinator,
    store: SkillStore | None,
    skills: tuple[Skill, ...],
    listen: Listener,
    steering: Steering,
) -> ExperimentRecord:
    with ExitStack() as open_:
        open_.enter_context(_claimed(folder))
        advisor = open_.enter_context(opened_advisor(coordinator, prepared.config))
        executor.require(
            prepared.base.folder, prepared.base.spec, prepared.config, prepared.target.device
        )
        experiment = _open(folder, prepared, _preparing(listen))
        if executor.where:
            experiment.events.add("cluster", **executor.where)
        listen = open_.enter_context(Door(experiment, steering)).heard(listen)
        known = transferable(skills, prepared.base.spec)
        begins = beginning(prepared, experiment, known)
        _announce(coordinator, prepared, experiment, begins, listen)
        policy = _policy(prepared, experiment, advisor, known, begins)
        with RunMeter(prepared.config, experiment.events) as meter:
            told = with_time_left(meter.after_results(listen), _remaining(prepared, experiment))
            run = _make_run(prepared, experiment, executor, policy, told, steering)
            try:
                reason = _search(run)
            finally:  # whatever ended it: what was finished is worth knowing
                meter.note()
                remember(folder, store)
        experiment.events.add("stopped", reason=reason)
        write_report(read_experiment(folder), reason)
        return read_experiment(folder)


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """The experiment's folder, locked; it does not outlive a request that is refused.

    A folder that was there before stays, and so does one in which anything was measured.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    handle = lock(folder)
    try:
        yield
    except ConfigError:
        if folder in missing and not any(folder.glob("episode_*/results.json")):
            shutil.rmtree(folder)
            # What was made for it alone; others may have put theirs beside it meanwhile.
            for parent in missing[1:]:
                if not any(parent.iterdir()):
                    parent.rmdir()
        raise
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


def _measured_on(folder: Path) -> str | None:
    """Id of the machine on which the base of an experiment was measured, if it was."""
    if not is_experiment(folder):
        return None
    baseline = read_experiment(folder).baseline
    return None if baseline is None else baseline.machine


def _is_finished(folder: Path, config: RunConfig) -> bool:
    record = read_experiment(folder)
    done = record.final is not None and len(record.trials) >= config.episodes
    further = unmeasured(record.results, config, read_elsewhere(folder))
    return done and not pending(record.results, config) and not further


def _preparing(listen: Listener) -> Progress:
    """Tells a listener of what comes before the first decision."""
    return lambda share, message: listen("preparing", {"share": share, "message": message})


def _open(folder: Path, prepared: Prepared, progress: Progress) -> Experiment:
    about = {
        "name": folder.name,
        "model": {"name": prepared.base.name, "sha256": prepared.base.hash},
        CONTENT: content_of(prepared.config, progress),
        "device": prepared.target.device,
        "versions": {**library_versions(), "python": platform.python_version()},
        "hardware": plain(prepared.machine),
    }
    experiment = Experiment.create(folder, prepared.config, prepared.base.spec, about)
    # Of an earlier session: where it stands, a run has come to its end.
    (folder / "final_results.json").unlink(missing_ok=True)
    methods = dict.fromkeys(step.method for s in prepared.space.strategies for step in s.steps)
    experiment.events.add(
        "started",
        episodes=prepared.config.episodes,
        strategies=len(prepared.space.strategies),
        methods=tuple(methods),
    )
    for label, reason in prepared.space.refused.items():
        experiment.events.add("refused", strategy=label, reason=reason)
    return experiment


def _announce(
    coordinator: Coordinator,
    prepared: Prepared,
    experiment: Experiment,
    begins: Beginning,
    listen: Listener,
) -> None:
    """Say which coordinator there is, and why, and what is ahead."""
    methods = len(prepared.space.first_of_methods())
    document = coordinator.document(prepared.config, methods, len(begins.strategies))
    experiment.events.add("coordinator", **document)
    listen("coordinator", document)
    done = sum(result.episode > 0 for result in experiment.results())
    ahead = plain(agenda(prepared, begins, experiment.folder, done=done))
    experiment.events.add("agenda", **ahead)
    listen("agenda", ahead)
    for note in prepared.notes:
        experiment.events.add("note", text=note)
        listen("note", {"text": note})
    wishes = str(outstanding(experiment))
    if wishes:  # of an earlier session
        listen("wishes", {"text": wishes})


def _policy(
    prepared: Prepared,
    experiment: Experiment,
    advisor: Advisor | None,
    known: tuple[Skill, ...],
    begins: Beginning,
) -> Policy:
    """What proposes: the classical policy after a start from skills, the LLM beside or before."""
    config = prepared.config
    # Who does not lead finds these tried already, with what came of them.
    told = begins.lines() if config.llm.leads else ()
    background = Background(
        spec=prepared.base.spec,
        config=config,
        device=prepared.target.device,
        skills=(*told, *lines(known, SKILL_ROWS))[:SKILL_ROWS],
        first=begins.strategies if config.llm.leads else (),
    )
    llm = llm_policy(advisor, config, background, experiment.events)
    return policies.create(
        config.policy,
        seed=config.seed,
        objectives=config.objectives,
        aimed=begins.aimed,
        start=begins.start,
        remembered=begins.remembered,
        knowledge=begins.knowledge,
        arms=arms(llm, config),
        leader=llm if config.llm.leads else None,
    )


def _remaining(prepared: Prepared, experiment: Experiment) -> Remaining:
    config = prepared.config
    events = read_events(experiment.events.path) if config.budget_h is not None else ()
    return Remaining(
        config.episodes,
        benchmarks=bool(config.evaluate.benchmarks),
        workers=config.workers,
        budget_s=budget_left(config, experiment.results(), events).seconds_left,
    )


def _make_run(
    prepared: Prepared,
    experiment: Experiment,
    executor: Executor,
    policy: Policy,
    listen: Listener,
    steering: Steering,
) -> Run:
    config = prepared.config
    listen = one_at_a_time(listen)
    steering.attach(prepared, experiment)
    return Run(
        prepared=prepared,
        experiment=experiment,
        bench=Bench(
            base=prepared.base,
            text=prepared.text,
            calibration=config.calibration,
            evaluate=config.evaluate,
            device=prepared.target.device,
            seed=config.seed,
            executor=executor,
            runtime=config.runtime,
            trust_remote_code=config.trust_remote_code,
        ),
        policy=policy,
        listen=listen,
        interrupt=Interrupt(tell=lambda: listen("interrupted", {})),
        steering=steering,
        crew=Crew(config.workers, stop=executor.close),
    )


def one_at_a_time(listen: Listener) -> Listener:
    """A listener that is never called from two threads at once: progress comes from several.

    The lock may be taken again by its holder: Ctrl-C is told in whatever the main thread is doing.
    """
    lock = threading.RLock()

    def told(event: str, fields: dict[str, Any]) -> None:
        with lock:
            listen(event, fields)

    return told


def _search(run: Run) -> str:
    """Measure the baseline, then turn the loop; returns why it ended."""
    if earlier := run.experiment.results():
        run.listen("earlier", {"results": earlier})
    try:
        with run.interrupt:
            measure_baseline(run)
            with run.crew:
                reason = run_graph(run)
            score_front(run)
            ask_further(run)
            measure_elsewhere(run)
            promise_elsewhere(run)
            return reason
    except KeyboardInterrupt:
        run.experiment.events.add("stopped", reason=AT_ONCE)
        # Not `write_report`: only a run that has come to its end has final results.
        write_summary(read_experiment(run.experiment.folder), AT_ONCE)
        raise
