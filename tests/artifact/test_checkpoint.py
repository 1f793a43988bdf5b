"""Checkpoints: what is written reads back, here, in safetensors and in transformers."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint, CheckpointWriter
from paredown.errors import ModelError
from paredown.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("source"))


@pytest.fixture
def source(folder: Path) -> Checkpoint:
    return Checkpoint(folder)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def every_dtype() -> dict[str, torch.Tensor]:
    """Tensors of every dtype and of awkward sizes."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for i, (name, dtype) in enumerate(TORCH_DTYPES.items()):
        numbers = torch.randint(0, 2, (3, 2 * i + 1), generator=generator)
        found[f"odd.{name}"] = numbers.to(dtype)
        found[f"scalar.{name}"] = torch.tensor(1).to(dtype)
        found[f"empty.{name}"] = torch.empty(0, 4, dtype=dtype)
    return found


def test_every_dtype_round_trips_through_safetensors(source: Checkpoint, out: Path) -> None:
    tensors = every_dtype()
    with CheckpointWriter(out, source) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
    found = load_file(out / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_every_tensor_is_aligned_and_the_file_has_no_holes(source: Checkpoint, out: Path) -> None:
    with CheckpointWriter(out, source) as writer:
        for name, tensor in every_dtype().items():
            writer.add(name, tensor)
    data = (out / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    spans = sorted((entry["data_offsets"], entry["dtype"]) for entry in header.values())
    position = 0
    for (start, stop), dtype in spans:
        assert start == position
        assert start % TORCH_DTYPES[dtype].itemsize == 0
        position = stop
    assert 8 + length + position == len(data)


def test_strided_tensors_are_written_in_order(source: Checkpoint, out: Path) -> None:
    matrix = torch.arange(12.0).reshape(3, 4)
    with CheckpointWriter(out, source) as writer:
        writer.add("t", matrix.T)
        writer.add("part", matrix[:, 1:3])
    found = load_file(out / "model.safetensors")
    assert torch.equal(found["t"], matrix.T)
    assert torch.equal(found["part"], matrix[:, 1:3])


@pytest.mark.parametrize("shard_bytes", [1, 20_000, 10**9])
def test_copy_in_shards_is_the_same_model(source: Checkpoint, out: Path, shard_bytes: int) -> None:
    from transformers import AutoModelForCausalLM

    with CheckpointWriter(out, source, shard_bytes=shard_bytes) as writer:
        writer.copy_rest(without=set())
    copy = Checkpoint(out)
    assert copy.names == source.names
    assert all(torch.equal(copy.read(n), source.read(n)) for n in copy.names)
    files = sorted(f.name for f in out.glob("*.safetensors"))
    if shard_bytes == 10**9:
        assert files == ["model.safetensors"]
        assert not (out / "model.safetensors.index.json").exists()
    else:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert sorted(set(index["weight_map"].values())) == files
        assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
        assert index["metadata"]["total_size"] == source.spec.weight_bytes
    if shard_bytes == 1:
        assert len(files) == len(source.names)
    theirs = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.equal(theirs[n], source.read(n)) for n in source.names)


def test_shards_stay_within_their_size(source: Checkpoint, out: Path) -> None:
    with CheckpointWriter(out, source, shard_bytes=30_000) as writer:
        writer.copy_rest(without=set())
    for file in out.glob("*.safetensors"):
        tensors = load_file(file)
        assert sum(t.nbytes for t in tensors.values()) <= 30_000 or len(tensors) == 1


def test_small_files_are_copied_and_weights_are_not(
    folder: Path, tmp_path: Path, out: Path
) -> None:
    for name in ("paredown.json", "pytorch_model.bin", ".hidden", "notes.txt"):
        (folder / name).write_text("{}")
    try:
        with CheckpointWriter(out, Checkpoint(folder)) as writer:
            writer.copy_rest(without=set())
            writer.config["added"] = 1
    finally:
        for name in ("paredown.json", "pytorch_model.bin", ".hidden", "notes.txt"):
            (folder / name).unlink()
    names = {f.name for f in out.iterdir()}
    assert {"config.json", "model.safetensors", "notes.txt", "tokenizer.json"} <= names
    assert not names & {"paredown.json", "pytorch_model.bin", ".hidden"}
    assert json.loads((out / "config.json").read_text())["added"] == 1


def test_an_exception_leaves_nothing(source: Checkpoint, out: Path) -> None:
    writer = CheckpointWriter(out, source, shard_bytes=1)

    def stop_half_way() -> None:
        with writer:
            writer.copy(*source.names[:3])
            assert list(out.iterdir())
            raise KeyError

    with pytest.raises(KeyError):
        stop_half_way()
    assert list(out.iterdir()) == []


def test_names_left_out_stay_out(source: Checkpoint, out: Path) -> None:
    dropped = source.names[3]
    with CheckpointWriter(out, source) as writer:
        writer.add(source.names[0], torch.zeros(2))
        writer.copy_rest(without={dropped})
    found = load_file(out / "model.safetensors")
    assert found.keys() == set(source.names) - {dropped}
    assert torch.equal(found[source.names[0]], torch.zeros(2))


def test_a_tensor_is_written_once(source: Checkpoint, out: Path) -> None:
    with CheckpointWriter(out, source) as writer:
        writer.add("a", torch.zeros(1))
        with pytest.raises(AssertionError, match="written twice"):
            writer.add("a", torch.zeros(1))


def test_names_come_in_natural_order(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    config = json.loads((folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    save_file(
        {f"model.layers.{i}.x.weight": torch.zeros(1) for i in (10, 9, 0)},
        copy / "model.safetensors",
    )
    assert [n.split(".")[2] for n in Checkpoint(copy).names] == ["0", "9", "10"]


def test_a_missing_tensor_is_named(source: Checkpoint) -> None:
    with pytest.raises(ModelError, match=r"there is no tensor 'no\.such'"):
        source.read("no.such")


def test_small_files_in_folders_of_a_model_are_copied(tmp_path: Path) -> None:
    """Tokenizers with several chat templates keep all but one in a folder."""
    folder = tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    tokenizer.save_pretrained(folder)
    for name in ("adapter/adapter_config.json", "onnx/model.onnx", "onnx/model.safetensors",
                 ".cache/x.json", "old/model.safetensors.index.json"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    out = tmp_path / "out"
    out.mkdir()
    with CheckpointWriter(out, Checkpoint(folder)) as writer:
        writer.copy_rest(without=set())
    assert AutoTokenizer.from_pretrained(out).chat_template == tokenizer.chat_template
    assert sorted(f.name for f in out.iterdir() if f.is_dir()) == ["additional_chat_templates"]


def test_a_config_with_an_infinity_is_written_again(tmp_path: Path) -> None:
    folder, out = tiny_model(tmp_path / "model"), tmp_path / "out"
    config = json.loads((folder / "config.json").read_text()) | {"limit": [0.0, float("inf")]}
    (folder / "config.json").write_text(json.dumps(config))
    out.mkdir()
    with CheckpointWriter(out, Checkpoint(folder)) as writer:
        writer.copy_rest(without=set())
    assert Checkpoint(out).config["limit"] == [0.0, float("inf")]
