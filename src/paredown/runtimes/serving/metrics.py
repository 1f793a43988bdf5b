"""What the server has done, in the text format that Prometheus reads."""

from __future__ import annotations

from paredown.runtimes.serving.generation import Counts

_ROWS = (
    ("requests_running", "gauge", "running", "Requests that are worked on."),
    ("requests_waiting", "gauge", "waiting", "Requests that wait for a slot."),
    ("requests_answered_total", "counter", "answered", "Requests that came to their end."),
    ("requests_failed_total", "counter", "failed", "Requests that the engine failed in."),
    ("requests_refused_total", "counter", "refused", "Requests refused because too many wait."),
    ("prompt_tokens_total", "counter", "prompt_tokens", "Tokens of prompts that were read."),
    ("generated_tokens_total", "counter", "tokens", "Tokens that were generated."),
    ("first_token_seconds_sum", "counter", "first_token_s", "From requests to first tokens."),
    ("first_token_seconds_count", "counter", "first_tokens", "First tokens."),
)


def exposition(counts: Counts, slots: int) -> str:
    """The page of `/metrics`."""
    lines = [
        "# HELP paredown_slots Requests that are worked on at once, at most.",
        "# TYPE paredown_slots gauge",
        f"paredown_slots {slots}",
    ]
    for name, kind, field, words in _ROWS:
        full = f"paredown_{name}"
        lines += [f"# HELP {full} {words}", f"# TYPE {full} {kind}"]
        lines.append(f"{full} {getattr(counts, field)}")
    return "\n".join(lines) + "\n"
