"""Stage 1: what the model is, on what it could run, and what it does uncompressed."""

from __future__ import annotations

from paredown.coordinate.run import run_experiment
from paredown.coordinate.serving import Matched, known_devices, match_serving
from paredown.coordinate.setup import default_name
from paredown.coordinate.steering import Steering
from paredown.errors import ConfigError
from paredown.hardware.engines import ENGINES
from paredown.hardware.matching import Fit, Stream
from paredown.lab.checkpoints import Analysis, Here, Model, Place
from paredown.lab.context import Lab, now
from paredown.runtimes.calibration import calibrate, kept
from paredown.spec.model import ModelSpec
from paredown.spec.result import TrialResult
from paredown.spec.serial import content_hash
from paredown.spec.sizes import kv_bytes_per_token
from paredown.spec.sizing import MatchRequest
from paredown.store.experiment import is_experiment

_BEST = 3
"""Places of each version that are kept: more would hide them."""
_CODE = 1
"""Goes up when the stage finds other things in the same model."""


def depends_on(lab: Lab) -> dict[str, str]:
    """What the stage is made from. Limits are not: they change no measurement."""
    config = lab.config
    measured = (config.data, config.data_dir, config.evaluate, config.trust_remote_code)
    return {
        "model": lab.base.hash,
        "how it is measured": content_hash([str(part) for part in measured]),
        "deployment target": config.constraints.deployment_target,
        "machine": lab.machine.id,
        "code": str(_CODE),
    }


def analyse(lab: Lab) -> Analysis:
    """Match hardware, and measure the base as the episode 0 of an experiment.

    Raises:
        ConfigError: an unknown device, or the base cannot be measured.
    """
    runtime = lab.config.constraints.runtime
    known = kept(lab.machine, runtime)
    is_wanted = known is None or known.is_disturbed
    if runtime in ENGINES and not lab.machine.gpus and is_wanted:
        with lab.teller.job() as watch:
            watch("calibrate", 0.0, f"measuring what {runtime} reaches on this machine, once")
            calibrate(lab.machine, runtime)
    matched, target = _matched(lab)
    machine = lab.machine
    return Analysis(
        made_at=now(), made_from=depends_on(lab), model=_model(lab.base.spec, lab.base.hash),
        cpu=machine.cpu, cores=machine.logical_cores, memory_bytes=machine.memory_bytes,
        gpus=tuple(gpu.name for gpu in machine.gpus), work=_work(matched),
        places=(*_best(matched), *(_place(fit, is_target=True) for fit in target)),
        here=_here(matched), notes=matched.notes, baseline=measure_base(lab),
    )  # fmt: skip


def measure_base(lab: Lab) -> TrialResult:
    """The base in the experiment that will carry out strategies; measured there once."""
    request = lab.config.run_config(1)
    name = default_name(request)
    with lab.teller.experiment(request) as listen:
        record = run_experiment(
            request,
            name=name,
            output_dir=lab.experiments,
            resume=is_experiment(lab.experiments / name),
            listen=listen,
            steering=Steering(only_base=True),
        )
    if record.baseline is None:  # stopped at once before it was measured
        raise KeyboardInterrupt
    return record.baseline


def _matched(lab: Lab) -> tuple[Matched, tuple[Fit, ...]]:
    """Every device, and the one that the constraints name.

    Raises:
        ConfigError: no device is so called.
    """
    wanted = lab.config.constraints
    engine = wanted.runtime if wanted.runtime in ENGINES else None
    request = MatchRequest(model=lab.config.model, runtime=engine)
    matched = match_serving(lab.base.spec, known_devices(request), request)
    if wanted.device is None:
        return matched, ()
    request = MatchRequest(model=lab.config.model, runtime=engine, gpu=(wanted.device,))
    try:
        devices = known_devices(request)
    except ConfigError as error:
        said = str(error).removeprefix("--gpu ")
        raise ConfigError(f"constraints.deployment_target: {said}") from None
    return matched, match_serving(lab.base.spec, devices, request).fits


def _model(spec: ModelSpec, sha256: str) -> Model:
    return Model(
        name=spec.name, sha256=sha256, architecture=spec.architecture, family=spec.family,
        parameters=spec.parameters, active_parameters=spec.active_parameters, layers=spec.layers,
        hidden_size=spec.hidden_size, heads=spec.heads, kv_heads=spec.kv_heads,
        vocabulary=spec.vocabulary, context=spec.context, dtype=spec.dtype,
        weight_bytes=spec.weight_bytes, cache_bytes_per_token=kv_bytes_per_token(spec),
        unknown=spec.unknown,
    )  # fmt: skip


def _work(matched: Matched) -> str:
    work = matched.work
    if isinstance(work, Stream):
        raise AssertionError("a batch was asked for")
    return f"{work.batch} x {work.context}"


def _best(matched: Matched) -> list[Place]:
    found = []
    for version in matched.versions:
        mine = [fit for fit in matched.fits if fit.version is version]
        found += [_place(fit, is_target=False) for fit in mine[:_BEST]]
    return found


def _place(fit: Fit, *, is_target: bool) -> Place:
    total, cost = fit.memory.total, fit.cost
    return Place(
        version=fit.version.name, nbytes=fit.version.nbytes, devices=fit.words,
        runtime=fit.engine.name, memory_bytes=None if total is None else round(total.value),
        limit_bytes=round(fit.limit_bytes), ttft_s=None if fit.ttft_s is None else fit.ttft_s.value,
        tpot_s=fit.tpot_s.value,
        usd_per_hour=None if cost is None else (cost.hour_low, cost.hour_high),
        price_date=fit.device.price_date, is_target=is_target,
    )  # fmt: skip


def _here(matched: Matched) -> tuple[Here, ...]:
    return tuple(
        Here(
            version=one.version.name, nbytes=one.version.nbytes,
            memory_bytes=None if one.memory.total is None else round(one.memory.total.value),
            fits=one.fits, tpot_s=None if one.tpot_s is None else one.tpot_s.value,
        )
        for one in matched.here
    )  # fmt: skip
