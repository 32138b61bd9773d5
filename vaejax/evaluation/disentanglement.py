"""Whether each latent axis stands for one known factor: scores of codes `[N, Z]` against factors `[N, F]`.

Every score is 1 for codes that are the factors themselves, in any order, and the same whatever the axes are scaled by.
Published figures differ by implementation as much as by model; each docstring says whose definition it follows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vaejax.checks import check_count
from vaejax.evaluation.representation import check_codes, check_labels, contingency


class Gap(NamedTuple):
    """How far the best axis of each factor is ahead of the second best."""

    score: float  # mean over factors
    per_factor: np.ndarray  # [F]
    matrix: np.ndarray  # [Z, F] what each axis says about each factor


class Dci(NamedTuple):
    """Disentanglement, completeness and informativeness, each higher is better and at most 1."""

    disentanglement: float  # 1 where each axis serves one factor
    completeness: float  # 1 where each factor is served by one axis
    informativeness: float  # share of held-out factors that are predicted right, mean over factors
    importance: np.ndarray  # [Z, F] of each axis for each factor, columns add up to 1


def mutual_information_gap(codes: Any, factors: Any, *, num_bins: int = 20) -> Gap:
    """How much more the best axis tells about a factor than the second best (MIG).

    `1/F sum_k (I(z_j1; v_k) - I(z_j2; v_k)) / H(v_k)`, j1 and j2 the best axes for factor k

    The axes are cut into bins of equal width between their ends, as disentanglement_lib does; `matrix` holds
    `I / H`, from 0 to 1. The paper integrates over q(z|x) instead, which gives other figures. Few examples raise every
    I, by about `bins values / (2 N)` nats.

    Args:
      codes: posterior means, `[N, Z]`.
      factors: integers, `[N, F]`, as `Split.factors`.
      num_bins: the customary 20.

    Raises:
      TypeError: factors that are no integers.
      ValueError: codes that are not finite, lengths that differ, a single axis, or a factor that does not vary.

    Source: Chen et al. 2018, Isolating Sources of Disentanglement in VAEs, section 4; bins of Locatello et al. 2019,
    Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations.

    >>> import numpy as np
    >>> factors = np.stack(np.unravel_index(np.arange(100), (10, 10)), axis=1)
    >>> round(mutual_information_gap(3.0 * factors, factors).score, 6)
    1.0
    """
    points, columns = check_factors("mutual_information_gap", codes, factors)
    check_count("mutual_information_gap: num_bins", num_bins, minimum=2)
    levels = np.stack([_bins(axis, num_bins) for axis in points.T])
    entropies = np.array([_mutual_information(factor, factor) for factor in columns.T])
    matrix = np.array([[_mutual_information(level, factor) for factor in columns.T] for level in levels])
    return _gap(matrix / entropies)


def _bins(axis: np.ndarray, count: int) -> np.ndarray:
    """The bin of each number, from 0 to `count - 1`; the largest number is in the last."""
    return np.digitize(axis, np.linspace(axis.min(), axis.max(), count + 1)[1:-1])


def _mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """`I(a; b) = sum p(a, b) ln(p(a, b) / (p(a) p(b)))` of two columns of integers, in nats."""
    joint = contingency(first, second) / len(first)
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float(np.sum(joint[there] * np.log(joint[there] / product[there])))


def _gap(matrix: np.ndarray) -> Gap:
    ranked = np.sort(matrix, axis=0)
    per_factor = ranked[-1] - ranked[-2]
    return Gap(float(per_factor.mean()), per_factor, matrix)


def sap(codes: Any, factors: Any, *, categorical: Sequence[int] = (), seed: int = 0) -> Gap:
    """How much better the best axis predicts a factor by a line than the second best (SAP).

    `1/F sum_k (S_j1,k - S_j2,k)`, S the squared correlation `R^2` of axis and factor, or for a categorical factor the
    share of held-out examples that a linear classifier of the axis alone has right

    As in the paper a factor is ordered unless said otherwise. For categories the paper fits thresholds and balances the
    classes; here, as in disentanglement_lib, it is a linear support vector machine (C = 0.01, balanced weights), but on
    standardized axes, so that their scales do not matter. disentanglement_lib takes all factors as categorical by
    default, which gives other figures; an axis that says nothing then scores chance and not 0, and three classes in
    a row are out of a linear machine's reach.

    Args:
      codes: posterior means, `[N, Z]`.
      factors: integers, `[N, F]`, as `Split.factors`.
      categorical: the columns whose values have no order, such as (0,) for the shape of sprites.
      seed: of the halves that categorical factors are fitted to and scored on.

    Raises:
      TypeError: factors that are no integers.
      ValueError: codes that are not finite, lengths that differ, a single axis, a factor that does not vary, or a
        categorical column that there is not.

    Source: Kumar, Sattigeri and Balakrishnan 2018, Variational Inference of Disentangled Latent Concepts from Unlabeled
    Observations, section 3.

    >>> import numpy as np
    >>> factors = np.stack(np.unravel_index(np.arange(100), (10, 10)), axis=1)
    >>> round(sap(-factors, factors).score, 6)
    1.0
    """
    points, columns = check_factors("sap", codes, factors)
    if not set(categorical) <= set(range(columns.shape[1])):
        raise ValueError(
            f"sap: categorical must name columns of factors, from 0 to {columns.shape[1] - 1}; got {tuple(categorical)}"
        )
    deviation = points.std(axis=0)
    standardized = (points - points.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    matrix = [
        _separability(standardized, column, seed)
        if index in categorical
        else _squared_correlation(standardized, column)
        for index, column in enumerate(columns.T)
    ]
    return _gap(np.stack(matrix, axis=1))


def _squared_correlation(standardized: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """`R^2` of each axis, `[Z]`: 0 for one that does not vary."""
    values = factor.astype(np.float64)
    # Axis by axis, so that two that are the same have the same sum.
    return np.mean(standardized * ((values - values.mean()) / values.std())[:, None], axis=0) ** 2


def _separability(standardized: np.ndarray, factor: np.ndarray, seed: int) -> np.ndarray:
    """The share of held-out examples whose class a linear machine of one axis finds, `[Z]`."""
    # Slow to import, and needed here alone.
    from sklearn.svm import LinearSVC  # noqa: PLC0415

    train, test = _split("sap", factor, seed, 2)
    machine = LinearSVC(C=0.01, class_weight="balanced", random_state=seed)
    single = standardized.T[:, :, None]
    return np.array([machine.fit(axis[train], factor[train]).score(axis[test], factor[test]) for axis in single])


def dci(codes: Any, factors: Any, *, num_trees: int = 50, depths: Sequence[int] = (2, 4, 8, 16), seed: int = 0) -> Dci:
    """Whether each axis serves one factor, each factor is served by one axis, and both together say what it is (DCI).

    With R `[Z, F]` the importance of each axis for predicting each factor, P its rows and Q its columns made to add
    up to 1: the disentanglement of axis i is `1 - H(P_i) / ln F`, the completeness of factor j is `1 - H(Q_j) / ln Z`,
    and the means are weighted by the row and column sums of R.

    R are impurity importances of random forests that choose among all axes at each node, one forest per factor. As in
    the paper the depth is that which predicts best on a quarter of the examples; they are fitted to one half, and
    informativeness is the accuracy on the last quarter. The paper gives the error of a regression there, lower is
    better; disentanglement_lib has boosted trees in place of forests, which gives other figures.

    Args:
      codes: posterior means, `[N, Z]`.
      factors: integers, `[N, F]`, as `Split.factors`.
      num_trees: trees per forest.
      depths: of the trees, to choose from.
      seed: of the split and the forests.

    Raises:
      TypeError: factors that are no integers.
      ValueError: codes that are not finite, lengths that differ, a single axis or factor, a factor that does not vary,
        or too few examples to split.

    Source: Eastwood and Williams 2018, A Framework for the Quantitative Evaluation of Disentangled Representations.

    >>> import numpy as np
    >>> factors = np.stack(np.unravel_index(np.arange(400) % 16, (4, 4)), axis=1)
    >>> [round(score, 6) for score in dci(factors, factors, num_trees=5)[:3]]
    [1.0, 1.0, 1.0]
    """
    points, columns = check_factors("dci", codes, factors)
    check_count("dci: num_trees", num_trees)
    check_count("dci: the number of depths", len(depths))
    check_count("dci: the number of factors", columns.shape[1], minimum=2)
    fitted = [_importance(points, factor, num_trees, depths, seed) for factor in columns.T]
    importance = np.stack([each for each, _ in fitted], axis=1)
    informativeness = float(np.mean([accuracy for _, accuracy in fitted]))
    return Dci(concentration(importance), concentration(importance.T), informativeness, importance)


def _importance(
    points: np.ndarray, factor: np.ndarray, num_trees: int, depths: Sequence[int], seed: int
) -> tuple[np.ndarray, float]:
    """The importance of each axis `[Z]`, and the share of test examples that are predicted right."""
    # Slow to import, and needed here alone.
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    train, validation, test = _split("dci", factor, seed, 4)
    forests = [
        RandomForestClassifier(num_trees, max_depth=depth, max_features=None, random_state=seed).fit(
            points[train], factor[train]
        )
        for depth in depths
    ]
    best = max(forests, key=lambda forest: forest.score(points[validation], factor[validation]))
    return best.feature_importances_, best.score(points[test], factor[test])


def concentration(importance: np.ndarray) -> float:
    """`sum_i w_i (1 - H(P_i) / ln C)` of C columns; P are the rows and w their sums, each made to add up to 1."""
    total = importance.sum(axis=1)
    if total.sum() == 0:
        return 0.0  # Nothing is of any importance.
    share = importance / np.where(total > 0, total, 1.0)[:, None]
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=1)
    return float(np.sum(total / total.sum() * (1 - entropy / np.log(importance.shape[1]))))


def _split(owner: str, factor: np.ndarray, seed: int, parts: int) -> list[np.ndarray]:
    """Indices for fitting, half of them, and for what comes after: one half, or two quarters where `parts` is 4."""
    order = np.random.default_rng(seed).permutation(len(factor))
    half, three_quarters = len(order) // 2, len(order) - len(order) // 4
    pieces = np.split(order, [half] if parts == 2 else [half, three_quarters])
    if min(map(len, pieces)) == 0 or len(np.unique(factor[pieces[0]])) < 2:
        raise ValueError(f"{owner}: there are too few examples to hold some out; got {len(factor)}")
    return pieces


def check_factors(owner: str, codes: Any, factors: Any) -> tuple[np.ndarray, np.ndarray]:
    """Codes `[N, Z]` and factors `[N, F]`; raises unless there are two axes at least and all factors vary."""
    points = check_codes(f"{owner}: codes", codes)
    columns = np.asarray(factors)
    check_labels(f"{owner}: factors", columns.ravel())
    if columns.ndim != 2 or len(columns) != len(points):
        raise ValueError(f"{owner}: factors must have shape [{len(points)}, F], as codes have; got {columns.shape}")
    if points.shape[1] < 2:
        raise ValueError(f"{owner}: codes must have two axes at least, to be compared; got {points.shape[1]}")
    constant = np.flatnonzero(columns.min(axis=0) == columns.max(axis=0)).tolist()
    if constant:
        raise ValueError(f"{owner}: factors must vary; columns {constant} hold one value only, leave them out")
    return points, columns
