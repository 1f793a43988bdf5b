"""Every method on a tiny model of every family: what works, what is refused, what breaks.

`python -m paredown.testing.families` prints the matrix; tests run a share of it. A cell is `ok`
when the method runs, stores what it foretells, and its artifact reloads to what it claims: through
`paredown.load` and, where the files say that plain transformers reads them, through that too.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.probe import probe_tokens
from paredown.blocks.skeleton import empty_model, read_config
from paredown.errors import ConfigError, ModelError, ParedownError
from paredown.methods import registry
from paredown.methods.base import Context, Training
from paredown.runtimes.registry import readers
from paredown.runtimes.torch.load import load, load_dense
from paredown.runtimes.torch.proof import check_kernels, compare, probe
from paredown.spec.coverage import coverage
from paredown.spec.infer import infer_spec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.spec.verdict import MOST_COVERED
from paredown.store.cache import Cache
from paredown.testing.tiny import tiny_model
from paredown.testing.zoo import FAMILIES, VOCABULARY

Status = Literal["ok", "partial", "refused", "failed", "wrong", "crash"]
"""`partial`: passes, and most weights are as they were; `refused`: at planning, with a reason;
`failed`: an error of ours after the start; `wrong`: passes and is not what it claims; `crash`: any
other error, or the process died."""

SPEC = "spec"
"""Column of what planning knows without loading a weight."""
METHODS: dict[str, str] = {
    "rtn8": "rtn(bits=8, group_size=32)",
    "gptq4": "gptq(bits=4, group_size=32)",
    "awq4": "awq(bits=4, group_size=32)",
    "hqq4": "hqq(bits=4, group_size=32)",
    "plan": 'rtn(bits=4, group_size=32, plan={"*.0.*": 8})',
    "emb8": "rtn(bits=8, group_size=32, embedding_bits=8)",
    "int8": "int8",
    "nf4": "nf4",
    "smooth": "smoothquant",
    "fp8": "fp8",
    "wanda": "wanda",
    "sparse": 'magnitude(storage="sparse")',
    "l2": "l2_structured(ratio=0.3)",
    "flap": "flap(ratio=0.3)",
    "depth": "depth(ratio=0.5)",
    "heads": "heads(ratio=0.5)",
    "experts": "experts(ratio=0.25)",
    "lora": "lora(tokens=256, window=32, batch_tokens=64)",
    "distill": "distill(tokens=256, window=32, batch_tokens=64)",
}
"""Columns of the matrix, and the strategy of each."""
NEAR = {"rtn8": 3e-3, "emb8": 2e-2, "int8": 2e-2, "fp8": 2e-2}
"""Mean KL in nats per token from the base, at most, where eight bits lose next to nothing."""


_CLASS = re.compile(r"\b\w+(ForCausalLM|ForConditionalGeneration|LMHeadModel)\b")
_CLASS_FIRST = re.compile(rf"^{_CLASS.pattern}: ")


@dataclass(frozen=True)
class Cell:
    """What became of one method on one family."""

    family: str
    method: str
    status: Status
    note: str = ""
    """Of what is not ok: the reason in one line."""
    coverage: float | None = None
    """Share of the blocks' weights that is stored as codes or with a mask, if there are such."""
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether a user gets what is promised, or is told beforehand that he does not."""
        return self.status in {"ok", "refused"}


def _windows(count: int, length: int, text: str | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, VOCABULARY // 8, (count, length), generator=generator)


def _context(folder: Path, work: Path) -> Context:
    (work / "scratch").mkdir(parents=True)
    tokens = torch.randint(0, VOCABULARY, (8, 48), generator=torch.Generator().manual_seed(1))
    return Context(
        device="cpu",
        seed=0,
        source_hash=str(folder),
        scratch=work / "scratch",
        cache=Cache(folder.parent / "cache"),
        calibration=lambda: tokens,
        progress=lambda share, message: None,
        training=Training(base=folder, windows=_windows),
    )


def _prove(folder: Path, out: Path, method: str, claimed: Tensor | None) -> None:
    """See that an artifact is what it claims.

    Raises:
        VerificationError: it is not.
    """
    made, tokens = Checkpoint(out).spec, probe_tokens(VOCABULARY)
    check_kernels(load(out))
    exact = made.quantization != "bitsandbytes"
    dtype = torch.float32 if exact else None
    found = probe(load(out, dtype=dtype), tokens)
    compare(found if claimed is None else claimed, found, "paredown")
    if "transformers" in readers(made):
        compare(found, probe(load_dense(out, dtype=dtype), tokens), "plain transformers")
    if method in NEAR:
        base = probe(load_dense(folder, dtype=torch.float32), tokens)
        compare(base, found, "the base", tolerance=NEAR[method])


def try_spec(folder: Path, family: str) -> Cell:
    """Whether planning counts the parameters and the blocks that transformers builds."""
    spec = infer_spec(folder)
    config = read_config(folder)
    model = empty_model(config, torch.float32)
    model.tie_weights()
    counted = sum(parameter.numel() for parameter in model.parameters())
    blocks = config.get_text_config().num_hidden_layers
    if (spec.parameters, len(spec.structure.blocks)) == (counted, blocks):
        return Cell(family, SPEC, "ok")
    told = f"{spec.parameters} parameters in {len(spec.structure.blocks)} blocks"
    return Cell(family, SPEC, "wrong", f"{told} are planned with, {counted} in {blocks} built")


def try_method(folder: Path, family: str, method: str, work: Path) -> Cell:
    """One cell: run a method of `METHODS` on the model in `folder`, in the empty folder `work`."""
    start, out = time.monotonic(), work / "out"
    cell = partial(Cell, family, method)
    strategy = parse_strategy(METHODS[method])
    try:
        spec = infer_spec(folder)
        predicted = registry.check(strategy, spec, Target())
    except (ConfigError, ModelError) as error:
        return cell("refused", _line(error))
    ((step, params),) = registry.resolve(strategy)
    try:
        out.mkdir(parents=True)
        claimed = step.apply(Checkpoint(folder), out, params, _context(folder, work))
        made = Checkpoint(out)
        differing = {t.name for t in made.spec.tensors} ^ {t.name for t in predicted.tensors}
        if made.spec.weight_bytes != predicted.weight_bytes or differing:
            return cell("wrong", f"stores other tensors than foretold: {sorted(differing)[:2]}")
        _prove(folder, out, method, claimed)
    except ParedownError as error:
        return cell("failed", _line(error))
    # What no code of ours has foreseen is a crash, and to be shown as one.
    except Exception as error:  # noqa: BLE001
        return cell("crash", f"{type(error).__name__}: {_line(error)}")
    share = coverage(made.spec)
    status: Status = "ok" if share is None or share >= MOST_COVERED else "partial"
    return cell(status, coverage=share, seconds=time.monotonic() - start)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def try_family(family: str, methods: Sequence[str]) -> list[Cell]:
    """One row of the matrix, in a temporary folder of its own."""
    with tempfile.TemporaryDirectory(prefix=f"paredown-{family}-") as name:
        work = Path(name)
        folder = tiny_model(work / "model", family, dtype=torch.float32, tokenizer=False)
        cells = [try_method(folder, family, method, work / method) for method in methods]
        return [try_spec(folder, family), *cells]


def matrix(
    families: Sequence[str], methods: Sequence[str], *, jobs: int = 2
) -> Iterator[list[Cell]]:
    """The rows, as they are done. One whose process dies is run again cell by cell."""
    again: list[str] = []
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        rows = [(family, pool.submit(try_family, family, methods)) for family in families]
        for family, row in rows:
            try:
                yield row.result()
            except BrokenProcessPool:
                again.append(family)  # it, or one beside it, has killed its process
    for family in again:
        yield _alone(family, methods)


def _alone(family: str, methods: Sequence[str]) -> list[Cell]:
    cells: list[Cell] = []
    for method in (None, *methods):
        with ProcessPoolExecutor(max_workers=1) as pool:
            asked = [] if method is None else [method]
            try:
                cells.append(pool.submit(try_family, family, asked).result()[-1])
            except BrokenProcessPool:
                cells.append(Cell(family, method or SPEC, "crash", "the process died"))
    return cells


def table_head(methods: Sequence[str]) -> str:
    """The first lines of the matrix in Markdown: families down, methods across."""
    columns = (SPEC, *methods)
    return f"| family | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}"


def table_row(cells: Sequence[Cell]) -> str:
    """One family's line of the matrix."""
    return f"| {cells[0].family} | {' | '.join(map(_word, cells))} |"


def _word(cell: Cell) -> str:
    if cell.status == "partial" and cell.coverage is not None:
        return f"{100 * cell.coverage:.0f} %"
    return {"refused": "-", "ok": "ok"}.get(cell.status, f"**{cell.status}**")


def reasons(cells: Sequence[Cell]) -> list[str]:
    """Why cells are not ok, as a table in Markdown: once per reason, with all that it holds for."""
    every = dict.fromkeys(cell.family for cell in cells)
    families: dict[tuple[Status, str], dict[str, list[str]]] = {}
    for cell in cells:
        if cell.status != "ok":
            by_method = families.setdefault((cell.status, _told(cell)), {})
            by_method.setdefault(cell.method, []).append(cell.family)
    rows = ["| | methods | families | reason |", "|---|---|---|---|"]
    for (status, told), by_method in sorted(families.items(), key=_unsound_first):
        alike: dict[tuple[str, ...], list[str]] = {}
        for method, found in by_method.items():
            alike.setdefault(tuple(found), []).append(method)
        rows += [
            f"| {status} | {', '.join(methods)} | {_named(found, every)} | {told} |"
            for found, methods in alike.items()
        ]
    return rows


def _unsound_first(item: tuple[tuple[Status, str], object]) -> tuple[bool, Status, str]:
    (status, told), _ = item
    return status == "refused", status, told


def _told(cell: Cell) -> str:
    """The reason without the names of model and method, which alone differ from cell to cell."""
    step = METHODS.get(cell.method, cell.method).partition("(")[0]
    told = _CLASS_FIRST.sub("", cell.note).removeprefix(f"{step}: ")
    told = _CLASS.sub("it", told)
    told = re.sub(rf"\b{step}(?= (cannot|leaves|does|would|needs)\b)", "the method", told)
    told = re.sub(rf"\b{cell.family}(_text)?(_model)?\b", "this family", told)
    return told.replace("|", "\\|")


def _named(found: Sequence[str], every: Collection[str]) -> str:
    """Families by name, or the others where those are fewer."""
    others = [family for family in every if family not in found]
    if len(others) >= len(found):
        return ", ".join(found)
    return f"all but {', '.join(others)}" if others else "all"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the matrix; 1 if a cell is neither ok nor refused."""
    parser = argparse.ArgumentParser(prog="paredown.testing.families", description=__doc__)
    parser.add_argument("--family", action="append", choices=FAMILIES, help="all if none is named")
    parser.add_argument("--method", action="append", choices=METHODS, help="all if none is named")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--reasons", action="store_true", help="say why cells are not ok")
    asked = parser.parse_args(arguments)
    methods = asked.method or list(METHODS)
    cells: list[Cell] = []
    say = partial(print, flush=True)
    say(table_head(methods))
    for row in matrix(asked.family or FAMILIES, methods, jobs=asked.jobs):
        say(table_row(row))
        cells += row
    sound = sum(cell.is_sound for cell in cells)
    say(f"\n{sound} of {len(cells)} cells are ok or refused at planning")
    if asked.reasons:
        say("\n".join(reasons(cells)))
    return 0 if sound == len(cells) else 1


if __name__ == "__main__":
    sys.exit(main())
