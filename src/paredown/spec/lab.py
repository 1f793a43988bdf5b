"""LabConfig: the one file of a guided road, from a model to a package and a report.

What it says of measuring and calibrating it says in the words of `paredown run`, and hands on.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from paredown.language import Language
from paredown.spec import notation
from paredown.spec.run import CalibrationConfig, DeviceName, EvaluateConfig, FilePath, RunConfig
from paredown.spec.target import Limits


class Constraints(Limits):
    """What the team can accept, and where the model will run."""

    deployment_target: str = Field(default="torch", pattern=r"^[^@\s]+(@[^@]+)?$")
    """Engine that will serve the model, and behind `@` the device: `llama.cpp`, `torch@L4`. Without
    a device it is this machine."""

    @property
    def limits(self) -> Limits:
        """Without the target: what results are judged by."""
        return Limits(**{name: getattr(self, name) for name in Limits.model_fields})

    @property
    def runtime(self) -> str:
        """The engine of the target."""
        return self.deployment_target.partition("@")[0]

    @property
    def device(self) -> str | None:
        """The device of the target, as the user calls it; None: this machine."""
        return self.deployment_target.partition("@")[2] or None


class LabConfig(BaseModel):
    """Everything that decides what a lab does."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    model: str = Field(min_length=1)
    """Local folder, hub name, or `demo` (built in)."""
    constraints: Constraints = Constraints()
    """Limits, under the names of `paredown run`, and `deployment_target`."""
    data: Annotated[tuple[str, ...], BeforeValidator(notation.listed)] = Field(
        default=("pydoc",), min_length=1
    )
    """What to measure on: a text and benchmarks, as in `paredown run`."""
    data_dir: FilePath | None = None
    """Folder with offline data sets; None: PAREDOWN_DATA."""
    calibration: CalibrationConfig = CalibrationConfig()
    """As in `paredown run`."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """As in `paredown run`."""
    strategies: Annotated[tuple[str, ...], BeforeValidator(notation.listed)] = ()
    """Strategies to choose from, such as `gptq(bits=4)`; none: those that something is known of."""
    trials: int = Field(default=3, ge=1, le=12)
    """Of them so many are carried out and measured."""
    prompts: tuple[str, ...] = ()
    """Messages that base and artifact are asked side by side; none: built-in ones in English, two
    kinds of Chinese, and Japanese."""
    answer_tokens: int = Field(default=48, ge=1, le=4096)
    """Of an answer at most."""
    context: int | None = Field(default=None, ge=1)
    """Tokens of a request that is served; None: as `paredown deploy` derives it."""
    slots: int | None = Field(default=None, ge=1)
    """Requests that are served at once; None: likewise."""
    device: DeviceName = "auto"
    """Where the models are measured; auto: on a GPU where there is one."""
    seed: int = 0
    """Same seed, same artifacts."""
    skills: bool = True
    """Whether what earlier experiments taught is asked, and this one remembered."""
    trust_remote_code: bool = False
    """Whether Python code that comes with a model may run."""
    lang: Annotated[Language | None, BeforeValidator(notation.language)] = None
    """Of the report; None: that of the locale, else English."""

    @field_validator("prompts")
    @classmethod
    def _say_something(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        if any(not prompt.strip() for prompt in prompts):
            raise ValueError("a prompt is blank; write one or leave it out")
        return prompts

    def run_config(self, episodes: int) -> RunConfig:
        """The request of the experiment in which the base and so many strategies are measured."""
        return RunConfig.model_validate(
            {
                "model": self.model, "data": list(self.data), "data_dir": self.data_dir,
                "calibration": self.calibration, "evaluate": self.evaluate,
                "limits": self.constraints.limits, "runtime": self.constraints.runtime,
                "device": self.device, "seed": self.seed, "skills": self.skills,
                "trust_remote_code": self.trust_remote_code, "episodes": episodes,
                # What is carried out was decided at the stage before: nobody proposes, nothing
                # ends it early.
                "coordinator": "search", "patience": None,
            }
        )  # fmt: skip
