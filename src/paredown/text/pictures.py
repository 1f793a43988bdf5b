"""Images with texts for models that see: a user's own, or noise where there are none.

A folder of images holds `texts.jsonl`, one object a line: `image` (a file beside it), `answer` and,
if there is one, `question`, in which `<image>` says where the image stands (else it is in front).
Prompt words such as `USER:` belong into the question; none are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.errors import DataError
from paredown.spec.reading import json_rows, read_object, read_text
from paredown.text.texts import IMAGE_TEXTS
from paredown.text.windows import load_tokenizer

_PLACE = "<image>"
_ANSWER_TOKENS = 256
"""Longer answers are cut here."""
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's, for models whose files do not say."""
_CONTRAST = 0.25
"""Standard deviation of a noise image's brightness, of a range of 1."""


@dataclass(frozen=True)
class Sample:
    """An image with its text.

    Attributes:
        pixels: (3, side, side) float32, normalised as the model wants it.
        ids: (length,) int64, with as many image tokens as the image has patches.
        judged: position of the first token of the answer.
    """

    pixels: Tensor
    ids: Tensor
    judged: int


@dataclass(frozen=True)
class Preparation:
    """How a model wants its images: side in pixels, mean and deviation per colour."""

    side: int
    mean: tuple[float, ...] = _MEAN
    deviation: tuple[float, ...] = _DEVIATION

    @classmethod
    def of(cls, source: Checkpoint, side: int) -> Preparation:
        """As `preprocessor_config.json` says, if the model has one."""
        file = source.folder / "preprocessor_config.json"
        told = read_object(file, error=DataError) if file.exists() else {}
        return cls(
            side, tuple(told.get("image_mean", _MEAN)), tuple(told.get("image_std", _DEVIATION))
        )

    def normalised(self, image: Tensor) -> Tensor:
        """An image (..., 3, side, side) of values from 0 to 1 in the units of the model."""
        mean, deviation = torch.tensor(self.mean), torch.tensor(self.deviation)
        return (image - mean[:, None, None]) / deviation[:, None, None]

    def read(self, file: Path) -> Tensor:
        """An image file, its shorter side scaled to `side` and the middle cut out.

        Raises:
            DataError: no image that Pillow can read.
        """
        import numpy as np
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(file) as opened:
                picture = opened.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{file}: cannot be read as an image: {error}") from None
        width, height = picture.size
        scale = self.side / min(width, height)
        size = max(self.side, int(width * scale)), max(self.side, int(height * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - self.side) // 2, (size[1] - self.side) // 2
        picture = picture.crop((left, top, left + self.side, top + self.side))
        values = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
        return self.normalised(values.permute(2, 0, 1))


def noise_images(count: int, side: int, seed: int) -> Tensor:
    """Images (count, 3, side, side) in 0..1 of noise whose power falls as 1/f^2, as in photographs.

    They have edges of no object: a stand-in where no images are given, no more.
    """
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, 3, side, side, generator=generator)
    white = white + 2 * torch.randn(count, 1, side, side, generator=generator)  # mostly brightness
    down, across = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
    radius = (down.square() + across.square()).sqrt()
    radius[0, 0] = torch.inf  # no power at frequency 0: the mean is set below
    waves = torch.fft.irfft2(torch.fft.rfft2(white) / radius, s=(side, side))
    spread = waves.std(dim=(1, 2, 3), keepdim=True)
    images: Tensor = (0.5 + _CONTRAST * waves / spread).clamp(0, 1)
    return images


def read_samples(
    folder: Path,
    source: Checkpoint,
    preparation: Preparation,
    *,
    image_token: int,
    patches: int,
    count: int,
    seed: int,
    trust_remote_code: bool = False,
) -> list[Sample]:
    """Up to `count` images of a folder with their texts, drawn with `seed`.

    Args:
        patches: image tokens that stand for one image.

    Raises:
        DataError: a line, an image or the tokenizer cannot be read.
    """
    rows = _rows(folder / IMAGE_TEXTS)
    generator = torch.Generator().manual_seed(seed)
    chosen = sorted(torch.randperm(len(rows), generator=generator)[:count].tolist())
    tokenizer = load_tokenizer(source.folder, trust_remote_code=trust_remote_code)
    longest = source.spec.context
    samples = []
    for row in (rows[i] for i in chosen):
        ids, judged = _ids(row, tokenizer, [image_token] * patches)
        if longest is not None and len(ids) > longest:
            raise DataError(
                f"{folder / IMAGE_TEXTS}: {row['image']!r} and its text are {len(ids)} tokens, "
                f"the model takes {longest}; shorten the question"
            )
        pixels = preparation.read(folder / row["image"])
        samples.append(Sample(pixels, torch.tensor(ids), judged))
    return samples


def _rows(file: Path) -> list[dict[str, str]]:
    rows = []
    for number, row in json_rows(
        read_text(file, error=DataError), where=str(file), error=DataError
    ):
        wanted = isinstance(row, dict) and all(
            isinstance(row.get(key), str) and row[key] for key in ("image", "answer")
        )
        if not wanted or not isinstance(row.get("question", ""), str):
            raise DataError(f'{file}, line {number}: needs strings "image" and "answer"')
        rows.append(row)
    if not rows:
        raise DataError(f"{file}: there is no line in it")
    return rows


def _ids(row: dict[str, str], tokenizer: Any, image: list[int]) -> tuple[list[int], int]:
    """Token ids of question, image and answer, and where the answer begins."""

    def tokens(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    question = row.get("question", "")
    if _PLACE not in question:
        question = f"{_PLACE}\n{question}\n" if question else f"{_PLACE}\n"
    before, _, after = question.partition(_PLACE)
    begins: list[int] = tokenizer("")["input_ids"][:1]
    bos = begins if begins == [tokenizer.bos_token_id] else []
    prompt = [*bos, *tokens(before), *image, *tokens(after)]
    answer = tokens(row["answer"])[:_ANSWER_TOKENS]
    if not answer:
        raise DataError(f"the answer to {row['image']!r} has no token")
    return prompt + answer, len(prompt)
