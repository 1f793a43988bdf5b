"""Settings of a run: command line, then environment, then file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from paredown.errors import ConfigError
from paredown.spec.run import CalibrationConfig, EvaluateConfig, RunConfig

ENV_PREFIX = "PAREDOWN_RUN_"


class _Settings(RunConfig, BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )


def read_settings(options: dict[str, Any], file: Path | None) -> RunConfig:
    """Merge options (None = not given), environment and file into a request.

    Raises:
        ConfigError: no model, an unknown setting, or a value outside its range.
    """
    from paredown.api import explain

    from_file = {} if file is None else _read_file(file)

    class Settings(_Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, from_file)

    try:
        merged = Settings(**_given(options))
    except ValidationError as error:
        if any(item["loc"] == ("model",) and item["type"] == "missing" for item in error.errors()):
            raise ConfigError("which model? give -m FOLDER, a hub name, or -m demo") from None
        raise ConfigError(explain(error)) from None
    except SettingsError as error:
        raise ConfigError(f"environment ({ENV_PREFIX}...): {error}") from None
    return RunConfig.model_validate(merged.model_dump())


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Without what the user did not say."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        inner = _given(value) if isinstance(value, dict) else value
        if inner is not None and inner != {}:
            found[key] = inner
    return found


def _read_file(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"--config {file}: there is no such file")
    text = file.read_text(encoding="utf-8")
    try:
        if file.suffix == ".json":
            data = json.loads(text)
        else:
            import yaml

            data = yaml.safe_load(text)
    except ValueError as error:
        raise ConfigError(f"--config {file}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {file}: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"--config {file}: must hold settings by name, e.g. 'episodes: 20'")
    return data


def calibration_config(samples: int, length: int) -> CalibrationConfig:
    """Calibration settings from options.

    Raises:
        ConfigError: a value outside its range.
    """
    try:
        return CalibrationConfig(samples=samples, length=length)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def evaluate_config(**settings: Any) -> EvaluateConfig:
    """Evaluation settings from options.

    Raises:
        ConfigError: a value outside its range.
    """
    try:
        return EvaluateConfig(**settings)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    from paredown.api import explain

    return explain(error)
