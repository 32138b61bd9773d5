"""Mixtures against direct sums, quadrature and numpyro; the mixture of posteriors as a prior."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
import scipy.special
import scipy.stats

import vaejax
from vaejax import Bernoulli, Categorical, MultivariateNormal, Normal
from vaejax.distributions.mixture import Mixture, vamp_prior


@partial(jax.jit, static_argnames="count")
def figures(mixture, value, count=4):
    """The log-density, the mean, and draws `[count, *B, *E]`."""
    return mixture.log_prob(value), mixture.mean, mixture.sample(jax.random.key(20260), (count,))


def random_mixture(batch=(4,), count=3, size=2, logits_batch=None):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(*(batch if logits_batch is None else logits_batch), count))
    shape = (*batch, count, size)
    return Mixture(logits, Normal(2 * rng.normal(size=shape), np.exp(rng.normal(size=shape))))


def weighted_sum(weights, loc, scale, value):
    """log p of a mixture of Normals `[*B, C, D]` at `[*S, *B, D]`, by scipy."""
    densities = scipy.stats.norm(loc, scale).pdf(np.asarray(value)[..., None, :]).prod(-1)
    return np.log(np.sum(weights * densities, axis=-1))


def test_is_the_weighted_sum_of_its_components(x64):
    """The components are numbered by the axis in front of the event, here as long as all the others."""
    mixture = random_mixture(batch=(2,), count=2)
    value = np.array([[[0.3, -1.0], [1.2, 0.4]], [[-2.0, 0.1], [0.0, 0.7]]])
    weights = scipy.special.softmax(mixture.logits, -1)
    loc, scale = mixture.components.loc, mixture.components.scale
    log_prob, mean, _ = figures(mixture, value)
    chex.assert_trees_all_close(log_prob, weighted_sum(weights, loc, scale, value), rtol=1e-12)
    chex.assert_trees_all_close(mean, np.sum(weights[..., None] * loc, axis=-2), rtol=1e-12)


THREE = {
    "logits": np.float32([1.0, 0.0, 0.5]),
    "loc": np.float32([-2.0, 0.0, 3.0]),
    "scale": np.float32([0.3, 1.0, 0.5]),
}


def test_integrates_to_one_whatever_the_logits_add_up_to(x64):
    mixture = Mixture(THREE["logits"] + 7, Normal(THREE["loc"], THREE["scale"], 0))
    grid = np.linspace(-12.0, 12.0, 100_001)
    density = np.exp(jax.jit(Mixture.log_prob)(mixture, grid))
    chex.assert_trees_all_close(np.trapezoid(density, grid), 1.0, atol=1e-10)


def test_draws_follow_the_density():
    mixture = Mixture(THREE["logits"], Normal(THREE["loc"], THREE["scale"], 0))
    _, mean, draws = figures(mixture, np.float32(0.0), 40_000)
    draws = np.asarray(draws, np.float64)
    weights = scipy.special.softmax(THREE["logits"])
    cumulative = lambda x: scipy.stats.norm(THREE["loc"], THREE["scale"]).cdf(x[:, None]) @ weights
    assert scipy.stats.kstest(draws, cumulative).statistic * 200 < 2.7
    deviation = (draws.mean() - mean) / (draws.std() / 200)
    assert abs(deviation) < 5


def test_is_numpyros_and_takes_numpyros_components(x64):
    mixture = random_mixture()
    value = np.random.default_rng(1).normal(size=(5, 4, 2))

    @jax.jit
    def pairs(mixture, value):
        components = mixture.components
        theirs = numpyro.Normal(components.loc, components.scale, validate_args=False).to_event(1)
        choice = numpyro.Categorical(logits=mixture.logits, validate_args=False)
        reference = numpyro.MixtureSameFamily(choice, theirs, validate_args=False)
        ours = Mixture(mixture.logits, theirs)
        assert (ours.event_ndims, ours.is_discrete, ours.has_rsample) == (1, False, False)
        chex.assert_shape(ours.support(value), value.shape)
        draws = ours.sample(jax.random.key(2), (5,))
        figures = lambda d: (d.log_prob(value), d.mean)
        return figures(mixture), figures(ours), figures(reference), draws

    of_ours, of_theirs, expected, draws = pairs(mixture, value)
    chex.assert_trees_all_close(of_ours, expected, rtol=1e-10)
    chex.assert_trees_all_close(of_theirs, expected, rtol=1e-10)
    chex.assert_shape(draws, (5, 4, 2))


def test_vectors_with_a_full_covariance(x64):
    loc, factor = np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([[[0.5, 0.0], [0.9, 1.1]], [[1.0, 0.0], [-0.4, 0.2]]])
    mixture = Mixture(np.array([0.4, -0.3]), MultivariateNormal(loc, factor))
    value = np.random.default_rng(0).normal(size=(6, 2))
    parts = [scipy.stats.multivariate_normal(m, f @ f.T).logpdf(value) for m, f in zip(loc, factor, strict=True)]
    expected = scipy.special.logsumexp(np.stack(parts, -1) + scipy.special.log_softmax([0.4, -0.3]), axis=-1)
    chex.assert_trees_all_close(jax.jit(Mixture.log_prob)(mixture, value), expected, rtol=1e-10)


def test_a_mixture_for_each_pixel_is_summed_over_the_event(x64):
    rng = np.random.default_rng(0)
    logits, loc, value = rng.normal(size=(4, 3, 2, 5)), rng.normal(size=(4, 3, 2, 5)), rng.normal(size=(7, 4, 3, 2))
    shared = logits[0, 0, 0]

    @jax.jit
    def log_probs(value):
        whole = [Mixture(logits, Normal(loc, 0.5, 0), n).log_prob(value) for n in range(4)]
        # All pixels with one vector of logits.
        return whole, Mixture(shared, Normal(loc, 0.5, 0), 2).log_prob(value)

    (elementwise, *summed), with_shared = log_probs(value)
    terms = lambda logits: scipy.special.logsumexp(
        scipy.special.log_softmax(logits, -1) + scipy.stats.norm(loc, 0.5).logpdf(value[..., None]), axis=-1
    )
    chex.assert_trees_all_close(elementwise, terms(logits), rtol=1e-12)
    chex.assert_trees_all_close(with_shared, terms(shared).sum((-1, -2)), rtol=1e-12)
    for event_ndims, found in enumerate(summed, start=1):
        chex.assert_trees_all_close(found, terms(logits).sum(tuple(range(-event_ndims, 0))), rtol=1e-12)
        mixture = Mixture(logits, Normal(loc, 0.5, 0), event_ndims)
        draws, mean = jax.eval_shape(lambda m=mixture: (m.sample(jax.random.key(1), (6,)), m.mean))
        chex.assert_shape([draws, mean], [(6, 4, 3, 2), (4, 3, 2)])
    with pytest.raises(ValueError, match=r"event shape \(3, 2\); got shape \(4, 3, 1\)"):
        Mixture(shared, Normal(loc, 0.5, 0), 2).log_prob(value[0, :, :, :1])


ANOTHER_PAIR = pytest.mark.slow("another pair of batches")


@pytest.mark.parametrize(
    "batches",
    [
        ((4, 1), (1, 4)),
        *(
            pytest.param(pair, marks=ANOTHER_PAIR)
            for pair in [((), (4,)), ((4,), ()), ((1, 4), (4, 1)), ((4,), (4, 4))]
        ),
    ],
)
def test_batches_broadcast_and_draws_are_apart_along_them(batches):
    """Every batch axis is as long as the number of components: one taken for another gives numbers."""
    logits_batch, batch = batches
    mixture, wide = random_mixture(batch, 4, 4, logits_batch), np.broadcast_shapes(*batches)
    # By leading axes of size 1 in front of both.
    lift = lambda array, own: np.reshape(array, (1,) * (len(wide) - len(own)) + np.shape(array))
    weights = scipy.special.softmax(lift(np.asarray(mixture.logits).reshape(*logits_batch, 4), logits_batch), -1)
    loc, scale = (
        lift(np.asarray(each).reshape(*batch, 4, 4), batch)
        for each in (mixture.components.loc, mixture.components.scale)
    )
    value = np.random.default_rng(1).normal(size=(4, *wide, 4))
    log_prob, mean, draws = jax.device_get(figures(mixture, value.astype(np.float32), 20_000))
    expected = weighted_sum(weights, loc, scale, value)
    chex.assert_trees_all_close(log_prob, expected.astype(np.float32), rtol=1e-5)
    expected = np.broadcast_to(np.sum(weights[..., None] * loc, axis=-2), (*wide, 4))
    chex.assert_trees_all_close(mean, expected.astype(np.float32), rtol=1e-5, atol=1e-6)
    chex.assert_shape(draws, (20_000, *wide, 4))
    assert len(np.unique(draws[:4])) == draws[:4].size
    assert np.all(np.abs(draws.mean(0) - expected) < 5 * draws.std(0) / 20_000**0.5)


ANOTHER_RANK = pytest.mark.slow("other numbers of batch axes")


@pytest.mark.parametrize(
    "ranks", [(1, 0), *(pytest.param(ranks, marks=ANOTHER_RANK) for ranks in [(0, 0), (0, 1), (1, 1)])]
)
def test_a_mapped_constructor_is_the_batched_one(ranks):
    """Also where the logits and the components have different ranks inside the map."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    logits, loc, scale = draw(*(4,) * (2 + ranks[0])), draw(*(4,) * (3 + ranks[1])), np.exp(draw(4))
    value = draw(4, *(4,) * max(ranks), 4)
    make = lambda logits, loc, scale: Mixture(logits, Normal(loc, scale))

    @jax.jit
    def mapped(logits, loc, scale, value):
        mixture = jax.vmap(make)(logits, loc, scale)
        chex.assert_shape(mixture.sample(jax.random.key(2), (3,)), (3, *value.shape))
        return (mixture.log_prob(value), mixture.mean), jax.vmap(lambda m, v: m.log_prob(v))(mixture, value)

    @jax.jit
    def apart(logits, loc, scale, value):
        mixture = make(logits, loc, scale)
        return mixture.log_prob(value), mixture.mean

    expected = [apart(*arrays) for arrays in zip(logits, loc, scale, value, strict=True)]
    expected = jax.tree.map(lambda *parts: np.stack(parts), *expected)
    found, mapped_again = mapped(logits, loc, scale, value)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
    chex.assert_trees_all_close(mapped_again, expected[0], rtol=1e-5)


def test_is_stable_far_from_all_components_and_without_weight():
    mixture = lambda loc: Mixture(jnp.array([0.0, -jnp.inf, 0.0]), Normal(loc, jnp.array([1e-3, 1.0, 1e-3]), 0))
    density = jax.jit(jax.value_and_grad(lambda loc: mixture(loc).log_prob(jnp.array(50.0))))
    value, gradient = density(np.float32([0.0, 5.0, 1.0]))
    expected = scipy.stats.norm(1.0, 1e-3).logpdf(50.0) - np.log(2)
    chex.assert_trees_all_close(value, np.float32(expected), rtol=1e-6)
    chex.assert_tree_all_finite(gradient)


def test_a_value_that_no_component_reaches_has_no_gradient_that_is_not_a_number():
    """Far away every density underflows; a component of weight zero is none."""
    log_prob = lambda logits, loc, value: Mixture(logits, Normal(loc, 1.0)).log_prob(value)
    graded = jax.jit(jax.vmap(jax.value_and_grad(log_prob, (0, 1, 2)), (0, None, 0)))
    logits = np.float32([[0.0, 0.0], [-np.inf, 0.0]])
    values, slopes = graded(logits, np.zeros((2, 1), np.float32), np.float32([[1e20], [1.0]]))
    chex.assert_trees_all_close(values, np.float32([-np.inf, -0.5 - 0.5 * np.log(2 * np.pi)]), rtol=1e-6)
    chex.assert_tree_all_finite(slopes)
    chex.assert_trees_all_close(slopes[2], np.float32([[0.0], [-1.0]]), rtol=1e-6)


def test_discrete_components_keep_their_support():
    mixture = Mixture(np.zeros(2, np.float32), Bernoulli(np.float32([[1.0, 2.0, 0.0], [-1.0, 0.5, 3.0]])))
    outcomes = np.stack(np.meshgrid(*[[0.0, 1.0]] * 3), axis=-1).reshape(-1, 3)
    chex.assert_trees_all_close(
        np.sum(np.exp(jax.jit(Mixture.log_prob)(mixture, outcomes))), np.float32(1.0), rtol=1e-5
    )
    grey = np.float32([0.0, 0.5, 1.0])
    chex.assert_trees_all_equal(jax.jit(lambda m: m.support(grey))(mixture), np.array([True, False, True]))
    for call in (lambda m: m.log_prob(grey), jax.jit(lambda m: m.log_prob(grey))):
        with pytest.raises(ValueError, match="0 or 1"):
            call(mixture)
    levels = Mixture(np.zeros((5, 2), np.float32), Categorical(np.zeros((5, 2, 7), np.float32), 0), 1)
    log_prob, _, draws = figures(levels, np.arange(5))
    chex.assert_trees_all_close(log_prob, np.float32(-5 * np.log(7.0)), rtol=1e-6)
    assert draws.dtype == jnp.int32


@pytest.mark.parametrize(
    ("make", "error", "found"),
    [
        (lambda: Mixture(np.zeros(3), Normal(np.zeros((4, 2)), 1.0)), ValueError, r"equally long.*\(3,\).*\(4, 2\)"),
        (lambda: Mixture(np.zeros(2), Normal(np.zeros(2), 1.0)), ValueError, "equally long"),
        (lambda: Mixture(np.zeros(()), Normal(np.zeros((3, 2)), 1.0)), ValueError, "equally long"),
        (lambda: Mixture(np.zeros(2), Normal(np.zeros((2, 2)), 1.0), 0), ValueError, "event_ndims must be at least 1"),
        (lambda: Mixture(np.zeros(2), Normal(np.zeros(2), 1.0, 0), 1), ValueError, "1 event axes need 1 batch axes"),
        (lambda: Mixture(np.zeros(2), np.zeros(2)), TypeError, "components must be a distribution"),
        (lambda: Mixture(None, Normal(np.zeros((2, 2)), 1.0)), TypeError, "logits must be an array"),
        (lambda: vamp_prior(lambda u: (u, u), np.zeros((5, 2))), TypeError, "encode must return a distribution"),
        (lambda: vamp_prior(lambda u: Normal(u[:3], 1.0), np.zeros((5, 2))), ValueError, "equally long"),
        (lambda: vamp_prior(lambda u: Normal(u, 1.0), np.zeros(())), ValueError, "pseudo_inputs need a first axis"),
    ],
)  # fmt: skip
def test_bad_input_raises(make, error, found):
    with pytest.raises(error, match=found):
        make()


def test_components_that_do_not_say_their_event_axes_show_them_by_their_draws():
    """A density of one number for each vector, whoever wrote it."""
    normals = Normal(np.arange(6, dtype=np.float32).reshape(3, 2), 1.0)

    class Mine:
        def sample(self, key, sample_shape=()):
            return normals.sample(key, sample_shape)

        def log_prob(self, value):
            return normals.log_prob(value)

    @jax.jit
    def log_probs(value):
        mine, ours = Mixture(jnp.zeros(3), Mine()), Mixture(jnp.zeros(3), normals)
        assert mine.event_ndims == 1
        return mine.log_prob(value), ours.log_prob(value)

    chex.assert_trees_all_equal(*log_probs(np.ones(2, np.float32)))


def test_vamp_prior_is_the_mean_of_the_posteriors_at_the_pseudo_inputs(x64):
    rng = np.random.default_rng(0)
    inputs, z, slopes = rng.normal(size=(3, 5)), rng.normal(size=(4, 2)), np.linspace(-1, 1, 10).reshape(5, 2)
    encode = lambda x: Normal.from_log_variance(x @ np.ones((5, 2)), x @ slopes)
    found = jax.jit(lambda inputs, z: vamp_prior(encode, inputs).log_prob(z))(inputs, z)
    scale = np.exp(inputs @ slopes / 2)
    chex.assert_trees_all_close(found, weighted_sum(np.ones(3) / 3, inputs @ np.ones((5, 2)), scale, z), rtol=1e-10)


@pytest.mark.slow("derived by JAX from a density that is tested above")
def test_vamp_prior_trains_in_an_elbo(key):
    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    encode = lambda x: Normal(x[..., :2], 0.5)
    decode = lambda z: Normal(z @ jnp.ones((2, 5)), 1.0)

    def loss(inputs):
        return vaejax.negative_elbo(key, x, encode, decode, vamp_prior(encode, inputs), kl=vaejax.monte_carlo_kl)[0]

    gradient = jax.jit(jax.grad(loss))(x[:3])
    chex.assert_tree_all_finite(gradient)
    assert np.all(gradient[:, :2] != 0)
