"""Things several tests start from."""

from __future__ import annotations

from pathlib import Path

from paredown.coordinate.setup import check_text, open_base
from paredown.pipeline.bench import Bench
from paredown.pipeline.executors.local import LocalExecutor
from paredown.spec.infer import infer_spec
from paredown.spec.run import CalibrationConfig, EvaluateConfig
from paredown.testing.tiny import tiny_model

EVALUATE = EvaluateConfig(
    tokens=512, window=64, prompt_tokens=8, decode_tokens=4, repeats=2, repeat_s=0.1, energy_s=0
)
CALIBRATION = CalibrationConfig(samples=4, length=64)


def write_text_file(path: Path) -> Path:
    """About 40 kB of distinct paragraphs."""
    paragraphs = [
        f"Paragraph {i} speaks of {i * 37 % 101} things, and of {i * i % 89} others.\n" * 3
        for i in range(250)
    ]
    path.write_text("\n\n".join(paragraphs))
    return path


def tiny_bench(folder: Path, executor: LocalExecutor, *, text: Path | None = None) -> Bench:
    """A bench around a tiny Llama."""
    model = tiny_model(folder / "model")
    text = write_text_file(folder / "text.txt") if text is None else text
    return Bench(
        base=open_base("tiny", model, infer_spec(model, name="tiny")),
        text=check_text(str(text), None, None),
        calibration=CALIBRATION,
        evaluate=EVALUATE,
        device="cpu",
        seed=0,
        executor=executor,
    )
