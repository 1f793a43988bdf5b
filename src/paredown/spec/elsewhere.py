"""What other engines than the one that steers a search make of its results."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from paredown.spec.result import TrialResult


class Elsewhere(BaseModel):
    """One result of a search in one other engine."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    runtime: str
    episode: int
    result: TrialResult | None = None
    """Measured beside the base in the same engine, or why that failed; None: refused."""
    refused: str | None = None
    """Why the engine does not hold the artifact, and what would do."""
