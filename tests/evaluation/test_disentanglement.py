"""Disentanglement scores of synthetic codes with a known answer."""

from functools import cache, partial

import numpy as np
import pytest
import scipy.stats

from vaejax import data
from vaejax.evaluation.disentanglement import concentration, dci, mutual_information_gap, sap
from vaejax.evaluation.fixed_factor import beta_vae_score, factor_vae_score

RANDOM = np.random.default_rng(13)
# Twelve times each combination, in no order, so that factors are independent exactly.
FACTORS = RANDOM.permutation(np.tile(np.stack(np.unravel_index(np.arange(120), (6, 5, 4)), axis=1), (12, 1)))
COUNT = len(FACTORS)
NOISE = RANDOM.normal(size=(COUNT, 5))
NOISY = FACTORS + 0.3 * RANDOM.normal(size=(COUNT, 3))

few_trees = partial(dci, num_trees=5)
factor_vae = partial(factor_vae_score, num_train=200, num_test=300)
beta_vae = partial(beta_vae_score, num_train=200, num_test=300, num_pairs=32)


def scores(codes, factors=FACTORS):
    """All of them, each from 0 to 1."""
    trees = few_trees(codes, factors)
    return {
        "gap": mutual_information_gap(codes, factors).score,
        "sap": sap(codes, factors).score,
        "disentanglement": trees.disentanglement,
        "completeness": trees.completeness,
        "informativeness": trees.informativeness,
        "factor_vae": factor_vae(codes, factors).accuracy,
        "beta_vae": beta_vae(codes, factors).accuracy,
    }


@cache
def scores_of_noisy():
    return scores(NOISY)


def test_the_factors_themselves_score_1_in_any_order_sign_and_scale():
    codes = FACTORS[:, [2, 0, 1]] * [1e-3, -5.0, 1e4] + [1.0, 0.0, -9.0]
    for unused in (0, 2):
        found = scores(np.concatenate([codes, np.full((COUNT, unused), 0.1)], axis=1))
        assert found == pytest.approx(dict.fromkeys(found, 1.0))


def test_noise_scores_0_or_a_guess():
    found = scores(NOISE)
    assert max(found["gap"], found["sap"]) < 0.03
    assert max(found["disentanglement"], found["completeness"]) < 0.15
    assert found["informativeness"] == pytest.approx((1 / 6 + 1 / 5 + 1 / 4) / 3, abs=0.06)


@pytest.mark.parametrize(
    "score", [factor_vae_score, pytest.param(beta_vae_score, marks=pytest.mark.slow("another classifier"))]
)
def test_classifiers_learn_nothing_from_noise(score):
    """Fitted to few points and scored on many others: on the same it would be right far more often than a third."""
    found = [score(NOISE, FACTORS, num_train=20, num_test=600, seed=seed) for seed in range(4)]
    mean = np.mean([each.accuracy for each in found])
    assert abs(mean - 1 / 3) < 5 * np.sqrt(2 / 9 / 2400)
    assert found[0].standard_error == pytest.approx(np.sqrt(2 / 9 / 600), rel=0.1)
    assert found[0].baseline == pytest.approx(1 / 3, abs=0.06)
    assert found[0] == score(NOISE, FACTORS, num_train=20, num_test=600, seed=0)
    assert found[0] != found[1]


def test_votes_are_not_scored_on_the_examples_that_they_were_learned_from():
    """Few examples, so that by chance some axis of noise varies least for a value: with the same ones in both, half right."""
    few = RANDOM.permutation(FACTORS[:240])
    noise = RANDOM.normal(size=(16, 240, 5))
    found = [factor_vae(codes, few, seed=seed).accuracy for seed, codes in enumerate(noise)]
    assert abs(np.mean(found) - 1 / 3) < 5 * np.std(found, ddof=1) / 4


def test_rotated_factors_are_informative_and_entangled():
    two = RANDOM.permutation(np.tile(np.stack(np.unravel_index(np.arange(25), (5, 5)), axis=1), (40, 1)))
    found = scores(two @ [[1, 1], [1, -1]], two)
    assert found["gap"] < 0.05
    assert found["sap"] == pytest.approx(0, abs=1e-12)
    assert found["informativeness"] > 0.95
    assert found["disentanglement"] < 0.2
    assert found["completeness"] < 0.2
    assert abs(found["factor_vae"] - 1 / 2) < 5 * np.sqrt(1 / 4 / 300)


def test_a_second_copy_of_each_axis_closes_the_gaps_and_costs_completeness():
    found = scores(np.tile(FACTORS, 2))
    assert found["gap"] == found["sap"] == 0
    assert found["disentanglement"] == found["factor_vae"] == found["beta_vae"] == 1
    assert found["completeness"] == pytest.approx(1 - np.log(2) / np.log(6), abs=0.1)


def test_one_axis_for_two_factors_is_complete_and_not_disentangled():
    two = FACTORS[:, :2]
    found = few_trees(np.stack([two @ [5, 1], np.ones(COUNT)], axis=1), two)
    assert found.disentanglement == pytest.approx(0, abs=1e-9)
    assert found.completeness == found.informativeness == 1
    assert found.importance.tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    "scales", [(2.0**9, 1.0, 2.0**-9), pytest.param((2.0**-9, 2.0**9, 1.0), marks=pytest.mark.slow("other scales"))]
)
def test_the_scales_of_the_axes_change_nothing(scales):
    assert scores(NOISY * scales) == scores_of_noisy()


def test_the_order_of_the_axes_changes_nothing():
    first, second = scores_of_noisy(), scores(NOISY[:, [1, 2, 0]])
    assert first == pytest.approx(second, abs=0.03)
    assert first["gap"] == pytest.approx(second["gap"], abs=1e-12)
    assert first["factor_vae"] == second["factor_vae"] > 0.95


def test_gaps_of_known_size():
    """Four values, all known by the first axis and halved by the second: (ln 4 - ln 2) / ln 4."""
    factor = np.arange(400) % 4
    codes = np.stack([factor, factor // 2, np.zeros(400)], axis=1)
    gap = mutual_information_gap(codes, factor[:, None])
    assert gap.score == pytest.approx(0.5)
    assert gap.matrix[:, 0] == pytest.approx([1, 0.5, 0])
    squared = np.corrcoef(factor, factor // 2)[0, 1] ** 2
    assert sap(codes, factor[:, None]).matrix[:, 0] == pytest.approx([1, squared, 0])
    # Two bins of two values each: the largest is in the last bin, not in one of its own.
    assert mutual_information_gap(codes[:, [0, 2]], factor[:, None], num_bins=2).score == pytest.approx(0.5)


def test_each_factor_has_a_gap_of_its_own():
    """The axes by factors: one factor is coded, one is coded twice, one is not."""
    codes = np.stack([FACTORS[:, 1], FACTORS[:, 0], -FACTORS[:, 1], NOISE[:, 0]], axis=1)
    for gap in (mutual_information_gap(codes, FACTORS), sap(codes, FACTORS)):
        assert gap.matrix.shape == (4, 3)
        assert gap.per_factor == pytest.approx([1, 0, 0], abs=0.05)
        assert gap.matrix[[1, 0, 2], [0, 1, 1]] == pytest.approx(1)
        assert gap.score == pytest.approx(1 / 3, abs=0.02)


def test_a_categorical_factor_is_classified():
    """Two values whose order says nothing: an axis that knows them is always right, and any other half the time."""
    factors = np.stack([FACTORS[:, 0] % 2, FACTORS[:, 1]], axis=1)
    codes = np.stack([1e-4 * factors[:, 0], FACTORS[:, 1], FACTORS[:, 2]], axis=1)
    found = sap(codes, factors, categorical=(0,))
    assert found.matrix[0, 0] == 1
    assert found.matrix[1:, 0] == pytest.approx(0.5, abs=0.1)
    assert found.per_factor == pytest.approx([0.5, 1], abs=0.1)


def test_the_weights_of_disentanglement_are_the_importance_of_the_axes():
    importance = np.array([[0.7, 0.1], [0.3, 0.1], [0.0, 0.8]])
    axes = 1 - np.array([scipy.stats.entropy(row, base=2) for row in importance])
    factors = 1 - np.array([scipy.stats.entropy(column, base=3) for column in importance.T])
    assert concentration(importance) == pytest.approx(np.sum(importance.sum(1) / 2 * axes))
    assert concentration(importance.T) == pytest.approx(factors.mean())


def test_collapsed_codes_score_nothing():
    found = scores(np.full((COUNT, 3), 0.1))
    assert [found[name] for name in ("gap", "sap", "disentanglement", "completeness")] == [0, 0, 0, 0]
    for name in ("factor_vae", "beta_vae"):
        assert abs(found[name] - 1 / 3) < 5 * np.sqrt(2 / 9 / 300)


def test_a_data_set_with_factors_that_is_no_complete_grid():
    sprites = data.make_sprites(32, num_scales=3, num_orientations=3, num_positions=5, lazy=True)
    factors = sprites.train.factors[:500]
    assert factor_vae(factors.astype(np.float32), factors).accuracy == 1
    assert mutual_information_gap(factors, factors).score > 0.9


def test_values_of_a_single_example_are_left_out():
    """Their variance among themselves is 0 on every axis, so the first axis would win for no reason."""
    shared = np.arange(200) % 4
    single = np.where(np.arange(200) < 150, np.arange(200) + 10, np.arange(200) % 3)
    factors = np.stack([shared, single], axis=1)
    codes = factors + 0.0
    assert factor_vae(codes, factors).accuracy == 1
    assert beta_vae(codes, factors).accuracy == 1
    for score in (factor_vae, beta_vae):
        with pytest.raises(ValueError, match="no two examples of a half share one of column 1"):
            score(codes, np.stack([shared, np.arange(200)], axis=1))


def test_bad_input_is_named():
    for score in (mutual_information_gap, sap, dci, factor_vae_score, beta_vae_score):
        with pytest.raises(ValueError, match=r"factors must vary; columns \[1\] hold one value only"):
            score(NOISE, FACTORS * [1, 0, 1])
        with pytest.raises(TypeError, match="factors must be integers; got dtype float64"):
            score(NOISE, FACTORS / 2)
        with pytest.raises(ValueError, match="codes must have two axes at least"):
            score(NOISE[:, :1], FACTORS)
        with pytest.raises(ValueError, match=r"factors .*\[1440, F\].*got \(9, 3\)"):
            score(NOISE, FACTORS[:9])
        with pytest.raises(ValueError, match="codes must be finite; 1440 of 1440"):
            score(NOISE * np.nan, FACTORS)
    for score in (dci, beta_vae_score):
        with pytest.raises(ValueError, match="the number of factors must be at least 2; got 1"):
            score(NOISE, FACTORS[:, :1])
    with pytest.raises(ValueError, match=r"categorical .*from 0 to 2; got \(3,\)"):
        sap(NOISE, FACTORS, categorical=(3,))
    with pytest.raises(ValueError, match="too few examples to hold some out; got 2"):
        dci(NOISE[:2], np.array([[0, 1], [1, 0]]))
    with pytest.raises(ValueError, match="group_size must be at least 2"):
        factor_vae_score(NOISE, FACTORS, group_size=1)
