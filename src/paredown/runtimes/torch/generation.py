"""How a loaded model writes: as its folder says for users, greedily and alike in benchmarks.

Decided once, for every loader. What `paredown.load` returns has all of the model's own generation
settings, so that `generate` does for an artifact what it does for its base. Benchmarks take none
of them but the end tokens: a repetition penalty or a forced token would act inside a test that is
meant to be greedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paredown.errors import ModelError
from paredown.spec.reading import read_object

FILE = "generation_config.json"


def read_generation(folder: Path) -> Any | None:
    """The generation settings of a folder, for a model however it is built; None if it has none.

    A model built from its config alone has those that transformers derives from the config; the
    file beside it (end tokens of chat models, penalties) is read by `from_pretrained` only.

    Raises:
        ModelError: the file is damaged.
    """
    from transformers import GenerationConfig

    file = folder / FILE
    if not file.exists():
        return None
    told = read_object(file, error=ModelError, mend="download it again", finite=False)
    try:
        return GenerationConfig.from_dict(told)
    except (TypeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise ModelError(f"{file}: transformers cannot read it: {first}") from None


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a text: those of generation settings, config and tokenizer.

    Chat models have several (the end of the text, the end of a turn), and no one place names all.
    """
    config = model.config
    told = (
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(config, "eos_token_id", None),
        getattr(config.get_text_config(), "eos_token_id", None),
        tokenizer.eos_token_id,
    )
    found: dict[int, None] = {}
    for value in told:
        for token in value if isinstance(value, list | tuple) else (value,):
            if isinstance(token, int) and token >= 0:
                found[token] = None
    return list(found)


@contextmanager
def only_greedy(model: Any, *, ends: Sequence[int], pad: int, max_tokens: int) -> Iterator[Any]:
    """Yield the settings of a greedy text; in the block, the model has none of its own.

    What is not set is otherwise filled in from the model's own settings, given ones or not.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_tokens,
            eos_token_id=list(ends) or None,
            pad_token_id=pad,
        )
    finally:
        model.generation_config = own


def written_text(
    tokenizer: Any, prompt: Sequence[int], written: Sequence[int], ends: Sequence[int]
) -> str:
    """The text that tokens add to a prompt, without their end token.

    Decoded together with the prompt, of which the text is cut off: alone, a SentencePiece decoder
    (Llama 2, Mistral) takes the first blank away, and code loses its indentation. Nothing is
    tidied: that would take blanks before punctuation away.
    """
    stop = next((i for i, token in enumerate(written) if token in ends), len(written))

    def decode(ids: Sequence[int]) -> str:
        text: str = tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    whole, head = decode([*prompt, *written[:stop]]), decode(prompt)
    # A prompt whose last token is half a character ends otherwise when the other half follows.
    pairs = enumerate(zip(whole, head, strict=False))
    shared = next((i for i, (a, b) in pairs if a != b), min(len(whole), len(head)))
    return whole[shared:]
