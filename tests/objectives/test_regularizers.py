"""Penalties against what they estimate, computed another way."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest

import vaejax
from tests.objectives.central_differences import check_slopes, slopes
from tests.tiers import slow_but, tier_of
from vaejax import Delta, Laplace, MultivariateNormal, Normal

SIZE, LATENT = 6, 3


def parameters_of(*shape, seed=0):
    """Locations and scales, in double precision."""
    random = np.random.default_rng(seed)
    return random.normal(size=shape), np.exp(0.5 * random.normal(size=shape) - 0.5)


def posterior_of(seed=0):
    return Normal(*(each.astype(np.float32) for each in parameters_of(SIZE, LATENT, seed=seed)))


def penalty_of(regularizer, q, seed=0):
    return regularizer(jax.random.key(seed), q, q.sample(jax.random.key(seed + 1)))


def standard_kl(loc, scale):
    """Of each axis, from the standard Normal."""
    return 0.5 * (loc**2 + scale**2 - 1) - np.log(scale)


def test_free_bits_by_hand():
    loc, scale = parameters_of(SIZE, LATENT)
    axes = standard_kl(loc, scale)
    thresholds = np.array([0.0, 0.4, 100.0], np.float32)

    @jax.jit
    def penalties(thresholds):
        def at(threshold, axiswise, batchwise):
            regularizer = vaejax.free_bits(threshold=threshold, axiswise=axiswise, batchwise=batchwise)
            return penalty_of(regularizer, posterior_of())

        ways = [(axiswise, batchwise) for axiswise in (True, False) for batchwise in (True, False)]
        return {way: jax.vmap(lambda threshold, way=way: at(threshold, *way))(thresholds) for way in ways}

    found = penalties(thresholds)
    for index, threshold in enumerate(thresholds):
        cases = {
            (True, True): np.sum(np.maximum(np.mean(axes, 0), threshold)),
            (True, False): np.sum(np.maximum(axes, threshold), 1),
            (False, True): np.maximum(np.mean(np.sum(axes, 1)), threshold),
            (False, False): np.maximum(np.sum(axes, 1), threshold),
        }
        for way, expected in cases.items():
            np.testing.assert_allclose(found[way][index], expected, rtol=1e-5)
    # With nothing free it is the divergence, whichever way it is taken.
    np.testing.assert_allclose(found[True, False][0], np.sum(axes, 1), rtol=1e-5)


def test_axes_below_the_threshold_have_no_gradient():
    penalty = lambda loc: penalty_of(vaejax.free_bits(threshold=0.5), Normal(loc, 1.0))
    gradient = jax.jit(jax.grad(penalty))(np.array([[0.1, 2.0, -0.2]] * 4, np.float32))
    np.testing.assert_allclose(gradient, np.array([[0.0, 0.5, 0.0]] * 4), atol=1e-6)


def test_capacity_holds_the_divergence_at_its_target():
    divergence = np.sum(standard_kl(*parameters_of(SIZE, LATENT)), axis=1)

    @jax.jit
    def penalties(below, above):
        q = posterior_of()
        of = lambda *options, **ways: penalty_of(vaejax.capacity(vaejax.kl(), *options, **ways), q)
        return of(3.0, 10.0), of(3.0, 10.0, batchwise=False), jax.grad(of)(below), jax.grad(of)(above)

    of_batch, of_each, below, above = penalties(np.float32(0.0), np.float32(100.0))
    np.testing.assert_allclose(of_batch, 10 * np.abs(np.mean(divergence) - 3), rtol=1e-5)
    np.testing.assert_allclose(of_each, 10 * np.abs(divergence - 3), rtol=1e-5)
    assert (below, above) == (-1000.0, 1000.0)


def test_sums_and_weights():
    noise = lambda key, q, z: jax.random.uniform(key)

    @jax.jit
    def penalties():
        q = posterior_of()
        half = vaejax.add(vaejax.kl(), vaejax.scale(-0.5, vaejax.kl()), vaejax.none)
        # Two of the same draw different noise, so that their difference is not zero.
        difference = vaejax.add(noise, vaejax.scale(-1.0, noise))
        return penalty_of(half, q), penalty_of(vaejax.kl(), q), penalty_of(difference, q)

    half, whole, difference = penalties()
    np.testing.assert_allclose(half, 0.5 * whole, rtol=1e-5)
    assert abs(difference) > 1e-3


# Total correlation.


def test_the_decomposition_with_weights_one_is_the_monte_carlo_divergence(x64):
    @jax.jit
    @jax.vmap
    def penalties(loc, scale, key):
        q = Normal(loc, scale)
        z = q.sample(key)
        decompose = partial(vaejax.tc_decomposition, dataset_size=100)
        regularizers = [vaejax.monte_carlo_kl(), decompose(), decompose(log_weights=vaejax.minibatch_weights)]
        return [regularizer(None, q, z) for regularizer in regularizers]

    expected, *found = penalties(*parameters_of(25, SIZE, LATENT), jax.random.split(jax.random.key(0), 25))
    for each in found:
        np.testing.assert_allclose(each, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_stratified_weights_sum_to_one_with_the_own_example_on_the_diagonal(size):
    weights = np.exp(vaejax.stratified_weights(size, 40))
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.diag(weights), 1 / 40, rtol=1e-12)
    np.testing.assert_allclose(np.exp(vaejax.minibatch_weights(size, 40)), 1 / (40 * size), rtol=1e-12)


def densities(loc, scale, z):
    """Of each draw under each posterior, axis by axis: `[draw, posterior, axis]`."""
    return np.exp(-0.5 * ((z[:, None] - loc) / scale) ** 2) / (np.sqrt(2 * np.pi) * scale)


def test_the_stratified_density_is_unbiased():
    """Over all ordered batches of 3 of 5 examples, exactly: its mean is the density of the aggregate posterior."""
    loc, scale = parameters_of(5, LATENT, seed=3)
    z = loc + scale * np.random.default_rng(1).normal(size=loc.shape)
    weights = np.exp(vaejax.stratified_weights(3, 5))
    batches = np.array([(a, b, c) for a in range(5) for b in range(5) for c in range(5) if len({a, b, c}) == 3])
    each = np.prod(densities(loc, scale, z), axis=-1)
    for example in range(5):
        own = batches[batches[:, 0] == example]
        estimates = np.sum(weights[0] * each[example][own], axis=1)
        np.testing.assert_allclose(np.mean(estimates), np.mean(each[example]), rtol=1e-12)


def test_the_parts_of_the_decomposition_are_those_of_the_whole_data(x64):
    """With the batch as the data set the weights are 1/N, and each part is known from all pairs of densities."""
    loc, scale = parameters_of(SIZE, LATENT, seed=3)
    z = loc + scale * np.random.default_rng(1).normal(size=loc.shape)
    each = densities(loc, scale, z)
    log_joint = np.log(np.mean(np.prod(each, axis=2), axis=1))
    log_product = np.sum(np.log(np.mean(each, axis=1)), axis=1)
    log_prior = np.sum(-0.5 * z**2 - 0.5 * np.log(2 * np.pi), axis=1)
    parts = {
        "index_code": np.log(np.prod(np.diagonal(each).T, axis=1)) - log_joint,
        "total_correlation": log_joint - log_product,
        "dimension_wise": log_product - log_prior,
    }

    @jax.jit
    @jax.vmap
    def penalties(weights):
        options = dict(zip(parts, weights, strict=True))
        return vaejax.tc_decomposition(dataset_size=SIZE, **options)(None, Normal(loc, scale), z)

    for found, (name, expected) in zip(penalties(np.eye(3)), parts.items(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.slow("statistics of what the parts of the decomposition prove exactly")
def test_dependent_axes_have_a_total_correlation_and_independent_ones_have_none():
    """Posteriors that are nearly points, on a correlated Normal: TC = -1/2 log det of the correlation."""

    @jax.jit
    def penalty(points, key):
        only = vaejax.tc_decomposition(dataset_size=1500, index_code=0.0, dimension_wise=0.0)
        q = Normal(points, 0.15)
        return jnp.mean(only(None, q, q.sample(key)))

    for correlation in (0.0, 0.9):
        factor = np.array([[1.0, 0.0], [correlation, (1 - correlation**2) ** 0.5]])
        points = np.random.default_rng(0).normal(size=(1500, 2)) @ factor.T
        covariance = factor @ factor.T + 0.15**2 * np.eye(2)
        exact = 0.5 * np.log(np.prod(np.diag(covariance)) / np.linalg.det(covariance))
        assert abs(penalty(points.astype(np.float32), jax.random.key(1)) - exact) < 0.05


# Maximum mean discrepancy.


def test_the_discrepancy_of_two_normals_is_exact_and_unbiased():
    """Gaussian kernel: E k(a, b) of two Normals is a Normal density in closed form."""
    loc, scale, width = np.array([0.5, -0.3], np.float32), np.array([0.7, 1.2], np.float32), 0.8

    def mean_kernel(shift, variance):
        spread = variance + width**2
        return np.prod(width / np.sqrt(spread) * np.exp(-(shift**2) / (2 * spread)))

    exact = mean_kernel(0.0, 2 * scale**2) + mean_kernel(0.0, np.full(2, 2.0)) - 2 * mean_kernel(loc, scale**2 + 1)

    @jax.jit
    @jax.vmap
    def draw(key):
        z_key, prior_key = jax.random.split(key)
        z = Normal(loc, scale).sample(z_key, (8,))
        return vaejax.mmd_to(Normal(jnp.zeros(2), 1.0), vaejax.gaussian_kernel(width))(prior_key, Delta(z), z)

    draws = np.asarray(draw(jax.random.split(jax.random.key(0), 20_000)))
    error = np.std(draws) / len(draws) ** 0.5
    assert abs(np.mean(draws) - exact) < 5 * error
    assert exact > 10 * error


@pytest.mark.slow("the discrepancy of two equal Normals, for other kernels")
def test_the_discrepancy_vanishes_at_the_prior_for_every_kernel():
    kernels = (None, vaejax.gaussian_kernel(2.0), vaejax.inverse_multiquadratic((1.0,)))

    @jax.jit
    @jax.vmap
    def draw(key):
        z_key, prior_key = jax.random.split(key)
        z = jax.random.normal(z_key, (8, 3))
        return [vaejax.mmd_to(kernel=kernel)(jax.random.clone(prior_key), Delta(z), z) for kernel in kernels]

    for draws in draw(jax.random.split(jax.random.key(0), 20_000)):
        assert abs(np.mean(draws)) < 5 * np.std(draws) / len(draws) ** 0.5


def test_kernels_by_hand():
    a, b = np.array([[0.0, 0.0], [1.0, 2.0]], np.float32), np.array([[3.0, 4.0]], np.float32)
    squared = np.array([[25.0], [8.0]])
    kernels = vaejax.gaussian_kernel(2.0), vaejax.inverse_multiquadratic((0.5, 2.0))
    gaussian, multiquadratic = jax.jit(lambda: [kernel(a, b) for kernel in kernels])()
    np.testing.assert_allclose(gaussian, np.exp(-squared / 8), rtol=1e-5)
    np.testing.assert_allclose(multiquadratic, sum(4 * s / (4 * s + squared) for s in (0.5, 2.0)), rtol=1e-5)


# Covariances and derivatives.


def test_dip_by_hand():
    """And the variance of a Laplace is known."""
    means, scale = parameters_of(SIZE, LATENT, seed=2)
    between = np.cov(means.T, bias=True)
    whole = between + np.diag(np.mean(scale**2, axis=0))
    white = np.linalg.qr(means - means.mean(0))[0] * SIZE**0.5

    @jax.jit
    def penalties():
        q, laplace = posterior_of(2), Laplace(jnp.zeros((4, 2)), 0.5)
        whitened = penalty_of(vaejax.dip_i(), Delta(jnp.asarray(white, jnp.float32)))
        both = [penalty_of(make(3.0, 7.0), q) for make in (vaejax.dip_i, vaejax.dip_ii)]
        return both, whitened, penalty_of(vaejax.dip_ii(0.0, 1.0), laplace)

    found, whitened, of_laplace = penalties()
    for value, covariance in zip(found, (between, whole), strict=True):
        diagonal = np.diag(covariance)
        expected = 3.0 * (np.sum(covariance**2) - np.sum(diagonal**2)) + 7.0 * np.sum((diagonal - 1) ** 2)
        np.testing.assert_allclose(value, expected, rtol=1e-4)
    # Whitened codes cost nothing.
    assert whitened < 1e-4
    np.testing.assert_allclose(of_laplace, 2 * (2 * 0.25 - 1) ** 2, rtol=1e-6)


def test_the_jacobian_penalty_is_the_norm_of_the_jacobian():
    weight = np.array([[1.0, -2.0, 0.5, 0.3], [0.2, 0.7, -1.1, 0.9]], np.float32)
    z = np.array([[0.3, -0.4], [1.5, 0.1], [0.0, 2.0]], np.float32)
    penalty = vaejax.jacobian_penalty(lambda z: Normal(jnp.tanh(z @ weight), 1.0), num_projections=3)
    mapped = jax.jit(jax.vmap(lambda key: penalty(key, Delta(z), z)))
    draws = np.asarray(mapped(jax.random.split(jax.random.key(0), 5_000)))
    # d tanh(w z) = (1 - tanh^2) w.
    exact = np.sum(((1 - np.tanh(z @ weight) ** 2)[:, None] * weight) ** 2, axis=(1, 2))
    assert np.all(np.abs(np.mean(draws, 0) - exact) < 5 * np.std(draws, 0) / len(draws) ** 0.5)
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


# The slopes of these are the easiest to get wrong: a kink, and sums over all pairs of examples.
FAST = ("capacity", "tc_decomposition")


@cache
def slopes_of(names):
    """Of the sums of penalties, in one program."""

    def value(regularizer, loc, log_scale):
        return jnp.sum(penalty_of(regularizer, Normal(loc, jnp.exp(log_scale))))

    loc, scale = parameters_of(4, LATENT)
    return slopes({name: partial(value, ALL[name]) for name in names}, loc, np.log(scale))


@pytest.mark.parametrize("name", slow_but(FAST, ALL, "another penalty"))
def test_gradients_are_central_differences(x64, name):
    check_slopes(*slopes_of(tier_of(name, ALL, FAST))[name])


ORDERED = sorted(set(ALL) - {"mmd_to", "jacobian_penalty"})


def permuted(name):
    """A penalty on a batch, and on the same in another order; `[SIZE]` each."""
    order = np.array([3, 0, 5, 1, 4, 2])
    (loc, scale), noise = parameters_of(SIZE, LATENT), np.random.default_rng(1).normal(size=(SIZE, LATENT))

    @jax.jit
    def both(loc, scale, z):
        def penalty(order):
            return jnp.broadcast_to(ALL[name](None, Normal(loc[order], scale[order]), z[order]), (SIZE,))

        return penalty(np.arange(SIZE))[order], penalty(order)

    return both(loc, scale, loc + scale * noise)


@pytest.mark.parametrize("name", slow_but(["tc_decomposition"], ORDERED, "another penalty"))
def test_the_order_of_the_examples_does_not_matter(x64, name):
    """Draws are passed in; the two penalties that draw noise besides them are left out."""
    chex.assert_trees_all_close(*permuted(name), rtol=1e-10)


@pytest.mark.parametrize("name", COUPLED)
def test_a_penalty_on_the_batch_refuses_a_single_example(name, key):
    regularizer, minimum = COUPLED[name]
    message = f"{name} couples.*at least {minimum}; got batch shape"

    def value(x):
        encode, decode = lambda x: Normal(x, 1.0), lambda z: Normal(z, 1.0)
        return vaejax.autoencode(jax.random.clone(key), x, encode, decode, regularizer).value

    batch = jax.ShapeDtypeStruct((SIZE, LATENT), np.float32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(value, batch.update(shape=(LATENT,)))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(jax.vmap(value), batch)
    if minimum == 2:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(value, batch.update(shape=(1, LATENT)))
    assert jax.eval_shape(value, batch).shape == (SIZE,)


BAD = {
    "no size": (lambda: vaejax.tc_decomposition(), TypeError, "dataset_size must be the number of training examples"),
    "small data": (
        lambda: penalty_of(vaejax.tc_decomposition(dataset_size=3), posterior_of()), ValueError,
        "dataset_size must be at least the batch of 6; got 3",
    ),
    "full covariance": (
        lambda: penalty_of(vaejax.tc_decomposition(dataset_size=9), MultivariateNormal(np.zeros((4, 2)), np.eye(2))),
        TypeError, "axes of MultivariateNormal are not known to be independent",
    ),
    "dip of dependent axes": (
        lambda: penalty_of(vaejax.dip_ii(), MultivariateNormal(np.zeros((4, 2)), np.eye(2))), TypeError,
        "axes of MultivariateNormal are not known to be independent",
    ),
    "dip of numpyro's dependent axes": (
        lambda: penalty_of(vaejax.dip_ii(), numpyro.MultivariateNormal(np.zeros((4, 2)), np.eye(2))), TypeError,
        "axes of MultivariateNormal are not known to be independent",
    ),
    "negative threshold": (lambda: vaejax.free_bits(threshold=-1.0), ValueError, "threshold must be at least 0"),
    "negative target": (lambda: vaejax.capacity(vaejax.kl(), -1.0), ValueError, "target must be at least 0"),
    "text for a weight": (lambda: vaejax.scale("2", vaejax.kl()), TypeError, "scale: weight must be an array"),
    "prior for a penalty": (lambda: vaejax.add(vaejax.standard_normal), TypeError, "add: regularizers must be a function"),
    "no width": (lambda: vaejax.gaussian_kernel(0.0), ValueError, "bandwidth must be positive"),
    "no projections": (lambda: vaejax.jacobian_penalty(Delta, num_projections=0), ValueError, "at least 1; got 0"),
    "no closed form": (
        lambda: penalty_of(vaejax.kl(), vaejax.Transformed(posterior_of(), vaejax.Reverse())), TypeError,
        "no closed form for Transformed to Normal; estimate it with monte_carlo_kl",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_its_reason(name):
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        jax.eval_shape(make)


def with_own_draw(key, penalty):
    """The terms of a flow with a penalty."""
    q = vaejax.Transformed(posterior_of(), vaejax.ElementwiseAffine(jnp.ones(LATENT), jnp.full(LATENT, 0.3)))
    return vaejax.autoencode(key, jnp.ones((SIZE, LATENT)), lambda x: q, lambda z: Normal(z, 1.0), penalty)


def test_the_draw_a_flow_remembers_is_its_own_alone():
    """A penalty may ask for the density at other points than the draw: those are computed."""

    @jax.jit
    def densities():
        seen = {}

        def spy(key, q, z):
            seen["drawn"], seen["other"], seen["copy"] = q.log_prob(z), q.log_prob(z + 1), q.log_prob(z + 0)
            return jnp.zeros(())

        terms = with_own_draw(jax.random.key(0), spy)
        return seen, terms.posterior.log_prob(terms.latents), terms.posterior.log_prob(terms.latents + 1)

    seen, drawn, other = densities()
    np.testing.assert_allclose(seen["drawn"], drawn, rtol=1e-4)
    np.testing.assert_allclose(seen["copy"], drawn, rtol=1e-4)
    np.testing.assert_allclose(seen["other"], other, rtol=1e-5)
    with pytest.raises(TypeError, match="no closed form for Transformed"):
        jax.eval_shape(lambda: with_own_draw(jax.random.key(1), vaejax.kl()).value)


def test_a_penalty_may_ask_whether_a_posterior_is_normal(key):
    kinds = []

    def spy(key, q, z):
        kinds.append(type(q))
        return jnp.zeros(())

    x = jnp.ones((SIZE, LATENT))
    jax.eval_shape(lambda: vaejax.autoencode(key, x, lambda x: posterior_of(), lambda z: Normal(z, 1.0), spy).value)
    assert set(kinds) == {Normal}


@pytest.mark.slow("test_recipes traces them; these are their values")
def test_hyperparameters_may_be_traced():
    makers = [
        lambda v: vaejax.free_bits(threshold=v),
        lambda v: vaejax.capacity(vaejax.kl(), v, v),
        lambda v: vaejax.scale(v, vaejax.kl()),
        lambda v: vaejax.tc_decomposition(dataset_size=50, index_code=v, total_correlation=v, dimension_wise=v),
        lambda v: vaejax.dip_i(v, v),
        lambda v: vaejax.dip_ii(v, v),
        lambda v: vaejax.mmd_to(kernel=vaejax.gaussian_kernel(v)),
    ]
    penalties = lambda v: [penalty_of(make(v), posterior_of()) for make in makers]
    traced, expected = jax.jit(lambda v: (penalties(v), penalties(1.7)))(np.float32(1.7))
    chex.assert_trees_all_close(traced, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow("a prior of numpyro in other penalties")
def test_numpyros_prior():
    makers = (vaejax.mmd_to, partial(vaejax.tc_decomposition, dataset_size=50), vaejax.free_bits)

    @jax.jit
    def penalties():
        theirs, ours = numpyro.Normal(jnp.ones(LATENT), 2.0).to_event(1), Normal(jnp.ones(LATENT), 2.0)
        return [[penalty_of(make(prior), posterior_of()) for make in makers] for prior in (theirs, ours)]

    chex.assert_trees_all_close(*penalties(), rtol=1e-4)


@pytest.mark.slow("other types")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_reduced_in_single(dtype):
    wide = (300.0 * np.random.default_rng(0).normal(size=(8, 3))).astype(np.float32)

    @jax.jit
    def penalties(z):
        one = [make()(jax.random.key(1), Delta(z), z) for make in (vaejax.dip_i, vaejax.mmd_to)]
        return one, vaejax.discriminator_loss(lambda z: z.sum(-1), z, z)

    half, loss = penalties(wide.astype(dtype))
    single, loss_of_single = penalties(wide.astype(dtype).astype(np.float32))
    assert {each.dtype for each in (*half, loss)} == {np.dtype(np.float32)}
    chex.assert_trees_all_close(half, single, rtol=1e-5)
    np.testing.assert_allclose(loss, loss_of_single, rtol=1e-2)


def test_a_penalty_may_be_compiled_by_itself(key):
    """What a flow remembers of its draw is forgotten there, and computed."""
    penalties = (vaejax.monte_carlo_kl(), jax.jit(vaejax.monte_carlo_kl()))
    values = jax.jit(lambda key: [with_own_draw(jax.random.clone(key), penalty).penalty for penalty in penalties])
    chex.assert_trees_all_close(*values(key), rtol=1e-4)
