"""New data from a model, draws made less random, and priors fitted to latents."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
import scipy.stats
from sklearn.mixture import GaussianMixture

import vaejax
from tests.linear_gaussian import marginal_covariance, posterior
from vaejax import Bernoulli, Categorical, ElementwiseAffine, Laplace, Mixture, MultivariateNormal, Normal, Transformed
from vaejax.generation import ancestral, fit_flow, fit_gaussian_mixture, posterior_predictive, tempered
from vaejax.testing import linear_gaussian

COUNT = 40_000


def check_moments(draws, mean, covariance):
    """Means and covariances of Normal draws `[N, D]`, each within 5 standard errors."""
    count, variance = len(draws), np.diag(covariance)
    assert np.all(np.abs(np.mean(draws, axis=0) - mean) < 5 * np.sqrt(variance / count))
    # The standard error of a covariance of Normals is sqrt((v_i v_j + c_ij^2) / n).
    spread = np.sqrt((np.outer(variance, variance) + covariance**2) / count)
    assert np.all(np.abs(np.cov(draws.T) - covariance) < 5 * spread)


@pytest.mark.slow("statistics beside those of the posterior predictive")
def test_ancestral_draws_have_the_moments_of_the_marginal(x64, key):
    @jax.jit
    def figures(key):
        oracle = linear_gaussian(jax.random.key(1), 3, 2)
        prior_key, likelihood_key = jax.random.split(key)
        drawn = ancestral(prior_key, oracle.decode, vaejax.standard_normal.expand((2,)), COUNT)
        means = drawn.likelihood.mean, oracle.decode(drawn.latents).mean
        return oracle, drawn.latents, means, drawn.likelihood.sample(likelihood_key)

    oracle, latents, means, draws = jax.device_get(figures(key))
    chex.assert_shape(latents, (COUNT, 2))
    chex.assert_trees_all_close(*means, rtol=1e-14)
    check_moments(draws, oracle.bias, marginal_covariance(oracle))


def test_the_posterior_predictive_has_its_exact_moments(x64, key):
    """`N(W m + b, W M W^T + s^2 I)` for the exact posterior N(m, M), for each x by itself."""
    x = np.array([[1.0, -0.5, 2.0], [0.0, 3.0, 0.5]])

    @jax.jit
    def figures(key):
        oracle = linear_gaussian(jax.random.key(1), 3, 2)
        posterior_key, likelihood_key = jax.random.split(key)
        drawn = posterior_predictive(posterior_key, x, oracle.posterior, oracle.decode, num_samples=COUNT)
        return oracle, drawn.latents, drawn.likelihood.sample(likelihood_key)

    oracle, latents, draws = jax.device_get(figures(key))
    of_posterior, covariance = posterior(oracle, x)
    means = of_posterior @ oracle.weight.T + oracle.bias
    covariance = oracle.weight @ covariance @ oracle.weight.T + oracle.scale**2 * np.eye(3)
    chex.assert_shape(latents, (COUNT, 2, 2))
    chex.assert_shape(draws, (COUNT, 2, 3))
    for index, mean in enumerate(means):
        check_moments(draws[:, index], mean, covariance)


def test_the_decoder_never_sees_the_sample_axis():
    def decode(z):
        assert z.shape == (4, 2)
        return Bernoulli(jnp.tile(z, (1, 3)))

    def figures(x):
        drawn = posterior_predictive(jax.random.key(0), x, lambda x: Normal(x[:, :2], 1.0), decode, num_samples=5)
        return drawn.likelihood.mean, drawn.likelihood.log_prob(x)

    mean, log_prob = jax.eval_shape(figures, np.ones((4, 6), np.float32))
    chex.assert_shape(mean, (5, 4, 6))
    chex.assert_shape(log_prob, (5, 4))


def test_numpyros_likelihoods_draw_anew_for_each_latent():
    """Normals have a counterpart that maps; what has none would share one draw's noise among all latents."""
    x = np.ones((3, 2), np.float32)
    predict = lambda make: posterior_predictive(jax.random.key(0), x, lambda x: vaejax.Delta(x), make, num_samples=4)
    drawn = predict(lambda z: numpyro.Normal(z, 1.0).to_event(1))
    assert np.unique(drawn.likelihood.sample(jax.random.key(1))).size == 4 * x.size
    with pytest.raises(TypeError, match=r"^posterior_predictive: decode .*StudentT"):
        predict(lambda z: numpyro.StudentT(5.0, z, 1.0))


def test_bad_arguments_are_named():
    prior, decode = vaejax.standard_normal.expand((2,)), lambda z: Normal(z, 1.0)
    key, x = jax.random.key(0), np.ones((3, 2), np.float32)
    for call, error, message in [
        (lambda: ancestral(jax.random.PRNGKey(0), decode, prior, 5), TypeError, "^key must"),
        (lambda: ancestral(key, None, prior, 5), TypeError, "^decode must"),
        (lambda: ancestral(key, decode, None, 5), TypeError, "^prior must"),
        (lambda: ancestral(key, decode, prior, 0), ValueError, "^count .*got 0"),
        (lambda: ancestral(key, decode, vaejax.standard_normal, 5), ValueError, r"standard_normal.expand"),
        (lambda: posterior_predictive(key, x, decode, decode, num_samples=0), ValueError, "^num_samples .*got 0"),
        (lambda: posterior_predictive(key, x, x, decode, num_samples=1), TypeError, "^encode must"),
        (lambda: posterior_predictive(key, x, lambda x: (x, x), decode, num_samples=1), TypeError,
         "^encode must return.*got tuple"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            call()


LOC = np.float32([[0.5, -1.0, 2.0], [0.0, 3.0, -0.2]])
FACTOR = np.float32([[1.0, 0.0, 0.0], [0.4, 0.5, 0.0], [-0.3, 0.2, 2.0]])
MOVE = ElementwiseAffine(np.float32([1.0, 0.0, -1.0]), np.float32([0.3, -0.5, 0.0]))
LOGITS = np.float32([0.3, -0.8])
# Functions, since distributions check their parameters when they are made.
KINDS = {
    "normal": lambda: Normal(LOC, np.float32([0.5, 1.0, 2.0])),
    "normal with event axes": lambda: Normal(LOC, 0.7, 2),
    "laplace": lambda: Laplace(LOC, 0.3),
    "full covariance": lambda: MultivariateNormal(LOC, FACTOR),
    "bernoulli": lambda: Bernoulli(LOC),
    "categorical": lambda: Categorical(LOC),
    "flow": lambda: Transformed(Normal(LOC, 0.5), MOVE),
    "mixture": lambda: Mixture(LOGITS, Normal(LOC, 0.4)),
    "mixture of factors": lambda: Mixture(LOGITS, MultivariateNormal(LOC, FACTOR)),
}


def test_a_temperature_of_one_changes_nothing():
    before = {name: make() for name, make in KINDS.items()}
    after = jax.jit(lambda: {name: tempered(make(), 1.0) for name, make in KINDS.items()})()
    assert jax.tree.structure(after) == jax.tree.structure(before)
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, after), jax.tree.map(np.float32, before))


def test_a_draw_comes_as_many_times_nearer_to_its_mean():
    """So the variance is multiplied by the square of the temperature; and the density follows the draws."""
    names = ("normal", "normal with event axes", "laplace", "full covariance")

    @jax.jit
    def figures():
        found = {}
        for name in names:
            before, after = KINDS[name](), tempered(KINDS[name](), 0.25)
            deviation = before.sample(jax.random.key(0), (50,)) - LOC
            nearer = LOC + 0.25 * deviation
            ratio = after.log_prob(nearer) - before.log_prob(LOC + deviation)
            found[name] = after.sample(jax.random.key(0), (50,)), nearer, ratio
        return found

    for name, (draws, expected, ratio) in figures().items():
        chex.assert_trees_all_close(draws, expected, rtol=1e-5, atol=1e-6)
        axes = 6 if name == "normal with event axes" else 3
        chex.assert_trees_all_close(ratio, np.full(ratio.shape, axes * np.log(4.0), np.float32), rtol=1e-3)


def test_the_variance_scales_with_the_square_of_the_temperature():
    variances = jax.jit(lambda: (tempered(KINDS["normal"](), 3.0).variance, 9 * KINDS["normal"]().variance))
    chex.assert_trees_all_close(*variances(), rtol=1e-6)


def test_probabilities_go_to_the_mode_or_to_equality():
    @jax.jit
    def figures():
        colder = lambda name: [tempered(KINDS[name](), t) for t in (0.5, 1e-3, 1e6)]
        return {name: [(p.logits, p.mean) for p in colder(name)] for name in ("bernoulli", "categorical")}

    # A logit of 0 has no mode.
    modes = {"bernoulli": [[1.0, 0.0, 1.0], [0.5, 1.0, 0.0]], "categorical": [2.0, 1.0]}
    equal = {"bernoulli": np.full((2, 3), 0.5), "categorical": np.ones(2)}
    for name, ((logits, _), (_, cold), (_, hot)) in figures().items():
        chex.assert_trees_all_close(logits, 2 * LOC)
        chex.assert_trees_all_close(cold, np.float32(modes[name]), atol=1e-6)
        chex.assert_trees_all_close(hot, np.float32(equal[name]), atol=1e-5)


def test_a_flow_has_its_base_tempered_and_a_mixture_its_components():
    @jax.jit
    def figures():
        flow, colder = KINDS["flow"](), tempered(KINDS["flow"](), 0.1)
        noise = flow.base.sample(jax.random.key(0), (20,)) - LOC
        draws = colder.sample(jax.random.key(0), (20,)), MOVE.forward(LOC + 0.1 * noise)[0]
        # A mixture of flows, and so on down.
        nested = tempered(Mixture(np.zeros(2, np.float32), KINDS["flow"]()), 0.1)
        return draws, (colder.bijector, flow.bijector), tempered(KINDS["mixture"](), 0.1), nested.components.base.scale

    draws, bijectors, mixture, nested_scale = figures()
    chex.assert_trees_all_close(*draws, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(*bijectors)
    chex.assert_trees_all_equal(mixture.logits, LOGITS)
    chex.assert_trees_all_close(np.asarray(mixture.components.scale), np.float32(0.1 * 0.4), rtol=1e-6)
    chex.assert_trees_all_close(np.asarray(nested_scale), np.float32(0.1 * 0.5), rtol=1e-6)


def test_a_temperature_may_be_traced():
    scale = jax.jit(jax.vmap(lambda t: tempered(KINDS["laplace"](), t).scale))(np.float32([0.5, 2.0]))
    chex.assert_trees_all_close(np.ravel(scale), np.float32([0.15, 0.6]), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "temperature", "error", "message"),
    [
        (lambda: vaejax.Delta(LOC), 0.5, TypeError, "Delta"),
        (lambda: vaejax.Poisson(LOC), 0.5, TypeError, "Poisson"),
        (lambda: vaejax.OptimalNormal(LOC), 0.5, TypeError, "OptimalNormal"),
        (lambda: numpyro.StudentT(3.0, LOC, validate_args=False), 0.5, TypeError, "StudentT"),
        (KINDS["normal"], np.ones(2), ValueError, r"temperature must be one number; got shape \(2,\)"),
        (lambda: None, 0.5, TypeError, "NoneType"),
        (
            lambda: Transformed(numpyro.StudentT(3.0, LOC, validate_args=False).to_event(1), MOVE),
            0.5,
            TypeError,
            "Indep",
        ),
        (KINDS["normal"], 0.0, ValueError, r"temperature .*0\.0"),
        (KINDS["normal"], -1.0, ValueError, r"temperature .*-1\.0"),
        (KINDS["flow"], float("nan"), ValueError, r"temperature .*NaN"),
        (KINDS["bernoulli"], "warm", TypeError, r"temperature .*got str"),
    ],
)
def test_what_has_no_temperature_is_refused(make, temperature, error, message):
    with pytest.raises(error, match=message):
        tempered(make(), temperature)


def test_numpyros_distributions_are_tempered_as_ours():
    for theirs in (numpyro.Normal(LOC, 2.0).to_event(1), numpyro.Normal(0.0, 2.0).expand(LOC.shape).to_event(1)):
        found = jax.eval_shape(lambda theirs=theirs: tempered(theirs, 0.5))
        assert (type(found), found.event_ndims) == (Normal, 1)
    halved = tempered(numpyro.Normal(LOC, 2.0).to_event(1), 0.5).variance
    chex.assert_trees_all_close(halved, np.ones(LOC.shape, np.float32))


def draws_of(seed, count, mean, factor):
    """Float32 draws of a Normal, `[count, 2]`."""
    noise = np.random.default_rng(seed).standard_normal((count, 2))
    return (mean + noise @ np.transpose(factor)).astype(np.float32)


def clusters(count=1500):
    """Three parts of the points around one centre, seven around the other, with correlations of opposite sign."""
    few = draws_of(0, 3 * count, (-4.0, 3.0), [[0.5, 0.0], [0.4, 0.3]])
    return np.concatenate([few, draws_of(1, 7 * count, (5.0, 0.0), [[1.0, 0.0], [-0.8, 0.6]])])


log_prob = jax.jit(lambda p, x: p.log_prob(x))


def test_two_clusters_are_found_again():
    points = clusters()
    fitted = fit_gaussian_mixture(points, 2)
    assert fitted.logits.dtype == fitted.components.loc.dtype == points.dtype
    draws = np.asarray(jax.jit(lambda fitted: fitted.sample(jax.random.key(0), (4000,)))(fitted))
    assert abs(np.mean(draws[:, 0] < 0) - 0.3) < 5 * (0.21 / 4000) ** 0.5
    theirs = GaussianMixture(2, reg_covar=1e-4, random_state=0).fit(points)
    np.testing.assert_allclose(np.mean(log_prob(fitted, points)), theirs.score(points), rtol=1e-5)
    fitted = jax.device_get(fitted)
    order = np.argsort(fitted.logits)
    weights = np.exp(fitted.logits) / np.sum(np.exp(fitted.logits))
    np.testing.assert_allclose(weights[order], [0.3, 0.7], rtol=0, atol=1e-3)
    groups = [points[: 3 * 1500], points[3 * 1500 :]]
    for index, group in zip(order, groups, strict=True):
        # Far apart, each component is the maximum-likelihood Normal of its cluster.
        factor = fitted.components.scale_tril[index]
        np.testing.assert_allclose(fitted.components.loc[index], np.mean(group, axis=0), rtol=0, atol=5e-3)
        np.testing.assert_allclose(factor @ factor.T, np.cov(group.T, bias=True), rtol=0, atol=5e-3)


def test_the_seed_decides_and_integers_are_latents_too():
    points = np.random.default_rng(0).integers(-9, 10, (200, 2))
    fitted, same, other = (jax.device_get(fit_gaussian_mixture(points, 3, seed=seed)) for seed in (1, 1, 2))
    chex.assert_trees_all_equal(fitted, same)
    assert np.any(fitted.components.loc != other.components.loc)
    assert fitted.components.loc.dtype == jnp.float32
    assert np.any(fitted.components.loc != np.round(fitted.components.loc))


@pytest.mark.parametrize(
    ("latents", "count", "error", "message"),
    [
        (np.ones((3, 2)), 3, ValueError, "3 components .*got 3"),
        (np.ones((3, 2)), 0, ValueError, "num_components .*got 0"),
        (np.ones(20), 2, ValueError, r"latents .*got shape \(20,\)"),
        (np.full((20, 2), np.nan), 2, ValueError, "latents .*finite"),
        ([[1.0, 2.0]], 2, TypeError, "fit_gaussian_mixture: latents .*got list"),
    ],
)
def test_latents_that_no_mixture_fits_are_refused(latents, count, error, message):
    with pytest.raises(error, match=message):
        fit_gaussian_mixture(latents, count)


MEAN, FACTOR_2 = np.float32([3.0, -20.0]), np.float32([[0.2, 0.0], [4.5, 6.0]])


def target(count, seed=0):
    return draws_of(seed, count, MEAN, FACTOR_2)


@cache
def small_flow():
    """A flow to start from, compiled once."""
    return jax.jit(lambda: vaejax.coupling_flow(jax.random.key(1), 2, num_layers=2, hidden_size=4))()


def test_before_training_a_flow_is_the_normal_of_the_moments():
    """With a learning rate of 0: the latents are standardized, whatever their units."""
    points = target(10)
    prior = fit_flow(jax.random.key(2), points, small_flow(), epochs=1, learning_rate=0.0)
    expected = scipy.stats.norm(points.mean(0), points.std(0)).logpdf(points).sum(1)
    np.testing.assert_allclose(log_prob(prior, points), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow("the same of trained flows, which are fitted three times")
def test_a_flow_sees_latents_without_their_units():
    """Also when it has been trained: stretched latents have the same density but for the volume."""
    points = target(100)
    flow = jax.jit(lambda: vaejax.coupling_flow(jax.random.key(1), 2, hidden_size=4))()
    fit = lambda points: fit_flow(jax.random.key(2), points, flow, epochs=20, batch_size=50, learning_rate=1e-2)
    plain, stretched = log_prob(fit(points), points), log_prob(fit(64.0 * points), 64.0 * points)
    chex.assert_trees_all_close(stretched, plain - 2 * jnp.log(64.0), atol=1e-2)
    start = fit_flow(jax.random.key(2), points, flow, epochs=1, learning_rate=0.0)
    assert jnp.mean(plain - log_prob(start, points)) > 0.05


@pytest.mark.slow("trains for seconds what is trained for a moment below")
@pytest.mark.parametrize("make", [vaejax.coupling_flow, vaejax.masked_autoregressive_flow])
def test_a_flow_comes_to_the_entropy_of_a_correlated_normal(make):
    """An affine layer can be exact here; what is left is less than 0.05 nats on new points."""
    points, fresh = target(4000), target(4000, seed=5)
    flow = jax.jit(lambda: make(jax.random.key(1), 2, num_layers=2, hidden_size=16))()
    prior = fit_flow(jax.random.key(2), points, flow, epochs=30, learning_rate=5e-3)
    # It is a density, and its draws are those of the target.
    spread = points.std(0)
    span = [np.linspace(m - 8 * s, m + 8 * s, 400) for m, s in zip(MEAN, spread, strict=True)]
    grid = np.stack(np.meshgrid(*span, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)
    figures = jax.jit(lambda p, x: (p.log_prob(x), p.sample(jax.random.key(3), (4000,))))
    log_probs, draws = jax.device_get(figures(prior, np.concatenate([fresh, grid])))
    ours, of_grid = log_probs[:4000], log_probs[4000:]
    exact = scipy.stats.multivariate_normal(MEAN, FACTOR_2 @ FACTOR_2.T).logpdf(fresh)
    assert np.mean(exact - scipy.stats.norm(MEAN, spread).logpdf(fresh).sum(1)) > 0.2
    assert 0 < np.mean(exact - ours) < 0.05
    cell = (span[0][1] - span[0][0]) * (span[1][1] - span[1][0])
    np.testing.assert_allclose(np.sum(np.exp(of_grid)) * cell, 1.0, atol=2e-3)
    whitened = np.linalg.solve(FACTOR_2, (draws - MEAN).T)
    np.testing.assert_allclose(np.cov(whitened), np.eye(2), atol=0.2)
    np.testing.assert_allclose(np.mean(whitened, axis=1), np.zeros(2), atol=0.15)


@pytest.mark.slow("fits a flow for twenty epochs")
def test_few_latents_make_one_batch():
    points, flow = target(10), small_flow()
    before = jax.tree.map(np.array, flow)
    fitted = fit_flow(jax.random.key(2), points, flow, epochs=20, learning_rate=1e-2)
    # What is trained is a copy.
    chex.assert_trees_all_equal(flow, before)
    # It comes nearer to the latents than the Normal of their moments, at which it begins.
    start = scipy.stats.norm(points.mean(0), points.std(0)).logpdf(points).sum(1)
    assert np.mean(log_prob(fitted, points)) > np.mean(start) + 0.05


@pytest.mark.slow("fits twice; feeds are tested in tests/training")
def test_a_key_makes_one_flow():
    points, flow = target(10), small_flow()
    fitted = [fit_flow(jax.random.key(2), points, flow, epochs=2, batch_size=5) for _ in range(2)]
    chex.assert_trees_all_equal(*fitted)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": 0}, TypeError, "^key must"),
        ({"latents": np.ones(20)}, ValueError, r"fit_flow: latents .*got shape \(20,\)"),
        ({"latents": np.full((20, 2), np.inf)}, ValueError, "fit_flow: latents .*finite"),
        ({"latents": None}, TypeError, "fit_flow: latents .*got NoneType"),
        ({"latents": np.ones((20, 3), np.float32)}, ValueError, "shape"),
        ({"flow": None}, TypeError, r"bijector .*got NoneType"),
        ({"epochs": 0}, ValueError, "fit_flow: epochs .*got 0"),
        ({"batch_size": 0}, ValueError, "batch_size .*got 0"),
    ],
)
def test_what_no_flow_can_be_fitted_to_is_refused(changes, error, message):
    arguments = {
        "key": jax.random.key(0),
        "latents": np.ones((20, 2), np.float32),
        "flow": small_flow(),
        "epochs": 1,
    } | changes
    with pytest.raises(error, match=message):
        fit_flow(**arguments)
