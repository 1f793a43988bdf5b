"""What the methods that read calibration windows have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from paredown.errors import ConfigError
from paredown.methods.base import Context, Params
from paredown.spec.structure import blocks_of_images

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.hessians import HessianBank
    from paredown.blocks.walk import BlockWalk
    from paredown.spec.model import ModelSpec
    from paredown.spec.progress import Progress
    from paredown.store.cache import Cache


class SampledParams(Params):
    """Parameters of methods that read calibration text."""

    nsamples: Annotated[int, Field(ge=1)] | None = None
    """Calibration windows used, from the first; all of them if not given."""


def hessian_bank(source: Checkpoint, context: Context, nsamples: int | None) -> HessianBank:
    """Hessians of the uncompressed model on the first `nsamples` calibration windows."""
    from paredown.blocks.hessians import HessianBank

    return HessianBank(
        source,
        source_hash=context.source_hash,
        tokens=first_windows(context.calibration(), nsamples),
        cache=context.cache,
        device=context.device,
        trust_remote_code=context.trust_remote_code,
    )


def kept_moments(spec: ModelSpec, cache: Cache) -> int:
    """Bytes of second moments that a pass leaves in the cache."""
    from paredown.blocks.moments import is_kept, moments_bytes

    nbytes = moments_bytes(spec)
    return nbytes if is_kept(nbytes, cache) else 0


def check_text_in_all_blocks(name: str, spec: ModelSpec) -> None:
    """Refuse models some of whose blocks calibration text never runs.

    Raises:
        ConfigError: there are such blocks.
    """
    if passed := blocks_of_images(spec):
        raise ConfigError(
            f"{spec.architecture}: text without an image passes by its blocks "
            f"{', '.join(map(str, passed))}, so nothing is known of their activations; "
            f"{name} needs them"
        )


def check_gradients(name: str, spec: ModelSpec) -> None:
    """Refuse models through whose blocks gradients do not pass one after the other.

    Raises:
        ConfigError: late blocks read keys and values of early ones, or text passes some by.
    """
    check_text_in_all_blocks(name, spec)
    if spec.cache_facts.shared:
        raise ConfigError(
            f"{spec.architecture}: its last {spec.cache_facts.shared} blocks read keys and values "
            f"of earlier ones, so gradients do not pass block by block; {name} needs them"
        )


def first_windows(tokens: Tensor, nsamples: int | None) -> Tensor:
    """The first `nsamples` calibration windows.

    Raises:
        MethodError: there are not as many.
    """
    from paredown.errors import MethodError

    if nsamples is not None and nsamples > len(tokens):
        raise MethodError(
            f"nsamples = {nsamples}, but there are {len(tokens)} calibration windows; lower it, or "
            "ask for more samples"
        )
    return tokens[:nsamples]


def counted_once(
    source: Checkpoint, context: Context, nsamples: int | None, *,
    kind: str, version: dict[str, Any], suffix: str,
    measure: Callable[[BlockWalk, Progress, Path], None],
) -> Path:  # fmt: skip
    """A file of what one walk over the calibration text counts; once for a model and a text.

    Args:
        kind, suffix: of the entry in the cache.
        version: of the code that measures, as `store.content.code` says it.
        measure: walks, tells the first half of the method's progress, and writes the file.
    """
    from paredown.blocks.hessians import tensor_hash
    from paredown.blocks.rewrite import probe_walk

    tokens = first_windows(context.calibration(), nsamples)
    key = {
        **version, "model": context.source_hash, "tokens": tensor_hash(tokens),
        "device": context.device,
    }  # fmt: skip

    def write(path: Path) -> None:
        walk = probe_walk(
            source,
            device=context.device,
            trust_remote_code=context.trust_remote_code,
            tokens=tokens,
        )
        measure(walk, lambda share, message: context.progress(share / 2, message), path)

    return context.cache.get_or_put(kind, key, suffix, write)
