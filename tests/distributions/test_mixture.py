"""Mixtures against direct sums, quadrature and numpyro; the mixture of posteriors as a prior."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
import scipy.stats

import vaejax
from vaejax import Bernoulli, Categorical, MultivariateNormal, Normal
from vaejax.distributions.mixture import Mixture, vamp_prior

# Compiled whole, and kept between runs: op by op these tests would take a minute.
log_prob = jax.jit(lambda d, value: d.log_prob(value))
sample = jax.jit(lambda d, key, shape=(): d.sample(key, shape), static_argnums=2)
mean = jax.jit(lambda d: d.mean)


def random_mixture(key, batch=(4,), count=3, size=2, logits_batch=None):
    """Parameters by numpy, whose draws need no compiling."""
    draw = np.random.default_rng(int(jax.random.randint(key, (), 0, 10**6))).normal
    logits = draw(size=(*(batch if logits_batch is None else logits_batch), count))
    shape = (*batch, count, size)
    return Mixture(jnp.asarray(logits), Normal(jnp.asarray(2 * draw(size=shape)), jnp.exp(draw(size=shape))))


def test_is_the_weighted_sum_of_its_components(x64, key):
    """The components are numbered by the axis in front of the event, here as long as all the others."""
    mixture = random_mixture(key, batch=(2,), count=2)
    value = jnp.array([[[0.3, -1.0], [1.2, 0.4]], [[-2.0, 0.1], [0.0, 0.7]]])
    weights = scipy.special.softmax(mixture.logits, -1)
    loc, scale = np.asarray(mixture.components.loc), np.asarray(mixture.components.scale)
    total = sum(weights[:, c] * scipy.stats.norm(loc[:, c], scale[:, c]).pdf(value).prod(-1) for c in range(2))
    chex.assert_trees_all_close(log_prob(mixture, value), np.log(total), rtol=1e-12)
    means = sum(weights[:, c, None] * loc[:, c] for c in range(2))
    chex.assert_trees_all_close(mean(mixture), means, rtol=1e-12)


def test_integrates_to_one_whatever_the_logits_add_up_to(x64):
    mixture = Mixture(jnp.array([3.0, -1.0, 0.5]), Normal(jnp.array([-2.0, 0.0, 3.0]), jnp.array([0.3, 1.0, 0.5]), 0))
    grid = jnp.linspace(-12.0, 12.0, 100_001)
    chex.assert_trees_all_close(jnp.trapezoid(jnp.exp(log_prob(mixture, grid)), grid), 1.0, atol=1e-10)


def test_draws_follow_the_density(key):
    mixture = Mixture(jnp.array([1.0, 0.0, 0.5]), Normal(jnp.array([-2.0, 0.0, 3.0]), jnp.array([0.3, 1.0, 0.5]), 0))
    draws = np.asarray(sample(mixture, key, (40_000,)), np.float64)
    weights = scipy.special.softmax([1.0, 0.0, 0.5])
    cumulative = lambda x: sum(
        w * scipy.stats.norm(m, s).cdf(x) for w, m, s in zip(weights, [-2, 0, 3], [0.3, 1, 0.5], strict=True)
    )
    assert scipy.stats.kstest(draws, cumulative).statistic * 200 < 2.7
    deviation = (draws.mean() - mean(mixture)) / (draws.std() / 200)
    assert abs(deviation) < 5


def test_is_numpyros_and_takes_numpyros_components(x64, key):
    mixture = random_mixture(key)
    theirs = numpyro.Normal(mixture.components.loc, mixture.components.scale).to_event(1)
    reference = numpyro.MixtureSameFamily(numpyro.Categorical(logits=mixture.logits), theirs)
    value = jax.random.normal(jax.random.key(1), (5, 4, 2))
    chex.assert_trees_all_close(log_prob(mixture, value), log_prob(reference, value), rtol=1e-10)
    ours = Mixture(mixture.logits, theirs)
    assert (ours.event_ndims, ours.is_discrete, ours.has_rsample) == (1, False, False)
    chex.assert_trees_all_close(log_prob(ours, value), log_prob(reference, value), rtol=1e-10)
    chex.assert_trees_all_close(mean(ours), mean(reference), rtol=1e-10)
    chex.assert_shape(sample(ours, jax.random.key(2), (5,)), (5, 4, 2))
    chex.assert_shape(ours.support(value), value.shape)


def test_vectors_with_a_full_covariance(x64, key):
    factor = jnp.array([[[0.5, 0.0], [0.9, 1.1]], [[1.0, 0.0], [-0.4, 0.2]]])
    mixture = Mixture(jnp.array([0.4, -0.3]), MultivariateNormal(jnp.array([[0.0, 1.0], [2.0, -1.0]]), factor))
    value = jax.random.normal(key, (6, 2))
    parts = [scipy.stats.multivariate_normal(m, f @ f.T).logpdf(value) for m, f in zip(mixture.components.loc, factor)]  # noqa: B905
    expected = scipy.special.logsumexp(np.stack(parts, -1) + scipy.special.log_softmax([0.4, -0.3]), axis=-1)
    chex.assert_trees_all_close(log_prob(mixture, value), expected, rtol=1e-10)


def test_a_mixture_for_each_pixel_is_summed_over_the_event(x64, key):
    keys = jax.random.split(key, 3)
    logits, loc = jax.random.normal(keys[0], (4, 3, 2, 5)), jax.random.normal(keys[1], (4, 3, 2, 5))
    value = jax.random.normal(keys[2], (7, 4, 3, 2))
    elementwise = Mixture(logits, Normal(loc, 0.5, 0)).log_prob(value)
    assert elementwise.shape == (7, 4, 3, 2)
    for event_ndims in (1, 2, 3):
        whole = Mixture(logits, Normal(loc, 0.5, 0), event_ndims)
        chex.assert_trees_all_close(log_prob(whole, value), elementwise.sum(tuple(range(-event_ndims, 0))), rtol=1e-12)
        chex.assert_shape(sample(whole, jax.random.key(1), (6,)), (6, 4, 3, 2))
        chex.assert_shape(mean(whole), (4, 3, 2))
    # More pixels' logits shared, and a value of other event axes refused.
    shared = Mixture(logits[0, 0, 0], Normal(loc, 0.5, 0), 2)
    expected = Mixture(jnp.broadcast_to(logits[0, 0, 0], logits.shape), Normal(loc, 0.5, 0), 2).log_prob(value)
    chex.assert_trees_all_close(log_prob(shared, value), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"event shape \(3, 2\); got shape \(4, 3, 1\)"):
        shared.log_prob(value[0, :, :, :1])


@pytest.mark.parametrize("batches", [((), (4,)), ((4,), ()), ((4, 1), (4,)), ((4,), (4, 1)), ((4,), (4, 4))])
def test_batches_broadcast_and_draws_are_apart_along_them(batches, key):
    """Every batch axis is as long as the number of components: one taken for another gives numbers."""
    logits_batch, batch = batches
    mixture = random_mixture(key, batch, 4, 4, logits_batch)
    wide = jnp.broadcast_shapes(*batches)
    full = Mixture(
        jnp.broadcast_to(mixture.logits, (*wide, 4)), Normal(*(jnp.broadcast_to(p, (*wide, 4, 4)) for p in (mixture.components.loc, mixture.components.scale)))
    )  # fmt: skip
    value = jax.random.normal(jax.random.key(1), (4, *wide, 4))
    chex.assert_trees_all_close(log_prob(mixture, value), log_prob(full, value), rtol=1e-5)
    draws = sample(mixture, jax.random.key(2), (4,))
    chex.assert_shape(draws, (4, *wide, 4))
    assert len(np.unique(np.asarray(draws))) == draws.size
    many = sample(mixture, jax.random.key(3), (20_000,))
    deviation = (many.mean(0) - mean(full)) / (many.std(0) / 20_000**0.5)
    assert jnp.all(jnp.abs(deviation) < 5)


@pytest.mark.parametrize("ranks", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_a_mapped_constructor_is_the_batched_one(ranks, key):
    """Also where the logits and the components have different ranks inside the map."""
    keys = jax.random.split(key, 3)
    logits = jax.random.normal(keys[0], (4,) * (2 + ranks[0]))
    loc = jax.random.normal(keys[1], (4,) * (3 + ranks[1]))
    scale = jnp.exp(jax.random.normal(keys[2], (4,)))
    make = lambda logits, loc, scale: Mixture(logits, Normal(loc, scale))
    apart = [make(*arrays) for arrays in zip(logits, loc, scale, strict=True)]
    value = jax.random.normal(jax.random.key(1), (4, *apart[0].batch_shape, 4))
    mapped = jax.vmap(make)(logits, loc, scale)
    expected = jnp.stack([log_prob(each, v) for each, v in zip(apart, value, strict=True)])
    chex.assert_trees_all_close(log_prob(mapped, value), expected, rtol=1e-5)
    chex.assert_trees_all_close(jax.vmap(lambda m, v: m.log_prob(v))(mapped, value), expected, rtol=1e-5)
    chex.assert_trees_all_close(mean(mapped), jnp.stack([mean(each) for each in apart]), rtol=1e-5)
    chex.assert_shape(sample(mapped, jax.random.key(2), (3,)), (3, *value.shape))


def test_is_stable_far_from_all_components_and_without_weight():
    mixture = lambda loc: Mixture(jnp.array([0.0, -jnp.inf, 0.0]), Normal(loc, jnp.array([1e-3, 1.0, 1e-3]), 0))
    value, gradient = jax.value_and_grad(lambda loc: mixture(loc).log_prob(jnp.array(50.0)))(jnp.array([0.0, 5.0, 1.0]))
    chex.assert_trees_all_close(value, Normal(1.0, 1e-3, 0).log_prob(jnp.array(50.0)) - np.log(2), rtol=1e-6)
    chex.assert_tree_all_finite(gradient)


def test_discrete_components_keep_their_support():
    mixture = Mixture(jnp.zeros(2), Bernoulli(jnp.array([[1.0, 2.0, 0.0], [-1.0, 0.5, 3.0]])))
    outcomes = jnp.stack(jnp.meshgrid(*[jnp.array([0.0, 1.0])] * 3), axis=-1).reshape(-1, 3)
    chex.assert_trees_all_close(jnp.sum(jnp.exp(log_prob(mixture, outcomes))), 1.0, rtol=1e-5)
    chex.assert_trees_all_equal(mixture.support(jnp.array([0.0, 0.5, 1.0])), jnp.array([True, False, True]))
    grey = jnp.array([0.0, 0.5, 1.0])
    for call in (lambda m: m.log_prob(grey), jax.jit(lambda m: m.log_prob(grey))):
        with pytest.raises(ValueError, match="0 or 1"):
            call(mixture)
    levels = Mixture(jnp.zeros((5, 2)), Categorical(jnp.zeros((5, 2, 7)), 0), 1)
    chex.assert_trees_all_close(log_prob(levels, jnp.arange(5)), -5 * jnp.log(7.0), rtol=1e-6)
    assert sample(levels, jax.random.key(0), (3,)).dtype == jnp.int32


@pytest.mark.parametrize(
    ("make", "error", "found"),
    [
        (lambda: Mixture(jnp.zeros(3), Normal(jnp.zeros((4, 2)), 1.0)), ValueError, r"equally long.*\(3,\).*\(4, 2\)"),
        (lambda: Mixture(jnp.zeros(2), Normal(jnp.zeros(2), 1.0)), ValueError, "equally long"),
        (lambda: Mixture(jnp.zeros(()), Normal(jnp.zeros((3, 2)), 1.0)), ValueError, "equally long"),
        (lambda: Mixture(jnp.zeros(2), Normal(jnp.zeros((2, 2)), 1.0), 0), ValueError, "event_ndims must be at least 1"),
        (lambda: Mixture(jnp.zeros(2), Normal(jnp.zeros(2), 1.0, 0), 1), ValueError, "1 event axes need 1 batch axes"),
        (lambda: Mixture(jnp.zeros(2), jnp.zeros(2)), TypeError, "components must be a distribution"),
        (lambda: Mixture(None, Normal(jnp.zeros((2, 2)), 1.0)), TypeError, "logits must be an array"),
        (lambda: vamp_prior(lambda u: (u, u), jnp.zeros((5, 2))), TypeError, "encode must return a distribution"),
        (lambda: vamp_prior(lambda u: Normal(u[:3], 1.0), jnp.zeros((5, 2))), ValueError, "equally long"),
        (lambda: vamp_prior(lambda u: Normal(u, 1.0), jnp.zeros(())), ValueError, "pseudo_inputs need a first axis"),
    ],
)  # fmt: skip
def test_bad_input_raises(make, error, found):
    with pytest.raises(error, match=found):
        make()


def test_components_that_do_not_say_their_event_axes_show_them_by_their_draws():
    """A density of one number for each vector, whoever wrote it."""

    class Mine:
        def sample(self, key, sample_shape=()):
            return NORMALS.sample(key, sample_shape)

        def log_prob(self, value):
            return NORMALS.log_prob(value)

    mine, ours = Mixture(jnp.zeros(3), Mine()), Mixture(jnp.zeros(3), NORMALS)
    assert mine.event_ndims == 1
    chex.assert_trees_all_equal(mine.log_prob(jnp.ones(2)), ours.log_prob(jnp.ones(2)))


NORMALS = Normal(jnp.arange(6.0).reshape(3, 2), 1.0)


def test_vamp_prior_is_the_mean_of_the_posteriors_at_the_pseudo_inputs(x64, key):
    encode = lambda x: Normal.from_log_variance(x @ jnp.ones((5, 2)), x @ jnp.linspace(-1, 1, 10).reshape(5, 2))
    inputs_key, z_key = jax.random.split(key)
    inputs, z = jax.random.normal(inputs_key, (3, 5)), jax.random.normal(z_key, (4, 2))
    prior = vamp_prior(encode, inputs)
    expected = jnp.log(sum(jnp.exp(encode(u).log_prob(z)) for u in inputs) / 3)
    chex.assert_trees_all_close(log_prob(prior, z), expected, rtol=1e-10)


def test_vamp_prior_trains_in_an_elbo(key):
    x_key, elbo_key = jax.random.split(key)
    x = jax.random.normal(x_key, (8, 5))
    encode = lambda x: Normal(x[..., :2], 0.5)

    def loss(inputs):
        decode = lambda z: Normal(z @ jnp.ones((2, 5)), 1.0)
        return vaejax.negative_elbo(elbo_key, x, encode, decode, vamp_prior(encode, inputs), kl=vaejax.monte_carlo_kl)[
            0
        ]

    gradient = jax.jit(jax.grad(loss))(x[:3])
    chex.assert_tree_all_finite(gradient)
    assert jnp.all(gradient[:, :2] != 0)
