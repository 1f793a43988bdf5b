"""Model folders as they arrive: whole, sharded, truncated, incomplete, unsafe."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from paredown.errors import ModelError
from paredown.spec import headers, scan
from paredown.spec.headers import read_headers, tensor_location, weights_files
from paredown.spec.remote import remote_headers
from paredown.spec.scan import count_nonfinite, scan_weights

TENSORS: dict[str, NDArray[Any]] = {
    "b.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.weight": np.ones((2, 5), dtype=np.float16),
    "c.scale": np.array(3.0),
    "d.codes": np.arange(7, dtype=np.int8),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in one file."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same model in two files with an index."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    names = sorted(TENSORS)
    index: dict[str, str] = {}
    for i, part in enumerate((names[:2], names[2:]), start=1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({n: TENSORS[n] for n in part}, tmp_path / file)
        index |= dict.fromkeys(part, file)
    (tmp_path / headers.INDEX).write_text(json.dumps({"weight_map": index}))
    return tmp_path


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# --- What is read ---------------------------------------------------------------------------------


def test_tensors_come_by_name_with_dtype_and_shape(folder: Path) -> None:
    found = [(t.name, t.dtype, t.shape) for t in read_headers(folder)]
    assert found == [
        ("a.weight", "F16", (2, 5)),
        ("b.weight", "F32", (3, 4)),
        ("c.scale", "F64", ()),
        ("d.codes", "I8", (7,)),
    ]


def test_shards_are_one_model(sharded: Path) -> None:
    assert [t.name for t in read_headers(sharded)] == sorted(TENSORS)


def test_shards_without_an_index_are_one_model(sharded: Path) -> None:
    (sharded / headers.INDEX).unlink()
    assert [t.name for t in read_headers(sharded)] == sorted(TENSORS)


def test_files_beside_the_index_are_not_the_model(sharded: Path) -> None:
    save_file(TENSORS, sharded / "consolidated.safetensors")
    assert len(weights_files(sharded)) == 2
    assert [t.name for t in read_headers(sharded)] == sorted(TENSORS)


def test_locations_hold_the_bytes_of_the_tensors(sharded: Path) -> None:
    for name, place in tensor_location(sharded).items():
        data = place.file.read_bytes()[place.offset : place.offset + place.nbytes]
        assert data == TENSORS[name].tobytes()


# --- What is refused ------------------------------------------------------------------------------


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such folder") as error:
        read_headers(tmp_path / "nothing")
    one_line(error)


def test_a_file_instead_of_a_folder(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"is a file; give the folder that holds config\.json"):
        read_headers(folder / "model.safetensors")


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"is no model folder: it has no config\.json"):
        read_headers(folder)


def test_adapter_alone(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelError, match="only an adapter; merge it into its base model"):
        read_headers(folder)


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_unreadable_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json.*download it again") as error:
        read_headers(folder)
    one_line(error)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickle_weights(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=f"only pickle weights .{name}.*convert them"):
        read_headers(folder)


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"no weights: no \*\.safetensors file"):
        read_headers(folder)


def test_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"1 of 2 weights files .* first model-00002-of-00002"):
        read_headers(sharded)


def test_shard_of_another_version(sharded: Path) -> None:
    save_file({"c.scale": TENSORS["c.scale"]}, sharded / "model-00002-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"lacks the tensor 'd\.codes'.*1 missing"):
        read_headers(sharded)


def test_one_tensor_in_two_files(sharded: Path) -> None:
    (sharded / headers.INDEX).unlink()
    save_file({"a.weight": TENSORS["a.weight"]}, sharded / "old.safetensors")
    with pytest.raises(ModelError, match=r"'a\.weight' is in both .* and old\.safetensors"):
        read_headers(sharded)


@pytest.mark.parametrize("map_text", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_broken_index(sharded: Path, map_text: str) -> None:
    (sharded / headers.INDEX).write_text(map_text)
    with pytest.raises(ModelError, match=r"weight_map|is no file name"):
        read_headers(sharded)


def test_index_cannot_lead_out_of_the_folder(sharded: Path) -> None:
    (sharded / headers.INDEX).write_text('{"weight_map": {"a": "../other.safetensors"}}')
    with pytest.raises(ModelError, match="is no file name in this folder"):
        read_headers(sharded)


def test_truncated_file_tells_how_much_is_missing(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-13])
    with pytest.raises(ModelError, match=f"truncated: 13 of {len(whole)} bytes are missing"):
        read_headers(folder)


@pytest.mark.parametrize(("keep", "message"), [(0, "it has 0 bytes"), (20, "within its header")])
def test_file_truncated_before_its_data(folder: Path, keep: int, message: str) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=message):
        read_headers(folder)


def test_bytes_after_the_last_tensor(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"12345")
    with pytest.raises(ModelError, match="5 bytes follow the last tensor"):
        read_headers(folder)


def with_header(file: Path, header: object, data: bytes = b"") -> None:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\xff\xfe not json", "its header is no JSON"),
        ([1, 2], "its header is no JSON"),
        ({"a": {"shape": [1]}}, "tensor 'a' lacks dtype or place"),
        ({"a": 3}, "tensor 'a' lacks dtype or place"),
        ({"a": entry("F7", [1], 0, 4)}, "dtype 'F7', which paredown does not know"),
        ({"a": entry("F32", [2], 0, 4)}, r"shape \[2\] in F32 cannot have 4 bytes"),
        ({"a": entry("F32", [-1], 4, 0)}, "cannot have -4 bytes"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 2, 6)}, "'b' overlaps another"),
    ],
)
def test_damaged_headers(folder: Path, header: object, message: str) -> None:
    with_header(folder / "model.safetensors", header, b"\0" * 6)
    with pytest.raises(ModelError, match=message) as error:
        read_headers(folder)
    one_line(error)


def test_absurd_header_length(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"no safetensors file.*git-lfs pointer"):
        read_headers(folder)


def test_unreadable_file(folder: Path) -> None:
    with pytest.raises(ModelError, match="No such file or directory; check its permissions"):
        headers.read_file_header(folder / "gone.safetensors")


# --- What is scanned ------------------------------------------------------------------------------


def brain_floats(values: list[float]) -> bytes:
    bits = np.array(values, dtype=np.float32).view(np.uint32) >> 16
    return bits.astype("<u2").tobytes()


BAD = [1.0, float("nan"), -float("inf"), 0.0, float("inf"), -2.5, 3e38]


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("F64", np.array(BAD).tobytes()),
        ("F32", np.array(BAD, dtype=np.float32).tobytes()),
        ("F16", np.array([*BAD[:-1], 65504.0], dtype=np.float16).tobytes()),
        ("BF16", brain_floats(BAD)),
        ("F8_E5M2", bytes([0x3C, 0x7E, 0xFC, 0x00, 0x7C, 0xBC, 0x7B])),
    ],
)
def test_nan_and_infinity_are_counted(dtype: str, data: bytes) -> None:
    assert count_nonfinite(data, dtype) == 3


def test_the_8_bit_float_without_infinity_has_two_nans() -> None:
    assert count_nonfinite(bytes(range(256)), "F8_E4M3") == 2


def test_integers_are_always_finite() -> None:
    assert count_nonfinite(b"\xff" * 16, "I32") == 0


def test_scan_names_the_tensors_with_bad_elements(folder: Path) -> None:
    bad = np.ones((100, 70), dtype=np.float32)
    bad[3, 5], bad[99, 69] = np.nan, -np.inf
    save_file({**TENSORS, "z.weight": bad}, folder / "model.safetensors")
    assert scan_weights(folder).nonfinite == {"z.weight": 2}


def test_scan_in_small_pieces_sees_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = np.ones(1000, dtype=np.float16)
    bad[::97] = np.inf
    save_file({**TENSORS, "z.weight": bad}, folder / "model.safetensors")
    at_once = scan_weights(folder)
    monkeypatch.setattr(scan, "CHUNK_BYTES", 64)
    assert scan_weights(folder) == at_once
    assert at_once.nonfinite == {"z.weight": 11}


def test_hash_is_of_names_sizes_and_contents(sharded: Path) -> None:
    digest = hashlib.sha256()
    for file in sorted(sharded.glob("*.safetensors")):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    assert scan_weights(sharded).sha256 == digest.hexdigest()


def test_one_changed_bit_changes_the_hash(folder: Path) -> None:
    before = scan_weights(folder).sha256
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert scan_weights(folder).sha256 != before


def test_progress_ends_at_one(sharded: Path) -> None:
    seen: list[float] = []
    scan_weights(sharded, lambda share, what: seen.append(share))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_file_that_shrinks_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = headers.read_file_header(folder / "model.safetensors")
    monkeypatch.setattr(scan, "read_file_header", lambda file: whole)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ModelError, match="became shorter while it was read"):
        scan_weights(folder)


def test_scan_of_an_empty_file(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")
    assert read_headers(folder) == ()
    assert scan_weights(folder).nonfinite == {}


def test_scan_agrees_with_numpy(folder: Path) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1 << 16, size=20_000, dtype=np.uint16)
    save_file({"w": codes.view(np.float16)}, folder / "model.safetensors")
    stored = load_file(folder / "model.safetensors")["w"]
    assert scan_weights(folder).nonfinite == {"w": int((~np.isfinite(stored)).sum())}


# --- The hub --------------------------------------------------------------------------------------


class FakeHub:
    """Stands in for `huggingface_hub.HfApi`."""

    failure: Exception | None = None
    config: Path
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def get_safetensors_metadata(self, repo_id: str, revision: str | None = None) -> object:
        self.asked.append((repo_id, revision))
        if self.failure is not None:
            raise self.failure
        infos = {
            name: SimpleNamespace(dtype="F32", shape=list(value.shape))
            for name, value in TENSORS.items()
        }
        return SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=infos)})

    def hf_hub_download(self, repo_id: str, file: str, revision: str | None = None) -> str:
        self.asked.append((repo_id, revision))
        return str(self.config)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> type[FakeHub]:
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "config", folder / "config.json", raising=False)
    return FakeHub


def test_remote_headers_are_read_like_local_ones(hub: type[FakeHub]) -> None:
    config, tensors = remote_headers("owner/name")
    assert config == {"model_type": "llama"}
    assert [(t.name, t.shape) for t in tensors] == [(n, TENSORS[n].shape) for n in sorted(TENSORS)]


def test_a_revision_is_asked_for(hub: type[FakeHub]) -> None:
    hub.asked.clear()
    remote_headers("owner/name@v1.0")
    assert hub.asked == [("owner/name", "v1.0")] * 2


def refused(
    kind: type[errors.HfHubHTTPError], status: int | None = None, words: str = "refused"
) -> Exception:
    response: Any = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind(words, response=response)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (errors.GatedRepoError, "gated: accept its terms on its hub page and set HF_TOKEN"),
        (errors.RepositoryNotFoundError, "the hub has no model 'owner/name'.*HF_TOKEN"),
        (errors.RemoteEntryNotFoundError, "no safetensors weights or no config"),
        (errors.NotASafetensorsRepoError("no"), "no safetensors weights or no config"),
        (errors.SafetensorsParsingError("bad\nheader"), "holds a damaged file: bad"),
        (errors.HFValidationError("no"), "is no hub name; write owner/name"),
        (errors.OfflineModeIsEnabled("off"), "HF_HUB_OFFLINE is set; unset it, or give a local"),
        (ConnectionError("refused\nmore"), r"cannot reach the hub .* \(refused\); check the net"),
        (errors.HfHubHTTPError, "cannot reach the hub"),
        (errors.RevisionNotFoundError, "there is no branch, tag or commit"),
        (
            refused(errors.HfHubHTTPError, 401),
            r"refuses .* \(401: refused\); check HF_TOKEN",
        ),
        (refused(errors.HfHubHTTPError, 404), r"the hub does not give .* \(404: refused\)"),
        (refused(errors.HfHubHTTPError, 500), "cannot reach the hub"),
        (errors.HTTPError("no route"), "cannot reach the hub"),  # type: ignore[attr-defined]
    ],
)
def test_failures_of_the_hub_are_one_line(
    hub: type[FakeHub],
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception | type[errors.HfHubHTTPError],
    message: str,
) -> None:
    raised = refused(failure) if isinstance(failure, type) else failure
    monkeypatch.setattr(hub, "failure", raised)
    with pytest.raises(ModelError, match=message) as error:
        remote_headers("owner/name")
    one_line(error)


def test_a_token_that_the_hub_repeats_is_not_shown(
    hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-and-unlike-any")
    words = "bad token secret-and-unlike-any or hf_abcdefghijklmnop"
    monkeypatch.setattr(hub, "failure", refused(errors.HfHubHTTPError, 401, words))
    with pytest.raises(ModelError, match=r"bad token \[key\] or \[key\]"):
        remote_headers("owner/name")


def test_really_offline() -> None:
    code = (
        "from paredown.errors import ModelError\n"
        "from paredown.spec.remote import remote_headers\n"
        "try:\n    remote_headers('owner/name')\n"
        "except ModelError as error:\n    print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(headers.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "HF_HUB_OFFLINE is set" in done.stdout
