"""Only decoders are taken; everything else is one clear sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paredown.errors import ModelError
from paredown.spec.decoder import require_decoder
from paredown.spec.infer import infer_spec
from paredown.testing.tiny import tiny_model

DECODERS: list[dict[str, Any]] = [
    {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
    {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]},
    {"model_type": "bert", "architectures": ["BertLMHeadModel"], "is_decoder": True},
    {"model_type": "qwen2"},
    {"model_type": "new", "architectures": ["NewForCausalLM", "NewForMaskedLM"]},
    {"model_type": "chatglm", "architectures": ["ChatGLMModel"], "auto_map": {"AutoModel": "x.y"}},
]
OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "bert", "architectures": ["BertModel"]}, "is an encoder.*BertModel"),
    ({"model_type": "roberta"}, "is an encoder.*roberta"),
    ({"model_type": "new", "architectures": ["NewForMaskedLM"]}, "NewForMaskedLM"),
    ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "no text"),
    ({"model_type": "clip", "architectures": ["CLIPModel"]}, "no text.*CLIPModel"),
    ({"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}, "no text.*Wav2Vec2ForCTC"),
    ({"model_type": "mistral", "architectures": ["MistralModel"]}, "no text.*MistralModel"),
    ({"model_type": "t5", "is_encoder_decoder": True}, r"encoder-decoder \(t5\)"),
]


@pytest.mark.parametrize("config", DECODERS)
def test_decoders_are_taken(config: dict[str, Any]) -> None:
    require_decoder(config, "m")


@pytest.mark.parametrize(("config", "said"), OTHERS)
def test_others_are_told_what_is_wanted(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=rf"{said}.*from left to right"):
        require_decoder(config, "m")


def test_a_folder_is_refused_by_its_config(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m", tokenizer=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"is_encoder_decoder": True}))
    with pytest.raises(ModelError, match="m is an encoder-decoder"):
        infer_spec(folder)
