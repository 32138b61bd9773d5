"""What the latents as a whole tell about the examples: aggregate posterior, information, and the verdict in words."""

import dataclasses
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
from tests.tiers import slow_but
from vaejax import Laplace, MultivariateNormal, Normal
from vaejax.evaluation.aggregate import aggregate_log_density, aggregate_moments, information
from vaejax.evaluation.latents import Verdict, judge_collapse

RANDOM = np.random.default_rng(7)
LOC = RANDOM.normal(size=(7, 2)) * 2
SCALE = np.exp(RANDOM.normal(size=(7, 2)))
FACTOR = np.tril(RANDOM.normal(size=(7, 2, 2)) * 0.3) + np.eye(2)
POINTS = RANDOM.normal(size=(5, 2)) * 2


def mean_density(each):
    """`log 1/N sum_n q(z|x_n)` from `[B, N]`."""
    return scipy.special.logsumexp(each, axis=1) - np.log(each.shape[1])


NORMAL = mean_density(scipy.stats.norm(LOC, SCALE).logpdf(POINTS[:, None]).sum(-1))
SHARED = mean_density(scipy.stats.norm(LOC, 0.5).logpdf(POINTS[:, None]).sum(-1))
FULL = np.stack(
    [scipy.stats.multivariate_normal(m, f @ f.T).logpdf(POINTS) for m, f in zip(LOC, FACTOR, strict=True)], 1
)
AFFINE = vaejax.ElementwiseAffine(np.zeros(2), np.full(2, np.log(0.5)))
HEAVY = scipy.stats.t(5.0, LOC, SCALE).logpdf(POINTS[:, None]).sum(-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class SharedWidth:
    """A width `[Z]` whose leading axis is not that of the examples."""

    loc: jax.Array
    width: jax.Array

    def sample(self, key, sample_shape=()):
        return Normal(self.loc, self.width).sample(key, sample_shape)

    def log_prob(self, value):
        return Normal(self.loc, self.width).log_prob(value)


POSTERIORS = {
    "a ragged chunk": (lambda: Normal(LOC, SCALE), 3, NORMAL),
    "one by one": (lambda: Normal(LOC, SCALE), 1, NORMAL),
    "all at once": (lambda: Normal(LOC, SCALE), 100, NORMAL),
    "a shared scale": (lambda: Normal(LOC, 0.5), 3, SHARED),
    "full covariances": (lambda: MultivariateNormal(LOC, FACTOR), 3, mean_density(FULL)),
    "numpyro's": (lambda: numpyro.Normal(LOC, SCALE).to_event(1), 3, NORMAL),
    "another of numpyro's": (lambda: numpyro.StudentT(5.0, LOC, SCALE).to_event(1), 3, mean_density(HEAVY)),
    "a flow with shared weights": (lambda: vaejax.Transformed(Normal(2 * LOC, 1.0), AFFINE), 3, SHARED),
    "one of your own": (lambda: SharedWidth(jnp.asarray(LOC), jnp.full(2, 0.5)), 3, SHARED),
}


@pytest.mark.parametrize(
    "name",
    slow_but({"a ragged chunk", "a shared scale"}, POSTERIORS, "another family, or number of examples at a time"),
)
def test_the_aggregate_density_is_the_mean_over_all_posteriors_whatever_the_chunks(name):
    make, chunk_size, expected = POSTERIORS[name]

    @jax.jit
    def log_density(points):
        q = jax.tree.map(jnp.asarray, make())
        return aggregate_log_density(points, q, chunk_size=chunk_size)

    np.testing.assert_allclose(log_density(POINTS), expected, rtol=1e-4)


# Posteriors with a parameter whose leading axis is 1 or N, and is not that of the N = 3 examples.
HIDDEN = {
    "an axis of one": lambda: numpyro.TransformedDistribution(
        numpyro.Normal(np.zeros((3, 1), np.float32), np.float32(1.0)).to_event(1),
        numpyro.transforms.AffineTransform(np.zeros(1, np.float32), np.ones(1, np.float32)),
    ),
    "an axis of N": lambda: vaejax.Hierarchical(
        Normal(np.zeros((3, 3), np.float32), 1.0),
        jax.tree_util.Partial(lambda weights, z: Normal(z @ weights, 0.5), 0.5 * jnp.ones((3, 2))),
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_the_axes_of_parameters_are_not_guessed(name):
    """Where all posteriors are alike, their mean is each of them, and tells nothing."""
    q = HIDDEN[name]()
    z = q.sample(jax.random.key(0))
    for chunk_size in (1, 256):
        found = jax.jit(partial(aggregate_log_density, chunk_size=chunk_size))(z, q)
        np.testing.assert_allclose(found, q.log_prob(z), rtol=1e-5)


def test_memory_does_not_grow_with_the_examples():
    """A thousand times the pairs, and a few times the draws themselves more."""

    def temporary(count):
        zeros = np.zeros((count, 4), np.float32)
        q, z = Normal(zeros, zeros + 1), zeros
        compiled = jax.jit(partial(aggregate_log_density, chunk_size=32)).lower(z, q).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporary(1_000), temporary(30_000)
    assert many - few < 3 * 4 * 4 * 30_000


LINE = np.array([-3.0, -1.0, -0.5, 0.4, 1.0, 4.0])
WIDTH = np.array([0.5, 1.0, 0.2, 0.8, 2.0, 0.7])
PRIOR = Normal(1.0, 2.0)


def integrate(log_a, log_b, grid):
    return np.trapezoid(np.exp(log_a) * (log_a - log_b), grid)


def test_the_parts_of_the_divergence_are_those_of_quadrature(key):
    """With a prior that is not the standard one, and examples that differ, so that the errors are known too."""
    grid = np.linspace(-15, 15, 20_001)
    log_q = scipy.stats.norm(LINE[:, None], WIDTH[:, None]).logpdf(grid)
    log_aggregate, log_prior = scipy.special.logsumexp(log_q, axis=0) - np.log(6), scipy.stats.norm(1, 2).logpdf(grid)
    rates = np.array([integrate(each, log_prior, grid) for each in log_q])
    told = np.array([integrate(each, log_aggregate, grid) for each in log_q])
    q = Normal(LINE[:, None], WIDTH[:, None])
    found = jax.jit(partial(information, num_samples=20_000))(key, q, PRIOR)
    chex.assert_trees_all_close(found.rate.mean, rates.mean(), atol=0.015)
    chex.assert_trees_all_close(found.mutual_information.mean, told.mean(), atol=0.015)
    chex.assert_trees_all_close(found.aggregate_kl.mean, integrate(log_aggregate, log_prior, grid), atol=0.015)
    chex.assert_trees_all_close(found.rate.mean, found.mutual_information.mean + found.aggregate_kl.mean, rtol=1e-5)
    chex.assert_trees_all_close(found.rate.standard_error, rates.std(ddof=1) / 6**0.5, rtol=0.03)
    chex.assert_trees_all_close(found.mutual_information.standard_error, told.std(ddof=1) / 6**0.5, rtol=0.03)
    assert not found.is_saturated


few_draws = jax.jit(partial(information, num_samples=3, chunk_size=8))


def test_information_from_none_to_the_logarithm_of_the_examples(key):
    """Posteriors that are all the same tell nothing, and far apart they tell everything, which is ln N."""
    ones = np.ones((20, 2), np.float32)
    same = few_draws(key, Normal(3 * ones, np.float32(0.1) * ones))
    np.testing.assert_allclose(same.mutual_information, (0.0, 0.0), atol=1e-5)
    chex.assert_trees_all_close(same.rate, same.aggregate_kl, atol=1e-4)
    assert not same.is_saturated
    apart = few_draws(jax.random.key(1), Normal(50 * np.arange(40, dtype=np.float32).reshape(20, 2), ones))
    np.testing.assert_allclose(apart.mutual_information.mean, np.log(20), rtol=1e-5)
    np.testing.assert_allclose(apart.limit, np.log(20), rtol=1e-6)
    assert apart.is_saturated


MOMENTS = {
    "normal": (lambda: Normal(LOC, SCALE), SCALE**2),
    "laplace": (lambda: Laplace(LOC, SCALE), 2 * SCALE**2),
    "multivariate normal": (lambda: MultivariateNormal(LOC, FACTOR), np.einsum("nij,nij->ni", FACTOR, FACTOR)),
    "points": (lambda: vaejax.Delta(LOC), np.zeros_like(SCALE)),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_the_moments_are_those_of_the_mixture(name):
    make, own = MOMENTS[name]
    second = np.mean(own + LOC**2, axis=0)
    moments = jax.jit(lambda: aggregate_moments(make()))()
    np.testing.assert_allclose(moments.mean, LOC.mean(0), atol=1e-6)
    np.testing.assert_allclose(moments.standard_deviation, np.sqrt(second - LOC.mean(0) ** 2), rtol=1e-5)


def test_bad_posteriors_are_named(key):
    draw = lambda make, *prior: jax.eval_shape(lambda: information(key, make(), *prior))
    density = lambda z, make: jax.eval_shape(lambda: aggregate_log_density(z, make()))
    zeros = lambda *shape: np.zeros(shape, np.float32)
    with pytest.raises(TypeError, match="Delta is a point and has no density"):
        draw(lambda: vaejax.Delta(zeros(4, 2)))
    with pytest.raises(ValueError, match=r"q .*one batch axis.*got .*\(4, 2\) with 2"):
        draw(lambda: Normal(zeros(4, 2), 1.0, 2))
    with pytest.raises(ValueError, match="number of posteriors must be at least 2; got 1"):
        draw(lambda: Normal(zeros(1, 2), 1.0))
    with pytest.raises(ValueError, match=r"prior .*per latent of shape \(3, 2\)"):
        draw(lambda: Normal(zeros(4, 3, 2), 1.0, 2), Normal(zeros(2), 1.0))
    with pytest.raises(ValueError, match=r"z must have shape \[B, 2\]; got \(4, 3\)"):
        density(zeros(4, 3), lambda: Normal(zeros(4, 2), 1.0))
    with pytest.raises(TypeError, match=r"must be a distribution.*got tuple"):
        density(zeros(4, 2), lambda: (zeros(4, 2), zeros(4, 2)))
    with pytest.raises(TypeError, match=r"must have a mean and a variance.*got Mixture"):
        jax.eval_shape(lambda: aggregate_moments(vaejax.Mixture(jnp.zeros(3), Normal(jnp.zeros((4, 3, 2)), 1.0))))


def judge(loc, scale, **options):
    """The verdict on an encoder that gives these posteriors, `[N, Z]`."""
    kl = np.mean(0.5 * (loc**2 + scale**2 - 1) - np.log(scale), axis=0)
    return judge_collapse(kl, loc.var(axis=0), **options)


CODES = np.random.default_rng(3).normal(size=(2000, 4))
ONES = np.ones((2000, 4))
# An encoder by its posteriors, with the verdict, the dead axes, those that are offset, and what the text must say.
ENCODERS = {
    "an oracle": (CODES * 0.9, 0.4 * ONES, Verdict.NONE, (), (), "4 of 4 latents carry information (above 0.01 nats): no collapse."),
    "the prior": (0.0 * CODES, ONES, Verdict.FULL, (0, 1, 2, 3), (), "at most 0 nats in all"),
    "the prior, and noise": (0.02 * CODES, ONES, Verdict.FULL, (0, 1, 2, 3), (), "the decoder ignores them"),
    "spare axes": (
        CODES * [0.9, 0, 0.9, 0],
        np.where([1, 0, 1, 0], 0.4, 1.0) * ONES,
        Verdict.NONE,
        (1, 3),
        (),
        "2 of 4 latents carry information (above 0.01 nats); 2 are unused, which is pruning and not collapse.",
    ),
    "a constant": (
        0.0 * CODES + 3.0, 0.1 * ONES, Verdict.FULL, (0, 1, 2, 3), (0, 1, 2, 3), "4 differ from the prior in the same way",
    ),
    "one constant": (
        CODES * [0.9, 0, 0.9, 0.9] + [0, 2, 0, 0],
        np.where([1, 0, 1, 1], 0.4, 1.0) * ONES,
        Verdict.PARTIAL,
        (1,),
        (1,),
        "3 of 4 latents carry information (above 0.01 nats). 1 differs from the prior in the same way for every "
        "example: 2 nats of offset, not information",
    ),
    "less than a bit": (
        CODES * [0.5, 0, 0, 0], np.where([1, 0, 0, 0], 0.8, 1.0) * ONES, Verdict.PARTIAL, (1, 2, 3), (), "less than the one bit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_constructed_encoders_are_judged_by_what_they_carry(name):
    loc, scale, status, dead, offset, words = ENCODERS[name]
    found = judge(loc, scale)
    assert found[:3] == (status, dead, offset), found
    assert words in found.text


def test_the_exact_posterior_has_not_collapsed():
    """x = z + noise of scale s, so that z|x is N(x / (1 + s^2), s^2 / (1 + s^2)); as the noise grows, less is left of z."""
    draw = np.random.default_rng(5).normal
    for noise, status in ((0.5, Verdict.NONE), (2.0, Verdict.PARTIAL), (20.0, Verdict.FULL)):
        x = draw(size=(2000, 2)) + noise * draw(size=(2000, 2))
        found = judge(x / (1 + noise**2), np.full((2000, 2), noise / np.sqrt(1 + noise**2)))
        assert found.status is status, found


def test_many_axes_of_little_information_are_no_full_collapse():
    found = judge_collapse(np.full(400, 0.005), np.full(400, 0.009))
    assert found.status is Verdict.PARTIAL
    assert "Spread thin: no single one of 400 latents" in found.text
    assert "2 nats in all" in found.text


def test_the_mutual_information_overrules_the_axes():
    """Axes that move with the examples, and one code for all: what moved was noise, say of a few examples."""
    found = judge(CODES, 0.4 * ONES, mutual_information=np.float32(0.001))
    assert found.status is Verdict.FULL
    assert found.dead == (0, 1, 2, 3)
    assert "no latent tells examples apart (4 latents, 0.001 nats in all)" in found.text
    weak = judge(CODES, 0.4 * ONES, mutual_information=0.3)
    assert weak.status is Verdict.PARTIAL
    assert judge(CODES, 0.4 * ONES, mutual_information=3.0).status is Verdict.NONE


def test_an_autoencoder_is_judged_by_variance_whatever_the_scale_of_its_codes():
    variance = np.array([1.0, 0.3, 1e-6])
    for scale in (1e-3, 1.0, 1e3):
        found = judge_collapse(None, scale * variance)
        assert found == (Verdict.NONE, (2,), (), found.text)
        assert found.text == "2 of 3 latents vary with the examples; 1 is constant, which is pruning and not collapse."
    for rounding in (0.0, 1e-13):
        assert judge_collapse(None, rounding * variance)[:2] == (Verdict.FULL, (0, 1, 2))


def test_bad_figures_are_named():
    with pytest.raises(ValueError, match="active_variance must be finite and not empty"):
        judge_collapse(np.ones(2), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match=r"must have one shape; got \(2,\) and \(3,\)"):
        judge_collapse(np.ones(2), np.ones(3))


@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 40.0])
def test_information_has_no_scale(scale):
    """The same model with its latents in other units: with the noise of the posteriors known, the verdict is the same."""
    rng = np.random.default_rng(0)
    means = scale * rng.normal(size=(500, 3)) * np.array([1.0, 0.0, 1.0])
    noise = scale**2 * np.array([0.1, 1.0, 0.2])
    found = judge_collapse(np.array([1.0, 0.0, 0.8]), means.var(axis=0), posterior_variance=noise)
    assert found[:3] == (Verdict.NONE, (1,), ())


def test_an_axis_tells_what_a_gaussian_channel_can():
    """Half the logarithm of one and the signal over the noise: 0.01 nats where the signal is 0.0202 of the noise."""
    kl, noise = np.full(2, 1.0), np.full(2, 4.0)
    signal = 4.0 * np.expm1(0.02 * np.array([0.9, 1.1]))
    assert judge_collapse(kl, signal, posterior_variance=noise).dead == (0,)


def test_a_small_offset_beside_much_information_is_no_collapse():
    kl, noise = np.array([5.0, 4.0, 0.5]), np.array([0.01, 0.02, 1.0])
    variance = np.array([0.9, 0.9, 0.0])
    small = judge_collapse(kl, variance, posterior_variance=noise)
    assert (small.status, small.offset) == (Verdict.NONE, (2,))
    assert "0.5 nats of offset" in small.text
    large = judge_collapse(kl * np.array([1, 1, 4]), variance, posterior_variance=noise)
    assert large.status is Verdict.PARTIAL


@pytest.mark.parametrize(("told", "status"), [(0.001, Verdict.FULL), (0.3, Verdict.PARTIAL), (3.0, Verdict.NONE)])
def test_without_a_closed_divergence_the_mutual_information_decides(told, status):
    assert judge_collapse(None, np.array([0.5, 0.4]), mutual_information=told).status is status
    noise = np.array([0.1, 0.1])
    assert (
        judge_collapse(None, np.array([0.5, 0.4]), posterior_variance=noise, mutual_information=told).status is status
    )


def test_of_axes_of_which_nothing_is_known_nothing_is_said():
    found = judge_collapse(None, np.array([0.5, 0.4]), mutual_information=3.0)
    assert found.text == "The latents vary with the examples and carry up to 3 nats about them: no collapse seen."


@pytest.mark.parametrize(("count", "status"), [(1, Verdict.UNKNOWN), (19, Verdict.UNKNOWN), (20, Verdict.FULL)])
@pytest.mark.parametrize("known", [{"kl_per_axis": np.zeros(2)}, {"kl_per_axis": None}])
def test_a_verdict_takes_twenty_examples(known, count, status):
    """The variance over one example is 0, and that is not a collapse."""
    found = judge_collapse(active_variance=np.zeros(2), num_examples=count, **known)
    assert found.status is status
    assert (f"({count})" in found.text) is (status is Verdict.UNKNOWN)
    assert found.dead == (() if status is Verdict.UNKNOWN else (0, 1))


@pytest.mark.parametrize(
    ("width", "advises"), [(None, False), (1.0, False), (2.5, True), (np.inf, True), (np.nan, False)]
)
@pytest.mark.parametrize("kl", [0.0, 0.2])
def test_a_likelihood_wider_than_the_data_is_the_first_thing_to_mend(kl, width, advises):
    found = judge_collapse(np.array([kl, 0.0]), np.array([kl, 0.0]), relative_width=width)
    assert found.status is (Verdict.PARTIAL if kl else Verdict.FULL)
    assert ("learned_normal" in found.text) is advises
    assert ("Warm-up" in found.text) is (not advises and not kl)
