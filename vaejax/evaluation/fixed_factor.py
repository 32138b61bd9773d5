"""Scores by a game: among examples that share one factor, which factor is it? The codes must tell."""

from typing import Any, NamedTuple

import numpy as np

from vaejax.checks import check_count
from vaejax.evaluation.disentanglement import check_factors
from vaejax.evaluation.representation import Probe, linear_probe, score_of


class _Groups(NamedTuple):
    """For one factor, the examples by value; those whose value no other example has are left out."""

    order: np.ndarray  # [M] indices of examples, one value after the other
    start: np.ndarray  # [M] where in `order` the value of each begins
    size: np.ndarray  # [M] how many have that value


def factor_vae_score(
    codes: Any, factors: Any, *, num_train: int = 800, num_test: int = 800, group_size: int = 64, seed: int = 0
) -> Probe:
    """How often the axis that varies least tells which factor was held fixed.

    A vote: choose a factor k, choose examples that share its value, and note the axis d* whose variance among them,
    divided by its variance over all examples, is least. The classifier answers, for each axis, the factor that it got
    most training votes for; the score is its accuracy on other votes.

    Axes that do not vary at all have no vote. Departs from the paper and from disentanglement_lib, which draw both
    kinds of votes from the same examples: here they come from two halves, so that codes of pure noise score chance. A
    group is drawn among the examples that there are, without repeats, so no complete grid of factors is needed.

    Args:
      codes: posterior means, `[N, Z]`.
      factors: integers, `[N, F]`, as `Split.factors`.
      num_train: votes that the classifier is made of; 800 in the paper.
      num_test: votes that it is scored on.
      group_size: at most how many examples share the value in a vote.
      seed: of the halves and the votes.

    Returns:
      `Probe`, whose baseline is the most frequent factor's share of the test votes, about 1 / F.

    Raises:
      TypeError: factors that are no integers.
      ValueError: codes that are not finite, lengths that differ, a single axis, a factor that does not vary, or of
        which no value is shared by two examples in each half.

    Source: Kim and Mnih 2018, Disentangling by Factorising, section 4.

    >>> import numpy as np
    >>> factors = np.stack(np.unravel_index(np.arange(400) % 16, (4, 4)), axis=1)
    >>> factor_vae_score(-factors, factors, num_train=40, num_test=40).accuracy
    1.0
    """
    points, columns = check_factors("factor_vae_score", codes, factors)
    for name, count in (("num_train", num_train), ("num_test", num_test)):
        check_count(f"factor_vae_score: {name}", count)
    check_count("factor_vae_score: group_size", group_size, minimum=2)
    varies = np.ptp(points, axis=0) > 0
    scale = np.where(varies, points.std(axis=0), 1.0)
    standardized = np.where(varies, (points - points.mean(axis=0)) / scale, np.nan)
    generator = np.random.default_rng(seed)
    train, test = (
        _votes(generator, standardized[half], _by_value("factor_vae_score", columns[half]), count, group_size)
        for half, count in zip(_halves(generator, len(points)), (num_train, num_test), strict=True)
    )
    table = np.zeros((points.shape[1], columns.shape[1]))
    np.add.at(table, train, 1)
    return score_of(table.argmax(axis=1)[test[0]], test[1])


def _votes(
    generator: np.random.Generator, standardized: np.ndarray, groups: list[_Groups], count: int, group_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The axis of least variance and the factor held fixed, `[count]` each."""
    chosen = generator.integers(len(groups), size=count)
    axes = np.zeros(count, int)
    for vote, group in enumerate(groups[factor] for factor in chosen):
        place = generator.integers(len(group.order))
        size, start = group.size[place], group.start[place]
        rows = group.order[start + generator.choice(size, min(size, group_size), replace=False)]
        # An axis that does not vary is NaN, and never the least.
        axes[vote] = np.nan_to_num(standardized[rows].var(axis=0), nan=np.inf).argmin()
    return axes, chosen


def beta_vae_score(
    codes: Any, factors: Any, *, num_train: int = 1000, num_test: int = 1000, num_pairs: int = 64, seed: int = 0
) -> Probe:
    """How often a linear classifier tells, from differences of pairs, which factor the pairs share.

    A point: choose a factor k, choose pairs of examples, each of which shares a value of it, and average
    `|z_1 - z_2|` over the pairs. Logistic regression predicts k from the points; the score is its accuracy on others.

    Departs from the paper and from disentanglement_lib as `factor_vae_score` does, by two halves of the examples, and
    by standardized points, so that the scales of the axes do not matter. A rotation of the factors can score 1 as well:
    the score asks for a linear classifier and not for an axis per factor.

    Args:
      codes: posterior means, `[N, Z]`.
      factors: integers, `[N, F]`, as `Split.factors`, F at least 2.
      num_train: points that the classifier is fitted to.
      num_test: points that it is scored on.
      num_pairs: pairs per point; 64 in disentanglement_lib.
      seed: of the halves and the pairs.

    Returns:
      `Probe`, whose baseline is the most frequent factor's share of the test points, about 1 / F.

    Raises:
      TypeError: factors that are no integers.
      ValueError: as for `factor_vae_score`, or a single factor.

    Source: Higgins et al. 2017, beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework,
    section 3.

    >>> import numpy as np
    >>> factors = np.stack(np.unravel_index(np.arange(400) % 16, (4, 4)), axis=1)
    >>> beta_vae_score(-factors, factors, num_train=40, num_test=40).accuracy
    1.0
    """
    points, columns = check_factors("beta_vae_score", codes, factors)
    check_count("beta_vae_score: the number of factors", columns.shape[1], minimum=2)
    for name, count in (("num_train", num_train), ("num_test", num_test), ("num_pairs", num_pairs)):
        check_count(f"beta_vae_score: {name}", count)
    generator = np.random.default_rng(seed)
    train, test = (
        _differences(generator, points[half], _by_value("beta_vae_score", columns[half]), count, num_pairs)
        for half, count in zip(_halves(generator, len(points)), (num_train, num_test), strict=True)
    )
    return linear_probe(*train, *test)


def _differences(
    generator: np.random.Generator, points: np.ndarray, groups: list[_Groups], count: int, num_pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean differences `[count, Z]` and the factor that their pairs share `[count]`."""
    # The same number of each, so that no factor is missing.
    chosen = generator.permutation(np.arange(count) % len(groups))
    differences = np.empty((count, points.shape[1]))
    for index, group in enumerate(groups[factor] for factor in chosen):
        first = generator.integers(len(group.order), size=num_pairs)
        start, size = group.start[first], group.size[first]
        # Another place in the group, never the same one.
        second = start + (first - start + generator.integers(1, size)) % size
        differences[index] = abs(points[group.order[first]] - points[group.order[second]]).mean(axis=0)
    return differences, chosen


def _halves(generator: np.random.Generator, count: int) -> list[np.ndarray]:
    return np.array_split(generator.permutation(count), 2)


def _by_value(owner: str, columns: np.ndarray) -> list[_Groups]:
    """The groups of each factor; raises where one has none."""
    groups = []
    for index, factor in enumerate(columns.T):
        _, inverse, counts = np.unique(factor, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        order = order[counts[inverse[order]] > 1]
        size = counts[inverse[order]]
        if len(order) == 0:
            raise ValueError(
                f"{owner}: factors must share values; no two examples of a half share one of column {index}"
            )
        start = np.searchsorted(inverse[order], inverse[order])
        groups.append(_Groups(order, start, size))
    return groups
