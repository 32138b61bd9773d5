"""Probes and clusters of codes with known answers."""

import math

import numpy as np
import pytest

from vaejax.evaluation.representation import Clustering, cluster_agreement, clustering, linear_probe

RANDOM = np.random.default_rng(11)
LABELS = RANDOM.integers(3, size=300)
BLOBS = 6.0 * np.eye(3)[LABELS] + 0.3 * RANDOM.normal(size=(300, 3))
NOISE = RANDOM.normal(size=(1200, 3))


def test_separable_codes_are_told_apart():
    assert linear_probe(BLOBS[:200], LABELS[:200], BLOBS[200:], LABELS[200:]).accuracy == 1
    assert clustering(BLOBS, LABELS) == Clustering(1.0, pytest.approx(1.0), 1.0)


def test_examples_without_a_label_are_left_out():
    labels = np.where(np.arange(300) % 3 == 0, -1, LABELS)
    codes = np.where(labels[:, None] < 0, 9.0 * NOISE[:300], BLOBS)
    assert linear_probe(codes[:200], labels[:200], codes[200:], labels[200:]).accuracy == 1
    assert clustering(codes, labels) == Clustering(1.0, pytest.approx(1.0), 1.0)
    with pytest.raises(ValueError, match="linear_probe: test labels"):
        linear_probe(codes, labels, codes, np.full(300, -1))


def test_codes_of_noise_are_worth_a_guess():
    labels = RANDOM.integers(4, size=1200)
    found = linear_probe(NOISE[:600], labels[:600], NOISE[600:], labels[600:])
    assert abs(found.accuracy - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 600)
    assert found.standard_error == pytest.approx(
        np.std([1] * round(600 * found.accuracy) + [0] * round(600 * (1 - found.accuracy)), ddof=1) / 600**0.5
    )
    assert found.baseline == np.bincount(labels[600:]).max() / 600
    found = clustering(NOISE, labels)
    assert abs(found.adjusted_rand_index) < 0.02
    assert found.normalized_mutual_information < 0.02
    assert 0.25 < found.accuracy < 0.35


def test_axes_are_weighed_by_what_they_say_and_not_by_their_size():
    labels = np.arange(300) % 2
    codes = np.stack([1e-5 * (labels + 0.01 * RANDOM.normal(size=300)), 1e4 * RANDOM.normal(size=300)], axis=1)
    assert linear_probe(codes[:150], labels[:150], codes[150:], labels[150:]).accuracy == 1


def test_the_axes_are_standardized_by_the_training_codes_alone():
    """Test codes of one class only, which by their own mean would be in the middle; and an axis that is constant."""
    labels = np.arange(100) % 2
    codes = np.stack([labels * 2.0, np.full(100, 7.0)], axis=1)
    for only in (50, 51):
        found = linear_probe(codes[:50], labels[:50], codes[only::2], labels[only::2])
        assert found == (1.0, 0.0, 1.0)


def test_a_class_that_was_not_in_training_is_wrong():
    codes, labels = np.repeat(np.eye(2), 20, axis=0), np.repeat([0, 5], 20)
    assert linear_probe(codes, labels, codes[[0, 39]], np.array([0, 9])).accuracy == 0.5


def test_the_names_of_the_clusters_change_nothing():
    clusters = RANDOM.integers(5, size=300)
    first = cluster_agreement(clusters, LABELS)
    assert cluster_agreement(np.array([40, 2, 0, 7, 1])[clusters], LABELS) == pytest.approx(first)
    assert cluster_agreement(LABELS, (LABELS + 1) % 3) == pytest.approx((1.0, 1.0, 1.0))


def test_the_matching_is_one_to_one_and_the_best():
    """Of counts [[10, 9], [9, 0]] the best pairs are both nines, not the ten; a third cluster is matched with nothing."""
    clusters, labels = np.repeat([0, 0, 1], [10, 9, 9]), np.repeat([0, 1, 0], [10, 9, 9])
    assert cluster_agreement(clusters, labels).accuracy == 18 / 28
    assert cluster_agreement(np.array([0, 0, 1, 1, 2]), np.array([3, 3, 8, 8, 8])).accuracy == 4 / 5


def test_unused_axes_stay_small():
    """Three hundred axes of little noise would drown the one that counts, were they standardized."""
    labels = np.arange(100) % 2
    codes = np.concatenate([2.0 * labels[:, None] - 1.0, 1e-3 * RANDOM.normal(size=(100, 300))], axis=1)
    assert clustering(codes, labels).accuracy == 1


def test_collapsed_codes_say_nothing():
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    constant = np.ones((60, 2))
    assert clustering(constant, labels) == (0.5, 0.0, 0.0)
    assert linear_probe(constant, labels, constant, labels).accuracy == 0.5


def test_latents_of_several_axes_are_flattened_and_clusters_may_be_more_than_classes():
    assert clustering(BLOBS.reshape(300, 3, 1), LABELS).accuracy == 1
    assert clustering(BLOBS, LABELS, num_clusters=6).accuracy < 1


def test_bad_input_is_named():
    codes, labels = np.ones((4, 2)), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="train_labels must hold two classes or more; got only 0"):
        linear_probe(codes, 0 * labels, codes, labels)
    with pytest.raises(ValueError, match="test codes and labels must be equally long; got 4 and 3"):
        linear_probe(codes, labels, codes, labels[:3])
    with pytest.raises(ValueError, match="as many axes as train_codes; got 1 and 2"):
        linear_probe(codes, labels, codes[:, :1], labels)
    with pytest.raises(ValueError, match="train codes must be finite; 1 of 4 are not"):
        linear_probe(np.where(np.eye(4, 2) * [[1, 0]], np.nan, 1.0), labels, codes, labels)
    with pytest.raises(TypeError, match="labels must be integers; got dtype float64"):
        clustering(codes, labels + 0.5)
    with pytest.raises(ValueError, match="labels must hold two classes or more; got only 1"):
        clustering(codes, 0 * labels + 1)
    with pytest.raises(ValueError, match="num_clusters must be at most the 4 examples; got 5"):
        clustering(codes, labels, num_clusters=5)
    with pytest.raises(ValueError, match=r"codes must have shape \[N, Z\]; got \(4,\)"):
        clustering(codes[:, 0], labels)
    with pytest.raises(ValueError, match="clusters and labels must be equally long"):
        cluster_agreement(labels, labels[:2])
