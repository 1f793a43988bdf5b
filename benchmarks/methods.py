"""Every method at comparable settings on one model, in one table.

Each strategy runs as it does in an experiment: compressed in a process of its own, proved by
reloading in another (through paredown, and through plain transformers where the format claims it),
judged in a third on the same held-out tokens as the base. Calibration text is the training part of
the same source. Results go to a file line by line; a second call does only what is missing.

    python benchmarks/methods.py --results methods.jsonl
    python benchmarks/methods.py --results methods.jsonl --only pruning
    python benchmarks/methods.py --results methods.jsonl --peer-venv DIR     # llm-compressor too
    python benchmarks/methods.py --results methods.jsonl --show --markdown
    python benchmarks/methods.py --results methods.jsonl --show --knowledge FILE   # what a search
        on a model that nobody has measured begins with: src/paredown/methods/shared/knowledge.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import run_child, table

GROUPS: dict[str, tuple[str, ...]] = {
    "8 bit": (
        "rtn(bits=8)",
        "gptq(bits=8)",
        "hqq(bits=8)",
        "int8",
        "smoothquant",
        "gptq(bits=8, embedding_bits=8)",
    ),
    "4 bit": (
        "rtn(bits=4)",
        "hqq(bits=4)",
        "nf4",
        "awq(bits=4)",
        "autoround(bits=4)",
        "gptq(bits=4)",
        "gptq(bits=4, embedding_bits=8)",
        "gptq(bits=4, group_size=32, symmetric=False)",
        'gptq(bits=4, plan={"down_proj": 8})',
    ),
    "3 bit": (
        "gptq(bits=3)",
        "awq(bits=3)",
        "autoround(bits=3)",
        "gptq(bits=3, group_size=32, symmetric=False)",
    ),
    "pruning": (
        "random_structured(ratio=0.2)",
        "l2_structured(ratio=0.2)",
        "random_structured(ratio=0.2, repair=True)",
        "l2_structured(ratio=0.2, repair=True)",
        "structured_snip(ratio=0.2)",
        "structured_refer_svd(ratio=0.2)",
        "structured_afr(ratio=0.2)",
        "wanda_sp(ratio=0.2)",
        "flap(ratio=0.2)",
        "depth(ratio=0.1)",
        "heads",
        "random(ratio=0.5)",
        "magnitude(ratio=0.5)",
        "snip(ratio=0.5)",
        "afr(ratio=0.5)",
        "refer_svd(ratio=0.5)",
        "wanda(ratio=0.5)",
        "sparsegpt(ratio=0.5)",
        'sparsegpt(pattern="2:4")',
        'sparsegpt(ratio=0.5, storage="sparse")',
    ),
    "recovery": (
        "random_structured(ratio=0.2, repair=True) > lora(tokens=8192)",
        "l2_structured(ratio=0.2, repair=True) > lora(tokens=8192)",
        "structured_afr(ratio=0.2) > lora(tokens=8192)",
        "structured_afr(ratio=0.2) > distill(tokens=8192)",
        "structured_afr(ratio=0.2) > distill(tokens=8192, teaching=1.0)",
        "random_structured(ratio=0.2, repair=True) > distill(tokens=8192)",
        "depth(ratio=0.1) > distill(tokens=8192)",
        "qlora(tokens=8192)",
    ),
    "pipelines": (
        "structured_afr(ratio=0.2) > lora(tokens=8192) > gptq(bits=4)",
        "depth(ratio=0.1) > structured_afr(ratio=0.1) > distill(tokens=8192) > gptq(bits=4)",
        "sparsegpt(ratio=0.5) > gptq(bits=8)",
    ),
}
PEER = "llm-compressor GPTQ, 4 bit, groups of 64"
RUINED = 1000.0
"""Perplexity beyond which digits say nothing."""
QUALITY = ("perplexity", "perplexity_ratio", "kl", "top1_agreement")


def compress(model: Path, strategy: str, scratch: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Child: the compress job, in this process."""
    import time

    from paredown.evaluate.footprint import peak_rss
    from paredown.methods import registry
    from paredown.pipeline.work.compress import compress as run_job

    start = time.monotonic()
    job = _compress_job(registry.canonical(strategy), model, scratch, options)
    done = run_job(job, scratch, lambda share, message: None)
    return {**done.model_dump(), "seconds": time.monotonic() - start, "peak_bytes": peak_rss()}


def verify(scratch: Path) -> dict[str, Any]:
    """Child: reload through every loader that the method claims."""
    from paredown.pipeline.messages import EXPECTED, VerifyJob
    from paredown.pipeline.work.verify import verify as run_job
    from paredown.runtimes.registry import readers
    from paredown.spec.infer import infer_spec

    expected = scratch / EXPECTED
    job = VerifyJob(
        device="cpu",
        artifact=scratch / "artifact",
        expected=expected if expected.exists() else None,
        plain="transformers" in readers(infer_spec(scratch / "artifact")),
    )
    return run_job(job, lambda share, message: None).model_dump()


def judge(base: Path, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Child: quality against the base on held-out tokens."""
    from paredown.blocks.hessians import tensor_hash
    from paredown.evaluate.quality import BaseOutputs, measure_quality
    from paredown.pipeline.work.texts import request
    from paredown.runtimes.registry import engine
    from paredown.runtimes.torch.writer import write_texts
    from paredown.store.atomic import folder_bytes
    from paredown.store.cache import Cache
    from paredown.text.windows import windows

    cache = Cache.default()
    tokens = windows(
        request(_text(options)), "evaluation", base, count=options["held_out"],
        length=options["length"], seed=0, cache=cache, write=write_texts,
    )  # fmt: skip
    outputs = BaseOutputs(
        base, tokens=tokens, tokens_hash=tensor_hash(tokens), cache=cache,
        device="cpu",
    )  # fmt: skip
    session = engine("torch").open(folder, device="cpu")
    session.for_many_tokens()
    found = measure_quality(session, tokens, outputs, protocol="benchmark")
    result: dict[str, Any] = {m.name: [m.value, m.stderr] for m in found}
    return result | {"bytes": folder_bytes(folder, "**/*.safetensors"), "tokens": tokens.numel()}


def _text(options: dict[str, Any]) -> Any:
    from paredown.pipeline.messages import TextSpec

    return TextSpec(evaluation=options["data"], calibration=None, data_dir=_data_dir(options))


def _data_dir(options: dict[str, Any]) -> Path | None:
    return None if options["data_dir"] is None else Path(options["data_dir"])


def _compress_job(strategy: Any, model: Path, scratch: Path, options: dict[str, Any]) -> Any:
    from paredown.pipeline.messages import CompressJob

    return CompressJob(
        device="cpu",
        model=model,
        model_name=options["model"],
        model_hash=str(model),
        strategy=strategy,
        out=scratch / "artifact",
        text=_text(options),
        samples=options["samples"],
        length=options["length"],
        seed=0,
    )


def child(task: str, *words: str) -> Any:
    """Run one of the functions above in a fresh process."""
    return run_child(
        [sys.executable, __file__, "--child", task, *words], env={**os.environ, "TQDM_DISABLE": "1"}
    )


def measure(strategy: str, model: Path, options: dict[str, Any], peer: Path | None) -> Any:
    """One row: compress, verify, judge. A failure is a row as well."""
    settings = json.dumps(options)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        row: dict[str, Any] = {"strategy": strategy, "options": options}
        try:
            if strategy == "base":
                return row | child("judge", str(model), str(model), settings).result
            if strategy == PEER:
                row |= _run_peer(model, scratch, options, peer)
            else:
                row |= child("compress", str(model), strategy, name, settings).result
                row |= child("verify", name).result
            row |= child("judge", str(model), str(scratch / "artifact"), settings).result
        except SystemExit as error:
            row["error"] = str(error).strip().splitlines()[-1]
        return row


def _run_peer(
    model: Path, scratch: Path, options: dict[str, Any], peer: Path | None
) -> dict[str, Any]:
    import gptq

    if peer is None:
        raise SystemExit("the peer needs --peer-venv")
    python = gptq.peer_python(peer, "torch==2.13.0+cpu")
    tokens = scratch / "tokens.safetensors"
    gptq.write_tokens(
        tokens, model, samples=options["samples"], length=options["length"], held_out=1,
        text=options["data"], data_dir=_data_dir(options),
    )  # fmt: skip
    words = [str(model), str(tokens), str(scratch / "artifact"), str(scratch / "work")]
    found = run_child([str(python), "-c", gptq.THEIRS, *words], cwd=scratch)
    return {"seconds": found.seconds, "peak_bytes": found.peak_bytes, "kl_transformers": 0.0}


def show(rows: list[dict[str, Any]], *, markdown: bool) -> None:
    """Print the table: the strategies of `GROUPS` in their order, then others."""
    found = {row["strategy"]: row for row in rows}
    header = (
        "strategy", "perplexity", "to base", "KL", "top-1", "MB", "s", "peak MB", "transformers",
    )  # fmt: skip
    lines: list[tuple[str, ...]] = [header]
    known = ["base", *(s for group in GROUPS.values() for s in group), PEER]
    order = dict.fromkeys([*(s for s in known if s in found), *found])
    lines += [_line(found[strategy]) for strategy in order]
    if not markdown:
        print(table(lines))
        return
    rule = ("---", *["---:"] * (len(header) - 1))
    for cells in (lines[0], rule, *(((f"`{n}`", *rest)) for n, *rest in lines[1:])):
        print("| " + " | ".join(cells) + " |")


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    if "error" in row:
        return (row["strategy"], row["error"][:60], *[""] * 7)
    perplexity, share, kl, agree = (row.get(name, [float("nan"), None]) for name in QUALITY)
    return (
        row["strategy"],
        f"{perplexity[0]:.2f}" if perplexity[0] < RUINED else f"{perplexity[0]:.1e}",
        _over_base(*share),
        f"{kl[0]:.4f}",
        f"{100 * agree[0]:.1f} %",
        f"{row['bytes'] / 1e6:.1f}",
        f"{row['seconds']:.0f}" if "seconds" in row else "",
        f"{row['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in row else "",
        _loads_plain(row),
    )


def _loads_plain(row: dict[str, Any]) -> str:
    """Whether plain transformers was seen to load it; the base needs no word."""
    if row["strategy"] == "base":
        return ""
    return "no" if row.get("kl_transformers") is None else "yes"


def _over_base(ratio: float, stderr: float | None) -> str:
    """A change in percent, or a multiple where percents would hide the size of the loss."""
    if ratio >= RUINED / 100:
        return f"x {ratio:.3g}"
    spread = "" if stderr is None else f" ± {100 * stderr:.1f}"
    return f"{100 * (ratio - 1):+.1f}{spread} %"


def main() -> None:
    """Parent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("methods.jsonl"))
    parser.add_argument("--model", default="demo", help="demo, or a model folder")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--strategy", nargs="+", help="these instead of the built-in list")
    parser.add_argument("--data", default="pydoc", help="text source: train part, evaluation part")
    parser.add_argument("--data-dir", help="folder with offline data sets")
    parser.add_argument("--samples", type=int, default=32, help="calibration windows")
    parser.add_argument("--length", type=int, default=512, help="tokens per window")
    parser.add_argument("--held-out", type=int, default=38, help="windows to judge on")
    parser.add_argument("--peer-venv", type=Path, help="environment of llm-compressor, to compare")
    parser.add_argument("--show", action="store_true", help="only print what is there")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--knowledge", type=Path, help="package data to bring up to date")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _be_child(*options.child)
        return
    rows = _read(options.results)
    if not options.show:
        _measure_missing(options, rows)
    show(rows, markdown=options.markdown)
    if options.knowledge is not None:
        keep(rows, options.knowledge)


def keep(rows: list[dict[str, Any]], file: Path) -> None:
    """Put the rows that finished into the package data, in the place of older ones."""
    from paredown.artifact.source import locate
    from paredown.spec.infer import infer_spec
    from paredown.store.atomic import write_json

    document = json.loads(file.read_text(encoding="utf-8"))
    folder = locate(rows[0]["options"]["model"])
    spec = infer_spec(folder, name=folder.name)
    entry = {"model": folder.name, "family": spec.family, "parameters": spec.parameters}
    models = {model["model"]: model for model in document["models"]}
    known = {row["strategy"]: row for row in models.get(folder.name, {}).get("rows", ())}
    for row in rows:
        if row["strategy"] not in {"base", PEER} and "error" not in row:
            quality, stderr = row["perplexity_ratio"]
            known[row["strategy"]] = {
                "strategy": row["strategy"],
                "quality": round(quality, 4),
                "stderr": round(stderr, 4),
                "kl": round(row["kl"][0], 4),
            }
    models[folder.name] = {**entry, "rows": list(known.values())}
    write_json(file, {**document, "models": list(models.values())})


def _be_child(task: str, *words: str) -> None:
    if task == "compress":
        model, strategy, scratch, settings = words
        found = compress(Path(model), strategy, Path(scratch), json.loads(settings))
    elif task == "verify":
        found = verify(Path(words[0]))
    else:
        found = judge(Path(words[0]), Path(words[1]), json.loads(words[2]))
    print(json.dumps(found))


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _measure_missing(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    from paredown.artifact.source import locate

    shared = {
        name: getattr(options, name)
        for name in ("model", "data", "data_dir", "samples", "length", "held_out")
    }
    model = locate(options.model)
    wanted = options.strategy or [s for name in options.only for s in GROUPS[name]]
    peers = [PEER] if options.peer_venv else []
    done = {row["strategy"] for row in rows if row["options"] == shared and "error" not in row}
    for strategy in ("base", *wanted, *peers):
        if strategy in done:
            continue
        print(f"{strategy} ...", file=sys.stderr, flush=True)
        row = measure(strategy, model, shared, options.peer_venv)
        rows[:] = [r for r in rows if r["strategy"] != strategy] + [row]
        partial = options.results.with_suffix(".partial")
        partial.write_text("".join(json.dumps(r) + "\n" for r in rows))
        shutil.move(partial, options.results)


if __name__ == "__main__":
    main()
