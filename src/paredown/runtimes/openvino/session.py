"""A package opened in OpenVINO's own process, as a session."""

from __future__ import annotations

from typing import final

from paredown.runtimes.base import Package
from paredown.runtimes.process import Program
from paredown.runtimes.process_session import ProcessSession
from paredown.spec.target import Device
from paredown.text.windows import load_tokenizer

PROGRAM = Program("openvino", "paredown.runtimes.openvino.worker")


@final
class OpenVinoSession(ProcessSession):
    """OpenVINO with one package, and the tokenizer of Hugging Face."""

    def __init__(self, package: Package, *, device: Device = "cpu") -> None:
        """Load a package; errors as of `ProcessSession`."""
        super().__init__(PROGRAM, package.folder, device=device)
        self.folder = package.folder
        self._tokenizer = load_tokenizer(package.folder)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))
