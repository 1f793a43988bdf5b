"""Two models on the same questions: proportions, paired differences, equivalence."""

from __future__ import annotations

import math
from statistics import NormalDist

from paredown.analysis.statistics import Interval


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Score interval of a proportion; of use at 0 and at 1, too.

    Args:
        successes: of `n` independent questions, the ones answered rightly.
        n: >= 1.
        level: of confidence, between 0 and 1.

    Raises:
        ValueError: not 0 <= successes <= n, no questions, or `level` out of range.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes must be between 0 and n, n >= 1, got {successes} of {n}")
    z = _quantile(level)
    share = successes / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(
        value=share,
        low=0.0 if successes == 0 else center - half,
        high=1.0 if successes == n else center + half,
        level=level,
    )


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided p-value of "as many questions are lost as gained", from the discordant pairs.

    Args:
        lost: right before and wrong after.
        gained: wrong before and right after.

    Raises:
        ValueError: a count below 0.

    Source: McNemar 1947, with the exact binomial distribution (sign test) instead of chi-squared.
    """
    if lost < 0 or gained < 0:
        raise ValueError(f"counts must be >= 0, got {lost}, {gained}")
    n = lost + gained
    below: int = sum(math.comb(n, k) for k in range(min(lost, gained) + 1))
    return min(1.0, below / 2 ** (n - 1) if n else 1.0)


def paired_proportion_interval(lost: int, gained: int, n: int, *, level: float = 0.95) -> Interval:
    """Interval of the change of a proportion, `(gained - lost) / n`, on the same `n` questions.

    One imaginary pair of each discordant kind is added, so that no flips in a small sample do not
    pass for certainty. With p = (gained + 1) / (n + 2) and q = (lost + 1) / (n + 2) the interval
    is p - q +- z sqrt((p + q - (p - q)^2) / (n + 2)).

    Raises:
        ValueError: counts below 0 or together more than `n`, or `level` out of range.

    Source: Bonett, Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data", eq. 2.
    """
    if min(lost, gained) < 0 or lost + gained > n or n < 1:
        raise ValueError(f"lost and gained must lie within n >= 1, got {lost}, {gained} of {n}")
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = _quantile(level) * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Interval(
        value=(gained - lost) / n,
        low=max(up - down - half, -1.0),
        high=min(up - down + half, 1.0),
        level=level,
    )


def is_equivalent(difference: Interval, margin: float) -> bool:
    """Two one-sided tests: whether the difference is shown to be smaller than `margin`.

    At significance alpha the tests both reject exactly when the interval of confidence
    1 - 2 alpha lies within the margins; so give the 90 % interval for alpha = 5 %.

    Raises:
        ValueError: `margin` is not positive.

    Source: Schuirmann 1987, "A comparison of the two one-sided tests procedure and the power
    approach", section 2.
    """
    if margin <= 0:
        raise ValueError(f"margin must be > 0, got {margin}")
    return -margin < difference.low and difference.high < margin


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)
