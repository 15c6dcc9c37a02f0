"""How well scores tell members from others: AUC, the rate of members found, and their 95% intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
FALSE_POSITIVES = 0.01  # share of the others that may be taken for members


@dataclass(frozen=True)
class Estimate:
    """A measured share or probability in [0, 1], and the ends of its 95% interval."""

    value: float
    low: float
    high: float


def auc(members: npt.ArrayLike, others: npt.ArrayLike) -> Estimate:
    """The probability that a member scores higher than another row; equal scores count half. 0.5 is chance.

    Args:
        members: (M,) scores of members, M >= 1; higher says member.
        others: (N,) scores of the others, N >= 1.

    The interval is that of DeLong et al. (1988), Biometrics 44, 837-845. It has no width where the scores do not overlap
    at all, so there it is that of Newcombe (2006), Statistics in Medicine 25, 559-573, method 5. Both take rows as
    independent: where speakers differ much, they are too short.

    Raises ValueError if one of them is empty or a score is NaN.
    """
    x, y = (np.asarray(each, dtype=np.float64) for each in (members, others))
    if not (x.size and y.size) or np.isnan(x).any() or np.isnan(y).any():
        raise ValueError(f"AUC needs scores of members and others, not {x.shape} and {y.shape} or NaN")
    m, n = len(x), len(y)
    ranks = rankdata(np.concatenate([x, y]))
    higher = (ranks[:m] - rankdata(x)) / n  # share of the others that each member beats
    lower = 1 - (ranks[m:] - rankdata(y)) / m  # share of the members that beat each other row
    value = float(higher.mean())
    if value in (0.0, 1.0):
        return Estimate(value, *_newcombe(value, m, n))
    variance = sum(float(part.var(ddof=1)) / len(part) for part in (higher, lower) if len(part) > 1)
    reach = norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(variance)
    return Estimate(value, float(max(value - reach, 0)), float(min(value + reach, 1)))


def _newcombe(value: float, m: int, n: int) -> tuple[float, float]:
    """The interval at 0 or 1: the other end is the AUC from which this one is just as far as chance allows."""
    more, z = (m + n) / 2 - 1, norm.ppf((1 + CONFIDENCE) / 2)

    def beyond(at: float) -> float:
        spread = at * (1 - at) * (1 + more * (1 - at) / (2 - at) + more * at / (1 + at)) / (m * n)
        return float(abs(value - at) - z * np.sqrt(spread))

    end = brentq(beyond, 1e-12, 1 - 1e-12)
    return (float(end), 1.0) if value == 1 else (0.0, float(end))


def share(hits: int, n: int) -> Estimate:
    """`hits` of `n` as a share, with Wilson's interval (1927, Journal of the American Statistical Association 22)."""
    from statsmodels.stats.proportion import proportion_confint  # here, since it takes a second to load

    low, high = proportion_confint(hits, n, 1 - CONFIDENCE, "wilson")
    return Estimate(hits / n, float(low), float(high))


def threshold(others: npt.ArrayLike) -> float:
    """The score above which at most 1 % of the others lie; with fewer than 100 of them, none does."""
    falling = np.sort(np.asarray(others, dtype=np.float64))[::-1]
    return float(falling[int(FALSE_POSITIVES * len(falling))])
