"""What a package is asked when it is made and ever after: prompts with answers, texts with tokens.

Prompts are of the kinds that engines get wrong: other scripts, digits, code, blanks, emoji.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from paredown.deploy.proof import Golden, Likely, Tokens
from paredown.runtimes.session import TOP, Session
from paredown.text.windows import load_tokenizer

MESSAGES = (
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "What is 17 plus 25?",
    "Write a Python function that adds two numbers.",
    "Wie heißt die Hauptstadt von Italien?",
    "¿Qué día viene después del lunes?",
    "用一句话介绍北京。",
    "Complete the sentence: The quick brown fox",
)
TEXTS = (
    "Hello world", " leading and trailing ", "a\tb\n\n\nc", "1234567890 3.14159 -7e-5",
    "x = [i ** 2 for i in range(10)]", "def f(a: int) -> str:\n    return f'{a!r}'",
    "Größe, Übermut und Ärger", "¿Qué? ¡Sí! El niño comió piñones.", "Привет, как дела?",
    "你好。北京是中国的首都。", "こんにちは世界", "مرحبا بالعالم", "नमस्ते दुनिया",
    "😀👍🏽🇫🇷👨‍👩‍👧", "e\u0301 é ﬁ ½ ² ₂", "https://example.org/a?b=c&d=%20",
    "<|im_start|>user<|im_end|>", "<s></s>[INST]", "SELECT * FROM t WHERE a <> 'b';",
    "ALLCAPS CamelCase snake_case kebab-case", "....!!!???---",
    "\\begin{equation} e^{i\\pi} + 1 = 0 \\end{equation}", "            twelve blanks",
    "I'm you're he'll",
)  # fmt: skip


def token_texts(folder: Path, *, trust_remote_code: bool = False) -> tuple[Tokens, ...]:
    """Texts with their tokens, as the artifact's own tokenizer makes them."""
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    return tuple(
        Tokens(text=text, ids=tuple(tokenizer.encode(text, add_special_tokens=False)))
        for text in TEXTS
    )


def differing(session: Session, folder: Path, *, trust_remote_code: bool = False) -> list[str]:
    """The texts whose tokens an engine makes otherwise, special tokens as in a prompt included."""
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    return [t for t in TEXTS if session.encode(t) != list(tokenizer.encode(t))]


def golden_prompts(
    artifact: Session, folder: Path, *, trust_remote_code: bool = False
) -> tuple[Golden, ...]:
    """Golden prompts, with what the artifact holds likeliest; not yet answered.

    Args:
        artifact: opened in torch.
        folder: of the artifact, whose tokenizer and chat template are used.
    """
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    prompts = [prompt_of(tokenizer, message) for message in MESSAGES]
    return tuple(
        Golden(
            message=message, text=text, ids=tuple(ids), is_chat=bool(tokenizer.chat_template),
            next=_likely(artifact, ids, tokenizer),
        )
        for message, (text, ids) in zip(MESSAGES, prompts, strict=True)
    )  # fmt: skip


def prompt_of(tokenizer: Any, message: str) -> tuple[str, list[int]]:
    """The whole prompt of a message, in the chat template where there is one, and its tokens."""
    if not tokenizer.chat_template:
        return message, list(tokenizer.encode(message))
    said = [{"role": "user", "content": message}]
    text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    # The template writes the special tokens itself.
    return text, list(tokenizer.encode(text, add_special_tokens=False))


def _likely(session: Session, ids: Sequence[int], tokenizer: Any) -> Likely:
    # One more token behind the prompt, so that its last position has a row of its own.
    (rows,) = session.logprobs(torch.tensor([[*ids, ids[-1]]]))
    best = rows[-1].topk(min(TOP, rows.shape[1]))
    tokens = [int(i) for i in best.indices]
    return Likely(
        ids=tuple(tokens),
        texts=tuple(tokenizer.decode([i]) for i in tokens),
        logprobs=tuple(float(v) for v in best.values),
    )
