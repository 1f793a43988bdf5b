"""What people read of a package: the model card (README.md) and HANDOVER.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from paredown.deploy.files import image_name
from paredown.deploy.package import MODEL, SERVING, SUMS, PackageRecord, ServingSettings
from paredown.deploy.proof import Golden, Pair, Proof
from paredown.errors import ModelError
from paredown.runtimes.base import KEY_VARIABLE, SERVER
from paredown.spec.reading import read_text
from paredown.spec.redact import shown
from paredown.spec.result import Measurement
from paredown.spec.scores import TaskScore
from paredown.spec.units import Unit, human_bytes

_Z95 = 1.96
_NAMES = {
    "perplexity": "perplexity", "perplexity_ratio": "perplexity over that of {of}",
    "accuracy": "next tokens predicted right", "kl": "KL from {of}",
    "top1_agreement": "same likeliest token as {of}",
}  # fmt: skip
_MEASURED = ("measured", "value", "n")
_EXAMPLE = '{"model": "%s", "messages": [{"role": "user", "content": "Hello"}]}'
_SAMPLES = 4
_SAMPLE_LENGTH = 160
_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "COPYING")


def license_of(base: Path) -> str | None:
    """The licence of a model folder: as its card says, or the first line of its licence file."""
    card = base / "README.md"
    if card.is_file():
        head = read_text(card, error=ModelError).partition("---\n")[2].partition("\n---")[0]
        try:
            told = yaml.safe_load(head)
        except yaml.YAMLError:  # a card is free text; what is no front matter says no licence
            told = None
        if isinstance(told, dict) and isinstance(told.get("license"), str):
            named = told.get("license_name") if told["license"] == "other" else told["license"]
            return shown(str(named), 80)
    files = license_files(base)
    lines = read_text(files[0], error=ModelError).splitlines() if files else []
    first = next((line.strip() for line in lines if line.strip()), None)
    return None if first is None else shown(first, 80)


def license_files(base: Path) -> list[Path]:
    """Files that have to go with whatever is made of a model."""
    return [base / name for name in _LICENSES if (base / name).is_file()]


def model_card(record: PackageRecord, proof: Proof) -> str:
    """README.md of a package, with the front matter of a model card."""
    front = {
        "base_model": record.base, "license": record.license or "unknown",
        "library_name": record.runtime, "tags": ["paredown", record.runtime],
    }  # fmt: skip
    licence = record.license or "not stated in the base's folder: look it up before you pass it on"
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(), "---",
        f"# {record.name}",
        "",
        f"{shown(record.base, 200)}, compressed by `{record.strategy or 'nothing'}` and written for"
        f" {record.runtime} ({human_bytes(record.nbytes)} of weights).",
        "",
        f"- licence of the base: {licence}",
        f"- version: `{record.version[:16]}`, made from the artifact `{record.artifact_hash[:16]}`",
        f"- made and served by: {_versions(record.libraries)}",
        "",
        "## What it is worth",
        "",
        f"Measured in {record.runtime}, beside the uncompressed base in the same engine, on "
        f"{proof.machine} ({proof.measured_at}). ± is half of a 95 % interval.",
        "",
        *_table(_MEASURED, (_quality_row(m, "the base") for m in proof.quality)),
        *_scores(proof.scores),
        "",
        *_table(
            ("served", "this package", "base", "ratio"),
            map(_pair_row, (*proof.served, *proof.energy)),
        ),
        "",
        "## Whether it is the artifact",
        "",
        f"The same text in {record.runtime} and in torch; what differs is how the engine rounds.",
        "",
        *_table(_MEASURED, (_quality_row(m, "the artifact") for m in proof.exactness)),
        "",
        f"Token ids are equal on {len(proof.tokens)} of {len(proof.tokens)} texts.",
        "",
        "## Sample answers",
        "",
        "Greedy, cut after a few tokens; not chosen.",
        "",
        *_table(("prompt", "base", "this package"), map(_sample, proof.golden[:_SAMPLES])),
        "",
        *(f"- {note}" for note in proof.notes),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def handover(record: PackageRecord, settings: ServingSettings, proof: Proof) -> str:
    """HANDOVER.md: all that who runs it has to know, on one page."""
    image, port = image_name(record.name), settings.port
    previous = record.previous
    back = (
        "This is the first version: there is nothing to go back to."
        if previous is None
        else f"The version before is `{previous.version[:16]}`, in `{previous.folder}`: serve that."
    )
    peak = "" if proof.peak_bytes is None else f" ({human_bytes(proof.peak_bytes)} seen)"
    lines = [
        f"# Handover: {record.name}",
        "",
        f"{record.base} compressed by `{record.strategy or 'nothing'}`, for {record.runtime}. "
        f"Version `{record.version[:16]}`. What it is worth: README.md; every number: proof.json.",
        "",
        "## Start",
        "",
        "| with | command |",
        "| --- | --- |",
        "| paredown | `paredown serve .` |",
        f"| Python alone | `pip install -r requirements.txt && python {SERVER} {MODEL} "
        f"--settings {SERVING}` |",
        f"| a container | `docker build -t {image} . && docker run -e {KEY_VARIABLE} "
        f"-p 127.0.0.1:{port}:{port} {image}` |",
        f"| compose | `{KEY_VARIABLE}=... docker compose up --build` |",
        f"| systemd | `{image}.service`; its head says where the files go |",
        f"| Kubernetes | `kubernetes.yaml`, with the image `{image}:{record.version[:12]}` |",
        "",
        f"It listens on {settings.host}:{port}. On any other address than loopback it wants a key "
        f"in `{KEY_VARIABLE}`, sent as `Authorization: Bearer ...`.",
        "",
        "```bash",
        f"curl http://127.0.0.1:{port}/v1/chat/completions -H 'Content-Type: application/json' \\",
        f"  -d '{_EXAMPLE % record.name}'",
        "```",
        "",
        f"## Size (`{SERVING}`, yours to change)",
        "",
        f"{settings.slots} requests at once with {settings.context} tokens each, "
        f"{settings.threads} threads, at most {human_bytes(settings.memory_bytes)} of memory"
        f"{peak}.",
        "",
        *(f"- {line}" for line in settings.derived),
        "",
        "## Watch",
        "",
        "- alive: `GET /health`; metrics for Prometheus: `GET /metrics`",
        "- ready, and still this model: `paredown check http://HOST:PORT --against proof.json`",
        "- load: `paredown bench http://HOST:PORT`",
        "- damaged files: `sha256sum --quiet --check " + SUMS + "`",
        "",
        "## Stop, update, go back",
        "",
        f"SIGTERM: it gives the answers that were begun, then ends. {back}",
    ]
    return "\n".join(lines) + "\n"


def number(m: Measurement) -> str:
    """`28.51 ± 0.9`, in the unit that people read."""
    percent = m.unit is Unit.FRACTION
    scale, unit = (100.0, " %") if percent else (1.0, "")
    if m.unit is Unit.NATS_PER_TOKEN:
        unit = " nats/token"
    spread = "" if m.stderr is None else f" ± {_Z95 * scale * m.stderr:.2g}"
    return f"{scale * m.value:.4g}{spread}{unit}"


def ratio(pair: Pair) -> str:
    """`0.52x (0.50 to 0.55)`."""
    if pair.low is None or pair.high is None:
        return f"{pair.ratio:.2f}x"
    return f"{pair.ratio:.2f}x ({pair.low:.2f} to {pair.high:.2f})"


def amount(value: float, unit: str) -> str:
    """A number of a pair, as people read it."""
    if unit == Unit.JOULES_PER_TOKEN:
        return f"{value:.3g} {unit}"
    return human_bytes(value) if unit == "bytes" else f"{value:.1f} {unit}"


def _quality_row(m: Measurement, of: str) -> tuple[str, ...]:
    return _NAMES.get(m.name, m.name).format(of=of), number(m), f"{m.n}"


def _pair_row(pair: Pair) -> tuple[str, ...]:
    mine, base = amount(pair.package, pair.unit), amount(pair.base, pair.unit)
    return pair.name, mine, base, ratio(pair)


def _scores(scores: Sequence[TaskScore]) -> list[str]:
    if not scores:
        return []
    rows = (
        (
            score.name,
            f"{100 * score.value:.1f} % ({100 * score.low:.1f} to {100 * score.high:.1f})",
            "" if score.versus_base is None else f"{100 * score.versus_base.base_value:.1f} %",
            "" if score.versus_base is None else score.versus_base.verdict,
        )
        for score in scores
    )
    return ["", *_table(("benchmark", "this package", "base", "verdict"), rows)]


def _sample(golden: Golden) -> tuple[str, ...]:
    texts = (golden.message, golden.base_answer, golden.answer)
    return tuple(shown(" ".join(text.split()), _SAMPLE_LENGTH) for text in texts)


def _versions(libraries: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in libraries.items())


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    found = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    if not found:
        return []
    return ["| " + " | ".join(r) + " |" for r in (titles, ("---",) * len(titles), *found)]
