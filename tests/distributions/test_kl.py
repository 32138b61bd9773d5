"""Closed-form divergences against quadrature, Monte Carlo and their own laws."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import vaejax
from vaejax import Bernoulli, Categorical, ContinuousBernoulli, Delta, Laplace, MultivariateNormal, Normal

# Two asymmetric members of each family: a swapped order or a lost sign shows.
CONTINUOUS = {
    "normal": (Normal(0.7, 0.6, 0), Normal(-0.4, 1.5, 0)),
    "laplace": (Laplace(-0.3, 0.5, 0), Laplace(0.9, 1.2, 0)),
}
DENSITIES = {
    "normal": (scipy.stats.norm(0.7, 0.6), scipy.stats.norm(-0.4, 1.5)),
    "laplace": (scipy.stats.laplace(-0.3, 0.5), scipy.stats.laplace(0.9, 1.2)),
}
PAIRS = [(family_q, family_p) for family_q in CONTINUOUS for family_p in CONTINUOUS]


@cache
def divergences(double):
    """Of the first member of a family from the second of another."""
    kl = lambda pair: vaejax.kl_divergence(CONTINUOUS[pair[0]][0], CONTINUOUS[pair[1]][1])
    with jax.enable_x64(double):
        return dict(zip(PAIRS, jax.device_get(jax.jit(lambda: [kl(pair) for pair in PAIRS])()), strict=True))


def test_normal_is_gauss_hermite_quadrature():
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    q, p = DENSITIES["normal"]
    z = q.mean() + q.std() * nodes
    expected = np.sum(weights * (q.logpdf(z) - p.logpdf(z))) / np.sqrt(2 * np.pi)
    chex.assert_trees_all_close(divergences(True)["normal", "normal"], expected, rtol=1e-12)


@pytest.mark.parametrize("pair", PAIRS, ids=" to ".join)
def test_every_pair_of_densities_is_its_integral(pair):
    z = np.linspace(-30.0, 30.0, 400_001)
    log_q, log_p = DENSITIES[pair[0]][0].logpdf(z), DENSITIES[pair[1]][1].logpdf(z)
    expected = np.trapezoid(np.exp(log_q) * (log_q - log_p), z)
    chex.assert_trees_all_close(divergences(True)[pair], expected, rtol=1e-6)


def test_continuous_bernoulli_is_its_integral(x64):
    logits_q, logits_p = np.array([(2.0, -1.0), (0.1, -0.2), (0.0, 3.0), (40.0, -40.0)]).T
    x = np.linspace(0.0, 1.0, 400_001)[:, None]
    log_prob = jax.jit(lambda logits, x: ContinuousBernoulli(logits, 0).log_prob(x))
    kl = jax.jit(lambda a, b: vaejax.kl_divergence(ContinuousBernoulli(a, 0), ContinuousBernoulli(b, 0)))
    log_q, log_p = np.asarray(log_prob(logits_q, x)), np.asarray(log_prob(logits_p, x))
    expected = np.trapezoid(np.exp(log_q) * (log_q - log_p), x, axis=0)
    chex.assert_trees_all_close(kl(logits_q, logits_p), expected, rtol=1e-6)


def test_discrete_families_are_their_sums(x64):
    logits = {Bernoulli: (1.3, -0.4), Categorical: (np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 2.0]))}
    kl = lambda family, q, p: vaejax.kl_divergence(family(q, 0), family(p, 0))
    found = jax.jit(lambda: [kl(family, *pair) for family, pair in logits.items()])()
    for value, (q, p) in zip(found, logits.values(), strict=True):
        # A Bernoulli is a categorical whose first logit is 0.
        log_q, log_p = (scipy.special.log_softmax(each if np.ndim(each) else [0.0, each]) for each in (q, p))
        chex.assert_trees_all_close(value, np.sum(np.exp(log_q) * (log_q - log_p)), rtol=1e-12)


@pytest.mark.slow("statistics of the closed form that any batches prove exactly")
def test_full_covariance_agrees_with_the_diagonal_and_with_monte_carlo(x64, key):
    loc, scale = np.array([0.3, -1.0]), np.array([0.5, 2.0])

    @jax.jit
    def figures(key):
        diagonal, full = Normal(loc, scale), MultivariateNormal(loc, jnp.diag(scale))
        same = [vaejax.kl_divergence(q, vaejax.standard_normal) for q in (full, diagonal)]
        q = MultivariateNormal(loc, jnp.array([[0.5, 0.0], [0.9, 1.1]]))
        p = MultivariateNormal(-loc, jnp.array([[1.5, 0.0], [-0.2, 0.7]]))
        draws = []
        # A diagonal posterior and a correlated prior too.
        for posterior, draw_key in zip((q, diagonal), jax.random.split(key), strict=True):
            z = posterior.sample(draw_key, (100_000,))
            draws.append((posterior.log_prob(z) - p.log_prob(z), vaejax.kl_divergence(posterior, p)))
        return same, draws

    same, draws = figures(key)
    chex.assert_trees_all_close(*same, rtol=1e-12)
    for log_ratio, kl in draws:
        assert abs(np.mean(log_ratio) - kl) < 5 * np.std(log_ratio) / 100_000**0.5


def test_is_nonnegative_zero_only_between_equals_and_additive():
    rng = np.random.default_rng(0)
    loc_q, loc_p, log_scale_q, log_scale_p = rng.normal(size=(4, 1000, 3)).astype(np.float32)

    @jax.jit
    def figures(loc_q, scale_q, loc_p, scale_p):
        kl = lambda family, p, n: vaejax.kl_divergence(family(loc_q, scale_q, n), family(*p, n))
        between = lambda family: [kl(family, (loc_p, scale_p), n) for n in (1, 0)]
        return [(*between(family), kl(family, (loc_q, scale_q), 1)) for family in (Normal, Laplace)]

    for whole, by_axis, of_equals in figures(loc_q, np.exp(log_scale_q), loc_p, np.exp(log_scale_p)):
        assert np.all(whole > 1e-6)
        assert np.all(by_axis > -1e-6)
        chex.assert_shape(by_axis, (1000, 3))
        chex.assert_trees_all_close(np.sum(by_axis, axis=-1), whole, rtol=1e-5)
        chex.assert_trees_all_close(of_equals, np.zeros(1000, np.float32), atol=1e-6)


@cache
def log_ratios():
    """log q - log p at 200,000 draws of q, for every pair."""

    @jax.jit
    def draw(key):
        keys = dict(zip(CONTINUOUS, jax.random.split(key, len(CONTINUOUS)), strict=True))
        z = {name: CONTINUOUS[name][0].sample(keys[name], (200_000,)) for name in CONTINUOUS}
        ratio = lambda q, p: CONTINUOUS[q][0].log_prob(z[q]) - CONTINUOUS[p][1].log_prob(z[q])
        return [ratio(*pair) for pair in PAIRS]

    return dict(zip(PAIRS, jax.device_get(draw(jax.random.key(20260))), strict=True))


@pytest.mark.slow("statistics of what quadrature proves")
@pytest.mark.parametrize("pair", PAIRS, ids=" to ".join)
def test_is_the_mean_of_monte_carlo(pair):
    draws = log_ratios()[pair].astype(np.float64)
    assert abs(draws.mean() - divergences(False)[pair]) < 5 * draws.std() / len(draws) ** 0.5


def test_of_a_point_is_minus_its_log_density():
    z = np.float32([[0.5, -1.0], [2.0, 0.0]])
    found = jax.jit(lambda z: vaejax.kl_divergence(Delta(z), vaejax.standard_normal))(z)
    chex.assert_trees_all_close(found, np.float32(-scipy.stats.norm.logpdf(z).sum(-1)), rtol=1e-6)


def test_a_method_of_the_users_own_distribution_is_used():
    class Mine:
        def sample(self, key, sample_shape=()): ...
        def log_prob(self, value): ...
        def kl_divergence(self, other):
            return jnp.array([42.0])

    assert vaejax.kl_divergence(Mine(), vaejax.standard_normal) == 42.0


def test_without_a_closed_form_monte_carlo_kl_is_named():
    with pytest.raises(TypeError, match=r"Bernoulli to Normal.*monte_carlo_kl"):
        vaejax.kl_divergence(Bernoulli(np.zeros(2)), vaejax.standard_normal)


def test_event_axes_and_sizes_must_agree():
    q = Normal(np.zeros((4, 3)), 1.0)
    with pytest.raises(ValueError, match="event axes; got 1 and 0"):
        vaejax.kl_divergence(q, Normal(0.0, 1.0, 0))
    with pytest.raises(ValueError, match=r"event shape \(1,\); got shape \(4, 3\)"):
        vaejax.kl_divergence(q, Normal(np.zeros(1), 1.0))


def test_levels_that_never_occur_cost_nothing():
    @jax.jit
    def figures(logits_q, logits_p):
        q, p = Categorical(logits_q, 0), Categorical(logits_p, 0)
        return [vaejax.kl_divergence(*pair) for pair in ((q, p), (q, q), (p, q))]

    forward, equal, backward = figures(np.float32([-np.inf, np.log(0.5), np.log(0.5)]), np.zeros(3, np.float32))
    chex.assert_trees_all_close(forward, np.float32(np.log(1.5)), rtol=1e-6)
    chex.assert_trees_all_close(equal, np.float32(0.0), atol=1e-6)
    assert backward == np.inf


OTHER_BATCHES = pytest.mark.slow("other batches")


@pytest.mark.parametrize(
    ("batch_q", "batch_p"),
    [
        (batch_q, batch_p)
        if (batch_q, batch_p) in [((3,), ()), ((2, 1), (2, 3))]
        else pytest.param(batch_q, batch_p, marks=OTHER_BATCHES)
        for batch_q in [(), (3,), (2, 1)]
        for batch_p in [(), (3,), (2, 3)]
    ],
)
def test_full_covariances_of_any_batches(x64, batch_q, batch_p):
    """As many vectors as axes: a batch axis taken for an event axis gives numbers, and wrong ones."""
    rng = np.random.default_rng(0)
    draw = lambda batch: (rng.normal(size=(*batch, 3)), np.eye(3) + np.tril(rng.random((*batch, 3, 3))))
    (loc_q, factor_q), (loc_p, factor_p) = draw(batch_q), draw(batch_p)
    kl = jax.jit(lambda q, p: vaejax.kl_divergence(MultivariateNormal(*q), MultivariateNormal(*p)))
    found = kl((loc_q, factor_q), (loc_p, factor_p))
    transposed = lambda factor: np.swapaxes(factor, -1, -2)
    covariance, other = factor_q @ transposed(factor_q), factor_p @ transposed(factor_p)
    precision, shift = np.linalg.inv(other), loc_q - loc_p
    quadratic = np.trace(precision @ covariance, axis1=-2, axis2=-1)
    quadratic = quadratic + np.einsum("...i,...ij,...j->...", shift, precision, shift)
    log_ratio = np.linalg.slogdet(other)[1] - np.linalg.slogdet(covariance)[1]
    chex.assert_shape(found, np.broadcast_shapes(batch_q, batch_p))
    chex.assert_trees_all_close(found, 0.5 * (quadratic - 3 + log_ratio), rtol=1e-10)
