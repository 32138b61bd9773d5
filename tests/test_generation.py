"""New data from a model, draws made less random, and priors fitted to latents."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
from sklearn.mixture import GaussianMixture

import vaejax
from vaejax import Bernoulli, Categorical, ElementwiseAffine, Laplace, Mixture, MultivariateNormal, Normal, Transformed
from vaejax.generation import ancestral, fit_flow, fit_gaussian_mixture, posterior_predictive, tempered
from vaejax.testing import linear_gaussian

COUNT = 40_000


def check_moments(draws, mean, covariance):
    """Means and covariances of Normal draws `[N, D]`, each within 5 standard errors."""
    count, variance = len(draws), jnp.diag(covariance)
    assert jnp.all(jnp.abs(jnp.mean(draws, axis=0) - mean) < 5 * jnp.sqrt(variance / count))
    # The standard error of a covariance of Normals is sqrt((v_i v_j + c_ij^2) / n).
    spread = jnp.sqrt((jnp.outer(variance, variance) + covariance**2) / count)
    assert jnp.all(jnp.abs(jnp.cov(draws.T) - covariance) < 5 * spread)


def test_ancestral_draws_have_the_moments_of_the_marginal(x64, key):
    oracle = linear_gaussian(jax.random.key(1), 3, 2)
    prior_key, likelihood_key = jax.random.split(key)
    drawn = ancestral(prior_key, oracle.decode, vaejax.standard_normal.expand((2,)), COUNT)
    chex.assert_shape(drawn.latents, (COUNT, 2))
    chex.assert_trees_all_equal(drawn.likelihood.mean, oracle.decode(drawn.latents).mean)
    marginal = oracle.marginal()
    check_moments(drawn.likelihood.sample(likelihood_key), marginal.mean, marginal.scale_tril @ marginal.scale_tril.T)


def test_the_posterior_predictive_has_its_exact_moments(x64, key):
    """`N(W m + b, W M W^T + s^2 I)` for the exact posterior N(m, M), for each x by itself."""
    oracle = linear_gaussian(jax.random.key(1), 3, 2)
    posterior_key, likelihood_key = jax.random.split(key)
    x = oracle.marginal().sample(jax.random.key(2), (2,))
    drawn = posterior_predictive(posterior_key, x, oracle.posterior, oracle.decode, num_samples=COUNT)
    chex.assert_shape(drawn.latents, (COUNT, 2, 2))
    draws = drawn.likelihood.sample(likelihood_key)
    chex.assert_shape(draws, (COUNT, 2, 3))
    precision = jnp.eye(2) + oracle.weight.T @ oracle.weight / oracle.scale**2
    covariance = oracle.weight @ jnp.linalg.inv(precision) @ oracle.weight.T + oracle.scale**2 * jnp.eye(3)
    for index in range(2):
        mean = oracle.weight @ oracle.posterior(x).mean[index] + oracle.bias
        check_moments(draws[:, index], mean, covariance)


def test_the_decoder_never_sees_the_sample_axis():
    def decode(z):
        assert z.shape == (4, 2)
        return Bernoulli(jnp.tile(z, (1, 3)))

    x = jnp.ones((4, 6))
    drawn = posterior_predictive(jax.random.key(0), x, lambda x: Normal(x[:, :2], 1.0), decode, num_samples=5)
    chex.assert_shape(drawn.likelihood.mean, (5, 4, 6))
    chex.assert_shape(drawn.likelihood.log_prob(x), (5, 4))


def test_bad_arguments_are_named():
    prior, decode = vaejax.standard_normal.expand((2,)), lambda z: Normal(z, 1.0)
    key, x = jax.random.key(0), jnp.ones((3, 2))
    for call, error, message in [
        (lambda: ancestral(jax.random.PRNGKey(0), decode, prior, 5), TypeError, "typed PRNG key"),
        (lambda: ancestral(key, None, prior, 5), TypeError, "decode must be a function"),
        (lambda: ancestral(key, decode, None, 5), TypeError, "prior must be a distribution"),
        (lambda: ancestral(key, decode, prior, 0), ValueError, "count must be at least 1; got 0"),
        (lambda: ancestral(key, decode, vaejax.standard_normal, 5), ValueError, r"standard_normal.expand"),
        (lambda: posterior_predictive(key, x, decode, decode, num_samples=0), ValueError, "num_samples must be at least"),
        (lambda: posterior_predictive(key, x, x, decode, num_samples=1), TypeError, "encode must be a function"),
        (lambda: posterior_predictive(key, x, lambda x: (x, x), decode, num_samples=1), TypeError,
         "encode must return a distribution.*got tuple"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            call()


LOC = jnp.array([[0.5, -1.0, 2.0], [0.0, 3.0, -0.2]])
FACTOR = jnp.array([[1.0, 0.0, 0.0], [0.4, 0.5, 0.0], [-0.3, 0.2, 2.0]])
MOVE = ElementwiseAffine(jnp.array([1.0, 0.0, -1.0]), jnp.array([0.3, -0.5, 0.0]))
KINDS = {
    "normal": Normal(LOC, jnp.array([0.5, 1.0, 2.0])),
    "normal with event axes": Normal(LOC, 0.7, 2),
    "laplace": Laplace(LOC, 0.3),
    "full covariance": MultivariateNormal(LOC, FACTOR),
    "bernoulli": Bernoulli(LOC),
    "categorical": Categorical(LOC),
    "flow": Transformed(Normal(LOC, 0.5), MOVE),
    "mixture": Mixture(jnp.array([0.3, -0.8]), Normal(LOC, 0.4)),
    "mixture of factors": Mixture(jnp.array([0.3, -0.8]), MultivariateNormal(LOC, FACTOR)),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_temperature_of_one_changes_nothing(name):
    before, after = KINDS[name], tempered(KINDS[name], 1.0)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    chex.assert_trees_all_equal(after, before)


@pytest.mark.parametrize("name", ["normal", "normal with event axes", "laplace", "full covariance"])
def test_a_draw_comes_as_many_times_nearer_to_its_mean(name):
    """So the variance is multiplied by the square of the temperature; and the density follows the draws."""
    before, after = KINDS[name], tempered(KINDS[name], 0.25)
    deviation = before.sample(jax.random.key(0), (50,)) - LOC
    chex.assert_trees_all_close(after.sample(jax.random.key(0), (50,)), LOC + 0.25 * deviation, rtol=1e-5, atol=1e-6)
    ratio = after.log_prob(LOC + 0.25 * deviation) - before.log_prob(LOC + deviation)
    axes = 6 if name == "normal with event axes" else 3
    chex.assert_trees_all_close(ratio, jnp.full(ratio.shape, axes * jnp.log(4.0)), rtol=1e-3)


def test_the_variance_scales_with_the_square_of_the_temperature():
    chex.assert_trees_all_close(tempered(KINDS["normal"], 3.0).variance, 9 * KINDS["normal"].variance, rtol=1e-6)


@pytest.mark.parametrize("name", ["bernoulli", "categorical"])
def test_probabilities_go_to_the_mode_or_to_equality(name):
    before = KINDS[name]
    chex.assert_trees_all_close(tempered(before, 0.5).logits, 2 * before.logits)
    cold, hot = tempered(before, 1e-3).mean, tempered(before, 1e6).mean
    if name == "bernoulli":
        # A logit of 0 has no mode.
        chex.assert_trees_all_close(cold, jnp.array([[1.0, 0.0, 1.0], [0.5, 1.0, 0.0]]), atol=1e-6)
        chex.assert_trees_all_close(hot, jnp.full((2, 3), 0.5), atol=1e-5)
    else:
        chex.assert_trees_all_close(cold, jnp.array([2.0, 1.0]), atol=1e-6)
        chex.assert_trees_all_close(hot, jnp.ones(2), atol=1e-5)


def test_a_flow_has_its_base_tempered_and_a_mixture_its_components():
    flow, colder = KINDS["flow"], tempered(KINDS["flow"], 0.1)
    noise = flow.base.sample(jax.random.key(0), (20,)) - LOC
    chex.assert_trees_all_close(
        colder.sample(jax.random.key(0), (20,)), MOVE.forward(LOC + 0.1 * noise)[0], rtol=1e-5, atol=1e-6
    )
    chex.assert_trees_all_equal(colder.bijector, flow.bijector)
    mixture, colder = KINDS["mixture"], tempered(KINDS["mixture"], 0.1)
    chex.assert_trees_all_equal(colder.logits, mixture.logits)
    chex.assert_trees_all_close(colder.components.scale, 0.1 * mixture.components.scale)
    # A mixture of flows, and so on down.
    nested = tempered(Mixture(jnp.zeros(2), KINDS["flow"]), 0.1)
    chex.assert_trees_all_close(nested.components.base.scale, 0.1 * flow.base.scale)


def test_a_temperature_may_be_traced():
    scale = jax.jit(jax.vmap(lambda t: tempered(KINDS["laplace"], t).scale))(jnp.array([0.5, 2.0]))
    chex.assert_trees_all_close(jnp.ravel(scale), jnp.array([0.15, 0.6]), rtol=1e-6)


@pytest.mark.parametrize(
    ("distribution", "temperature", "error", "message"),
    [
        (vaejax.Delta(LOC), 0.5, TypeError, "no temperature is defined for Delta"),
        (vaejax.Poisson(LOC), 0.5, TypeError, "no temperature is defined for Poisson"),
        (vaejax.OptimalNormal(LOC), 0.5, TypeError, "no temperature is defined for OptimalNormal"),
        (numpyro.Normal(LOC, 1.0), 0.5, TypeError, "no temperature is defined for Normal"),
        (None, 0.5, TypeError, "no temperature is defined for NoneType"),
        (
            Transformed(numpyro.Normal(LOC, 1.0).to_event(1), MOVE),
            0.5,
            TypeError,
            "no temperature is defined for Indep",
        ),
        (KINDS["normal"], 0.0, ValueError, "temperature must be positive; got values down to 0.0"),
        (KINDS["normal"], -1.0, ValueError, "temperature must be positive"),
        (KINDS["flow"], float("nan"), ValueError, "temperature must be positive"),
        (KINDS["bernoulli"], "warm", TypeError, "temperature must be an array; got str"),
    ],
)
def test_what_has_no_temperature_is_refused(distribution, temperature, error, message):
    with pytest.raises(error, match=message):
        tempered(distribution, temperature)


def clusters(count=1500):
    """Three parts of the points around one centre, seven around the other, with correlations of opposite sign."""
    first_key, second_key = jax.random.split(jax.random.key(4))
    few = MultivariateNormal(jnp.array([-4.0, 3.0]), jnp.array([[0.5, 0.0], [0.4, 0.3]])).sample(
        first_key, (3 * count,)
    )
    many = MultivariateNormal(jnp.array([5.0, 0.0]), jnp.array([[1.0, 0.0], [-0.8, 0.6]])).sample(
        second_key, (7 * count,)
    )
    return jnp.concatenate([few, many])


def test_two_clusters_are_found_again():
    points = clusters()
    fitted = fit_gaussian_mixture(points, 2)
    weights, order = jax.nn.softmax(fitted.logits), jnp.argsort(fitted.logits)
    chex.assert_trees_all_close(weights[order], jnp.array([0.3, 0.7]), atol=1e-3)
    groups = [points[: 3 * 1500], points[3 * 1500 :]]
    for index, group in zip(order, groups, strict=True):
        # Far apart, each component is the maximum-likelihood Normal of its cluster.
        factor = fitted.components.scale_tril[index]
        chex.assert_trees_all_close(fitted.components.loc[index], jnp.mean(group, axis=0), atol=5e-3)
        chex.assert_trees_all_close(factor @ factor.T, jnp.cov(group.T, bias=True), atol=5e-3)
    assert fitted.logits.dtype == fitted.components.loc.dtype == points.dtype
    theirs = GaussianMixture(2, reg_covar=1e-4, random_state=0).fit(np.asarray(points))
    chex.assert_trees_all_close(jnp.mean(fitted.log_prob(points)), theirs.score(np.asarray(points)), rtol=1e-5)
    draws = fitted.sample(jax.random.key(0), (4000,))
    assert abs(jnp.mean(draws[:, 0] < 0) - 0.3) < 5 * (0.21 / 4000) ** 0.5


def test_the_seed_decides_and_integers_are_latents_too():
    points = np.asarray(jax.random.randint(jax.random.key(0), (200, 2), -9, 10))
    fitted = fit_gaussian_mixture(points, 3, seed=1)
    chex.assert_trees_all_equal(fitted, fit_gaussian_mixture(points, 3, seed=1))
    assert jnp.any(fitted.components.loc != fit_gaussian_mixture(points, 3, seed=2).components.loc)
    assert fitted.components.loc.dtype == jnp.float32
    assert jnp.any(fitted.components.loc != jnp.round(fitted.components.loc))


@pytest.mark.parametrize(
    ("latents", "count", "error", "message"),
    [
        (jnp.ones((3, 2)), 3, ValueError, "3 components need more latents; got 3"),
        (jnp.ones((3, 2)), 0, ValueError, "num_components must be at least 1; got 0"),
        (jnp.ones(20), 2, ValueError, r"latents must be finite and of shape \[N, Z\]; got shape \(20,\)"),
        (jnp.full((20, 2), jnp.nan), 2, ValueError, "latents must be finite"),
        ([[1.0, 2.0]], 2, TypeError, "fit_gaussian_mixture: latents must be an array; got list"),
    ],
)
def test_latents_that_no_mixture_fits_are_refused(latents, count, error, message):
    with pytest.raises(error, match=message):
        fit_gaussian_mixture(latents, count)


TARGET = MultivariateNormal(jnp.array([3.0, -20.0]), jnp.array([[0.2, 0.0], [4.5, 6.0]]))


def test_before_training_a_flow_is_the_normal_of_the_moments():
    """With a learning rate of 0: the latents are standardized, whatever their units."""
    points = TARGET.sample(jax.random.key(0), (500,))
    flow = vaejax.coupling_flow(jax.random.key(1), 2, hidden_size=4)
    prior = fit_flow(jax.random.key(2), points, flow, epochs=1, learning_rate=0.0)
    expected = Normal(jnp.mean(points, axis=0), jnp.std(points, axis=0))
    chex.assert_trees_all_close(prior.log_prob(points), expected.log_prob(points), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_flow_sees_latents_without_their_units():
    """Also when it has been trained: stretched latents have the same density but for the volume."""
    points = TARGET.sample(jax.random.key(0), (100,))
    flow = vaejax.coupling_flow(jax.random.key(1), 2, hidden_size=4)
    fit = lambda points: fit_flow(jax.random.key(2), points, flow, epochs=20, batch_size=50, learning_rate=1e-2)
    plain, stretched = fit(points).log_prob(points), fit(64.0 * points).log_prob(64.0 * points)
    chex.assert_trees_all_close(stretched, plain - 2 * jnp.log(64.0), atol=1e-2)
    assert (
        jnp.mean(plain - fit_flow(jax.random.key(2), points, flow, epochs=1, learning_rate=0.0).log_prob(points)) > 0.05
    )


@pytest.mark.parametrize("make", [vaejax.coupling_flow, vaejax.masked_autoregressive_flow])
def test_a_flow_comes_to_the_entropy_of_a_correlated_normal(make):
    """An affine layer can be exact here; what is left is less than 0.05 nats on new points."""
    points, fresh = (TARGET.sample(jax.random.key(seed), (4000,)) for seed in (0, 5))
    flow = make(jax.random.key(1), 2, num_layers=2, hidden_size=16)
    prior = fit_flow(jax.random.key(2), points, flow, epochs=30, learning_rate=5e-3)
    missing = jnp.mean(TARGET.log_prob(fresh) - prior.log_prob(fresh))
    start = jnp.mean(TARGET.log_prob(fresh) - Normal(TARGET.mean, jnp.std(points, axis=0)).log_prob(fresh))
    assert start > 0.2
    assert 0 < missing < 0.05
    # It is a density, and its draws are those of the target.
    span = [jnp.linspace(m - 8 * s, m + 8 * s, 400) for m, s in zip(TARGET.mean, jnp.std(points, axis=0), strict=True)]
    grid = jnp.stack(jnp.meshgrid(*span, indexing="ij"), axis=-1)
    cell = (span[0][1] - span[0][0]) * (span[1][1] - span[1][0])
    chex.assert_trees_all_close(jnp.sum(jnp.exp(prior.log_prob(grid))) * cell, 1.0, atol=2e-3)
    draws = prior.sample(jax.random.key(3), (4000,))
    whitened = jnp.linalg.solve(TARGET.scale_tril, (draws - TARGET.mean).T)
    chex.assert_trees_all_close(jnp.cov(whitened), jnp.eye(2), atol=0.2)
    chex.assert_trees_all_close(jnp.mean(whitened, axis=1), jnp.zeros(2), atol=0.15)


def test_few_latents_make_one_batch_and_a_key_one_flow():
    points = TARGET.sample(jax.random.key(0), (10,))
    flow = vaejax.coupling_flow(jax.random.key(1), 2, hidden_size=4)
    fitted = [fit_flow(jax.random.key(2), points, flow, epochs=2, batch_size=128) for _ in range(2)]
    chex.assert_trees_all_equal(*fitted)
    # What is trained is a copy.
    chex.assert_trees_all_equal(flow, vaejax.coupling_flow(jax.random.key(1), 2, hidden_size=4))
    assert any(jnp.any(a != b) for a, b in zip(*map(jax.tree.leaves, (flow, fitted[0].bijector)), strict=False))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": 0}, TypeError, "key must be a typed PRNG key"),
        ({"latents": jnp.ones(20)}, ValueError, r"fit_flow: latents must be finite and of shape \[N, Z\]"),
        ({"latents": jnp.full((20, 2), jnp.inf)}, ValueError, "fit_flow: latents must be finite"),
        ({"latents": None}, TypeError, "fit_flow: latents must be an array; got NoneType"),
        ({"latents": jnp.ones((20, 3))}, ValueError, "shape"),
        ({"flow": None}, TypeError, r"must be a bijector with forward and inverse; got NoneType"),
        ({"epochs": 0}, ValueError, "fit_flow: epochs must be at least 1; got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1; got 0"),
    ],
)
def test_what_no_flow_can_be_fitted_to_is_refused(changes, error, message):
    flow = vaejax.coupling_flow(jax.random.key(1), 2, hidden_size=4)
    arguments = {"key": jax.random.key(0), "latents": jnp.ones((20, 2)), "flow": flow, "epochs": 1} | changes
    with pytest.raises(error, match=message):
        fit_flow(**arguments)
