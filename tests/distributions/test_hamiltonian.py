"""The Hamiltonian posterior: its weights are unbiased, and its steps are those of the leapfrog."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
import scipy.stats

import vaejax
from vaejax import HamiltonianPosterior, Normal, standard_normal
from vaejax.testing import LinearGaussian

# A linear-Gaussian model with two examples, their evidence and their posterior.
WEIGHT = np.array([[0.9, -0.4], [0.3, 1.1], [-0.7, 0.2], [0.1, 0.6]])
BIAS, SCALE = np.array([1.5, 0.2, 2.0, -0.3]), 0.5
X = np.array([[2.1, -0.7, 1.2, 0.4], [0.3, 1.0, 2.4, -0.2]])
EVIDENCE = scipy.stats.multivariate_normal(BIAS, WEIGHT @ WEIGHT.T + SCALE**2 * np.eye(4)).logpdf(X)
COVARIANCE = np.linalg.inv(np.eye(2) + WEIGHT.T @ WEIGHT / SCALE**2)
MEAN = (X - BIAS) @ WEIGHT @ COVARIANCE / SCALE**2
# A base that is off in its place and its spread, and wide enough for weights of small variance.
LOC, SPREAD = MEAN + 0.1, 0.6


def floating(array):
    """The array in the precision of the test."""
    return np.asarray(array, jnp.result_type(float))


def decode(z):
    return LinearGaussian(floating(WEIGHT), floating(BIAS), floating(SCALE)).decode(z)


def log_joint(z):
    return decode(z).log_prob(floating(X)) + standard_normal.log_prob(z)


def posterior(**options):
    return HamiltonianPosterior(Normal(floating(LOC), SPREAD), log_joint, **options)


@partial(jax.jit, static_argnames="num_steps")
def weighted_draws(key, loc, scale, step_size, inverse_temperature, num_steps):
    """Many draws `[S, 2, Z]` and their log-weights."""
    q = HamiltonianPosterior(Normal(loc, scale), log_joint, step_size, num_steps, inverse_temperature)
    z, log_q = q.sample_and_log_prob(key, (40_000,))
    return z, jax.vmap(log_joint)(z) - log_q


@pytest.mark.parametrize("step_size", [0.02, 0.2, 0.45])
@pytest.mark.parametrize("inverse_temperature", [1.0, 0.5])
def test_the_mean_weight_is_the_evidence(x64, key, step_size, inverse_temperature):
    """Also where the steps are so long that energy is far from conserved."""
    _, log_weights = weighted_draws(key, LOC, SPREAD, step_size, inverse_temperature, 4)
    ratios = np.exp(log_weights - EVIDENCE)
    error = np.std(ratios, axis=0) / len(ratios) ** 0.5
    assert np.all(error < 0.02)
    assert np.all(np.abs(np.mean(ratios, axis=0) - 1) < 5 * error)


def test_weighted_draws_have_the_moments_of_the_posterior(x64, key):
    """The weights belong to the moved draws, not to where they came from."""
    z, log_weights = weighted_draws(key, LOC, SPREAD, 0.2, 0.5, 4)
    weights = np.exp(log_weights - EVIDENCE)[..., None]
    for power in (1, 2):
        # E w (z - m)^power is 0, and the variance of the posterior.
        terms = weights * (z - MEAN) ** power
        deviation = np.mean(terms, axis=0) - (np.diag(COVARIANCE) if power == 2 else 0.0)
        assert np.all(np.abs(deviation) < 5 * np.std(terms, axis=0) / len(z) ** 0.5)


@partial(jax.jit, static_argnames="num_steps")
def energy_errors(step_size, num_steps):
    """Where the base is the target, the log-weight is by how much the energy has changed on the way."""
    base = Normal(jnp.array([0.5, -1.0]), jnp.array([1.0, 0.5]))
    q = HamiltonianPosterior(base, base.log_prob, step_size, num_steps)
    z, log_q = q.sample_and_log_prob(jax.random.key(0), (200,))
    return z, base.log_prob(z) - log_q


def test_the_energy_error_falls_with_the_square_of_the_step(x64):
    """The leapfrog is of second order; Euler's method, or a force at the wrong place, of first."""
    errors = [energy_errors(0.8 / steps, steps)[1] for steps in (8, 64, 512)]
    spreads = [np.sqrt(np.mean(each**2)) for each in errors]
    assert spreads[0] > 1e-4
    chex.assert_trees_all_close(spreads[0] / spreads[1], 64.0, rtol=0.03)
    chex.assert_trees_all_close(spreads[1] / spreads[2], 64.0, rtol=0.01)


def test_draws_reach_the_same_place_by_shorter_steps(x64):
    ends = [np.asarray(energy_errors(0.8 / steps, steps)[0]) for steps in (8, 64, 512)]
    assert np.max(np.abs(ends[2] - ends[1])) < np.max(np.abs(ends[1] - ends[0])) / 50
    # They do move: the whole time is that of most of a quarter of an oscillation.
    assert np.mean(np.abs(ends[2] - energy_errors(1e-9, 8)[0])) > 0.2


@pytest.mark.slow("a limit of the law of the energy error")
def test_tiny_steps_leave_draw_and_density_as_they_were(x64):
    loc, scale = np.array([[0.5, -1.0], [2.0, 0.0]]), np.array([0.3, 2.0])

    @jax.jit
    def draw(step_size):
        base = Normal(loc, scale)
        z, log_q = HamiltonianPosterior(base, base.log_prob, step_size).sample_and_log_prob(jax.random.key(1), (2000,))
        return z, log_q, base.log_prob(z)

    z, log_q, expected = draw(1e-9)
    chex.assert_trees_all_close(log_q, expected, atol=1e-6)
    chex.assert_trees_all_close(z, draw(2e-9)[0], atol=1e-6)
    assert np.all(np.abs(np.mean(z - loc, axis=0)) < 5 * scale / 2000**0.5)
    assert np.all(np.abs(np.var(z, axis=0) / scale**2 - 1) < 5 * (2 / 2000) ** 0.5)


def mean_bound(key, step_size, inverse_temperature, num_steps):
    """The bound from the prior as the base, and the error of its mean."""
    _, log_weights = weighted_draws(key, np.zeros((2, 2)), 1.0, step_size, inverse_temperature, num_steps)
    bounds = np.mean(log_weights, axis=1)
    return np.mean(bounds), np.std(bounds) / len(bounds) ** 0.5


@pytest.mark.slow("compares bounds by statistics; the weights behind them are unbiased above")
@pytest.mark.parametrize(("step_size", "lengths"), [(0.2, (1, 4)), (0.1, (1, 3, 5))])
def test_more_steps_tighten_the_bound_where_the_start_is_hot(x64, key, step_size, lengths):
    keys = jax.random.split(key, len(lengths))
    bounds, errors = np.transpose([mean_bound(k, step_size, 0.2, n) for k, n in zip(keys, lengths, strict=True)])
    evidence = np.mean(EVIDENCE)
    assert np.all(bounds[:-1] + 5 * errors[:-1] < bounds[1:])
    assert bounds[-1] - 5 * errors[-1] < evidence
    # What is missing at the end is less than half of what was missing at first.
    assert evidence - bounds[-1] < (evidence - bounds[0]) / 2


def test_without_a_hot_start_the_bound_is_that_of_the_base(x64, key):
    """Energy is conserved, so a draw is worth what its start was worth: it is the cooling that tightens the bound."""
    bound, error = mean_bound(key, 0.025, 1.0, 4)
    # E log p(x|z) under the prior.
    squares = np.sum((X - BIAS) ** 2, axis=-1) + np.sum(WEIGHT**2)
    exact = np.mean(-squares / (2 * SCALE**2) - 4 * np.log(SCALE * np.sqrt(2 * np.pi)))
    assert abs(bound - exact) < 5 * error + 0.01 * abs(exact)


@pytest.mark.parametrize(
    "sample_shape",
    [(2, 3), *(pytest.param(shape, marks=pytest.mark.slow("another shape")) for shape in [(), (5,), (0,)])],
)
def test_every_draw_is_its_own(sample_shape):
    @jax.jit
    def draw(key):
        q = posterior()
        return q.sample_and_log_prob(key, sample_shape), q.sample(jax.random.clone(key), sample_shape)

    (z, log_q), same = draw(jax.random.key(0))
    chex.assert_shape(z, (*sample_shape, 2, 2))
    chex.assert_shape(log_q, (*sample_shape, 2))
    assert len(np.unique(z)) == z.size
    chex.assert_trees_all_close(same, z, rtol=1e-6)
    assert not np.any(np.asarray(draw(jax.random.key(1))[1]) == np.asarray(z))


@pytest.mark.slow("compiles two objectives, whose equality at one sample their own tests prove")
@pytest.mark.parametrize("num_samples", [None, 1])
def test_one_sample_gives_one_bound_whichever_objective_asks(num_samples):
    x, encode = floating(X), lambda x: posterior(inverse_temperature=0.5)

    @jax.jit
    def bounds(key):
        clones = [jax.random.clone(key) for _ in range(3)]
        terms = vaejax.elbo(clones[0], x, encode, decode, kl=vaejax.monte_carlo_kl, num_samples=num_samples)
        options = {"num_samples": 1, "bound": vaejax.elbo_bound()}
        weighted = vaejax.importance_bound(clones[1], x, encode, decode, **options)
        # Objectives draw from the first half of their key.
        z, log_q = encode(x).sample_and_log_prob(jax.random.split(clones[2])[0], (1,))
        return terms, weighted, log_joint(z[0]) - log_q[0]

    terms, weighted, log_weight = bounds(jax.random.key(0))
    chex.assert_trees_all_close(terms.value, weighted.value, rtol=1e-6)
    chex.assert_trees_all_close(terms.latents, weighted.latents if num_samples else weighted.latents[0], rtol=1e-6)
    chex.assert_trees_all_close(weighted.value, log_weight, rtol=1e-5)


def test_a_density_elsewhere_is_not_known_and_the_way_out_is_said():
    encode = lambda x: posterior()
    arguments = (jax.random.key(0), floating(X), encode, decode)
    with pytest.raises(TypeError, match=r"log_prob.*monte_carlo_kl.*importance_bound.*path"):
        encode(X).log_prob(np.zeros((2, 2)))
    with pytest.raises(TypeError, match=r"importance_bound.*path_gradient"):
        jax.eval_shape(lambda: vaejax.importance_bound(*arguments, num_samples=2, path_gradient=True))
    with pytest.raises(TypeError, match=r"HamiltonianPosterior.*monte_carlo_kl"):
        jax.eval_shape(lambda: vaejax.elbo(*arguments))


@pytest.mark.slow("another shape of the step size")
def test_step_sizes_may_be_one_for_each_axis_and_traced(x64):
    draw = lambda step_size: posterior(step_size=step_size).sample_and_log_prob(jax.random.key(0), (3,))
    several = np.array([[0.2, 0.2], [0.1, 0.3], [1e-9, 0.3]])

    @jax.jit
    def draws(number, vector, matrix):
        return draw(number), draw(vector), draw(matrix), jax.vmap(draw)(several)

    same, by_axis, by_example, mapped = draws(0.2, several[0], np.full((2, 2), 0.2))
    chex.assert_trees_all_close(by_axis, same, rtol=1e-10)
    chex.assert_trees_all_close(by_example, same, rtol=1e-10)
    start, apart, _, _ = draws(1e-9, several[1], np.full((2, 2), 0.2))
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], mapped), same, rtol=1e-10)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1], mapped), apart, rtol=1e-10)
    # An axis whose step is tiny stays where it started.
    still, start = np.asarray(mapped[0])[2], np.asarray(start[0])
    chex.assert_trees_all_close(still[..., 0], start[..., 0], atol=1e-6)
    assert np.all(np.abs(still[..., 1] - start[..., 1]) > 1e-4)


def test_draws_keep_the_dtype_of_the_base(x64):
    base, log_joint = Normal(np.zeros((2, 2), np.float32), np.float32(1.0)), standard_normal.log_prob
    q = HamiltonianPosterior(base, log_joint, np.float64(0.1), 3, np.float64(0.5))
    drawn = jax.eval_shape(q.sample_and_log_prob, jax.random.key(0))
    assert [each.dtype for each in drawn] == [np.float32, np.float32]


@pytest.mark.slow("derived by JAX from draws and weights that are tested")
def test_gradients_reach_the_step_the_temperature_the_base_and_the_model(x64):
    params = {
        "step_size": np.array([0.1, 0.2]), "inverse_temperature": np.array(0.5),
        "loc": np.ones((2, 2)), "weight": WEIGHT,
    }  # fmt: skip

    def bound(params):
        log_joint = lambda z: Normal(z @ params["weight"].T, 0.5).log_prob(X) + standard_normal.log_prob(z)
        base = Normal(params["loc"], 0.6)
        q = HamiltonianPosterior(base, log_joint, params["step_size"], 3, params["inverse_temperature"])
        z, log_q = q.sample_and_log_prob(jax.random.key(0), (5,))
        return jnp.mean(jax.vmap(log_joint)(z) - log_q)

    @jax.jit
    def gradient_and_differences(params):
        """By central differences along every axis of every parameter."""
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        steps = jnp.concatenate([jnp.zeros((1, flat.size)), jnp.eye(flat.size), -jnp.eye(flat.size)])
        values, slopes = jax.vmap(jax.value_and_grad(lambda flat: bound(unravel(flat))))(flat + 1e-6 * steps)
        above, below = values[1:].reshape(2, -1)
        return slopes[0], (above - below) / 2e-6

    gradient, difference = gradient_and_differences(params)
    assert np.all(gradient != 0)
    chex.assert_trees_all_close(gradient, difference, rtol=1e-6, atol=1e-6)


@pytest.mark.slow("compiles the same with a base of another library")
def test_a_base_of_numpyro_is_the_same():
    loc = np.ones((2, 2), np.float32)
    theirs = lambda: numpyro.Normal(loc, 0.5, validate_args=False).to_event(1)
    draw = lambda base: HamiltonianPosterior(base, log_joint).sample_and_log_prob(jax.random.key(0), (3,))
    ours, found = jax.jit(lambda: (draw(Normal(loc, 0.5)), draw(theirs())))()
    assert HamiltonianPosterior(theirs(), log_joint).event_ndims == 1
    chex.assert_trees_all_close(found, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base": None}, TypeError, "base .*got NoneType"),
        ({"log_joint": None}, TypeError, "log_joint must be a function; got NoneType"),
        ({"step_size": 0.0}, ValueError, "step_size must be positive; got values down to 0.0"),
        ({"step_size": np.array([0.1, np.nan])}, ValueError, "step_size must be positive"),
        ({"step_size": "long"}, TypeError, "step_size must be an array; got str"),
        ({"num_steps": 0}, ValueError, "num_steps must be at least 1; got 0"),
        ({"num_steps": 2.0}, TypeError, "num_steps must be an integer"),
        ({"inverse_temperature": 0.0}, ValueError, r"inverse_temperature .*from 0\.0"),
        ({"inverse_temperature": 2.0}, ValueError, r"inverse_temperature .*from 2\.0"),
    ],
)
def test_bad_parameters_are_named(changes, error, message):
    arguments = {"base": Normal(np.zeros(2), 1.0), "log_joint": standard_normal.log_prob} | changes
    with pytest.raises(error, match=f"HamiltonianPosterior: {message}"):
        HamiltonianPosterior(**arguments)


def test_bad_keys_and_shapes_of_samples_are_named():
    q = HamiltonianPosterior(Normal(np.zeros(2), 1.0), standard_normal.log_prob)
    with pytest.raises(TypeError, match=r"HamiltonianPosterior.sample: key must be a typed PRNG key"):
        q.sample(jax.random.PRNGKey(0))
    with pytest.raises(TypeError, match="sample_shape must be a tuple"):
        q.sample(jax.random.key(0), 5)


@pytest.mark.slow("step sizes are mapped over above")
def test_a_mapped_constructor_is_the_batched_one():
    """As many examples as latents: a step size for each example must not become one for each latent."""
    loc, step_size = np.random.default_rng(0).normal(size=(2, 2)).astype(np.float32), np.float32([1e-6, 1.0])

    @jax.jit
    def draws(loc, step_size):
        target = Normal(jnp.ones(2), 0.5)
        make = lambda loc, step: HamiltonianPosterior(Normal(loc, 1.0), target.log_prob, step, num_steps=2)
        both = jax.vmap(make)(loc, step_size), make(loc, step_size[:, None])
        return [q.sample_and_log_prob(jax.random.key(1)) for q in both]

    chex.assert_trees_all_close(*draws(loc, step_size), rtol=1e-5)


def test_a_base_that_does_not_say_its_event_axes():
    def draw():
        base = numpyro.StudentT(5.0, jnp.zeros((4, 2)), 1.0, validate_args=False).to_event(1)
        target = Normal(jnp.ones((4, 2)), 0.5)
        return HamiltonianPosterior(base, target.log_prob, 0.1).sample_and_log_prob(jax.random.key(0), (3,))

    chex.assert_shape(jax.eval_shape(draw), [(3, 4, 2), (3, 4)])
