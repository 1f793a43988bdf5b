"""What headers alone show to be missing, misnamed or ambiguous in a model folder.

A loader that finds no tensor for a weight makes a random one up, and the model that is then
measured, compressed and compared is nobody's. What can be known without loading is said here.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from paredown.errors import ModelError
from paredown.spec.embeddings import copy_of_tied, find_embedding, find_head
from paredown.spec.families import FAMILIES
from paredown.spec.headers import CONFIG, TensorLocation, tensor_location
from paredown.spec.model import ModelSpec

_WRAPPER = re.compile(r"^(?P<prefix>(?:module|_orig_mod|_fsdp_wrapped_module)\.)+")
_MATRIX = re.compile(
    r"(?:^|\.)(?:layers|h)\.(?P<index>\d+)\.(?P<owner>.+?)\.(?:q?weight|SCB)(?:[._]|$)"
)
_TOWER = re.compile(r"(^|\.)(vision_tower|vision_model|visual|image_tower)\.")
_CHUNK_BYTES = 1 << 22


def require_complete(spec: ModelSpec) -> None:
    """Refuse a model whose names tell that weights are missing or bear other names.

    Only where the names of a family's tensors are known; nothing is said of the others.

    Raises:
        ModelError: names a missing tensor, or the prefix that does not belong there.
    """
    names = [tensor.name for tensor in spec.tensors]
    wrapped = [match for name in names if (match := _WRAPPER.match(name))]
    if names and len(wrapped) == len(names):
        raise ModelError(
            f"{spec.name}: every tensor's name begins with {wrapped[0]['prefix']!r}, which a "
            "training wrapper has put there, so that no weight would be found; save the model "
            "inside the wrapper"
        )
    if spec.family not in {family.name for family in FAMILIES.values()} or spec.experts:
        return  # blocks of mixtures and hybrids differ from each other
    _require_alike(spec.name, names)
    headless = not spec.tied_embeddings and find_embedding(spec) and not find_head(spec)
    if headless and spec.architecture.endswith(("ForCausalLM", "ForConditionalGeneration")):
        raise ModelError(
            f"{spec.name}: no output head is stored (lm_head.weight), and {CONFIG} does not tie it "
            "to the embedding; download the model again, or set tie_word_embeddings"
        )


def _require_alike(model: str, names: list[str]) -> None:
    """Every block has the parts that another one has."""
    parts: dict[int, set[str]] = {}
    for name in names:
        match = None if _TOWER.search(name) else _MATRIX.search(name)
        if match:
            parts.setdefault(int(match["index"]), set()).add(match["owner"])
    every = set().union(*parts.values())
    for index, found in sorted(parts.items()):
        if lost := sorted(every - found):
            raise ModelError(
                f"{model}: block {index} has no {lost[0]}.weight, which other blocks have; "
                "a tensor is missing or misnamed: download the model again"
            )


def require_one_head(folder: Path, spec: ModelSpec) -> None:
    """Refuse a head that the config ties to the embedding and the files hold otherwise.

    Some engines take the stored head, some the embedding: what is measured here would not be what
    runs there. A stored copy is harmless.

    Raises:
        ModelError: with both ways out.
    """
    head, embedding = copy_of_tied(spec), find_embedding(spec)
    if head is None or embedding is None:
        return
    places = tensor_location(folder)
    pair = [places.get(f"{name}.weight") for name in (head, embedding)]
    if pair[0] is None or pair[1] is None:
        return  # packed, by whoever wrote the artifact
    if not _same_bytes(_stamp(pair[0]), _stamp(pair[1])):
        raise ModelError(
            f"{folder}: {CONFIG} ties the output head to the embedding, but another "
            f"{head}.weight is stored, and engines differ in which one they take. Set "
            '"tie_word_embeddings": false to keep the stored head, or remove the tensor'
        )


_Stamp = tuple[Path, int, int, int]
"""File, its time of change, offset, bytes: what makes a remembered comparison hold."""


def _stamp(place: TensorLocation) -> _Stamp:
    return place.file, place.file.stat().st_mtime_ns, place.offset, place.nbytes


@lru_cache(maxsize=64)  # a checkpoint is opened many times, and a head may have gigabytes
def _same_bytes(one: _Stamp, other: _Stamp) -> bool:
    if one[3] != other[3]:
        return False
    with one[0].open("rb") as first, other[0].open("rb") as second:
        first.seek(one[2])
        second.seek(other[2])
        left = one[3]
        while left > 0:
            size = min(_CHUNK_BYTES, left)
            if first.read(size) != second.read(size):
                return False
            left -= size
    return True
