"""What a difference between two sets of seeds is worth: its size, its interval, its p-value, and what would have shown.

Tests are exact and two-sided: Mann and Whitney's on ranks, with ties; Fisher's on shares; the sign test on one sample.
Intervals are of 95 %: Welch's for a difference of means, Newcombe's for one of shares, Wilson's for one share.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy import stats

LEVEL = 0.05


@dataclass(frozen=True)
class Effect:
    """size, with its interval from low to high; p; seen: the least true size that this test sees in 80 % of cases.

    wins: for two samples of numbers, the share of pairs in which the first has more (half for a tie). That is what the
    rank test is about; a few failed seeds can move the means the other way.
    """

    size: float
    low: float
    high: float
    p: float
    seen: float
    wins: float | None = None


def difference(a, b):
    """Of the means of two samples of numbers."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    low, high = interval(a, b)
    wins = (np.sign(np.subtract.outer(a, b)).mean() + 1) / 2
    return Effect(float(a.mean() - b.mean()), low, high, rank_test(a, b), visible(a, b), float(wins))


def rank_test(a, b):
    """Mann and Whitney's test, exact with and without ties: in which share of all ways to deal the ranks into two
    samples of these sizes is the sum of the first as far out?"""
    ranks = (2 * stats.rankdata([*a, *b])).astype(int)  # twice the rank, so that ties have whole numbers too
    ways = np.zeros((len(a) + 1, ranks.sum() + 1))  # [so many ranks are dealt to the first, and they have this sum]
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, :-rank]
    share, seen = ways[-1] / ways[-1].sum(), ranks[: len(a)].sum()
    return float(min(1.0, 2 * min(share[: seen + 1].sum(), share[seen:].sum())))


def interval(a, b):
    """Of the difference of two means, by Welch's t."""
    shares = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    middle, error = float(a.mean() - b.mean()), math.sqrt(sum(shares))
    if not error:
        return middle, middle
    freedom = error**4 / (shares[0] ** 2 / (len(a) - 1) + shares[1] ** 2 / (len(b) - 1))
    reach = error * float(stats.t.ppf(1 - LEVEL / 2, freedom))
    return middle - reach, middle + reach


def visible(a, b):
    """The shift that a rank test of this size sees in 80 % of cases, for normal samples with the spread of these."""
    return math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2) * visible_shift(len(a), len(b))


@cache
def visible_shift(n, m, power=0.8):
    """The same in standard deviations, by simulation."""
    random = np.random.default_rng(0)
    gaps = random.normal(size=(10_000, n, 1)) - random.normal(size=(10_000, 1, m))
    firm = [u for u in range(n * m // 2, n * m + 1) if rank_test(*samples(n, m, u)) < LEVEL]
    if not firm:
        return math.nan
    low, high = 0.0, 20.0
    while high - low > 1e-3:
        shift = (low + high) / 2
        seen = ((gaps + shift > 0).sum((1, 2)) >= firm[0]).mean()
        low, high = (low, shift) if seen >= power else (shift, high)
    return high


def samples(n, m, u):
    """Two samples without ties, in which a value of the first is above one of the second in u of n · m pairs."""
    above = [min(m, max(0, u - m * i)) for i in range(n)]
    return np.array([k - 0.5 + 1e-3 * i for i, k in enumerate(above)]), np.arange(float(m))


def shares(a, b):
    """Of how often something comes out, in two samples of yes and no."""
    (x, n), (y, m) = (sum(map(bool, a)), len(a)), (sum(map(bool, b)), len(b))
    p = float(stats.fisher_exact([[x, n - x], [y, m - y]]).pvalue)
    (l1, u1), (l2, u2) = wilson(x, n), wilson(y, m)
    d = x / n - y / m
    low = d - math.hypot(x / n - l1, u2 - y / m)
    high = d + math.hypot(u1 - x / n, y / m - l2)
    return Effect(d, low, high, p, visible_share(y / m, n, m))


def wilson(x, n):
    found = stats.binomtest(x, n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


@cache
def significant(n, m):
    """(n + 1, m + 1): would x of n against y of m be seen?"""
    seen = np.zeros((n + 1, m + 1))
    for x, y in product(range(n + 1), range(m + 1)):
        seen[x, y] = stats.fisher_exact([[x, n - x], [y, m - y]]).pvalue < LEVEL
    return seen


@cache
def visible_share(base, n, m, power=0.8):
    """The least difference from a share that Fisher's test sees so often; on whichever side there is more room."""
    other = stats.binom.pmf(np.arange(m + 1), m, base)
    for step in range(1, 101):
        d = step / 100
        share = base + d if base + d <= 1 else base - d
        if share < 0:
            return math.nan
        if stats.binom.pmf(np.arange(n + 1), n, share) @ significant(n, m) @ other >= power:
            return d
    return math.nan


def one_share(values):
    """Of how often something comes out in one sample; p against its coming out half the time."""
    x, n = sum(map(bool, values)), len(values)
    low, high = wilson(x, n)
    pmf = [[stats.binom.pmf(k, n, s / 100) for k in range(n + 1)] for s in range(50, 101)]
    seen = np.array([stats.binomtest(k, n).pvalue < LEVEL for k in range(n + 1)])
    enough = [50 + i for i, row in enumerate(pmf) if np.array(row) @ seen >= 0.8]
    return Effect(x / n, low, high, float(stats.binomtest(x, n).pvalue), enough[0] / 100 if enough else math.nan)


def correlation(x, y):
    """Kendall's rank correlation of two lists; its interval is that of Fisher's z."""
    n = len(x)
    seen = math.tanh((stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(0.8)) * math.sqrt(0.437 / (n - 4)))
    if len({*x}) == 1 or len({*y}) == 1:
        return Effect(0.0, -1.0, 1.0, 1.0, seen)
    tau, p = stats.kendalltau(x, y)
    width = stats.norm.ppf(1 - LEVEL / 2) * math.sqrt(0.437 / (n - 4))
    z = math.atanh(max(-0.999, min(0.999, tau)))
    return Effect(float(tau), math.tanh(z - width), math.tanh(z + width), float(p), seen)


def holm(ps):
    """Each p-value as it counts among several statements of one claim."""
    adjusted, greatest = [0.0] * len(ps), 0.0
    for place, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        greatest = max(greatest, min(1.0, ps[i] * (len(ps) - place)))
        adjusted[i] = greatest
    return adjusted
