"""The relaxed categorical: its density on the simplex, its draws, and its divergence underneath."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
import scipy.stats

import vaejax
from vaejax import Categorical
from vaejax.distributions.relaxed_categorical import RelaxedCategorical

log_prob = jax.jit(lambda d, value: d.log_prob(value))
sample = jax.jit(lambda d, key, shape=(): d.sample(key, shape), static_argnums=2)
TWO = np.array([0.7, -0.4])


def pairs(x):
    return jnp.stack([x, 1 - x], axis=-1)


@pytest.mark.slow("follows from the formula of the paper, and three levels are in the fast tier")
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_of_two_levels_integrates_to_one(x64, temperature):
    """Over the logit of the first coordinate, whose Jacobian is x (1 - x)."""
    t = np.linspace(-150.0, 150.0, 60_001)
    q = RelaxedCategorical(TWO, temperature, 1)
    inside = np.abs(t) < 30  # beyond, 1 - x rounds to 0, and the integrand is below exp(-12)
    x = scipy.special.expit(t[inside])
    tail = 2 * np.exp(-30 * temperature) / temperature * 3
    integral = jnp.trapezoid(
        jnp.exp(log_prob(q, np.stack([x, scipy.special.expit(-t[inside])], -1))) * x * (1 - x), t[inside]
    )
    chex.assert_trees_all_close(integral, 1.0, atol=max(tail, 1e-8))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
def test_of_three_levels_integrates_to_one(x64, temperature):
    """Over the additive log-ratios, whose Jacobian is the product of the coordinates."""
    grid = np.linspace(-40.0, 40.0, 801)
    a, b = np.meshgrid(grid, grid, indexing="ij")
    y = scipy.special.softmax(np.stack([a, b, np.zeros_like(a)], -1), -1)
    q = RelaxedCategorical(np.array([0.5, -1.0, 0.2]), temperature, 1)
    total = np.sum(np.exp(log_prob(q, y)) * y.prod(-1)) * (grid[1] - grid[0]) ** 2
    chex.assert_trees_all_close(total, 1.0, atol=1e-6)


def test_is_the_formula_of_the_paper_for_each_vector_at_its_temperature(x64, key):
    logits = np.random.default_rng(0).normal(size=(4, 3, 5))
    temperature = np.array([0.3, 1.0, 2.0, 0.7])
    q = RelaxedCategorical(logits, temperature)
    y = sample(q, key, (6,))
    chex.assert_shape(y, (6, 4, 3, 5))
    y, t = np.asarray(y), temperature[:, None, None]
    powers = np.exp(logits) * y ** (-t - 1)
    density = 24 * t[..., 0] ** 4 * powers.prod(-1) / (np.exp(logits) * y**-t).sum(-1) ** 5
    chex.assert_trees_all_close(log_prob(q, y), np.log(density).sum(-1), rtol=1e-9)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_draws_follow_the_density(temperature, key):
    """The logit of the first of two coordinates is logistic: (l_1 - l_2 + logistic noise) / t."""
    draws = np.asarray(sample(RelaxedCategorical(TWO.astype(np.float32), temperature, 1), key, (40_000,)), np.float64)
    ratio = np.log(draws[:, 0]) - np.log(draws[:, 1])
    cumulative = scipy.stats.logistic(loc=(TWO[0] - TWO[1]) / temperature, scale=1 / temperature).cdf
    assert scipy.stats.kstest(ratio, cumulative).statistic * 200 < 2.7


def test_the_largest_coordinate_has_the_probabilities_of_the_levels(key):
    q = RelaxedCategorical(np.float32([1.0, 0.0, -1.0, 0.5]), 0.5, 1)
    counts = np.bincount(np.asarray(sample(q, key, (50_000,))).argmax(-1), minlength=4)
    p = np.asarray(q.probabilities, np.float64)
    assert np.all(np.abs(counts - 50_000 * p) < 5 * np.sqrt(50_000 * p * (1 - p)))
    chex.assert_trees_all_equal(q.mean, q.probabilities)
    chex.assert_trees_all_close(p, scipy.special.softmax([1.0, 0.0, -1.0, 0.5]), rtol=1e-6)


@jax.jit
def density_of_draws(logits, temperature, key):
    def score(logits, temperature):
        q = RelaxedCategorical(logits, temperature)
        y, log_q = q.sample_and_log_prob(key, (50,))
        return jnp.sum(log_q), (y, q.support(y), log_q, q.log_prob(y))

    return jax.value_and_grad(score, (0, 1), has_aux=True)(logits, temperature)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 5.0])
def test_draws_lie_inside_and_have_finite_densities_and_gradients(temperature, key):
    """The density of a draw that underflows is known with it, and not afterwards."""
    logits = np.random.default_rng(0).normal(size=(8, 10)).astype(np.float32) * 5
    (value, (y, inside, log_q, later)), slopes = density_of_draws(logits, np.float32(temperature), key)
    chex.assert_tree_all_finite((value, slopes))
    assert np.all(inside)
    assert np.all(y > 0)
    chex.assert_trees_all_close(np.sum(y, axis=-1), np.ones((50, 8), np.float32), rtol=1e-5)
    whole = np.isfinite(later)
    np.testing.assert_allclose(later[whole], log_q[whole], rtol=1e-4, atol=1e-3)
    assert np.all(whole) if temperature == 5.0 else not np.any(whole)


def test_a_divergence_of_logarithms_does_not_depend_on_a_shared_temperature(key):
    """`t log y` has the same distribution at every t, so with common noise each estimate is the same number."""

    def divergence(logits, temperature):
        q, p = (RelaxedCategorical(each, temperature, 1, log_space=True) for each in (logits, jnp.zeros(3)))
        z, log_q = q.sample_and_log_prob(key, (2000,))
        return jnp.mean(log_q - p.log_prob(z)), (jnp.mean(log_q - q.log_prob(z)), jnp.exp(z).sum(-1))

    logits, temperatures = np.float32([4.0, 0.0, -4.0]), np.float32([1.0, 0.1, 0.02])
    at_each = jax.jit(jax.vmap(jax.value_and_grad(divergence, has_aux=True), (None, 0)))
    (found, (own, total)), slopes = at_each(logits, temperatures)
    chex.assert_trees_all_close(found, np.full(3, found[0]), rtol=1e-4)
    chex.assert_trees_all_close(slopes, np.tile(slopes[0], (3, 1)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(own, 0.0, atol=1e-4)
    np.testing.assert_allclose(total, 1.0, rtol=1e-4)


def test_logarithms_have_the_density_of_the_vectors_up_to_their_product(x64, key):
    """`d y_k / y_k` in place of `d y_k`."""
    logits, temperature = np.random.default_rng(0).normal(size=(4, 3, 5)), np.array([0.3, 1.0, 2.0, 0.7])
    y = sample(RelaxedCategorical(logits, temperature), key, (6,))
    of_logarithms = log_prob(RelaxedCategorical(logits, temperature, log_space=True), np.log(y))
    expected = log_prob(RelaxedCategorical(logits, temperature), y) + np.log(y).sum((-1, -2))
    chex.assert_trees_all_close(of_logarithms, expected, rtol=1e-9)


def test_draws_are_differentiable_in_the_logits_and_the_temperature(x64):
    def draw(parameters):
        return RelaxedCategorical(parameters[:2], parameters[2], 1).sample(jax.random.key(3))[0]

    @jax.jit
    def slopes_and_differences(parameters):
        steps = 1e-6 * jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3), -jnp.eye(3)])
        values, slopes = jax.vmap(jax.value_and_grad(draw))(parameters + steps)
        return slopes[0], (values[1:4] - values[4:]) / 2e-6

    chex.assert_trees_all_close(*slopes_and_differences(np.array([*TWO, 0.7])), rtol=1e-7)


def test_the_penalty_is_the_divergence_of_the_categoricals_underneath():
    logits, prior = np.random.default_rng(0).normal(size=(2, 4, 3, 5)).astype(np.float32)

    @jax.jit
    def divergences(logits, prior):
        relaxed = lambda temperature: RelaxedCategorical(logits, temperature)
        theirs = numpyro.Categorical(logits=prior, validate_args=False).to_event(1)
        pairs = [(relaxed(0.1), Categorical(prior)), (relaxed(2.0), Categorical(prior)), (relaxed(1.0), theirs)]
        return [vaejax.categorical_kl(p)(None, q, None) for q, p in pairs]

    p, q = scipy.special.softmax(prior, -1), scipy.special.softmax(logits, -1)
    for each in divergences(logits, prior):
        chex.assert_trees_all_close(each, (q * np.log(q / p)).sum((1, 2)), rtol=1e-5)


def test_divergences_refuse_other_partners_and_other_events():
    q = RelaxedCategorical(np.zeros((4, 3, 5)), 1.0)
    for other in (q, vaejax.standard_normal, Categorical(np.zeros((3, 5)))):
        with pytest.raises(TypeError, match=r"RelaxedCategorical to .*categorical_kl"):
            vaejax.kl_divergence(q, other)
    with pytest.raises(TypeError, match=r"categorical_kl: the posterior .*got Normal"):
        vaejax.categorical_kl(Categorical(np.zeros((3, 5))))(None, vaejax.Normal(np.zeros((4, 3)), 1.0), None)
    with pytest.raises(ValueError, match="same number of event axes; got 1 and 2"):
        vaejax.categorical_kl(Categorical(np.zeros((4, 3, 5)), 2))(None, q, None)
    with pytest.raises(ValueError, match="q has 5 levels, p has 4"):
        vaejax.categorical_kl(Categorical(np.zeros((3, 4))))(None, q, None)


@pytest.mark.slow("aligned by the function that other families are mapped over")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_mapped_constructor_is_the_batched_one(rank):
    logits = np.random.default_rng(0).normal(size=(4, 4, 4, 4)).astype(np.float32)
    temperature = np.linspace(0.5, 2.0, 4 ** (rank + 1)).reshape((4,) * (rank + 1)).astype(np.float32)
    value = np.random.default_rng(1).dirichlet(np.ones(4), (4, 4, 4)).astype(np.float32)
    for event_ndims in {3 - rank, 2}:
        make = lambda l, t, e=event_ndims: RelaxedCategorical(l, t, e)
        expected = np.stack([log_prob(make(l, t), v) for l, t, v in zip(logits, temperature, value, strict=True)])
        mapped = lambda l, t, make=make: jax.vmap(make)(l, t)
        found = jax.jit(lambda l, t, v, mapped=mapped: mapped(l, t).log_prob(v))(logits, temperature, value)
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)
        draws = jax.eval_shape(lambda mapped=mapped: mapped(logits, temperature).sample(jax.random.key(1)))
        chex.assert_shape(draws, logits.shape)


def test_event_axes_are_summed():
    logits = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    value = np.random.default_rng(1).dirichlet(np.ones(5), (7, 4, 3)).astype(np.float32)
    log_probs = jax.jit(lambda v: [RelaxedCategorical(logits, 0.5, n).log_prob(v) for n in (1, 2, 3)])
    vectors, rows, examples = log_probs(value)
    assert vectors.shape == (7, 4, 3)
    chex.assert_trees_all_close(rows, np.sum(vectors, axis=-1), rtol=1e-5)
    chex.assert_trees_all_close(examples, np.sum(vectors, axis=(1, 2)), rtol=1e-5)
    uniform = RelaxedCategorical(np.zeros(5), 1.0, 1)  # uniform logits at temperature 1, at the centre: (L-1)! times 1
    chex.assert_trees_all_close(log_prob(uniform, np.full(5, 0.2)), math.log(24), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "found"),
    [
        (lambda: RelaxedCategorical(np.zeros((3, 5)), 0.0), ValueError, "temperature must be positive"),
        (lambda: RelaxedCategorical(np.zeros((3, 5)), None), TypeError, "temperature must be an array"),
        (lambda: RelaxedCategorical(np.zeros((3, 5)), 1.0, 0), ValueError, "event_ndims must be at least 1"),
        (lambda: RelaxedCategorical(np.zeros(5), 1.0), ValueError, r"need 2 event axes.*got shape \(5,\)"),
        (lambda: RelaxedCategorical(np.zeros((4, 3, 5)), np.ones(3)), ValueError, r"logits \(4,\) and temperature \(3,\)"),
        (lambda: RelaxedCategorical(np.zeros(2), 1.0, 1).log_prob(np.array([1.0, 0.0])), ValueError, "positive and sum to 1"),
        (lambda: RelaxedCategorical(np.zeros(2), 1.0, 1).log_prob(np.array([0.5, 0.6])), ValueError, "positive and sum to 1"),
        (lambda: RelaxedCategorical(np.zeros(2), 1.0, 1).log_prob(np.ones(3) / 3), ValueError, r"event shape \(2,\)"),
    ],
)  # fmt: skip
def test_bad_input_raises(make, error, found):
    with pytest.raises(error, match=found):
        make()
