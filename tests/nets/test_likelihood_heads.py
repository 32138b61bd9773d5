"""Heads for counts and levels: what their raw outputs mean, and that they never overflow."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import vaejax
from tests.parameters import random_params
from tests.tiers import slow_but
from vaejax import nets
from vaejax.nets import heads, likelihoods

EVENT = (3, 2)
LEVELS = 17
HEADS = {
    "poisson": (likelihoods.poisson(), vaejax.Poisson, np.inf),
    "negative binomial": (likelihoods.negative_binomial(2.0), vaejax.NegativeBinomial, np.inf),
    "discretized logistic": (likelihoods.discretized_logistic(LEVELS), vaejax.DiscretizedLogistic, LEVELS - 1),
    "logistic mixture": (likelihoods.logistic_mixture(LEVELS, 3), vaejax.Mixture, LEVELS - 1),
}


ANOTHER_HEAD = "another head; each is compiled by itself"
another_shape = pytest.mark.slow("another shape of the same law")


def data(batch=()):
    return np.random.default_rng(3).integers(0, LEVELS, (*batch, *EVENT))


def outputs(head, batch=(), event=EVENT):
    """What a net may put out."""
    return np.random.default_rng(1).standard_normal((*batch, *event, head.channels)).astype(np.float32)


@pytest.mark.parametrize("name", slow_but({"discretized logistic"}, HEADS, ANOTHER_HEAD))
@pytest.mark.parametrize(
    "batch", [pytest.param((), marks=another_shape), pytest.param((5,), marks=another_shape), (2, 3)]
)
def test_any_batch_axes(name, batch):
    (head, kind, highest), first = HEADS[name], (0,) * len(batch)

    @jax.jit
    def figures(raw):
        params = head.init(jax.random.key(0), EVENT)
        p = head.distribution(params, raw, 2)
        assert type(p) is kind
        draws = p.sample(jax.random.key(2), (4,))
        alone = head.distribution(params, raw[first], 2).log_prob(draws[0][first])
        return p.mean, draws, p.log_prob(draws), p.support(draws), alone

    mean, draws, log_probs, inside, alone = jax.device_get(figures(outputs(head, batch)))
    chex.assert_shape(mean, (*batch, *EVENT))
    chex.assert_shape(draws, (4, *batch, *EVENT))
    chex.assert_shape(log_probs, (4, *batch))
    np.testing.assert_array_equal(draws, np.floor(draws))
    assert np.all(inside)
    assert np.all((mean > 0) & (mean < highest))
    assert np.all((draws >= 0) & (draws <= highest))
    assert np.all(log_probs < 0)
    # An example by itself has the probability that it has among others.
    chex.assert_trees_all_close(alone, log_probs[0][first], rtol=1e-5)


@pytest.mark.parametrize("name", slow_but({"poisson"}, HEADS, ANOTHER_HEAD))
def test_a_wild_net_stays_finite(name):
    head, _, highest = HEADS[name]
    signs = np.random.default_rng(1).choice([-1, 1], (6, *EVENT, head.channels))
    signs[0], signs[1] = 1, -1
    wild, x = 1e4 * signs.astype(np.float32), data((6,))

    def total(raw, params):
        p = head.distribution(params, raw, 2)
        log_prob = p.log_prob(x)
        return jnp.sum(log_prob), (log_prob, p.mean)

    figures = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), EVENT))
    for value in (np.log(2.0), 1e4, -1e4):
        own = jax.tree.map(lambda leaf, value=value: np.full(leaf.shape, value, np.float32), shapes)
        (_, (log_prob, mean)), gradient = jax.device_get(figures(wild, own))
        chex.assert_tree_all_finite((log_prob, mean, gradient))
        assert np.all((mean >= 0) & (mean <= highest))


@pytest.mark.slow("other heads on the net that test_nets differentiates")
@pytest.mark.parametrize("name", HEADS)
def test_every_parameter_of_a_model_learns(name):
    model = nets.mlp(EVENT, 3, hidden_sizes=(5,), likelihood=HEADS[name][0])

    def loss(params, x):
        return vaejax.negative_elbo(jax.random.key(2), x, partial(model.encode, params), partial(model.decode, params))

    bound = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, terms), gradient = jax.device_get(bound(random_params(model), data((4,))))
    chex.assert_shape(terms.value, (4,))
    chex.assert_tree_all_finite(gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(leaf != 0), jax.tree_util.keystr(path)


def test_counts_are_scipys():
    raw, x = 2.0 * outputs(likelihoods.poisson(), (5,)), data((5,))
    dispersion = np.array([[0.5, 1.0], [2.0, 3.0], [10.0, 0.1]], np.float32)

    @jax.jit
    def figures(raw, x):
        poisson = likelihoods.poisson().distribution({}, raw, 2)
        binomial = likelihoods.negative_binomial().distribution({"log_dispersion": jnp.log(dispersion)}, raw, 2)
        return [(p.log_prob(x), p.mean) for p in (poisson, binomial)]

    (log_prob, mean), (log_prob_2, mean_2) = figures(raw, x)
    rate = np.exp(raw[..., 0].astype(np.float64))
    expected = scipy.stats.poisson(rate).logpmf(x).sum((1, 2))
    chex.assert_trees_all_close(log_prob, expected.astype(np.float32), rtol=1e-5)
    chex.assert_trees_all_close(mean, rate.astype(np.float32), rtol=1e-6)
    expected = scipy.stats.nbinom(dispersion, dispersion / (dispersion + rate)).logpmf(x).sum((1, 2))
    chex.assert_trees_all_close(log_prob_2, expected.astype(np.float32), rtol=1e-4)
    chex.assert_trees_all_close(mean_2, rate.astype(np.float32), rtol=1e-5)


def test_the_dispersion_is_one_for_each_element_and_starts_as_it_is_told():
    several = np.float32([0.5, 4.0])
    init = lambda dispersion: likelihoods.negative_binomial(dispersion).init(jax.random.key(0), EVENT)
    one, each = jax.jit(lambda: (init(2.0), init(several)))()
    chex.assert_trees_all_close(one, {"log_dispersion": np.full(EVENT, np.log(2.0), np.float32)}, rtol=1e-6)
    chex.assert_trees_all_close(np.exp(each["log_dispersion"]), np.broadcast_to(several, EVENT), rtol=1e-6)
    for name in ("poisson", "discretized logistic", "logistic mixture"):
        assert HEADS[name][0].init(jax.random.key(0), EVENT) == {}


def test_real_numbers_keep_their_units():
    """log p(x) is that of x and not of what the net sees: the Jacobian is in it."""
    mean, scale = np.float32([10.0, -300.0, 0.0]), np.float32([2.0, 1500.0, 1e-3])
    head = heads.standardized(heads.learned_normal(0.5), mean, scale)
    raw = np.float32([[[0.3], [-1.0], [2.0]]])
    x = (mean + scale * [0.1, 2.0, -1.0]).astype(np.float32)[None]

    @jax.jit
    def figures(raw, x):
        p = head.distribution(head.init(jax.random.key(0), (3,)), raw, 1)
        return p.log_prob(x), p.mean, head.standardize(x)

    log_prob, mean_of_x, seen = figures(raw, x)
    loc = mean + scale * raw[..., 0]
    np.testing.assert_allclose(log_prob, scipy.stats.norm(loc, 0.5 * scale).logpdf(x).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(mean_of_x, loc, rtol=1e-6)
    np.testing.assert_allclose(seen[0], [0.1, 2.0, -1.0], rtol=1e-4)


def test_what_is_missing_is_in_no_likelihood_and_the_net_sees_0_for_it():
    head = heads.with_missing(heads.standardized(heads.normal(), np.float32([5.0, 6.0]), np.float32([2.0, 3.0])))
    x = np.float32([[7.0, np.nan], [np.nan, np.nan], [5.0, 6.0]])

    @jax.jit
    def figures(x):
        p = head.distribution({}, jnp.zeros((3, 2, 1)), 1)
        return p.log_prob(x), p.mean, p.support(x), head.standardize(x)

    log_prob, mean, inside, seen = figures(x)
    one, other = (-0.5 * np.log(2 * np.pi) - np.log(each) for each in (2.0, 3.0))
    np.testing.assert_allclose(log_prob, [one - 0.5, 0.0, one + other], rtol=1e-6)
    np.testing.assert_array_equal(mean, np.broadcast_to(np.float32([5.0, 6.0]), (3, 2)))
    np.testing.assert_array_equal(seen, [[1, 0], [0, 0], [0, 0]])
    assert np.all(inside)


def test_counts_begin_at_the_mean_that_is_told():
    """Where the bound on a net's output would be far below counts of a million."""
    means = np.float32([1e6, 0.01])
    each = (likelihoods.poisson(initial_mean=means), likelihoods.negative_binomial(initial_mean=means))
    of = lambda head: head.distribution(head.init(jax.random.key(0), (2,)), jnp.array([[0.0], [1.0]]), 1).mean
    seen = lambda head: head.standardize(jnp.array([1e6, 3.0]))
    for mean, x in jax.jit(lambda: [(of(head), seen(head)) for head in each])():
        np.testing.assert_allclose(mean, means * [1, np.e], rtol=1e-5)
        np.testing.assert_allclose(x, [0, np.log(4)], atol=2e-6)


def test_likelihoods_are_in_the_dtype_of_their_net(x64):
    """Also where parameters of their own, or constants, are made while double precision is on."""
    normals = {"learned": heads.learned_normal(), "per dimension": heads.per_dimension_normal(0.5)}
    of_counts = {"counts": likelihoods.negative_binomial(2.0, initial_mean=np.ones(EVENT))}
    for name, head in ({name: head for name, (head, *_) in HEADS.items()} | normals | of_counts).items():
        params = jax.eval_shape(lambda head=head: head.init(jax.random.key(0), EVENT))
        p = jax.eval_shape(lambda params, raw, head=head: head.distribution(params, raw, 2), params, outputs(head))
        assert {leaf.dtype for leaf in jax.tree.leaves((params, p))} == {np.dtype(np.float32)}, name


def level_probabilities(centre, log_scale, num_levels):
    """Of each level, by the logistic distribution function at the bins' edges; the outer bins are open."""
    half = (num_levels - 1) / 2
    edges = np.concatenate([[-np.inf], np.arange(num_levels - 1) + 0.5, [np.inf]])
    return np.diff(scipy.stats.logistic(half * (1 + centre), half * np.exp(log_scale)).cdf(edges))


@partial(jax.jit, static_argnums=0)
def of_levels(head, raw):
    """The log-probability of each level, and the mean."""
    p = head.distribution({}, raw, 1)
    return p.log_prob(jnp.arange(LEVELS)[:, None]), p.mean


def test_a_discretized_logistic_is_in_units_of_half_the_range():
    centre, log_scale = 0.4, -1.5
    raw = np.float32([[centre, log_scale]])
    log_probs, mean = of_levels(likelihoods.discretized_logistic(LEVELS), raw)
    expected = level_probabilities(centre, log_scale, LEVELS)
    chex.assert_trees_all_close(np.exp(log_probs), expected, rtol=1e-4)
    chex.assert_trees_all_close(mean[0], expected @ np.arange(LEVELS), rtol=1e-5)


def test_the_channels_of_a_mixture_are_logits_then_centres_then_log_scales():
    logits, centres, log_scales = np.array([[0.3, -1.0, 0.5], [0.4, -0.1, -0.7], [-1.5, -2.5, -0.5]])
    raw = np.concatenate([logits, centres, log_scales]).astype(np.float32)[None]
    weights = np.exp(logits) / np.sum(np.exp(logits))
    # The components start apart, in the middles of the thirds of the range.
    places = centres + np.array([-2 / 3, 0.0, 2 / 3])
    expected = sum(
        w * level_probabilities(c, s, LEVELS) for w, c, s in zip(weights, places, log_scales, strict=True)
    )  # fmt: skip
    log_probs, mean = of_levels(likelihoods.logistic_mixture(LEVELS, 3), raw)
    chex.assert_trees_all_close(np.exp(log_probs), expected, rtol=1e-4)
    chex.assert_trees_all_close(mean[0], expected @ np.arange(LEVELS), rtol=1e-5)


def test_components_that_start_alike_do_not_stay_together():
    """A net that starts at 0 gives each component another gradient."""
    head = likelihoods.logistic_mixture(LEVELS, 4)
    log_prob = lambda raw, x: head.distribution({}, raw, 1).log_prob(x)
    gradient = jax.jit(jax.grad(log_prob))(np.zeros((1, 12), np.float32), np.array([2]))
    assert len(np.unique(np.asarray(gradient)[0, 4:8])) == 4


def test_counts_and_levels_are_scaled_for_the_net():
    levels, counts = np.array([0, 16, 3], np.uint8), np.array([0, 9, 10**6])
    inputs = {name: counts if highest == np.inf else levels for name, (_, _, highest) in HEADS.items()}
    standardized = jax.jit(lambda inputs: {name: HEADS[name][0].standardize(x) for name, x in inputs.items()})(inputs)
    for name in ("discretized logistic", "logistic mixture"):
        chex.assert_trees_all_close(standardized[name], np.float32([0.0, 1.0, 3 / 16]))
    for name in ("poisson", "negative binomial"):
        chex.assert_trees_all_close(standardized[name], np.log(np.float32([1.0, 10.0, 1e6 + 1])), rtol=1e-6)
        assert standardized[name].dtype == jnp.float32


def test_the_bound_can_be_switched_off():
    wild = np.full((1, 3), 100.0, np.float32)

    @jax.jit
    def figures(bound):
        head, dispersed = likelihoods.poisson(bound=bound), likelihoods.negative_binomial(1.0, bound)
        levels, mixture = likelihoods.discretized_logistic(bound=bound), likelihoods.logistic_mixture(256, 1, bound)
        of = lambda head: head.distribution(head.init(jax.random.key(0), (1,)), wild[:, : head.channels], 1)
        return of(head).mean, of(dispersed).mean, of(levels).scale, of(mixture).components.scale

    assert all(np.all(np.isposinf(each)) for each in figures(None))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: likelihoods.negative_binomial(0.0),
            ValueError,
            r"initial_dispersion .*0\.0",
        ),
        (lambda: likelihoods.negative_binomial("one"), TypeError, r"initial_dispersion .*got str"),
        (
            lambda: likelihoods.discretized_logistic(1),
            ValueError,
            r"discretized_logistic: num_levels .*got 1",
        ),
        (lambda: likelihoods.logistic_mixture(1), ValueError, r"logistic_mixture: num_levels .*got 1"),
        (lambda: likelihoods.logistic_mixture(256, 0), ValueError, r"num_components .*got 0"),
        (
            lambda: likelihoods.negative_binomial(initial_mean=0.0),
            ValueError,
            r"negative_binomial: initial_mean .*0\.0",
        ),
        (lambda: likelihoods.poisson(initial_mean=np.nan), ValueError, r"poisson: initial_mean .*NaN"),
        (lambda: heads.standardized(heads.normal(), 0.0, -1.0), ValueError, r"standardized: scale .*-1\.0"),
        (lambda: heads.standardized(heads.normal(), "m", 1.0), TypeError, r"standardized: mean .*str"),
        (
            lambda: heads.standardized(heads.bernoulli(), 0.0, 1.0).distribution({}, np.zeros((2, 1)), 1),
            TypeError,
            r"standardized: head .*Bernoulli",
        ),
        (lambda: likelihoods.logistic_mixture(256, 2.0), TypeError, r"num_components .*got float"),
    ],
)
def test_bad_options_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
