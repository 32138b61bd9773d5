"""Penalties against what they estimate, computed another way."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

import vaejax
from vaejax import Delta, Laplace, MultivariateNormal, Normal

SIZE, LATENT = 6, 3


def posterior_of(seed, size=SIZE, dtype=jnp.float32):
    loc_key, scale_key = jax.random.split(jax.random.key(seed))
    loc = jax.random.normal(loc_key, (size, LATENT), dtype)
    return Normal(loc, jnp.exp(0.5 * jax.random.normal(scale_key, (size, LATENT), dtype) - 0.5))


def penalty_of(regularizer, q, seed=0):
    return regularizer(jax.random.key(seed), q, q.sample(jax.random.key(seed + 1)))


def test_free_bits_by_hand():
    q = posterior_of(0)
    axes = vaejax.distributions.kl_per_axis(q)
    for threshold in (0.0, 0.4, 100.0):
        cases = {
            (True, True): jnp.sum(jnp.maximum(jnp.mean(axes, 0), threshold)),
            (True, False): jnp.sum(jnp.maximum(axes, threshold), 1),
            (False, True): jnp.maximum(jnp.mean(jnp.sum(axes, 1)), threshold),
            (False, False): jnp.maximum(jnp.sum(axes, 1), threshold),
        }
        for (axiswise, batchwise), expected in cases.items():
            regularizer = vaejax.free_bits(threshold=threshold, axiswise=axiswise, batchwise=batchwise)
            chex.assert_trees_all_close(penalty_of(regularizer, q), expected, rtol=1e-5)
    # With nothing free it is the divergence, whichever way it is taken.
    free = vaejax.free_bits(threshold=0.0, batchwise=False)
    chex.assert_trees_all_close(penalty_of(free, q), penalty_of(vaejax.kl(), q), rtol=1e-5)


def test_axes_below_the_threshold_have_no_gradient():
    penalty = lambda loc: penalty_of(vaejax.free_bits(threshold=0.5), Normal(loc, 1.0))
    gradient = jax.grad(penalty)(jnp.stack([jnp.array([0.1, 2.0, -0.2])] * 4))
    chex.assert_trees_all_close(gradient, jnp.broadcast_to(jnp.array([0.0, 0.5, 0.0]), (4, 3)), atol=1e-6)


def test_capacity_holds_the_divergence_at_its_target():
    q = posterior_of(0)
    divergence = vaejax.kl_divergence(q, vaejax.standard_normal)
    of_batch = penalty_of(vaejax.capacity(vaejax.kl(), 3.0, 10.0), q)
    chex.assert_trees_all_close(of_batch, 10 * jnp.abs(jnp.mean(divergence) - 3), rtol=1e-5)
    of_each = penalty_of(vaejax.capacity(vaejax.kl(), 3.0, 10.0, batchwise=False), q)
    chex.assert_trees_all_close(of_each, 10 * jnp.abs(divergence - 3), rtol=1e-5)
    below, above = (jax.grad(lambda t: penalty_of(vaejax.capacity(vaejax.kl(), t), q))(t) for t in (0.0, 100.0))
    assert (below, above) == (-1000.0, 1000.0)


def test_sums_and_weights():
    q = posterior_of(0)
    double = penalty_of(vaejax.add(vaejax.kl(), vaejax.scale(-0.5, vaejax.kl()), vaejax.none), q)
    chex.assert_trees_all_close(double, 0.5 * penalty_of(vaejax.kl(), q), rtol=1e-5)
    seen = []
    spy = lambda key, q, z: seen.append(jax.random.uniform(key)) or jnp.zeros(())
    penalty_of(vaejax.add(spy, spy), q)
    assert seen[0] != seen[1]


# Total correlation.


@given(st.integers(0, 10**6))
def test_the_decomposition_with_weights_one_is_the_monte_carlo_divergence(seed):
    with jax.enable_x64(True):
        q = posterior_of(seed, dtype=jnp.float64)
        expected = penalty_of(vaejax.monte_carlo_kl(), q)
        for log_weights in (vaejax.stratified_weights, vaejax.minibatch_weights):
            regularizer = vaejax.tc_decomposition(dataset_size=100, log_weights=log_weights)
            chex.assert_trees_all_close(penalty_of(regularizer, q), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_stratified_weights_sum_to_one_with_the_own_example_on_the_diagonal(size):
    weights = np.exp(vaejax.stratified_weights(size, 40))
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.diag(weights), 1 / 40, rtol=1e-12)
    np.testing.assert_allclose(np.exp(vaejax.minibatch_weights(size, 40)), 1 / (40 * size), rtol=1e-12)


def test_the_stratified_density_is_unbiased(x64):
    """Over all ordered batches of 3 of 5 examples, exactly: its mean is the density of the aggregate posterior."""
    q = posterior_of(3, 5, jnp.float64)
    z = q.sample(jax.random.key(1))
    weights = jnp.exp(jnp.asarray(vaejax.stratified_weights(3, 5)))
    batches = np.array([(a, b, c) for a in range(5) for b in range(5) for c in range(5) if len({a, b, c}) == 3])
    densities = jnp.exp(Normal(q.loc[None], q.scale[None]).log_prob(z[:, None]))  # [draw, posterior]
    for example in range(5):
        own = batches[batches[:, 0] == example]
        estimates = jnp.sum(weights[0] * densities[example][own], axis=1)
        chex.assert_trees_all_close(jnp.mean(estimates), jnp.mean(densities[example]), rtol=1e-12)


def test_the_parts_of_the_decomposition_are_those_of_the_whole_data(x64):
    """With the batch as the data set the weights are 1/N, and each part is known from all pairs of densities."""
    q = posterior_of(3, SIZE, jnp.float64)
    z = q.sample(jax.random.key(1))
    each = jnp.exp(Normal(q.loc[None], q.scale[None], 0).log_prob(z[:, None]))
    log_joint = jnp.log(jnp.mean(jnp.prod(each, axis=2), axis=1))
    log_product = jnp.sum(jnp.log(jnp.mean(each, axis=1)), axis=1)
    parts = {
        "index_code": q.log_prob(z) - log_joint,
        "total_correlation": log_joint - log_product,
        "dimension_wise": log_product - vaejax.standard_normal.log_prob(z),
    }
    for name, expected in parts.items():
        only = {other: float(other == name) for other in parts}
        regularizer = vaejax.tc_decomposition(dataset_size=SIZE, **only)
        chex.assert_trees_all_close(regularizer(jax.random.key(0), q, z), expected, rtol=1e-10, atol=1e-12)


def test_dependent_axes_have_a_total_correlation_and_independent_ones_have_none(key):
    """Posteriors that are nearly points, on a correlated Normal: TC = -1/2 log det of the correlation."""
    for correlation in (0.0, 0.9):
        factor = jnp.array([[1.0, 0.0], [correlation, (1 - correlation**2) ** 0.5]])
        points = MultivariateNormal(jnp.zeros(2), factor).sample(jax.random.clone(key), (1500,))
        q = Normal(points, 0.15)
        only = vaejax.tc_decomposition(dataset_size=1500, index_code=0.0, dimension_wise=0.0)
        covariance = factor @ factor.T + 0.15**2 * jnp.eye(2)
        exact = 0.5 * jnp.log(jnp.prod(jnp.diag(covariance)) / jnp.linalg.det(covariance))
        assert abs(jnp.mean(penalty_of(only, q)) - exact) < 0.05


# Maximum mean discrepancy.


def test_the_discrepancy_of_two_normals_is_exact_and_unbiased(key):
    """Gaussian kernel: E k(a, b) of two Normals is a Normal density in closed form."""
    loc, scale, width = jnp.array([0.5, -0.3]), jnp.array([0.7, 1.2]), 0.8
    prior = Normal(jnp.zeros(2), 1.0)

    def mean_kernel(shift, variance):
        spread = variance + width**2
        return jnp.prod(width / jnp.sqrt(spread) * jnp.exp(-(shift**2) / (2 * spread)))

    exact = mean_kernel(0.0, 2 * scale**2) + mean_kernel(0.0, jnp.full(2, 2.0)) - 2 * mean_kernel(loc, scale**2 + 1)
    regularizer = vaejax.mmd_to(prior, vaejax.gaussian_kernel(width))

    def draw(key):
        z_key, prior_key = jax.random.split(key)
        z = Normal(loc, scale).sample(z_key, (8,))
        return regularizer(prior_key, Delta(z), z)

    draws = jax.jit(jax.vmap(draw))(jax.random.split(key, 20_000))
    assert abs(jnp.mean(draws) - exact) < 5 * jnp.std(draws) / len(draws) ** 0.5
    assert exact > 10 * jnp.std(draws) / len(draws) ** 0.5


def test_the_discrepancy_vanishes_at_the_prior_for_every_kernel(key):
    for kernel in (None, vaejax.gaussian_kernel(2.0), vaejax.inverse_multiquadratic((1.0,))):

        def draw(key, kernel=kernel):
            z_key, prior_key = jax.random.split(key)
            z = jax.random.normal(z_key, (8, 3))
            return vaejax.mmd_to(kernel=kernel)(prior_key, Delta(z), z)

        draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.clone(key), 20_000))
        assert abs(jnp.mean(draws)) < 5 * jnp.std(draws) / len(draws) ** 0.5


def test_kernels_by_hand():
    a, b = jnp.array([[0.0, 0.0], [1.0, 2.0]]), jnp.array([[3.0, 4.0]])
    squared = np.array([[25.0], [8.0]])
    chex.assert_trees_all_close(vaejax.gaussian_kernel(2.0)(a, b), np.exp(-squared / 8).astype(np.float32), rtol=1e-5)
    expected = sum(4 * s / (4 * s + squared) for s in (0.5, 2.0)).astype(np.float32)
    chex.assert_trees_all_close(vaejax.inverse_multiquadratic((0.5, 2.0))(a, b), expected, rtol=1e-5)


# Covariances and derivatives.


def test_dip_by_hand():
    q = posterior_of(2)
    means = np.asarray(q.loc, np.float64)
    between = np.cov(means.T, bias=True)
    whole = between + np.diag(np.mean(np.asarray(q.scale, np.float64) ** 2, axis=0))
    for make, covariance in ((vaejax.dip_i, between), (vaejax.dip_ii, whole)):
        diagonal = np.diag(covariance)
        expected = 3.0 * (np.sum(covariance**2) - np.sum(diagonal**2)) + 7.0 * np.sum((diagonal - 1) ** 2)
        np.testing.assert_allclose(penalty_of(make(3.0, 7.0), q), expected, rtol=1e-4)
    # Whitened codes cost nothing.
    white = np.linalg.qr(means - means.mean(0))[0] * SIZE**0.5
    assert penalty_of(vaejax.dip_i(), Delta(jnp.asarray(white, jnp.float32))) < 1e-4


def test_dip_knows_the_variance_of_a_laplace():
    q = Laplace(jnp.zeros((4, 2)), 0.5)
    chex.assert_trees_all_close(penalty_of(vaejax.dip_ii(0.0, 1.0), q), 2 * (2 * 0.25 - 1) ** 2, rtol=1e-6)


def test_the_jacobian_penalty_is_the_norm_of_the_jacobian(key):
    weight = jnp.array([[1.0, -2.0, 0.5, 0.3], [0.2, 0.7, -1.1, 0.9]])
    decode = lambda z: Normal(jnp.tanh(z @ weight), 1.0)
    z = jnp.array([[0.3, -0.4], [1.5, 0.1], [0.0, 2.0]])
    jacobians = jax.vmap(jax.jacfwd(lambda z: decode(z).mean))(z)
    exact = jnp.sum(jacobians**2, axis=(1, 2))
    draw = lambda key: vaejax.jacobian_penalty(decode, num_projections=3)(key, Delta(z), z)
    draws = jax.vmap(draw)(jax.random.split(key, 5_000))
    assert jnp.all(jnp.abs(jnp.mean(draws, 0) - exact) < 5 * jnp.std(draws, 0) / len(draws) ** 0.5)
    chex.assert_shape(draws, (5_000, 3))


# What all of them satisfy.

ALL = {
    "kl": vaejax.kl(),
    "monte_carlo_kl": vaejax.monte_carlo_kl(),
    "free_bits": vaejax.free_bits(threshold=0.3),
    "free_bits, whole": vaejax.free_bits(threshold=0.3, axiswise=False, batchwise=False),
    "capacity": vaejax.capacity(vaejax.kl(), 2.0, 3.0),
    "tc_decomposition": vaejax.tc_decomposition(dataset_size=50, total_correlation=6.0),
    "mmd_to": vaejax.mmd_to(),
    "dip_i": vaejax.dip_i(),
    "dip_ii": vaejax.dip_ii(),
    "jacobian_penalty": vaejax.jacobian_penalty(lambda z: Normal(jnp.tanh(z), 1.0)),
}
COUPLED = {
    "free_bits": (vaejax.free_bits(), 1), "capacity": (vaejax.capacity(vaejax.kl(), 1.0), 1), "tc_decomposition": (vaejax.tc_decomposition(dataset_size=50), 2),
    "mmd_to": (vaejax.mmd_to(), 2), "dip_i": (vaejax.dip_i(), 2), "dip_ii": (vaejax.dip_ii(), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_central_differences(x64, name):
    def value(loc, log_scale):
        q = Normal(loc, jnp.exp(log_scale))
        return jnp.sum(penalty_of(ALL[name], q))

    q = posterior_of(0, 4, jnp.float64)
    check_grads(value, (q.loc, jnp.log(q.scale)), order=1, modes=["rev"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"mmd_to", "jacobian_penalty"}))
def test_the_order_of_the_examples_does_not_matter(x64, name):
    """Draws are passed in; the two penalties that draw noise besides them are left out."""
    q = posterior_of(0, dtype=jnp.float64)
    z, order = q.sample(jax.random.key(1)), jnp.array([3, 0, 5, 1, 4, 2])
    penalty = jnp.broadcast_to(ALL[name](jax.random.key(0), q, z), (SIZE,))
    permuted = ALL[name](jax.random.key(0), Normal(q.loc[order], q.scale[order]), z[order])
    chex.assert_trees_all_close(jnp.broadcast_to(permuted, (SIZE,)), penalty[order], rtol=1e-10)


@pytest.mark.parametrize("name", COUPLED)
def test_a_penalty_on_the_batch_refuses_a_single_example(name, key):
    regularizer, minimum = COUPLED[name]
    message = f"{name} couples the examples of a batch.*at least {minimum}; got batch shape"
    q = posterior_of(0)

    def single(x, loc, scale):
        encode, decode = lambda x: Normal(loc, scale), lambda z: Normal(z, 1.0)
        return vaejax.autoencode(jax.random.clone(key), x, encode, decode, regularizer).value

    with pytest.raises(ValueError, match=message):
        single(jnp.ones(LATENT), q.loc[0], q.scale[0])
    with pytest.raises(ValueError, match=message):
        jax.vmap(single)(jnp.ones((SIZE, LATENT)), q.loc, q.scale)
    if minimum == 2:
        with pytest.raises(ValueError, match=message):
            single(jnp.ones((1, LATENT)), q.loc[:1], q.scale[:1])
    assert single(jnp.ones((SIZE, LATENT)), q.loc, q.scale).shape == (SIZE,)


BAD = {
    "no size": (lambda: vaejax.tc_decomposition(), TypeError, "dataset_size must be the number of training examples"),
    "small data": (
        lambda: penalty_of(vaejax.tc_decomposition(dataset_size=3), posterior_of(0)), ValueError,
        "dataset_size must be at least the batch of 6; got 3",
    ),
    "full covariance": (
        lambda: penalty_of(vaejax.tc_decomposition(dataset_size=9), MultivariateNormal(jnp.zeros((4, 2)), jnp.eye(2))),
        TypeError, "axes of MultivariateNormal are not known to be independent",
    ),
    "dip of dependent axes": (
        lambda: penalty_of(vaejax.dip_ii(), MultivariateNormal(jnp.zeros((4, 2)), jnp.eye(2))), TypeError,
        "axes of MultivariateNormal are not known to be independent",
    ),
    "dip of numpyro's dependent axes": (
        lambda: penalty_of(vaejax.dip_ii(), numpyro.MultivariateNormal(jnp.zeros((4, 2)), jnp.eye(2))), TypeError,
        "axes of MultivariateNormal are not known to be independent",
    ),
    "negative threshold": (lambda: vaejax.free_bits(threshold=-1.0), ValueError, "threshold must be at least 0"),
    "negative target": (lambda: vaejax.capacity(vaejax.kl(), -1.0), ValueError, "target must be at least 0"),
    "text for a weight": (lambda: vaejax.scale("2", vaejax.kl()), TypeError, "scale: weight must be an array"),
    "prior for a penalty": (lambda: vaejax.add(vaejax.standard_normal), TypeError, "add: regularizers must be a function"),
    "no width": (lambda: vaejax.gaussian_kernel(0.0), ValueError, "bandwidth must be positive"),
    "no projections": (lambda: vaejax.jacobian_penalty(Delta, num_projections=0), ValueError, "at least 1; got 0"),
    "no closed form": (
        lambda: penalty_of(vaejax.kl(), vaejax.Transformed(posterior_of(0), vaejax.Reverse())), TypeError,
        "no closed form for Transformed to Normal; estimate it with monte_carlo_kl",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_reason(name):
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        make()


def test_the_draw_a_flow_remembers_is_its_own_alone(key):
    """A penalty may ask for the density at other points than the draw: those are computed."""
    q = vaejax.Transformed(posterior_of(0), vaejax.ElementwiseAffine(jnp.ones(LATENT), jnp.full(LATENT, 0.3)))
    seen = {}

    def spy(key, q, z):
        seen["drawn"], seen["other"], seen["copy"] = q.log_prob(z), q.log_prob(z + 1), q.log_prob(z + 0)
        seen["z"] = z
        return jnp.zeros(())

    vaejax.autoencode(key, jnp.ones((SIZE, LATENT)), lambda x: q, lambda z: Normal(z, 1.0), spy)
    chex.assert_trees_all_close(seen["drawn"], q.log_prob(seen["z"]), rtol=1e-4)
    chex.assert_trees_all_close(seen["copy"], seen["drawn"], rtol=1e-4)
    chex.assert_trees_all_close(seen["other"], q.log_prob(seen["z"] + 1), rtol=1e-5)
    with pytest.raises(TypeError, match="no closed form for Transformed"):
        vaejax.elbo(jax.random.key(1), jnp.ones((SIZE, LATENT)), lambda x: q, lambda z: Normal(z, 1.0))


def test_a_penalty_may_ask_whether_a_posterior_is_normal(key):
    kinds = []

    def spy(key, q, z):
        kinds.append(type(q))
        return jnp.zeros(())

    q, x = posterior_of(0), jnp.ones((SIZE, LATENT))
    vaejax.autoencode(key, x, lambda x: q, lambda z: Normal(z, 1.0), spy)
    assert set(kinds) == {Normal}


def test_hyperparameters_may_be_traced():
    q = posterior_of(0)
    makers = [
        lambda v: vaejax.free_bits(threshold=v),
        lambda v: vaejax.capacity(vaejax.kl(), v, v),
        lambda v: vaejax.scale(v, vaejax.kl()),
        lambda v: vaejax.tc_decomposition(dataset_size=50, index_code=v, total_correlation=v, dimension_wise=v),
        lambda v: vaejax.dip_i(v, v),
        lambda v: vaejax.dip_ii(v, v),
        lambda v: vaejax.mmd_to(kernel=vaejax.gaussian_kernel(v)),
    ]
    for make in makers:
        traced = jax.jit(lambda v, make=make: penalty_of(make(v), q))(jnp.array(1.7))
        chex.assert_trees_all_close(traced, penalty_of(make(1.7), q), rtol=1e-4, atol=1e-5)


def test_numpyros_prior(key):
    theirs, ours = numpyro.Normal(jnp.ones(LATENT), 2.0).to_event(1), Normal(jnp.ones(LATENT), 2.0)
    for make in (vaejax.mmd_to, partial(vaejax.tc_decomposition, dataset_size=50), vaejax.free_bits):
        chex.assert_trees_all_close(
            penalty_of(make(theirs), posterior_of(0)), penalty_of(make(ours), posterior_of(0)), rtol=1e-4
        )


def test_half_precision_is_reduced_in_single():
    wide = 300.0 * jax.random.normal(jax.random.key(0), (8, 3))
    for dtype in (jnp.float16, jnp.bfloat16):
        z = wide.astype(dtype)
        single = z.astype(jnp.float32)
        for make in (vaejax.dip_i, vaejax.mmd_to):
            half = make()(jax.random.key(1), Delta(z), z)
            assert half.dtype == jnp.float32
            chex.assert_trees_all_close(half, make()(jax.random.key(1), Delta(single), single), rtol=1e-5)
        loss = vaejax.discriminator_loss(lambda z: z.sum(-1), z, z)
        chex.assert_trees_all_close(loss, vaejax.discriminator_loss(lambda z: z.sum(-1), single, single), rtol=1e-2)
        assert loss.dtype == jnp.float32


def test_a_penalty_may_be_compiled_by_itself(key):
    """What a flow remembers of its draw is forgotten there, and computed."""
    q = vaejax.Transformed(posterior_of(0), vaejax.ElementwiseAffine(jnp.ones(LATENT), jnp.full(LATENT, 0.3)))
    values = [
        vaejax.autoencode(
            jax.random.clone(key), jnp.ones((SIZE, LATENT)), lambda x: q, lambda z: Normal(z, 1.0), penalty
        )
        for penalty in (vaejax.monte_carlo_kl(), jax.jit(vaejax.monte_carlo_kl()))
    ]
    chex.assert_trees_all_close(values[0].penalty, values[1].penalty, rtol=1e-4)
