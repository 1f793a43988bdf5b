"""A second model of the built-in model's family: small, of other shape, really trained.

No second llama can be had offline, so one is made: 8 blocks, 5.5 million weights, one token per
character, trained for some minutes on the training part of `pydoc`. It writes no sense, but
its weights are learned, and it loses quality where it is compressed.

    python benchmarks/skills_model.py DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from paredown.models.texts import open_source
from paredown.testing.tiny import VOCABULARY, tiny_config, write_tokenizer

SHAPE = {
    "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": True,
}  # fmt: skip
STEPS, WINDOWS, LENGTH, RATE = 300, 4, 128, 2e-3


def make(folder: Path, *, steps: int = STEPS) -> float:
    """Train and write it; returns the loss of the last steps, nats per character."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    text = "\n\n".join(open_source("pydoc").documents("calibration"))
    codes = torch.tensor([ord(c) if ord(c) < VOCABULARY else 0 for c in text])
    model = AutoModelForCausalLM.from_config(tiny_config("llama", **SHAPE))
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    losses = []
    for step in range(steps):
        starts = torch.randint(len(codes) - LENGTH, (WINDOWS,))
        batch = torch.stack([codes[i : i + LENGTH] for i in starts.tolist()])
        logits = model(batch).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 20 == 0:
            print(f"step {step} of {steps}: {losses[-1]:.3f}", file=sys.stderr)
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder)
    return sum(losses[-20:]) / len(losses[-20:])


if __name__ == "__main__":
    print(f"loss {make(Path(sys.argv[1])):.3f} nats per character")
