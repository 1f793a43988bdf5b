"""Results as a pandas frame: the columns of search_history.csv, or a row per measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paredown.errors import MissingExtraError
from paredown.report.findings import Judged
from paredown.store.history import LONG_FIELDS, history_fields, history_rows, long_rows

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(findings: Judged, *, long: bool = False) -> DataFrame:
    """A row per episode with `episode` as its index, or per measurement.

    Columns and their units are those of the CSV files, see docs/files.md. What was not measured is
    missing (NaN), `on_front` is a truth value.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        from pandas import DataFrame
    except ImportError:
        raise MissingExtraError("a data frame", "pandas", "pandas") from None

    results, front = findings.record.results, findings.front.episodes
    rows = long_rows(results, front) if long else history_rows(results, front)
    fields = LONG_FIELDS if long else history_fields(results)
    found = DataFrame(list(rows), columns=list(fields)).astype({"on_front": bool})
    numbers = [name for name in found.columns if found[name].isna().all()]
    found[numbers] = found[numbers].astype(float)  # columns of nothing but None are no numbers yet
    return found if long else found.set_index("episode")
