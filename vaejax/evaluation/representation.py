"""How well the latents separate labels: a linear probe, and clusters."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from vaejax.checks import check_array, check_count


class Probe(NamedTuple):
    """How often a classifier of the latents is right, and what that is worth."""

    accuracy: float  # share of test examples
    standard_error: float  # of the accuracy, over test examples
    baseline: float  # share of the most frequent class among test examples: what a constant answer reaches


class Clustering(NamedTuple):
    """How well clusters agree with labels; each is 1 where they are the same up to names."""

    accuracy: float  # share of examples whose cluster is matched with their label
    normalized_mutual_information: float  # 0 where the two are independent
    adjusted_rand_index: float  # 0 on average for random clusters, and below 0 where they agree less


def linear_probe(train_codes: Any, train_labels: Any, test_codes: Any, test_labels: Any) -> Probe:
    """The accuracy of a linear classifier of the latents on examples that it was not fitted to.

    Logistic regression (L2 penalty 1, as in scikit-learn) on axes standardized by the training codes.

    Args:
      train_codes: posterior means, `[N, *Z]`.
      train_labels: integers, `[N]`; examples of a negative label have none and are left out, here and below.
      test_codes: `[M, *Z]`.
      test_labels: `[M]`; a class that was not in training is always wrong.

    Raises:
      TypeError: labels that are no integers.
      ValueError: codes that are not finite, lengths or sizes that differ, or one class only.

    Source: Alain and Bengio 2016, Understanding intermediate layers using linear classifier probes.

    >>> import numpy as np
    >>> labels = np.arange(40) % 2
    >>> codes = labels[:, None] + np.zeros((40, 3))
    >>> linear_probe(codes[:20], labels[:20], codes[20:], labels[20:])
    Probe(accuracy=1.0, standard_error=0.0, baseline=0.5)
    """
    # Slow to import, and needed here alone.
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    train, targets = check_labelled("linear_probe: train", train_codes, train_labels)
    test, truth = check_labelled("linear_probe: test", test_codes, test_labels)
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"linear_probe: test_codes must have as many axes as train_codes; got {test.shape[1]} and {train.shape[1]}"
        )
    if len(np.unique(targets)) < 2:
        raise ValueError(f"linear_probe: train_labels must hold two classes or more; got only {targets[0]}")
    center, scale = train.mean(axis=0), train.std(axis=0)
    standardize = lambda codes: (codes - center) / np.where(scale > 0, scale, 1.0)
    fitted = LogisticRegression(max_iter=1000).fit(standardize(train), targets)
    return score_of(fitted.predict(standardize(test)), truth)


def score_of(answers: np.ndarray, truth: np.ndarray) -> Probe:
    """How often the answers `[M]` are right."""
    accuracy = float(np.mean(answers == truth))
    # The spread of a single example is unknown, which NaN says.
    error = math.sqrt(accuracy * (1 - accuracy) / (len(truth) - 1)) if len(truth) > 1 else math.nan
    baseline = np.unique(truth, return_counts=True)[1].max() / len(truth)
    return Probe(accuracy, error, float(baseline))


def clustering(codes: Any, labels: Any, *, num_clusters: int | None = None, seed: int = 0) -> Clustering:
    """How well clusters of the latents, found without labels, agree with the labels.

    k-means (the best of 10 starts) on the codes as they are: axes that are not used stay small, where standardized
    ones would be as loud as the others.

    Args:
      codes: posterior means, `[N, *Z]`.
      labels: integers, `[N]`.
      num_clusters: as many as there are classes where None.
      seed: of the starts.

    Raises:
      TypeError: labels that are no integers.
      ValueError: codes that are not finite, lengths that differ, one class only, or fewer examples than clusters.

    Source: Lloyd 1982, Least squares quantization in PCM; for the scores, `cluster_agreement`.

    >>> import numpy as np
    >>> clustering(np.array([[0.0], [0.1], [5.0], [5.1]]), np.array([1, 1, 0, 0])).accuracy
    1.0
    """
    # Slow to import, and needed here alone.
    from sklearn.cluster import KMeans  # noqa: PLC0415
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415

    points, truth = check_labelled("clustering:", codes, labels)
    classes = len(np.unique(truth))
    if classes < 2:
        raise ValueError(f"clustering: labels must hold two classes or more; got only {truth[0]}")
    count = classes if num_clusters is None else num_clusters
    check_count("clustering: num_clusters", count)
    if count > len(points):
        raise ValueError(f"clustering: num_clusters must be at most the {len(points)} examples; got {count}")
    with warnings.catch_warnings():
        # Collapsed codes have fewer distinct points than clusters, which the scores show.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(count, n_init=10, random_state=seed).fit_predict(points)
    return cluster_agreement(found, truth)


def cluster_agreement(clusters: Any, labels: Any) -> Clustering:
    """How well clusters agree with labels, whatever the clusters are called.

    The accuracy is that of the best matching of clusters with labels, one to one; a cluster that is left over is
    wrong. The mutual information is divided by the mean of the two entropies.

    Args:
      clusters: integers, `[N]`.
      labels: integers, `[N]`.

    Raises:
      TypeError: clusters or labels that are no integers.
      ValueError: lengths that differ.

    Source: Yang et al. 2010, Image clustering using local discriminant models and global integration, for the accuracy;
    Hubert and Arabie 1985, Comparing partitions, for the adjusted Rand index.

    >>> import numpy as np
    >>> cluster_agreement(np.array([1, 1, 0, 0]), np.array([0, 0, 0, 1])).accuracy
    0.75
    """
    # Slow to import, and needed here alone.
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415
    from sklearn.metrics import (  # noqa: PLC0415
        adjusted_rand_score,
        normalized_mutual_info_score,
    )

    found = check_labels("cluster_agreement: clusters", clusters)
    truth = check_labels("cluster_agreement: labels", labels)
    if len(found) != len(truth):
        raise ValueError(f"cluster_agreement: clusters and labels must be equally long; got {len(found)}, {len(truth)}")
    counts = contingency(found, truth)
    matched = counts[linear_sum_assignment(counts, maximize=True)].sum()
    information = normalized_mutual_info_score(truth, found)
    return Clustering(float(matched / len(truth)), float(information), float(adjusted_rand_score(truth, found)))


def contingency(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How often each pair of values occurs in two columns of integers `[N]`: `[values, values]`."""
    rows, columns = (np.unique(each, return_inverse=True) for each in (first, second))
    width = len(columns[0])
    flat = np.bincount(rows[1] * width + columns[1], minlength=len(rows[0]) * width)
    return flat.reshape(-1, width)


def check_labelled(owner: str, codes: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Codes `[N, Z]` in double precision and labels `[N]` of the examples that have one, which is not negative.

    Raises where they are none, or of different lengths.
    """
    points, truth = check_codes(f"{owner} codes", codes), check_labels(f"{owner} labels", labels)
    if len(points) != len(truth):
        raise ValueError(f"{owner} codes and labels must be equally long; got {len(points)} and {len(truth)}")
    known = truth >= 0
    if not known.any():
        raise ValueError(f"{owner} labels must hold one of at least 0; got none, so no example has a label")
    return points[known], truth[known]


def check_codes(name: str, codes: Any) -> np.ndarray:
    """Codes `[N, *Z]` as `[N, prod(Z)]` in double precision; raises unless they are finite."""
    check_array(name, codes)
    points = np.asarray(codes)
    if points.ndim < 2 or points.size == 0:
        raise ValueError(f"{name} must have shape [N, Z]; got {points.shape}")
    points = points.reshape(len(points), -1).astype(np.float64)
    if not np.isfinite(points).all():
        raise ValueError(f"{name} must be finite; {np.sum(~np.isfinite(points).all(axis=1))} of {len(points)} are not")
    return points


def check_labels(name: str, labels: Any) -> np.ndarray:
    """Labels `[N]`; raises unless they are integers."""
    check_array(name, labels)
    truth = np.asarray(labels)
    if truth.dtype.kind not in "iub":
        raise TypeError(f"{name} must be integers; got dtype {truth.dtype}")
    if truth.ndim != 1 or truth.size == 0:
        raise ValueError(f"{name} must have shape [N]; got {truth.shape}")
    return truth
