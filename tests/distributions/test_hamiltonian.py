"""The Hamiltonian posterior: its weights are unbiased, and its steps are those of the leapfrog."""

import chex
import jax
import jax.numpy as jnp
import numpyro.distributions as numpyro
import pytest

import vaejax
from vaejax import HamiltonianPosterior, MultivariateNormal, Normal, standard_normal
from vaejax.testing import linear_gaussian


def problem():
    """A model, two examples, and their log-joint as a function of z alone."""
    oracle = linear_gaussian(jax.random.key(1), 4, 2)
    x = oracle.marginal().sample(jax.random.key(2), (2,))
    return oracle, x, lambda z: oracle.decode(z).log_prob(x) + standard_normal.log_prob(z)


def posterior(x, log_joint, **options):
    """A base that is off in its place and its spread, and wide enough for weights of small variance."""
    oracle, *_ = problem()
    return HamiltonianPosterior(Normal(oracle.posterior(x).mean + 0.1, 0.6), log_joint, **options)


@pytest.mark.parametrize("step_size", [0.02, 0.2, 0.45])
@pytest.mark.parametrize("inverse_temperature", [1.0, 0.5])
def test_the_mean_weight_is_the_evidence(x64, key, step_size, inverse_temperature):
    """Also where the steps are so long that energy is far from conserved."""
    oracle, x, log_joint = problem()
    q = posterior(x, log_joint, step_size=step_size, num_steps=4, inverse_temperature=inverse_temperature)
    z, log_q = jax.jit(lambda k: q.sample_and_log_prob(k, (40_000,)))(key)
    ratios = jnp.exp(jax.vmap(log_joint)(z) - log_q - oracle.marginal().log_prob(x))
    error = jnp.std(ratios, axis=0) / len(ratios) ** 0.5
    assert jnp.all(error < 0.02)
    assert jnp.all(jnp.abs(jnp.mean(ratios, axis=0) - 1) < 5 * error)


def test_weighted_draws_have_the_moments_of_the_posterior(x64, key):
    """The weights belong to the moved draws, not to where they came from."""
    oracle, x, log_joint = problem()
    q = posterior(x, log_joint, step_size=0.2, num_steps=4, inverse_temperature=0.5)
    z, log_q = jax.jit(lambda k: q.sample_and_log_prob(k, (40_000,)))(key)
    weights = jnp.exp(jax.vmap(log_joint)(z) - log_q - oracle.marginal().log_prob(x))[..., None]
    for power in (1, 2):
        # E w (z - m)^power is 0, and the variance of the posterior.
        exact = jnp.diag(jnp.linalg.inv(jnp.eye(2) + oracle.weight.T @ oracle.weight / oracle.scale**2))
        terms = weights * (z - oracle.posterior(x).mean) ** power
        deviation = jnp.mean(terms, axis=0) - (exact if power == 2 else 0.0)
        assert jnp.all(jnp.abs(deviation) < 5 * jnp.std(terms, axis=0) / len(z) ** 0.5)


def energy_errors(key, step_size, num_steps):
    """Where the base is the target, the log-weight is by how much the energy has changed on the way."""
    base = MultivariateNormal(jnp.array([0.5, -1.0]), jnp.array([[1.0, 0.0], [0.7, 0.5]]))
    q = HamiltonianPosterior(base, base.log_prob, step_size, num_steps)
    z, log_q = jax.jit(lambda k: q.sample_and_log_prob(k, (200,)))(key)
    return z, base.log_prob(z) - log_q


def test_the_energy_error_falls_with_the_square_of_the_step(x64):
    """The leapfrog is of second order; Euler's method, or a force at the wrong place, of first."""
    errors = [energy_errors(jax.random.key(0), 0.1 / 2**n, 8 * 2**n)[1] for n in range(3)]
    spreads = [jnp.sqrt(jnp.mean(each**2)) for each in errors]
    assert spreads[0] > 1e-4
    chex.assert_trees_all_close(spreads[0] / spreads[1], 4.0, rtol=0.03)
    chex.assert_trees_all_close(spreads[1] / spreads[2], 4.0, rtol=0.01)


def test_draws_reach_the_same_place_by_shorter_steps(x64):
    ends = [energy_errors(jax.random.key(0), 0.8 / steps, steps)[0] for steps in (8, 64, 512)]
    assert jnp.max(jnp.abs(ends[2] - ends[1])) < jnp.max(jnp.abs(ends[1] - ends[0])) / 50
    # They do move: the whole time is that of most of a quarter of an oscillation.
    assert jnp.mean(jnp.abs(ends[2] - energy_errors(jax.random.key(0), 1e-9, 1)[0])) > 0.2


def test_tiny_steps_leave_draw_and_density_as_they_were(x64, key):
    base = Normal(jnp.array([[0.5, -1.0], [2.0, 0.0]]), jnp.array([0.3, 2.0]))
    q = HamiltonianPosterior(base, base.log_prob, 1e-9)
    z, log_q = q.sample_and_log_prob(jax.random.key(1), (2000,))
    chex.assert_trees_all_close(log_q, base.log_prob(z), atol=1e-6)
    again = HamiltonianPosterior(base, base.log_prob, 2e-9).sample(jax.random.key(1), (2000,))
    chex.assert_trees_all_close(z, again, atol=1e-6)
    assert jnp.all(jnp.abs(jnp.mean(z - base.loc, axis=0)) < 5 * base.scale / 2000**0.5)
    assert jnp.all(jnp.abs(jnp.var(z, axis=0) / base.scale**2 - 1) < 5 * (2 / 2000) ** 0.5)


def mean_bounds(key, num_steps, inverse_temperature, step_size=0.1):
    """The bound from the prior as the base, and the error of its mean."""
    *_, log_joint = problem()
    base = standard_normal.expand((2, 2))
    q = HamiltonianPosterior(base, log_joint, step_size, num_steps, inverse_temperature)
    z, log_q = jax.jit(lambda k: q.sample_and_log_prob(k, (4000,)))(key)
    bounds = jnp.mean(jax.vmap(log_joint)(z) - log_q, axis=1)
    return jnp.mean(bounds), jnp.std(bounds) / 4000**0.5


def test_more_steps_tighten_the_bound_where_the_start_is_hot(x64, key):
    oracle, x, _ = problem()
    keys = jax.random.split(key, 3)
    bounds, errors = zip(*[mean_bounds(k, n, 0.2) for k, n in zip(keys, (1, 3, 5), strict=True)], strict=True)
    evidence = jnp.mean(oracle.marginal().log_prob(x))
    assert bounds[0] + 5 * errors[0] < bounds[1]
    assert bounds[1] + 5 * errors[1] < bounds[2]
    assert bounds[2] - 5 * errors[2] < evidence
    # What is missing at the end is less than half of what was missing at first.
    assert evidence - bounds[2] < (evidence - bounds[0]) / 2


def test_without_a_hot_start_the_bound_is_that_of_the_base(x64, key):
    """Energy is conserved, so a draw is worth what its start was worth: it is the cooling that tightens the bound."""
    oracle, x, _ = problem()
    bound, error = mean_bounds(key, 20, 1.0, 0.005)
    exact = jnp.mean(oracle.elbo(x, standard_normal.expand((2, 2))))
    assert abs(bound - exact) < 5 * error + 0.01 * abs(exact)


@pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3), (0,)])
def test_every_draw_is_its_own(sample_shape):
    _, x, log_joint = problem()
    q = posterior(x, log_joint)
    z, log_q = jax.jit(lambda key: q.sample_and_log_prob(key, sample_shape))(jax.random.key(0))
    chex.assert_shape(z, (*sample_shape, 2, 2))
    chex.assert_shape(log_q, (*sample_shape, 2))
    assert len(jnp.unique(z)) == z.size
    again = jax.jit(lambda key: q.sample(key, sample_shape))
    chex.assert_trees_all_close(again(jax.random.key(0)), z, rtol=1e-6)
    assert not jnp.any(again(jax.random.key(1)) == z)


@pytest.mark.parametrize("num_samples", [None, 1])
def test_one_sample_gives_one_bound_whichever_objective_asks(num_samples):
    oracle, x, log_joint = problem()
    encode = lambda x: posterior(x, log_joint, inverse_temperature=0.5)
    terms = vaejax.elbo(
        jax.random.key(0), x, encode, oracle.decode, kl=vaejax.monte_carlo_kl, num_samples=num_samples
    )  # fmt: skip
    weighted = vaejax.importance_bound(
        jax.random.key(0), x, encode, oracle.decode, num_samples=1, bound=vaejax.elbo_bound()
    )  # fmt: skip
    chex.assert_trees_all_close(terms.value, weighted.value, rtol=1e-6)
    chex.assert_trees_all_close(terms.latents, weighted.latents if num_samples else weighted.latents[0], rtol=1e-6)
    # The weight is that of the model.
    chex.assert_trees_all_close(weighted.value, log_joint(weighted.latents[0]) - posterior(
        x, log_joint, inverse_temperature=0.5).sample_and_log_prob(sample_key(), (1,))[1][0], rtol=1e-5)  # fmt: skip


def sample_key():
    """The half of the key that objectives draw from."""
    return jax.random.split(jax.random.key(0))[0]


def test_a_density_elsewhere_is_not_known_and_the_way_out_is_said():
    oracle, x, log_joint = problem()
    encode = lambda x: posterior(x, log_joint)
    with pytest.raises(
        TypeError, match=r"known for its own draws only.*monte_carlo_kl, or importance_bound without path"
    ):
        encode(x).log_prob(jnp.zeros((2, 2)))
    with pytest.raises(TypeError, match="importance_bound without path_gradient"):
        vaejax.importance_bound(jax.random.key(0), x, encode, oracle.decode, num_samples=2, path_gradient=True)
    with pytest.raises(TypeError, match=r"no closed form for HamiltonianPosterior.*monte_carlo_kl"):
        vaejax.elbo(jax.random.key(0), x, encode, oracle.decode)


def test_step_sizes_may_be_one_for_each_axis_and_traced(x64):
    _, x, log_joint = problem()
    draw = lambda step_size: posterior(x, log_joint, step_size=step_size).sample_and_log_prob(jax.random.key(0), (3,))
    chex.assert_trees_all_close(draw(jnp.full(2, 0.2)), draw(0.2), rtol=1e-10)
    chex.assert_trees_all_close(draw(jnp.full((2, 2), 0.2)), draw(0.2), rtol=1e-10)
    several = jnp.array([[0.1, 0.3], [0.2, 0.2]])
    mapped = jax.jit(jax.vmap(draw))(several)
    chex.assert_trees_all_close(mapped, jax.tree.map(lambda *p: jnp.stack(p), *map(draw, several)), rtol=1e-10)
    # An axis whose step is tiny stays where it started.
    start, still = draw(1e-9)[0], draw(jnp.array([1e-9, 0.3]))[0]
    chex.assert_trees_all_close(still[..., 0], start[..., 0], atol=1e-6)
    assert jnp.all(jnp.abs(still[..., 1] - start[..., 1]) > 1e-4)


def test_gradients_reach_the_step_the_temperature_the_base_and_the_model(x64):
    oracle, x, _ = problem()

    def bound(params):
        log_joint = lambda z: Normal(z @ params["weight"].T, 0.5).log_prob(x) + standard_normal.log_prob(z)
        base = Normal(params["loc"], 0.6)
        q = HamiltonianPosterior(base, log_joint, params["step_size"], 3, params["inverse_temperature"])
        z, log_q = q.sample_and_log_prob(jax.random.key(0), (5,))
        return jnp.mean(jax.vmap(log_joint)(z) - log_q)

    params = {
        "step_size": jnp.array([0.1, 0.2]), "inverse_temperature": jnp.array(0.5),
        "loc": jnp.ones((2, 2)), "weight": oracle.weight,
    }  # fmt: skip
    # Against central differences, along every axis of every parameter.
    numerical, unravel = jax.flatten_util.ravel_pytree(params)
    moved = jnp.concatenate([jnp.eye(len(numerical)), -jnp.eye(len(numerical))]) * 1e-6 + numerical
    values = jax.jit(jax.vmap(lambda flat: bound(unravel(flat))))(moved).reshape(2, -1)
    gradient = jax.flatten_util.ravel_pytree(jax.jit(jax.grad(bound))(params))[0]
    assert jnp.all(gradient != 0)
    chex.assert_trees_all_close(gradient, (values[0] - values[1]) / 2e-6, rtol=1e-6, atol=1e-6)


def test_a_base_of_numpyro_is_the_same():
    *_, log_joint = problem()
    loc = jnp.ones((2, 2))
    ours = HamiltonianPosterior(Normal(loc, 0.5), log_joint).sample_and_log_prob(jax.random.key(0), (3,))
    theirs = HamiltonianPosterior(numpyro.Normal(loc, 0.5).to_event(1), log_joint)
    assert theirs.event_ndims == 1
    chex.assert_trees_all_close(theirs.sample_and_log_prob(jax.random.key(0), (3,)), ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base": None}, TypeError, "base must be a distribution with sample and log_prob; got NoneType"),
        ({"log_joint": None}, TypeError, "log_joint must be a function; got NoneType"),
        ({"step_size": 0.0}, ValueError, "step_size must be positive; got values down to 0.0"),
        ({"step_size": jnp.array([0.1, jnp.nan])}, ValueError, "step_size must be positive"),
        ({"step_size": "long"}, TypeError, "step_size must be an array; got str"),
        ({"num_steps": 0}, ValueError, "num_steps must be at least 1; got 0"),
        ({"num_steps": 2.0}, TypeError, "num_steps must be an integer"),
        ({"inverse_temperature": 0.0}, ValueError, r"inverse_temperature must be in \(0, 1\]; got values from 0.0"),
        ({"inverse_temperature": 2.0}, ValueError, r"inverse_temperature must be in \(0, 1\]; got values from 2.0"),
    ],
)
def test_bad_parameters_are_named(changes, error, message):
    arguments = {"base": Normal(jnp.zeros(2), 1.0), "log_joint": standard_normal.log_prob} | changes
    with pytest.raises(error, match=f"HamiltonianPosterior: {message}"):
        HamiltonianPosterior(**arguments)


def test_bad_keys_and_shapes_of_samples_are_named():
    q = HamiltonianPosterior(Normal(jnp.zeros(2), 1.0), standard_normal.log_prob)
    with pytest.raises(TypeError, match=r"HamiltonianPosterior.sample: key must be a typed PRNG key"):
        q.sample(jax.random.PRNGKey(0))
    with pytest.raises(TypeError, match="sample_shape must be a tuple"):
        q.sample(jax.random.key(0), 5)


def test_a_mapped_constructor_is_the_batched_one():
    """As many examples as latents: a step size for each example must not become one for each latent."""
    loc, step_size = jax.random.normal(jax.random.key(0), (2, 2)), jnp.array([1e-6, 1.0])
    target = Normal(jnp.ones(2), 0.5)
    make = lambda loc, step: HamiltonianPosterior(Normal(loc, 1.0), target.log_prob, step, num_steps=2)
    batched = HamiltonianPosterior(Normal(loc, 1.0), target.log_prob, step_size[:, None], num_steps=2)
    draws = [q.sample_and_log_prob(jax.random.key(1)) for q in (jax.vmap(make)(loc, step_size), batched)]
    chex.assert_trees_all_close(*draws, rtol=1e-5)


def test_a_base_that_does_not_say_its_event_axes():
    import numpyro.distributions as numpyro

    base = numpyro.StudentT(5.0, jnp.zeros((4, 2)), 1.0).to_event(1)
    target = Normal(jnp.ones((4, 2)), 0.5)
    z, log_q = HamiltonianPosterior(base, target.log_prob, 0.1).sample_and_log_prob(jax.random.key(0), (3,))
    assert (z.shape, log_q.shape) == ((3, 4, 2), (3, 4))
