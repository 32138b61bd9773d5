"""Two layers of latents as one, on chains of Normals, of which everything is known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
import scipy.stats
from jax.tree_util import Partial

import vaejax
from vaejax import Bernoulli, Delta, Hierarchical, MultivariateNormal, Normal, markov_chain, standard_normal

# In double precision, which a test under x64 keeps.
LOC, SCALE = np.array([0.3, -1.2, 0.7]), np.array([0.5, 1.5, 0.8])
WEIGHTS, OFFSET, NOISE = np.array([[0.4, -1.1], [0.9, 0.2], [-0.3, 0.6]]), np.array([1.0, -2.0]), np.array([0.7, 0.4])


def onwards(params, z):
    return Normal(z @ params["weights"] + params["offset"], params["noise"])


def chain(reverse=False, batch=()):
    params = {"weights": WEIGHTS, "offset": OFFSET, "noise": NOISE}
    return Hierarchical(Normal(np.broadcast_to(LOC, (*batch, 3)), SCALE), Partial(onwards, params), reverse)


def joint():
    """The mean and the covariance of the same as one Normal."""
    covariance = np.diag(SCALE**2)
    across = covariance @ WEIGHTS
    below = WEIGHTS.T @ across + np.diag(NOISE**2)
    return np.concatenate([LOC, LOC @ WEIGHTS + OFFSET]), np.block([[covariance, across], [across.T, below]])


def two_layers_log_prob(z):
    """By scipy."""
    return scipy.stats.multivariate_normal(*joint()).logpdf(z)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_density_is_that_of_the_joint_normal(x64, reverse):
    z = 2 * np.random.default_rng(0).normal(size=(7, 5))
    ordered = np.concatenate([z[:, 3:], z[:, :3]], axis=-1) if reverse else z

    @jax.jit
    def figures(ordered):
        return chain(reverse).log_prob(ordered), chain(reverse).parts(ordered)

    log_prob, (first, second) = figures(ordered)
    chex.assert_trees_all_close(log_prob, two_layers_log_prob(z), rtol=1e-9)
    chex.assert_trees_all_equal((first, second), (z[:, :3], z[:, 3:]))


OTHER_ORDER = pytest.mark.slow("the same parts in the other order, as the density proves it")


@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=OTHER_ORDER)])
def test_draws_have_the_moments_of_the_joint_normal(key, reverse):
    count = 40_000
    drawn = np.asarray(jax.jit(lambda key: chain(reverse).sample(key, (count,)))(key), np.float64)
    drawn = np.concatenate([drawn[:, 2:], drawn[:, :2]], axis=-1) if reverse else drawn
    mean, covariance = joint()
    standard = np.linalg.solve(np.linalg.cholesky(covariance), (drawn - mean).T)
    assert np.all(np.abs(standard.mean(axis=1)) < 5 / count**0.5)
    assert np.all(np.abs(standard @ standard.T / count - np.eye(5)) < 5 * 2**0.5 / count**0.5)


def test_a_draw_comes_with_its_density(key):
    @jax.jit
    def draw(key):
        q = chain(batch=(6,))
        z, log_q = q.sample_and_log_prob(jax.random.clone(key), (4,))
        return z, log_q, q.sample(key, (4,)), q.log_prob(z)

    z, log_q, same, log_q_of_draw = draw(key)
    chex.assert_shape([z, log_q], [(4, 6, 5), (4, 6)])
    chex.assert_trees_all_equal(z, same)
    chex.assert_trees_all_close(log_q, log_q_of_draw, rtol=1e-4)
    assert len(np.unique(np.asarray(z).round(6))) == z.size


def test_it_passes_through_transformations():
    z = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)

    @jax.jit
    def figures(q, z):
        single = lambda loc, z: Hierarchical(Normal(loc, SCALE), q.second).log_prob(z)
        return q.log_prob(z), jax.vmap(single, (0, 0))(q.first.loc, z)

    q = chain(batch=(6,))
    passed, mapped = figures(q, z)
    expected = two_layers_log_prob(z).astype(np.float32)
    chex.assert_trees_all_close(passed, expected, rtol=1e-5)
    chex.assert_trees_all_close(mapped, expected, rtol=1e-5)
    assert jax.tree.map(lambda leaf: leaf, q).reverse is False


def test_parts_may_be_those_of_others_and_hierarchies_themselves():
    z = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)

    @jax.jit
    def log_probs(z):
        theirs = lambda loc, scale: numpyro.Normal(loc, scale, validate_args=False).to_event(1)
        base = Hierarchical(theirs(LOC, SCALE), lambda z: theirs(z @ WEIGHTS + OFFSET, NOISE))
        three = Hierarchical(chain(), lambda z: Normal(z[..., :2], 1.0))
        return base.log_prob(z[:, :5]), three.log_prob(z)

    two = two_layers_log_prob(z[:, :5])
    three = two + scipy.stats.norm(z[:, :2], 1.0).logpdf(z[:, 5:]).sum(-1)
    chex.assert_trees_all_close(log_probs(z), (two.astype(np.float32), three.astype(np.float32)), rtol=1e-5)


# z_2 ~ N(0, I), z_1 = A z_2 + a noise, x = C z_1 + c noise, with the exact posterior taken apart as q(z_1|x) q(z_2|z_1).
A = np.array([[1.2, -0.4, 0.3], [0.5, 0.8, -1.0]])
C = np.array([[0.7, -0.2, 1.1, 0.4], [0.1, 0.9, -0.6, 0.3], [-0.8, 0.5, 0.2, 1.0]])
ABOVE, BELOW = 0.6, 0.9


def remaining(covariance, gain, noise):
    """The covariance of z given y = gain' z + noise."""
    across = covariance @ gain
    return covariance - across @ np.linalg.solve(gain.T @ across + noise**2 * np.eye(gain.shape[1]), across.T)


def exact_model():
    """Params of the posterior, encode with them, decode, prior, and the covariance of x."""
    first = A.T @ A + ABOVE**2 * np.eye(3)
    whole = C.T @ first @ C + BELOW**2 * np.eye(4)
    params = {
        "gains": {"below": first @ C @ np.linalg.inv(whole), "above": A @ np.linalg.inv(first)},
        "scales": {
            "below": np.linalg.cholesky(remaining(first, C, BELOW)),
            "above": np.linalg.cholesky(remaining(np.eye(2), A, ABOVE)),
        },
    }

    def encode(params, x):
        upper = lambda part, z: MultivariateNormal(z @ part["gain"].T, part["scale"])
        part = {"gain": params["gains"]["above"], "scale": params["scales"]["above"]}
        lower = MultivariateNormal(x @ params["gains"]["below"].T, params["scales"]["below"])
        return Hierarchical(lower, Partial(upper, part))

    prior = Hierarchical(standard_normal.expand((2,)), Partial(lambda a, z: Normal(z @ a, ABOVE), A), reverse=True)
    return params, encode, lambda z: Normal(z[..., :3] @ C, BELOW), prior, whole


def evidence(x):
    """ln p(x) by scipy."""
    return scipy.stats.multivariate_normal(np.zeros(4), exact_model()[-1]).logpdf(x)


@pytest.mark.parametrize(
    "path_gradient", [True, pytest.param(False, marks=pytest.mark.slow("the noisy gradient, for comparison"))]
)
def test_at_the_exact_posterior_every_weight_is_the_evidence(x64, key, path_gradient):
    x = np.array([[0.5, -1.0, 2.0, 0.3], [1.5, 0.2, -0.7, -1.1]])

    def bound(params, key):
        _, encode, decode, prior, _ = exact_model()
        terms = vaejax.importance_bound(
            key, x, lambda x: encode(params, x), decode, prior, num_samples=6, path_gradient=path_gradient
        )
        return jnp.sum(terms.value), terms

    (_, terms), gradient = jax.jit(jax.value_and_grad(bound, has_aux=True))(exact_model()[0], key)
    chex.assert_trees_all_close(terms.log_weights, np.broadcast_to(evidence(x), (6, 2)), atol=1e-9)
    largest = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(gradient))
    # Only along the paths does the noise of the gradient vanish there, in both layers.
    assert (largest < 1e-9) == path_gradient


@pytest.mark.slow("compiles the same model away from its exact posterior")
def test_its_elbo_is_below_the_evidence_by_the_divergence(x64, key):
    x = np.array([0.5, -1.0, 2.0, 0.3])

    @jax.jit
    def figures(key):
        params, encode, decode, prior, _ = exact_model()
        off = lambda x: encode(jax.tree.map(lambda leaf: 1.1 * leaf, params), x)
        terms = vaejax.elbo(key, x, off, decode, prior, num_samples=20_000, kl=vaejax.monte_carlo_kl)
        return terms.value, off(x).log_prob(terms.latents) - encode(params, x).log_prob(terms.latents)

    value, log_ratio = figures(key)
    chex.assert_trees_all_close(evidence(x) - value, np.mean(log_ratio), atol=1e-9)
    assert np.mean(log_ratio) > 0.01


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: Hierarchical(3, onwards), TypeError, "first must be a distribution.*got int"),
        (lambda: Hierarchical(Normal(LOC, 1.0), 3), TypeError, "second must be a function; got int"),
        (lambda: Hierarchical(Normal(LOC, 1.0), lambda z: z), TypeError, "second must return a distribution"),
        (
            lambda: Hierarchical(Normal(LOC, 1.0, 0), lambda z: Normal(z, 1.0)),
            ValueError,
            "first must have 1 event axis; got 0",
        ),
        (
            lambda: Hierarchical(Normal(LOC, 1.0), lambda z: numpyro.Normal(z, 1.0)),
            ValueError,
            r"what second returns must have 1 event axis; got 0 \(numpyro: .to_event\(1\)\)",
        ),
        (
            lambda: Hierarchical(Bernoulli(LOC), lambda z: Normal(z, 1.0)),
            ValueError,
            "first must be continuous; got Bernoulli",
        ),
        (lambda: Hierarchical(standard_normal, lambda z: Normal(z, 1.0)), ValueError, "give it a shape first"),
        (
            lambda: chain().log_prob(np.full(5, np.nan)),
            ValueError,
            "Hierarchical.log_prob: value must be finite; got NaN",
        ),
        (lambda: chain().log_prob(np.zeros(6)), ValueError, "event shape"),
    ],
)
def test_what_cannot_be_is_said(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_what_it_is_can_be_told_without_numbers():
    abstract = jax.eval_shape(lambda: chain())
    assert (abstract.has_rsample, abstract.is_point, abstract.is_normalized) == (True, False, True)
    closed = Hierarchical(Normal(LOC, 1.0), lambda z: vaejax.OptimalNormal(z))
    assert (closed.has_rsample, closed.is_point, closed.is_normalized) == (False, False, False)


def test_a_point_among_its_parts_is_a_point(key):
    """A posterior that is a point in one part has no density."""
    q = Hierarchical(Delta(LOC), lambda z: Normal(z, 1.0))
    with pytest.raises(TypeError, match="is a point and has no density"):
        vaejax.importance_bound(key, np.zeros(3), lambda x: q, lambda z: Normal(z[..., :3], 1.0), num_samples=2)


def scaled(params, z):
    return Normal(z[..., :2] @ params["matrix"], params["scale"])


STEPS = [
    {"matrix": np.array([[0.4, -1.1, 0.2], [0.9, 0.2, -0.5]]), "scale": 0.7},
    {"matrix": np.array([[1.4, -0.1], [-0.9, 0.3]]), "scale": 1.3},
]


START = {"loc": np.array([0.5, -0.5]), "scale": np.array(0.9)}


def three_layers(reverse=False):
    return markov_chain(Normal(**START), *[Partial(scaled, params) for params in STEPS], reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_chain_of_three_layers_has_their_densities(x64, reverse):
    z_1, z_2, z_3 = (np.random.default_rng(size).normal(size=(6, size)) for size in (2, 3, 2))
    density = lambda loc, scale, z: scipy.stats.norm(loc, scale).logpdf(z).sum(-1)
    expected = density(START["loc"], START["scale"], z_1)
    for params, given, z in zip(STEPS, (z_1, z_2), (z_2, z_3), strict=True):
        expected += density(given[:, :2] @ params["matrix"], params["scale"], z)
    together = np.concatenate([z_3, z_2, z_1] if reverse else [z_1, z_2, z_3], axis=-1)
    found = jax.jit(lambda z: three_layers(reverse).log_prob(z))(together)
    chex.assert_trees_all_close(found, expected, rtol=1e-9)


@pytest.mark.parametrize("reverse", [True, pytest.param(False, marks=OTHER_ORDER)])
def test_a_chain_is_drawn_from_its_first_layer_on(key, reverse):
    """Of exact layers, each is the mean that the one before gives it."""

    @jax.jit
    def draw(key):
        steps = [Partial(scaled, {**params, "scale": 1e-6}) for params in STEPS]
        return markov_chain(Normal(**START), *steps, reverse=reverse).sample_and_log_prob(key, (50,))

    z, log_prob = jax.device_get(draw(key))
    parts = [z[:, 5:], z[:, 2:5], z[:, :2]] if reverse else [z[:, :2], z[:, 2:5], z[:, 5:]]
    for params, given, found in zip(STEPS, parts[:-1], parts[1:], strict=True):
        chex.assert_trees_all_close(found, np.float32(given[:, :2] @ params["matrix"]), atol=1e-4)
    assert np.std(parts[0][:, 0]) > 0.5
    assert log_prob.shape == (50,)


def test_a_chain_of_one_layer_is_that_layer():
    first = Normal(np.zeros(2), 1.0)
    assert markov_chain(first) is first


@pytest.mark.slow("derived by JAX from a density that is tested above")
def test_a_chain_is_a_pytree_whose_parameters_have_gradients():
    z = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda q, z: jnp.sum(q.log_prob(z))))(three_layers(), z)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))
    assert jax.tree.structure(gradient) == jax.tree.structure(three_layers())
