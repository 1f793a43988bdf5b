"""A prompt with its answers as one row of tokens, and rows as batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paredown.runtimes.session import Pair


@dataclass(frozen=True)
class Row:
    """A prompt with its answers, one after another.

    Attributes:
        places: indices of the answers in their group.
        prefix: tokens that all answers begin with.
        branches: the tokens after them, the last target left out, one tuple per answer.
        targets: tokens to be predicted, answer by answer.
        sizes: number of targets per answer.
        truncated: per answer.
    """

    group: int
    places: tuple[int, ...]
    prefix: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    targets: tuple[int, ...]
    sizes: tuple[int, ...]
    truncated: tuple[bool, ...]

    @staticmethod
    def of(group: int, pairs: Sequence[Pair], context: int) -> Row:
        """Like lm-eval, keep the last `context` inputs of a pair that is too long."""
        inputs, truncated = [], []
        for pair in pairs:
            whole = (*pair.context, *pair.continuation)
            # The last token is predicted and never read, so it takes no place in the context.
            inputs.append(whole[-(context + 1) :][:-1])
            truncated.append(len(whole) > context + 1)
        shared = _common_length(inputs)
        return Row(
            group=group,
            places=tuple(range(len(pairs))),
            prefix=inputs[0][:shared],
            branches=tuple(ids[shared:] for ids in inputs),
            targets=tuple(t for pair in pairs for t in pair.continuation),
            sizes=tuple(len(pair.continuation) for pair in pairs),
            truncated=tuple(truncated),
        )

    def only(self, k: int) -> Row:
        """The row of one answer."""
        start = sum(self.sizes[:k])
        return Row(
            group=self.group,
            places=self.places[k : k + 1],
            prefix=self.prefix,
            branches=self.branches[k : k + 1],
            targets=self.targets[start : start + self.sizes[k]],
            sizes=self.sizes[k : k + 1],
            truncated=self.truncated[k : k + 1],
        )

    @property
    def tokens(self) -> list[int]:
        return [*self.prefix, *(t for branch in self.branches for t in branch)]

    @property
    def length(self) -> int:
        return len(self.prefix) + sum(map(len, self.branches))

    @property
    def forked(self) -> bool:
        """Whether there are tokens that must not see each other."""
        return sum(bool(branch) for branch in self.branches) > 1

    @property
    def segments(self) -> list[int]:
        """0 for the prefix, k + 1 for answer k."""
        tails = [k + 1 for k, branch in enumerate(self.branches) for _ in branch]
        return [0] * len(self.prefix) + tails

    @property
    def places_in_text(self) -> list[int]:
        """Position ids: every answer goes on where the prefix ends."""
        start = len(self.prefix)
        tails = [start + i for branch in self.branches for i in range(len(branch))]
        return [*range(start), *tails]

    @property
    def positions(self) -> list[int]:
        """Columns of the row that predict the targets, in their order."""
        found, start = [], len(self.prefix)
        for branch, size in zip(self.branches, self.sizes, strict=True):
            columns = [*range(len(self.prefix)), *range(start, start + len(branch))]
            # A branch lacks its last target, and column p predicts p + 1: the last `size` columns
            # it is, of which the first may lie in the prefix.
            found += columns[len(columns) - size :]
            start += len(branch)
        return found


def _common_length(rows: Sequence[Sequence[int]]) -> int:
    shortest = min(map(len, rows))
    for i in range(shortest):
        if any(row[i] != rows[0][i] for row in rows):
            return i
    return shortest


def batches(rows: Sequence[Row], tokens: int) -> Iterator[Sequence[Row]]:
    """Consecutive rows, as many as fit into `tokens` when padded to the first and longest."""
    start = 0
    while start < len(rows):
        count = max(1, tokens // max(rows[start].length, 1))
        yield rows[start : start + count]
        start += count
