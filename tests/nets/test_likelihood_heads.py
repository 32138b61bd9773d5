"""Heads for counts and levels: what their raw outputs mean, and that they never overflow."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
import scipy.stats

import vaejax
from vaejax import nets
from vaejax.nets import likelihoods

EVENT = (3, 2)
LEVELS = 17
HEADS = {
    "poisson": (likelihoods.poisson(), vaejax.Poisson, jnp.inf),
    "negative binomial": (likelihoods.negative_binomial(2.0), vaejax.NegativeBinomial, jnp.inf),
    "discretized logistic": (likelihoods.discretized_logistic(LEVELS), vaejax.DiscretizedLogistic, LEVELS - 1),
    "logistic mixture": (likelihoods.logistic_mixture(LEVELS, 3), vaejax.Mixture, LEVELS - 1),
}


def data(batch=()):
    return jax.random.randint(jax.random.key(3), (*batch, *EVENT), 0, LEVELS)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
@pytest.mark.parametrize("name", HEADS)
def test_any_batch_axes(name, batch):
    head, kind, highest = HEADS[name]
    params = head.init(jax.random.key(0), EVENT)
    raw = jax.random.normal(jax.random.key(1), (*batch, *EVENT, head.channels))
    assert type(head.distribution(params, raw, 2)) is kind

    @jax.jit
    def figures(raw, x):
        p = head.distribution(params, raw, 2)
        draws = p.sample(jax.random.key(2), (4,))
        return p.mean, draws, p.log_prob(draws), p.support(draws), p.log_prob(x)

    mean, draws, log_probs, inside, log_prob = figures(raw, data(batch))
    chex.assert_shape(mean, (*batch, *EVENT))
    chex.assert_shape(draws, (4, *batch, *EVENT))
    chex.assert_shape(log_probs, (4, *batch))
    assert jnp.issubdtype(draws.dtype, jnp.integer)
    assert jnp.all(inside)
    assert jnp.all((mean > 0) & (mean < highest))
    assert jnp.all((draws >= 0) & (draws <= highest))
    assert jnp.all(log_probs < 0)
    if batch:
        # An example by itself has the probability that it has among others.
        first = (0,) * len(batch)
        alone = jax.jit(lambda raw, x: head.distribution(params, raw, 2).log_prob(x))(raw[first], data(batch)[first])
        chex.assert_trees_all_close(alone, log_prob[first], rtol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_a_wild_net_stays_finite(name):
    head, _, highest = HEADS[name]
    params = head.init(jax.random.key(0), EVENT)
    signs = jax.random.rademacher(jax.random.key(1), (6, *EVENT, head.channels), jnp.float32)
    raw = 1e4 * signs.at[0].set(1.0).at[1].set(-1.0)

    def total(raw, params):
        p = head.distribution(params, raw, 2)
        log_prob = p.log_prob(data((6,)))
        return jnp.sum(log_prob), (log_prob, p.mean)

    wild = jax.tree.map(lambda leaf: 1e4 * jnp.ones_like(leaf), params)
    compiled = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    for own in (params, wild, jax.tree.map(jnp.negative, wild)):
        (_, (log_prob, mean)), gradient = compiled(raw, own)
        chex.assert_tree_all_finite((log_prob, mean, gradient))
        assert jnp.all((mean >= 0) & (mean <= highest))


@pytest.mark.parametrize("name", HEADS)
def test_every_parameter_of_a_model_learns(name):
    model = nets.mlp(EVENT, 3, hidden_sizes=(5,), likelihood=HEADS[name][0])
    params = model.init(jax.random.key(0))

    def loss(params):
        encode, decode = (lambda x: model.encode(params, x)), (lambda z: model.decode(params, z))
        return vaejax.negative_elbo(jax.random.key(2), data((4,)), encode, decode)

    (_, terms), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    chex.assert_shape(terms.value, (4,))
    chex.assert_tree_all_finite(gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.any(leaf != 0), jax.tree_util.keystr(path)


def test_counts_are_numpyros():
    raw = 2.0 * jax.random.normal(jax.random.key(0), (5, *EVENT, 1))
    rate, x = jnp.exp(raw[..., 0]), data((5,))
    log_prob = jax.jit(lambda p, x: p.log_prob(x))
    ours = likelihoods.poisson().distribution({}, raw, 2)
    chex.assert_trees_all_close(log_prob(ours, x), log_prob(numpyro.Poisson(rate).to_event(2), x), rtol=1e-5)
    chex.assert_trees_all_close(ours.mean, rate, rtol=1e-6)
    dispersion = jnp.array([[0.5, 1.0], [2.0, 3.0], [10.0, 0.1]])
    ours = likelihoods.negative_binomial().distribution({"log_dispersion": jnp.log(dispersion)}, raw, 2)
    theirs = numpyro.NegativeBinomial2(rate, dispersion).to_event(2)
    chex.assert_trees_all_close(log_prob(ours, x), log_prob(theirs, x), rtol=1e-4)
    chex.assert_trees_all_close(ours.mean, rate, rtol=1e-5)


def test_the_dispersion_is_one_for_each_element_and_starts_as_it_is_told():
    params = likelihoods.negative_binomial(2.0).init(jax.random.key(0), EVENT)
    chex.assert_trees_all_close(params, {"log_dispersion": jnp.full(EVENT, jnp.log(2.0))})
    several = jnp.array([0.5, 4.0])
    params = likelihoods.negative_binomial(several).init(jax.random.key(0), EVENT)
    chex.assert_trees_all_close(jnp.exp(params["log_dispersion"]), jnp.broadcast_to(several, EVENT))
    for name in ("poisson", "discretized logistic", "logistic mixture"):
        assert HEADS[name][0].init(jax.random.key(0), EVENT) == {}


def level_probabilities(centre, log_scale, num_levels):
    """Of each level, by the logistic distribution function at the bins' edges; the outer bins are open."""
    half = (num_levels - 1) / 2
    edges = np.concatenate([[-np.inf], np.arange(num_levels - 1) + 0.5, [np.inf]])
    return np.diff(scipy.stats.logistic(half * (1 + centre), half * np.exp(log_scale)).cdf(edges))


def test_a_discretized_logistic_is_in_units_of_half_the_range():
    centre, log_scale = 0.4, -1.5
    raw = jnp.array([[centre, log_scale]])
    p = likelihoods.discretized_logistic(LEVELS).distribution({}, raw, 1)
    expected = level_probabilities(centre, log_scale, LEVELS)
    chex.assert_trees_all_close(jnp.exp(p.log_prob(jnp.arange(LEVELS)[:, None])), expected, rtol=1e-4)
    chex.assert_trees_all_close(p.mean[0], expected @ np.arange(LEVELS), rtol=1e-5)


def test_the_channels_of_a_mixture_are_logits_then_centres_then_log_scales():
    logits, centres, log_scales = np.array([[0.3, -1.0, 0.5], [0.4, -0.1, -0.7], [-1.5, -2.5, -0.5]])
    raw = jnp.asarray(np.concatenate([logits, centres, log_scales]), jnp.float32)[None]
    p = likelihoods.logistic_mixture(LEVELS, 3).distribution({}, raw, 1)
    weights = np.exp(logits) / np.sum(np.exp(logits))
    # The components start apart, in the middles of the thirds of the range.
    places = centres + np.array([-2 / 3, 0.0, 2 / 3])
    expected = sum(
        w * level_probabilities(c, s, LEVELS) for w, c, s in zip(weights, places, log_scales, strict=True)
    )  # fmt: skip
    log_probs, mean = jax.jit(lambda p: (p.log_prob(jnp.arange(LEVELS)[:, None]), p.mean))(p)
    chex.assert_trees_all_close(jnp.exp(log_probs), expected, rtol=1e-4)
    chex.assert_trees_all_close(mean[0], expected @ np.arange(LEVELS), rtol=1e-5)


def test_components_that_start_alike_do_not_stay_together():
    """A net that starts at 0 gives each component another gradient."""
    head = likelihoods.logistic_mixture(LEVELS, 4)
    value = jnp.array([2])
    gradient = jax.jit(jax.grad(lambda raw: head.distribution({}, raw, 1).log_prob(value)))(jnp.zeros((1, 12)))[0]
    assert len(jnp.unique(gradient[4:8])) == 4


def test_counts_and_levels_are_scaled_for_the_net():
    x = jnp.array([0, 16, 3], jnp.uint8)
    for name in ("discretized logistic", "logistic mixture"):
        chex.assert_trees_all_close(HEADS[name][0].standardize(x), jnp.array([0.0, 1.0, 3 / 16]))
    for name in ("poisson", "negative binomial"):
        standardized = HEADS[name][0].standardize(jnp.array([0, 9, 10**6]))
        chex.assert_trees_all_close(standardized, jnp.log(jnp.array([1.0, 10.0, 1e6 + 1])), rtol=1e-6)
        assert standardized.dtype == jnp.float32


def test_the_bound_can_be_switched_off():
    wild = jnp.full((1, 3), 100.0)
    for make, channels in (
        (likelihoods.poisson, 1), (lambda bound: likelihoods.negative_binomial(1.0, bound), 1),
    ):  # fmt: skip
        head = make(bound=None)
        params = head.init(jax.random.key(0), (1,))
        assert head.distribution(params, wild[:, :channels], 1).mean == jnp.inf
    assert likelihoods.discretized_logistic(bound=None).distribution({}, wild[:, :2], 1).scale == jnp.inf
    assert (
        likelihoods.logistic_mixture(num_components=1, bound=None).distribution({}, wild, 1).components.scale == jnp.inf
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: likelihoods.negative_binomial(0.0),
            ValueError,
            "initial_dispersion must be positive; got values down to 0.0",
        ),
        (lambda: likelihoods.negative_binomial("one"), TypeError, "initial_dispersion must be an array; got str"),
        (
            lambda: likelihoods.discretized_logistic(1),
            ValueError,
            "discretized_logistic: num_levels must be at least 2; got 1",
        ),
        (lambda: likelihoods.logistic_mixture(1), ValueError, "logistic_mixture: num_levels must be at least 2; got 1"),
        (lambda: likelihoods.logistic_mixture(256, 0), ValueError, "num_components must be at least 1; got 0"),
        (lambda: likelihoods.logistic_mixture(256, 2.0), TypeError, "num_components must be an integer"),
    ],
)
def test_bad_options_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
