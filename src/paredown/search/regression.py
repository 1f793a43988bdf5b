"""What untried strategies will measure, with an error, from the trials so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from paredown.analysis.pareto import FloatArray
from paredown.methods.shared.units import usual_bits
from paredown.search.space import Space
from paredown.spec.serial import canonical
from paredown.spec.strategy import Strategy

LINEAR = (0.5, 0.9)
"""Weight of effects that add up, against those that hold for similar strategies only."""
REACH = (1.0, 2.0)
"""Distance over which strategies are similar; one value of one parameter is about 1.4 away."""
NOISE = (0.003, 0.03)
"""Variance of a trial that no strategy explains, relative to the scale."""
ALIKE = (0.8, 0.98, 0.0)
"""Correlation of the effects on two models of a family; the first until trials tell."""
BITS = (("bits", "bpw"), ("embedding_bits", "bpw"))
"""Parameters whose values are numbers, not names: 6 bits lie between 5 and 8, for every method. Of
the layers, and of the embedding; bits per weight are those of the whole model."""
ROUNDING, COARSEST = 1.4, 8.0
"""Weight of the power of the rounding error, in units of that of 4 bits, and the most that counts:
2 bits and less are ruined alike."""
SIZE = 4.0
"""Weight of how much is compressed, against that of one value of one parameter."""
PRIOR_SCALE, PRIOR_TRIALS = 0.5, 2.0
"""Scale of a loss's logarithm before any trial, and how many trials that counts for."""


@final
@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Normal distributions of one quantity.

    Attributes:
        mean, error: (n,) its logarithm, and the standard error of that.
    """

    mean: FloatArray
    error: FloatArray

    def at(self, places: Sequence[int]) -> Forecast:
        """Of some of them."""
        return Forecast(mean=self.mean[places], error=self.error[places])


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Strategies as numbers: which methods, which values, and how much they compress.

    Attributes:
        space: whose strategies these are.
        columns: of each method, and of each value of each parameter that the space varies, but for
            `BITS`.
    """

    space: Space
    columns: dict[tuple[str, ...], int]

    def rows(self, strategies: Sequence[Strategy]) -> FloatArray:
        """(n, columns + 4). The power of the rounding error goes with 4^-bits, which stands for
        the bits. The ratio is known before running, and what is cut more loses more: so the last
        two columns are its logarithm and that squared."""
        found = np.zeros((len(strategies), len(self.columns) + len(BITS) + 2))
        for row, strategy in zip(found, strategies, strict=True):
            for feature in parts(strategy):
                if feature in self.columns:
                    row[self.columns[feature]] = 1.0
            for place, names in enumerate(BITS, start=len(self.columns)):
                row[place] = ROUNDING * _rounding(strategy, names)
            log_ratio = np.log2(self.space.ratio(strategy))
            row[-2:] = SIZE * log_ratio, SIZE * log_ratio**2 / 2
        return found


def _rounding(strategy: Strategy, names: tuple[str, ...]) -> float:
    """Power of the rounding error of the bits that these parameters give; 0 where none is given.

    Source: the error of a uniform grid, step^2 / 12, with 2^bits steps over the same range.
    """
    given = [step.params.get(name) for step in strategy.steps for name in names]
    losses = [step.params.get("kl") for step in strategy.steps] if "bpw" in names else []
    given += [usual_bits(kl) for kl in losses if isinstance(kl, float) and kl > 0]
    return sum(min(4.0 ** (4 - bits), COARSEST) for bits in given if isinstance(bits, int | float))


@lru_cache(maxsize=4)
def features_of(space: Space) -> Features:
    """The features of a space; remembered."""
    varied, numbers = space.index.values, {name for names in BITS for name in names}
    columns: dict[tuple[str, ...], int] = {}
    for strategy in space.strategies:
        for feature in parts(strategy):
            # A value that all strategies share tells none of them apart.
            if len(feature) == 1 or (feature[:2] in varied and feature[1] not in numbers):
                columns.setdefault(feature, len(columns))
    return Features(space=space, columns=columns)


@lru_cache(maxsize=4)
def _all_rows(space: Space) -> dict[str, FloatArray]:
    rows = features_of(space).rows(space.strategies)
    return {strategy.hash: row for strategy, row in zip(space.strategies, rows, strict=True)}


def rows_of(space: Space, strategies: Sequence[Strategy]) -> FloatArray:
    """(n, columns) features of strategies of the space; those of listed ones are remembered."""
    features, known = features_of(space), _all_rows(space)
    others = [strategy for strategy in strategies if strategy.hash not in known]
    # Of what is not listed, the features that it shares with what is: of a plan, its size alone.
    found = dict(zip((s.hash for s in others), features.rows(others), strict=True))
    if not strategies:
        return features.rows(())
    return np.array([known.get(s.hash, found.get(s.hash)) for s in strategies])


def forecast(
    seen: FloatArray,
    values: FloatArray,
    new: FloatArray,
    *,
    elsewhere: tuple[FloatArray, FloatArray] | None = None,
    scale: float = PRIOR_SCALE,
) -> Forecast:
    """Gaussian process through what was seen, its kernel chosen by the marginal likelihood.

    The kernel is `w x.x' + (1 - w) exp(-|x - x'|^2 / (2 reach^2))`, with a scale that is estimated
    from the trials and a weak prior. The uncompressed model (all features 0, value 0) is one of
    the points, so before any trial everything is expected to be like it, with a large error.

    Args:
        seen: (trials, features).
        values: (trials,) logarithms over the baseline's.
        new: (strategies, features).
        elsewhere: features and values seen on other models. How alike the models are (a factor on
            the kernel between them; 0: nothing is learned from there) is chosen as well.
        scale: of the logarithms before any trial.

    Source: Rasmussen, Williams 2006, "Gaussian processes for machine learning", algorithm 2.1;
    scale integrated out with an inverse-gamma prior, as in section 5.1 of Gramacy 2020,
    "Surrogates"; several models as in Bonilla, Chai, Williams 2007, "Multi-task Gaussian process
    prediction".
    """
    rows, found = (new[:0], np.zeros(0)) if elsewhere is None else elsewhere
    points = np.vstack([np.zeros(seen.shape[1]), seen, rows])
    wanted = np.concatenate([[0.0], values, found])
    # The uncompressed model and the trials; what comes after was seen on other models.
    here = np.arange(len(points)) <= len(seen)
    inner, apart = points @ points.T, _distances(points, points)
    choices = product(LINEAR, REACH, NOISE, _likenesses(len(seen), len(rows)))
    best = max(
        (_fit(_Kernel(*choice), inner, apart, here, wanted, scale) for choice in choices),
        key=lambda fit: fit.likelihood,
    )
    cross = best.kernel.between(points @ new.T, _distances(points, new))
    cross *= np.where(here, 1.0, best.kernel.alike)[:, None]  # (points, strategies)
    half = np.linalg.solve(best.root, cross)
    mean = np.asarray(half.T @ np.linalg.solve(best.root, wanted), dtype=np.float64)
    # The prior variance: the kernel of each point with itself, at distance 0.
    own = best.kernel.between((new**2).sum(axis=1), np.zeros(len(new)))
    variance = best.scale * np.maximum(own - (half**2).sum(axis=0), 1e-9)
    return Forecast(mean=mean, error=np.sqrt(variance))


def _likenesses(seen: int, elsewhere: int) -> tuple[float, ...]:
    """What to choose from: without trials here, nothing tells how alike the models are."""
    if not elsewhere:
        return (1.0,)
    return ALIKE if seen else ALIKE[:1]


class _Kernel(NamedTuple):
    """One choice of what strategies have in common."""

    weight: float
    reach: float
    noise: float
    alike: float

    def between(self, inner: FloatArray, apart: FloatArray) -> FloatArray:
        """Of points on one model, by their inner products and squared distances."""
        return self.weight * inner + (1 - self.weight) * np.exp(-apart / (2 * self.reach**2))


class _Fit(NamedTuple):
    """A kernel with the marginal likelihood of what was seen (its logarithm, but for constants)."""

    kernel: _Kernel
    likelihood: float
    root: FloatArray
    scale: float


def _fit(
    kernel: _Kernel,
    inner: FloatArray,
    apart: FloatArray,
    here: NDArray[np.bool_],
    wanted: FloatArray,
    prior_scale: float,
) -> _Fit:
    """`inner`, `apart`: (points, points); `here` (seen on this model), `wanted`: (points,)."""
    joint = np.where(here[:, None] == here, 1.0, kernel.alike) * kernel.between(inner, apart)
    root = np.asarray(np.linalg.cholesky(joint + kernel.noise * np.eye(len(joint))), np.float64)
    white = np.linalg.solve(root, wanted)  # |white|^2 = y' K^-1 y
    freedom = len(wanted) + PRIOR_TRIALS
    scale = float(white @ white + PRIOR_TRIALS * prior_scale**2) / freedom
    # With the scale integrated out; the determinant of K is that of its root, squared.
    likelihood = float(-freedom / 2 * np.log(scale) - np.log(np.diag(root)).sum())
    return _Fit(kernel, likelihood, root, scale)


def _distances(one: FloatArray, other: FloatArray) -> FloatArray:
    """(n, m) squared distances."""
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None, :]
    # Below 0 only by rounding, between equal points.
    found: FloatArray = np.maximum(squares - 2 * one @ other.T, 0.0)
    return found


def parts(strategy: Strategy) -> list[tuple[str, ...]]:
    """What a strategy consists of: (method,), and (method, parameter, value) of each parameter."""
    found: list[tuple[str, ...]] = []
    for step in strategy.steps:
        found.append((step.method,))
        found += [(step.method, name, canonical(value)) for name, value in step.params.items()]
    return found
