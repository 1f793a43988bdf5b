"""Verify: prove that an artifact reloads to the model that was meant."""

from __future__ import annotations

import math
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.probe import probe_tokens
from paredown.errors import ScreenedError
from paredown.evaluate.screen import why_screened
from paredown.pipeline.messages import HeldOut, VerifyDone, VerifyJob
from paredown.pipeline.work.engine import arithmetic_kl, engine_kl
from paredown.pipeline.work.texts import base_outputs, evaluation_tokens, protocol
from paredown.runtimes.registry import engine
from paredown.runtimes.room import has_room
from paredown.runtimes.session import Session
from paredown.runtimes.torch.eight_bit import unrounded_activations
from paredown.runtimes.torch.load import load, load_dense
from paredown.runtimes.torch.proof import EXACT, ROUNDED, check_kernels, compare, probe
from paredown.runtimes.torch.session import TorchSession
from paredown.runtimes.torch.streamed import ArtifactWalk, StreamedSession
from paredown.spec.progress import Progress


def verify(job: VerifyJob, progress: Progress) -> VerifyDone:
    """Reload as it will be served, then exactly, through every loader; compare with what was meant.

    In between is a first look at what it is worth, as it is loaded already; but what is not the
    model that was meant fails for that.

    The exact comparison computes in float32, where nothing but the weights can differ. Where there
    is no room for that, or bitsandbytes fixes the dtype, 16 bits and a wider tolerance have to do.

    Raises:
        VerificationError: it is another model.
        ScreenedError: it is the model that was meant, and worth no measurement.
    """
    checkpoint = Checkpoint(job.artifact)
    spec, tokens = checkpoint.spec, probe_tokens(checkpoint.spec.vocabulary or 2)
    if job.stream == "always" or (
        job.stream == "auto" and not has_room(spec.weight_bytes, job.device)
    ):
        return _verify_streamed(job, checkpoint, tokens, progress)
    options: dict[str, Any] = {"device": job.device, "trust_remote_code": job.trust_remote_code}
    # Before anything is computed: a text that a model has to write is written in a forked process.
    screen = None if job.held_out is None else _Screen(job, job.held_out, progress)
    served = load(job.artifact, **options)
    notes, kernel_error = served.paredown.notes, check_kernels(served)
    found = probe(served, tokens)
    screened = None if screen is None else screen.look(TorchSession(served, device=job.device))
    del served  # the next load needs its room
    progress(0.4, "reloaded through paredown")
    is_exact = spec.quantization != "bitsandbytes" and _fits_float32(spec.parameters, job.device)
    if is_exact:
        options["dtype"] = torch.float32
        found = probe(load(job.artifact, **options), tokens)
    tolerance = EXACT if is_exact else ROUNDED
    expected = found if job.expected is None else load_file(job.expected)["logits"]
    kl = compare(expected, found, "paredown", tolerance=tolerance)
    kl_plain = None
    if job.plain:
        progress(0.7, "reloading through plain transformers")
        plain = probe(load_dense(job.artifact, **options), tokens)
        kl_plain = compare(expected, plain, "plain transformers", tolerance=tolerance)
    kl_engine = kl_arithmetic = None
    # Not of torch and transformers, whose reload was compared as it is.
    if math.isfinite((runs_in := engine(job.runtime)).kl_bound):
        progress(0.85, f"opening in {job.runtime}")
        slack = 0.0 if is_exact else ROUNDED
        kl_engine = engine_kl(runs_in, job.artifact, expected, tokens, slack=slack)
        dtype = torch.float32 if is_exact else None
        if job.base is not None:
            kl_arithmetic = arithmetic_kl(runs_in, job.base, tokens, dtype=dtype, slack=slack)
    if screened is not None:
        raise ScreenedError(screened)
    return VerifyDone(
        notes=notes, kernel_error=kernel_error, kl_paredown=kl, kl_transformers=kl_plain,
        kl_engine=kl_engine, kl_arithmetic=kl_arithmetic,
    )  # fmt: skip


def _verify_streamed(
    job: VerifyJob, checkpoint: Checkpoint, tokens: Tensor, progress: Progress
) -> VerifyDone:
    """The same, block by block from disk: in the memory of one block, and never in plain
    transformers, which loads the whole."""
    screen = None if job.held_out is None else _Screen(job, job.held_out, progress)
    options: dict[str, Any] = {"device": job.device, "trust_remote_code": job.trust_remote_code}
    served = ArtifactWalk(checkpoint, probe=tokens, **options)
    kernel_error = max((check_kernels(module) for _, module in served), default=0.0)
    del served
    progress(0.3, "kernels checked block by block")
    exact = ArtifactWalk(checkpoint, probe=tokens, dtype=torch.float32, **options)
    for block, module in exact:
        with unrounded_activations(module):
            exact.advance_probe(block, module)
    found = exact.logits()
    del exact
    progress(0.6, "reloaded block by block")
    expected = found if job.expected is None else load_file(job.expected)["logits"]
    kl = compare(expected, found, "paredown, block by block")
    if screen is not None:
        session = StreamedSession(job.artifact, **options)
        if (why := screen.look(session)) is not None:
            raise ScreenedError(why)
    notes = ("reloaded block by block, never as a whole, and so not by plain transformers",)
    return VerifyDone(notes=notes, kernel_error=kernel_error, kl_paredown=kl)


def _fits_float32(parameters: int, device: str) -> bool:
    """Whether the whole model in float32 leaves room to breathe."""
    needed = 6 * parameters  # four bytes each, and half of that for activations and copies
    if device == "cuda":
        return bool(torch.cuda.mem_get_info()[0] > needed)
    return bool(psutil.virtual_memory().available > needed)


class _Screen:
    """A first look at a model on few tokens, made ready before the model is loaded."""

    def __init__(self, job: VerifyJob, held_out: HeldOut, progress: Progress) -> None:
        self.job, self.protocol = job, protocol(held_out)
        self.tokens = evaluation_tokens(held_out, job, progress)
        self.base = base_outputs(held_out, self.tokens, job)

    def look(self, session: Session) -> str | None:
        """Why it is not worth measuring, if so; the model may come out in another dtype."""
        session.for_many_tokens()
        return why_screened(
            session, self.tokens, self.base, worst=self.job.worst, protocol=self.protocol
        )
