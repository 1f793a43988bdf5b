"""From a model to a package that is served, with llama.cpp and a tiny Llama."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import paredown
from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.description import describe
from paredown.deploy.check import Patience, check_package
from paredown.deploy.package import (
    MODEL,
    package_proof,
    read_record,
    read_settings,
    verify,
    version_of,
    write_sums,
)
from paredown.deploy.sizing import Wishes
from paredown.errors import ConfigError, MethodError
from paredown.methods import registry as methods
from paredown.pipeline.deliver import Delivered
from paredown.runtimes.base import SERVER
from paredown.runtimes.registry import engine
from paredown.spec.run import EvaluateConfig
from paredown.spec.strategy import parse_strategy
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model

pytest.importorskip("xllamacpp")
VOCABULARY = 320
WISHES = Wishes(context=128, slots=2, threads=1, memory_bytes=2 * 10**9)


def write_all_bytes_tokenizer(folder: Path) -> None:
    """Byte-level BPE of the 256 bytes and a few merges: whatever is written has tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = sorted(bytes_to_unicode().values())
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n")]
    words = ["<end>", *letters, *(a + b for a, b in merges)]
    core = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    fast.save_pretrained(folder)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama, rounded to 4 bits, that names its base."""
    folder = tmp_path_factory.mktemp("deliver")
    base = tiny_model(folder / "base", tokenizer=False, vocab_size=VOCABULARY)
    write_all_bytes_tokenizer(base)
    (base / "LICENSE").write_text("The Tiny Licence\n\nDo as you like.\n")
    out = folder / "artifact"
    out.mkdir()
    strategy = parse_strategy("rtn(bits=4, group_size=32, symmetric=true)")
    ((method, params),) = methods.resolve(strategy)
    method.apply(Checkpoint(base), out, params, MethodConformance().context(folder))
    write_all_bytes_tokenizer(out)
    describe(
        out, strategy=strategy, base={"name": str(base), "hash": None}, how_to_load="paredown.load"
    )
    text = "\n\n".join(
        f"Paragraph {k}: the end of the river in the land of {k * 7919 % 1000} hills is near, "
        f"and then the other {k * 31 % 97} begin." for k in range(200)
    )  # fmt: skip
    (folder / "text.txt").write_text(text)
    return out


def make(artifact: Path, out: Path, **options: object) -> Delivered:
    settings: dict[str, object] = {
        "data": str(artifact.parent / "text.txt"), "wishes": WISHES, "max_kl": 0.05,
        "config": EvaluateConfig(tokens=512, window=64),
    }  # fmt: skip
    return paredown.deploy(artifact, out, **{**settings, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def delivered(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    return make(artifact, tmp_path_factory.mktemp("packages") / "tiny-q4")


def test_the_package_is_whole(delivered: Delivered) -> None:
    folder = delivered.folder
    names = {file.name for file in folder.iterdir()}
    assert {
        MODEL, SERVER, "package.json", "serving.json", "proof.json", "README.md", "HANDOVER.md",
        "Dockerfile", "compose.yaml", "kubernetes.yaml", "tiny-q4.service", "requirements.txt",
        "SHA256SUMS", "LICENSE",
    } == names  # fmt: skip
    verify(folder)
    record = read_record(folder)
    assert record.version == version_of(folder / MODEL)
    assert record.license == "The Tiny Licence"
    assert record.strategy == "rtn(group_size=32)"
    assert read_settings(folder).slots == 2
    assert not [f for f in folder.parent.iterdir() if f != folder]  # no scratch is left


def test_the_proof_was_measured(delivered: Delivered) -> None:
    proof = package_proof(delivered.folder)
    assert proof == delivered.proof
    exact = {m.name: m for m in proof.exactness}
    quality = {m.name: m for m in proof.quality}
    assert 0 < exact["kl"].value < 0.05  # the engine rounds, and is the artifact
    assert quality["kl"].value > 5 * exact["kl"].value  # four bits of noise are another thing
    assert quality["perplexity"].value == pytest.approx(exact["perplexity"].value)
    assert proof.served_kl is not None
    assert proof.served_kl < 0.02
    assert all(one.finish in {"stop", "length"} for one in proof.golden)
    memory = next(pair for pair in proof.served if pair.name == "peak memory")
    assert memory.package > 0
    times = [pair for pair in proof.served if pair.unit == "ms"]
    assert all(pair.low is not None and pair.low <= pair.ratio for pair in times)
    card = (delivered.folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "The Tiny Licence"
    assert f"{quality['kl'].value:.4g}" in card


def test_it_is_ready_by_its_own_check(delivered: Delivered) -> None:
    facts = {f.name: f for f in check_package(delivered.folder, patience=Patience(whole_s=300.0))}
    failed = {name: fact.seen for name, fact in facts.items() if fact.status == "failed"}
    assert not failed
    passed = {name for name, fact in facts.items() if fact.status == "passed"}
    assert passed >= {
        "checksums", "process", "generation", "streaming", "token ids", "agreement", "drift",
        "full context", "overload", "bad requests", "metrics", "key asked", "memory", "drains",
        "key in logs", "restart",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_package_behind_our_own_server_is_ready(
    name: str, artifact: Path, tmp_path: Path
) -> None:
    pytest.importorskip({"onnxruntime": "onnxruntime_genai"}.get(name, name))
    done = make(artifact, tmp_path / "tiny", runtime=name)
    requirements = (done.folder / "requirements.txt").read_text()
    names = {line.partition("==")[0] for line in requirements.split()}
    assert {"starlette", "uvicorn", "tokenizers"} <= names
    assert done.proof.served
    facts = {f.name: f for f in check_package(done.folder, patience=Patience(whole_s=300.0))}
    failed = {name: fact.seen for name, fact in facts.items() if fact.status == "failed"}
    # What random weights write may go round and round, and the check says so.
    assert failed.keys() <= {"generation"}, failed
    passed = {name for name, fact in facts.items() if fact.status == "passed"}
    assert passed >= {
        "checksums", "process", "streaming", "token ids", "agreement", "drift",
        "full context", "overload", "bad requests", "metrics", "key asked", "memory", "drains",
        "key in logs", "restart",
    }  # fmt: skip


@pytest.mark.slow
def test_another_model_behind_the_same_proof_is_seen(
    delivered: Delivered, artifact: Path, tmp_path: Path
) -> None:
    other = tiny_model(tmp_path / "other", tokenizer=False, vocab_size=VOCABULARY, seed=1)
    write_all_bytes_tokenizer(other)
    folder = shutil.copytree(delivered.folder, tmp_path / "package")
    shutil.rmtree(folder / MODEL)
    engine("llama.cpp").export(other, folder / MODEL)
    write_sums(folder)  # whoever swaps a model by mistake has fitting checksums
    facts = {f.name: f for f in check_package(folder, patience=Patience(whole_s=300.0))}
    # Two random models are near uniform, so twenty candidates tell them apart by little; what they
    # write tells more.
    assert facts["drift"].status == "failed"
    assert (facts["agreement"].value or 0.0) > 10 * (delivered.proof.served_kl or 0.0)


@pytest.mark.slow
def test_the_version_before_is_kept(delivered: Delivered, artifact: Path, tmp_path: Path) -> None:
    place = shutil.copytree(delivered.folder, tmp_path / "tiny-q4")
    base = Path(read_record(place).base)
    again = make(base, place, base=str(base), max_kl=0.5)
    assert again.kept is not None
    assert again.record.previous is not None
    assert again.record.version != delivered.record.version
    assert (place / again.record.previous.folder).resolve() == again.kept.resolve()
    verify(again.kept)
    assert again.record.previous.version == version_of(again.kept / MODEL)


def test_what_is_wrong_is_told_before_the_work(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is no package"):
        make(artifact, tmp_path / "taken")
    with pytest.raises(ConfigError, match=r"the model takes 256 tokens"):
        make(artifact, tmp_path / "p", wishes=replace(WISHES, context=300))
    with pytest.raises(ConfigError, match="the model alone needs"):
        make(artifact, tmp_path / "p", wishes=replace(WISHES, memory_bytes=10**6))
    with pytest.raises(ConfigError, match="no runtime is called"):
        make(artifact, tmp_path / "p", runtime="llama")
    assert [f.name for f in tmp_path.iterdir()] == ["taken"]


@pytest.mark.slow
def test_a_proof_that_fails_leaves_nothing(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="the exported model is not the artifact: KL"):
        make(artifact, tmp_path / "p", max_kl=1e-9)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_benchmarks_are_scored_in_the_engine(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    rows = [
        {"question": f"the end of {k} is", "choices": [" near", " far"], "answer": k % 2}
        for k in range(8)
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    text = str(artifact.parent / "text.txt")
    found = make(artifact, tmp_path / "p", data=[text, str(file)], max_kl=0.5)
    (score,) = found.proof.scores
    assert (score.n, score.versus_base is not None) == (8, True)
    assert "questions" in (found.folder / "README.md").read_text()
