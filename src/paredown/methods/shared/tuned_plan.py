"""A model made from a plan, its scales and norm gains tuned where that helps on unseen text.

Imports torch: methods import it when they are at work.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.hessians import tensor_hash
from paredown.errors import DataError
from paredown.methods.base import Context
from paredown.spec.plan import PLAN_FILE, PlanRecord, TunedRecord
from paredown.store.atomic import write_json
from paredown.store.content import code, model_hash
from paredown.train.scales import ScaleTuning, tune_scales
from paredown.train.training import Recipe, Resumable

LEARNING_RATE = 2e-3
"""Of relative changes: at 6e-3 the result was worse (SmolLM2-135M at 3.6 bits)."""
STEP_TOKENS = 1024
HELD_OUT_TOKENS = 2048
CHECKS = 4
"""How often the held-out KL is measured on the way."""


def tuned(
    source: Checkpoint, untuned: Path, logits: Tensor, out: Path, tokens: int, context: Context
) -> Tensor:
    """Tune the model in `untuned`, and write the better of the two into the empty folder `out`.

    Args:
        source: the model that it was made of, whose outputs it is tuned towards.
        logits: of `untuned` on the probe.
        tokens: of training text.

    Returns:
        Logits of the result on the probe.

    Raises:
        DataError: the text has too little that nothing was fitted to.
    """
    training, held_out = _windows(tokens, context)
    length = training.shape[1]
    context.progress(0.5, "tuning: loading both models")
    tuning = ScaleTuning(
        Checkpoint(untuned),
        source,
        held_out=held_out,
        device=context.device,
        trust_remote_code=context.trust_remote_code,
    )
    recipe = Recipe(
        learning_rate=LEARNING_RATE,
        batch=max(1, STEP_TOKENS // length),
        forward=1,
        epochs=1,
        minutes=None,
        checks=CHECKS,
        seed=context.seed,
    )
    key = {
        **code(1), "tuned plan": model_hash(untuned), "base": context.source_hash,
        "tokens": tensor_hash(torch.cat([training, held_out])), "device": context.device,
        "seed": context.seed, "learning_rate": LEARNING_RATE,
    }  # fmt: skip
    found = tune_scales(
        tuning,
        training,
        recipe,
        resumable=Resumable(context.cache, key),
        progress=lambda share, message: context.progress(0.5 + 0.45 * share, f"tuning: {message}"),
    )
    record = PlanRecord.read(untuned / PLAN_FILE)
    told = TunedRecord(
        tokens=training.numel(), kl_before=found.before, kl_after=found.after, kept=found.kept
    )
    if found.kept:
        logits = tuning.write(out)
    else:
        shutil.copytree(untuned, out, dirs_exist_ok=True)
    write_json(out / PLAN_FILE, record.model_copy(update={"tuned": told}))
    return logits


def _windows(tokens: int, context: Context) -> tuple[Tensor, Tensor]:
    """(n, length) each: windows to train on, and held-out ones that calibrated nothing."""
    if context.training is None:
        raise AssertionError("a step that tunes needs `training` in its context")
    calibrated = context.calibration()
    length = calibrated.shape[1]
    held, wanted = max(1, HELD_OUT_TOKENS // length), max(1, tokens // length)
    used = {tuple(window.tolist()) for window in calibrated}
    more = context.training.windows(len(calibrated) + held + wanted, length, None)
    fresh = [window for window in more if tuple(window.tolist()) not in used]
    if len(fresh) <= held:
        raise DataError(
            f"mixed: tune: the text has {len(fresh)} windows of {length} tokens that calibrated "
            f"nothing, and {held} are held out; give a longer text with --calibration, or fewer "
            "calibration windows"
        )
    return torch.stack(fresh[held : held + wanted]), torch.stack(fresh[:held])
