"""What predictions are made from: the model, this machine, and what earlier experiments taught."""

from __future__ import annotations

from typing import Any

from paredown.artifact.source import spec_of
from paredown.coordinate.prediction import Ground
from paredown.coordinate.setup import choose_device
from paredown.coordinate.skills import skills_of, transferable
from paredown.errors import ConfigError
from paredown.hardware.detect import detect
from paredown.hardware.memory import check_context
from paredown.runtimes.calibration import kept
from paredown.spec.sizing import PredictRequest
from paredown.spec.target import Target
from paredown.store.skills import SkillStore, default_path


def ground_of(request: PredictRequest, model: str) -> Ground:
    """What predictions are made from.

    Raises:
        ConfigError: no such model or device, or one that is quantized already.
    """
    spec, machine = spec_of(model), detect()
    if spec.quantization is not None:
        raise ConfigError(
            f"{spec.name} is quantized already ({spec.quantization}); start from its 16-bit "
            "original"
        )
    device = choose_device(request.device, machine)
    skills = (
        transferable(skills_of(SkillStore(default_path()).evidence()), spec)
        if request.skills
        else ()
    )
    more: dict[str, Any] = {}
    if request.context is not None:
        check_context(spec, request.context)
        more["tokens"] = (request.context - 1, 1)
    return Ground(
        spec=spec,
        target=Target(device=device, runtime=request.runtime, limits=request.limits),
        skills=skills,
        calibration=kept(machine, request.runtime),
        free_bytes=machine.available_bytes,
        **more,
    )
