"""Raw configs: the part that speaks of the language model."""

from __future__ import annotations

from typing import Any

from paredown.spec.families import TEXT_CONFIGS


def language_part(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's own part of a raw config, to be changed in place."""
    for name in TEXT_CONFIGS:
        if isinstance(config.get(name), dict):
            config[name] = dict(config[name])  # the source's config may share it
            part: dict[str, Any] = config[name]
            return part
    return config
