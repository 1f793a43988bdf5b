"""Whether a model writes text token by token, which is all that is compressed and measured here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from paredown.errors import ModelError

_WRITES = re.compile(r"(ForCausalLM|LMHead|ForConditionalGeneration|DoubleHeads)")
"""In the names of transformers' classes that write text. A class that is named otherwise reads text
only, or pictures or sound, unless it comes with code of its own."""
_ENCODERS = frozenset({
    "albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra",
    "ernie", "esm", "eurobert", "longformer", "modernbert", "mpnet", "nomic_bert", "roberta",
    "xlm-roberta", "xlm-roberta-xl",
})  # fmt: skip
"""Model types that are encoders unless their config says `is_decoder`; stored without a head, their
class tells nothing (`BertModel`)."""


def require_decoder(config: Mapping[str, Any], name: str) -> None:
    """See that a config tells of a decoder, alone or behind an image tower.

    Raises:
        ModelError: an encoder, or an encoder-decoder.
    """
    wanted = "paredown compresses models that write text from left to right (decoders)"
    if config.get("is_encoder_decoder") is True:
        raise ModelError(f"{name} is an encoder-decoder ({config.get('model_type')}); {wanted}")
    if config.get("is_decoder") is True:
        return
    classes = [str(c) for c in config.get("architectures") or ()]
    # Decoders with another head (LlamaForSequenceClassification), or none, write nothing either.
    only_reads = bool(classes) and not any(_WRITES.search(c) for c in classes)
    has_own_code = "auto_map" in config
    if config.get("model_type") in _ENCODERS or (only_reads and not has_own_code):
        what = classes[0] if classes else config.get("model_type")
        raise ModelError(
            f"{name} is an encoder, or has a head that writes no text ({what}); {wanted}"
        )
