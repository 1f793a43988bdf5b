"""The front as a LaTeX table (booktabs), for a paper."""

from __future__ import annotations

from paredown.judge.words import NONE
from paredown.report.findings import Judged
from paredown.report.tables import FRONT_COLUMNS, SPREAD, filled, front_rows

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "\u00b1": r"$\pm$", ">": r"\textgreater{}", "<": r"\textless{}",
}  # fmt: skip
_WORDS = {"#", "strategy"}


def front_latex(findings: Judged) -> str:
    """A `table` environment; it needs the packages booktabs and, as ever, a width to fit into."""
    record = findings.record
    model, spread = escaped(record.config.model), escaped(SPREAD)
    columns, rows = filled(FRONT_COLUMNS, front_rows(record.results, findings.front))
    alignment = "".join("l" if name in _WORDS else "r" for name in columns)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{Compressed versions of {model} that are worth having; {spread}.}}",
        rf"  \label{{tab:{_label(record.name)}}}",
        rf"  \begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        _row(columns),
        r"    \midrule",
        *map(_row, rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def _row(cells: tuple[str, ...]) -> str:
    return "    " + " & ".join("--" if c == NONE else escaped(c) for c in cells) + r" \\"


def _label(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)
