"""A GGUF file opened in llama.cpp's own process, as a session."""

from __future__ import annotations

from pathlib import Path
from typing import final

from paredown.runtimes.process import Program
from paredown.runtimes.process_session import ProcessSession
from paredown.spec.target import Device

PROGRAM = Program("llama.cpp", "paredown.runtimes.llama_cpp.worker")


@final
class LlamaSession(ProcessSession):
    """llama.cpp with one file."""

    def __init__(self, file: Path, *, device: Device = "cpu") -> None:
        """Load `file`; errors as of `ProcessSession`."""
        super().__init__(PROGRAM, file, device=device)
        self.file = file

    def encode(self, text: str) -> list[int]:
        (ids,) = self._engine.ask("tokenize", texts=[text])["ids"]
        return list(ids)
