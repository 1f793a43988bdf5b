"""A folder opened in vLLM's own process, as a session."""

from __future__ import annotations

from pathlib import Path
from typing import final

from paredown.runtimes.process import Program
from paredown.runtimes.process_session import ProcessSession
from paredown.runtimes.vllm.environment import require
from paredown.spec.target import Device
from paredown.text.windows import load_tokenizer


@final
class VllmSession(ProcessSession):
    """vLLM with one folder, and the tokenizer of Hugging Face, which is vLLM's own."""

    def __init__(
        self, folder: Path, *, device: Device = "cpu", trust_remote_code: bool = False
    ) -> None:
        """Load a folder; errors as of `ProcessSession`.

        Raises:
            ModelError: vLLM is built for another device than `device`, among others.
        """
        program = Program("vllm", "paredown.runtimes.vllm.worker", python=require().start)
        super().__init__(
            program, folder, device=device, on=device, trust_remote_code=trust_remote_code
        )
        self.folder = folder
        self._tokenizer = load_tokenizer(folder)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))
