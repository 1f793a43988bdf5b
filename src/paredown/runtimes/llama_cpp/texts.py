"""Texts on which the engine's tokenizer must give the artifact's token ids. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

COUNT = 1000
"""Texts of a proof."""
_PIECES = (
    "The quick brown fox jumps over the lazy dog.",
    "It's 8 o'clock; they're late, we'll wait, I'd say, you've won, he'S HERE.",
    "Fünf große Häuser stehen am Fluß, und überall blühen Äpfel.",
    "Ces élèves-là n'ont pas mangé le gâteau où l'œuf manque.",
    "¿Dónde está el niño? ¡Mañana será otro día!",
    "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "今天天气很好，我们去公园散步吧。",
    "東京は夜の七時。カタカナとひらがな。",
    "한국어 문장도 하나 있습니다.",
    "مرحبا بالعالم، كيف حالك اليوم؟",
    "नमस्ते दुनिया, आप कैसे हैं?",
    "def f(x):\n    return [i ** 2 for i in range(x) if i % 2 == 0]\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\n}\n",
    "SELECT name, COUNT(*) FROM users WHERE age >= 18 GROUP BY name;",
    '{"key": [1, 2.5e-3, null, true], "path": "C:\\\\temp\\\\new"}',
    "https://example.org/a/b?c=d&e=%20f#g user@example.org",
    "1234567890 3.14159 1,000,000 0x1F 2026-11-28 12:34:56 50% $9.99",
    "I have 1 apple, 22 pears, 333 plums, 4444 nuts and 55555 seeds",
    "🙂🚀 👩‍👩‍👧‍👦 🇩🇪 ❤️ emoji and ½ ² № ™ …",
    "   leading, trailing   ",
    "a  b   c    d     e",
    "line one\n\nline three\n\n\n\tindented\r\nwindows",
    "!!!??? ---... ((([[[{{{ ### *** === ///",
    "CamelCaseAndsnake_case_and-kebab-case",
    "e\u0301 combined, \u200b zero width, \ufeff mark, \u00a0 no break",
    "\t\t\ttabs\t",
    " ",
    "\n",
    "x",
    "Ω≈ç√∫˜µ≤≥÷ ∀x∈ℝ: ⌈x⌉",
)


def proof_texts(special: Sequence[str]) -> list[str]:
    """`COUNT` different texts: languages, code, numbers, emoji, blanks, and special tokens in them.

    Args:
        special: the special tokens of the tokenizer, as text.
    """
    return list(itertools.islice(_texts(special), COUNT))


def _texts(special: Sequence[str]) -> Iterator[str]:
    yield from _PIECES
    # Special tokens alone and between texts, as chat templates put them.
    marks = list(special[:16])
    for i, mark in enumerate(marks):
        yield mark
        yield f"{_PIECES[i % len(_PIECES)]}{mark}\n{_PIECES[(7 * i + 1) % len(_PIECES)]}"
    for joint in (" ", "", "\n"):
        for first, second in itertools.permutations(_PIECES, 2):
            yield f"{first}{joint}{second}"
