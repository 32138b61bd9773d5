"""Heads for posteriors: what their raw outputs mean, that they never overflow, and that they train."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from tests.parameters import random_params
from tests.tiers import slow_but
from vaejax import Chain, Normal, Planar, Radial, RelaxedCategorical, SphericalUniform, Transformed
from vaejax.nets import mlp, posteriors

VECTOR, TABLE = (3,), (2, 4)
# Each head, the event axes of its latents, and a prior with the divergence to it, made where it is used.
HEADS = {
    "full normal": (posteriors.full_normal(3), VECTOR, lambda: vaejax.kl(vaejax.standard_normal)),
    "planar flow": (posteriors.planar_flow(1), VECTOR, lambda: vaejax.monte_carlo_kl(vaejax.standard_normal)),
    "radial flow": (posteriors.radial_flow(1), VECTOR, lambda: vaejax.monte_carlo_kl(vaejax.standard_normal)),
    "autoregressive flow": (
        posteriors.autoregressive_flow(2, 8), VECTOR, lambda: vaejax.monte_carlo_kl(vaejax.standard_normal)
    ),
    "power spherical": (posteriors.power_spherical(), VECTOR, lambda: vaejax.kl(SphericalUniform(3))),
    "relaxed categorical": (
        posteriors.relaxed_categorical(0.5), TABLE, lambda: vaejax.categorical_kl(vaejax.Categorical(jnp.zeros(TABLE)))
    ),
    "relaxed densities": (
        posteriors.relaxed_categorical(0.5), TABLE,
        lambda: vaejax.monte_carlo_kl(RelaxedCategorical(jnp.zeros(TABLE), 0.5)),
    ),
}  # fmt: skip


def parameters(head, event):
    """Parameters of a head away from where they start: the nets of a flow end in zeros."""
    random = np.random.default_rng(9)
    number = lambda leaf: 0.5 * random.standard_normal(leaf.shape).astype(np.float32)
    return jax.tree.map(number, jax.eval_shape(lambda: head.init(jax.random.key(0), event)))


def outputs(head, event, batch=(), scale=1.0):
    """What a net may put out."""
    return scale * np.random.default_rng(1).standard_normal((*batch, *event, head.channels)).astype(np.float32)


def draw(head, event, params, raw, sample_shape=()):
    """Draws and their log-densities, as the objectives get them."""
    q = head.distribution(params, raw, len(event))
    if hasattr(q, "sample_and_log_prob"):
        return q.sample_and_log_prob(jax.random.key(2), sample_shape)
    z = q.sample(jax.random.key(2), sample_shape)
    return z, q.log_prob(z)


def examine(name, params, raw):
    """Draws and log-densities, the gradient of their sum, and what the distribution says of the draws."""
    head, event, _ = HEADS[name]

    def total(raw):
        z, log_q = draw(head, event, params, raw, (4,))
        return jnp.sum(log_q), (z, log_q)

    (_, (z, log_q)), gradient = jax.value_and_grad(total, has_aux=True)(raw)
    q = head.distribution(params, raw, len(event))
    assert q.event_ndims == len(event)
    # An example by itself.
    first = (0,) * (raw.ndim - len(event) - 1)
    alone = head.distribution(params, raw[first], len(event)).log_prob(z[(slice(None), *first)])
    return z, log_q, gradient, q.log_prob(z), q.support(z), alone


# The relaxed densities are another prior for the same head.
NAMES = [name for name in HEADS if name != "relaxed densities"]
ANOTHER_HEAD = "another head; each is compiled by itself"
another_shape = pytest.mark.slow("another shape of the same law")


@partial(jax.jit, static_argnums=0)
def examine_one(name, raw):
    return examine(name, parameters(*HEADS[name][:2]), raw)


@pytest.mark.parametrize("name", slow_but({"full normal"}, NAMES, ANOTHER_HEAD))
@pytest.mark.parametrize(
    "batch", [pytest.param((), marks=another_shape), pytest.param((5,), marks=another_shape), (2, 3)]
)
def test_any_batch_axes(name, batch):
    head, event, _ = HEADS[name]
    z, log_q, _, again, inside, alone = jax.device_get(examine_one(name, outputs(head, event, batch)))
    chex.assert_shape(z, (4, *batch, *event))
    chex.assert_shape([log_q, again], (4, *batch))
    assert np.all(inside)
    assert len(np.unique(log_q)) == log_q.size
    chex.assert_trees_all_close(again, log_q, atol=1e-3)
    # An example by itself has the density that it has among others.
    chex.assert_trees_all_close(alone, again[(slice(None), *(0,) * len(batch))], atol=1e-3)


@pytest.mark.parametrize("name", slow_but({"full normal"}, NAMES, ANOTHER_HEAD))
def test_a_wild_net_stays_finite(name):
    head, event, _ = HEADS[name]
    signs = np.random.default_rng(1).choice([-1, 1], (2, 3, *event, head.channels)).astype(np.float32)
    signs[0, 0], signs[0, 1] = 1, -1
    wild = 1e4 * signs
    if name == "full normal":
        # Not below the diagonal: a factor with 1e4 there and exp(-19) on it has no inverse in float32.
        wild *= np.concatenate([np.ones((3, 1)), np.eye(3)], axis=1).astype(np.float32)
    z, log_q, gradient, *_ = jax.device_get(examine_one(name, wild))
    chex.assert_tree_all_finite((z, log_q, gradient))


@pytest.mark.parametrize("name", slow_but({"autoregressive flow"}, HEADS, ANOTHER_HEAD))
def test_every_parameter_learns(name):
    """The gradient of the bound, to the net before the head and to the head's own parameters."""
    size = 4
    random = np.random.default_rng(3)
    numbers = lambda *shape: random.standard_normal(shape).astype(np.float32)
    head, event, kl = HEADS[name]
    params = {
        "encoder": 0.3 * numbers(size, *event, head.channels), "decoder": 0.3 * numbers(*event, size),
        "head": parameters(head, event),
    }  # fmt: skip

    def loss(params, x):
        encode = lambda x: head.distribution(params["head"], jnp.tensordot(x, params["encoder"], 1), len(event))
        decode = lambda z: Normal(jnp.tensordot(z, params["decoder"], len(event)), 0.5)
        terms = vaejax.elbo(jax.random.key(1), x, encode, decode, kl=lambda prior: kl(), num_samples=2)
        return -jnp.mean(terms.value)

    gradient = jax.device_get(jax.jit(jax.grad(loss))(params, numbers(5, size)))
    chex.assert_tree_all_finite(gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.any(leaf != 0), jax.tree_util.keystr(path)
    # Every channel counts, in every element; a factor is read up to its diagonal.
    used = np.any(gradient["encoder"] != 0, axis=0)
    expected = np.tril(np.ones((3, 4), bool), 1) if name == "full normal" else np.ones_like(used)
    np.testing.assert_array_equal(used, expected)


def test_a_head_fits_a_whole_model():
    head = posteriors.autoregressive_flow(2, 8)
    model = mlp((6,), 3, hidden_sizes=(5,), posterior=head)
    terms = jax.eval_shape(lambda params, x: vaejax.elbo(
        jax.random.key(1), x, lambda x: model.encode(params, x), lambda z: model.decode(params, z),
        kl=vaejax.monte_carlo_kl,
    ), random_params(model), np.ones((4, 6), np.float32))  # fmt: skip
    chex.assert_shape(terms.value, (4,))
    assert isinstance(terms.posterior, Transformed)


def test_only_the_autoregressive_flow_has_parameters_and_they_come_of_the_key():
    for name, (head, event, _) in HEADS.items():
        if name != "autoregressive flow":
            assert head.init(jax.random.key(0), event) == {}
            continue
        init = jax.jit(partial(head.init, event_shape=event))
        params, same, other = (jax.device_get(init(jax.random.key(seed))) for seed in (0, 0, 1))
        chex.assert_trees_all_equal(params, same)
        pairs = zip(*map(jax.tree.leaves, (params, other)), strict=True)
        # Those that do not start at 0.
        drawn = [(a, b) for a, b in pairs if np.any(a != 0)]
        assert len(drawn) == 4
        assert all(np.all(a != b) for a, b in drawn)


def test_an_autoregressive_flow_starts_as_the_normal_and_then_sees_its_context():
    head = posteriors.autoregressive_flow(2, 8)
    raw = outputs(head, VECTOR, (5,))
    other = raw + np.float32([0, 0, 1])

    @jax.jit
    def figures(params, raw):
        base = Normal.from_log_scale(raw[..., 0], raw[..., 1])
        z, log_q = draw(head, VECTOR, params, raw, (4,))
        return z, log_q, base.sample(jax.random.key(2), (4,)), base.log_prob(z)

    start = jax.jit(partial(head.init, event_shape=VECTOR))(jax.random.key(0))
    z, log_q, expected, log_prob = figures(start, raw)
    chex.assert_trees_all_close(z, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(log_q, log_prob, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(figures(start, other)[0], z)
    moved = parameters(head, VECTOR)
    assert np.all(np.asarray(figures(moved, other)[1]) != np.asarray(figures(moved, raw)[1]))


def test_a_full_normal_has_a_cholesky_factor():
    head = posteriors.full_normal(3)
    raw = outputs(head, VECTOR, (50,), scale=2.0)
    q = jax.device_get(jax.jit(lambda raw: head.distribution({}, raw, 1))(raw))
    np.testing.assert_array_equal(q.loc, raw[..., 0])
    assert np.all(np.triu(q.scale_tril, 1) == 0)
    np.testing.assert_array_equal(np.tril(q.scale_tril, -1), np.tril(raw[..., 1:], -1))
    diagonal = np.diagonal(q.scale_tril, axis1=1, axis2=2)
    logarithms = np.diagonal(raw[..., 1:], axis1=1, axis2=2)
    chex.assert_trees_all_close(np.log(diagonal), logarithms, rtol=1e-4, atol=1e-5)
    # And it is the factor of its own covariance, which is unique.
    small = q.scale_tril[:3] / np.max(np.abs(q.scale_tril[:3]))
    again = np.linalg.cholesky(small.astype(np.float64) @ np.swapaxes(small, 1, 2) + 1e-12 * np.eye(3))
    np.testing.assert_allclose(again, small, rtol=0, atol=1e-2)


def test_a_full_normal_is_in_the_dtype_of_its_net(x64):
    raw = jax.ShapeDtypeStruct((4, 3, 4), np.float32)
    q = jax.eval_shape(lambda raw: posteriors.full_normal(3).distribution({}, raw, 1), raw)
    assert (q.loc.dtype, q.scale_tril.dtype) == (np.float32, np.float32)


def test_the_channels_of_the_flows_come_layer_by_layer():
    """Mean, log-scale, and then for each layer its vectors and a number that is a mean over the axes."""
    flows = {"planar": posteriors.planar_flow(2), "radial": posteriors.radial_flow(2)}
    assert {head.channels for head in flows.values()} == {8}

    @jax.jit
    def figures(raw):
        base = Normal.from_log_scale(raw[..., 0], raw[..., 1])
        planar = Chain(tuple(Planar(raw[..., c], raw[..., c + 1], raw[..., c + 2].mean(-1)) for c in (2, 5)))
        radial = Chain(tuple(Radial(raw[..., c], raw[..., c + 1].mean(-1), raw[..., c + 2].mean(-1)) for c in (2, 5)))
        by_hand = {"planar": planar, "radial": radial}
        by_hand = {name: Transformed(base, flow) for name, flow in by_hand.items()}
        expected = {name: q.sample_and_log_prob(jax.random.key(2), (4,)) for name, q in by_hand.items()}
        return {name: draw(head, VECTOR, {}, raw, (4,)) for name, head in flows.items()}, expected

    chex.assert_trees_all_close(*figures(outputs(flows["planar"], VECTOR, (5,))), rtol=1e-5, atol=1e-5)


def test_directions_are_those_of_the_net_with_a_concentration_from_one_on():
    head = posteriors.power_spherical()
    raw = outputs(head, VECTOR, (20,), scale=3.0)
    q = jax.device_get(jax.jit(lambda raw: head.distribution({}, raw, 1))(raw))
    chex.assert_trees_all_close(q.concentration, 1 + np.log1p(np.exp(raw[..., 1].sum(-1))), rtol=1e-4)
    assert np.all(q.concentration >= 1)
    direction = raw[..., 0] / np.linalg.norm(raw[..., 0], axis=-1, keepdims=True)
    chex.assert_trees_all_close(q.loc / np.linalg.norm(q.loc, axis=-1, keepdims=True), direction, rtol=1e-5, atol=1e-6)


@pytest.mark.slow("statistics of a distribution whose parameters are exact above")
def test_directions_are_unit_vectors_along_those_of_the_net():
    head = posteriors.power_spherical()
    raw = outputs(head, VECTOR, (20,), scale=3.0)

    @jax.jit
    def figures(raw):
        return head.distribution({}, raw, 1).concentration, draw(head, VECTOR, {}, raw, (500,))[0]

    concentration, z = jax.device_get(figures(raw))
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, rtol=0, atol=1e-5)
    # On the whole they point where the net says, the more so the higher the concentration.
    along = np.mean(np.sum(z * raw[..., 0] / np.linalg.norm(raw[..., 0], axis=-1, keepdims=True), axis=-1), axis=0)
    chex.assert_trees_all_close(along, concentration / (concentration + 2), atol=0.2)


def test_relaxed_categories_lie_in_the_simplex_and_take_their_temperature():
    @jax.jit
    def figures(temperature, raw):
        head = posteriors.relaxed_categorical(temperature)
        z, log_q = draw(head, TABLE, {}, raw, (300,))
        return z, log_q, RelaxedCategorical(raw[..., 0], temperature).log_prob(z)

    for temperature in (0.1, 2.0):
        raw = outputs(HEADS["relaxed categorical"][0], TABLE, (5,))
        z, log_q, expected = jax.device_get(figures(temperature, raw))
        # Where a coordinate has underflowed its density is known with the draw alone.
        whole = np.isfinite(expected)
        assert np.mean(whole) > 0.5
        assert np.all(z > 0)
        np.testing.assert_allclose(np.sum(z, axis=-1), 1, rtol=0, atol=1e-5)
        chex.assert_trees_all_close(log_q[whole], expected[whole], rtol=1e-4)
        assert (np.mean(np.max(z, axis=-1)) > 0.9) == (temperature == 0.1)


def test_the_bound_can_be_switched_off_and_replaced():
    raw = np.concatenate([np.zeros((2, 1)), np.full((2, 4), 50.0)], axis=1).astype(np.float32)
    makers = {
        "full": lambda bound: posteriors.full_normal(2, bound), "planar": lambda bound: posteriors.planar_flow(1, bound),
        "radial": lambda bound: posteriors.radial_flow(1, bound),
        "autoregressive": lambda bound: posteriors.autoregressive_flow(1, 4, bound),
    }  # fmt: skip

    def scale(name, bound):
        head = makers[name](bound)
        params = head.init(jax.random.key(0), (2,))
        q = head.distribution(params, raw[:, : head.channels], 1)
        return jnp.diagonal(q.scale_tril) if name == "full" else q.base.scale

    for bound, expected in ((None, 50.0), (lambda s: jnp.minimum(s, 1.0), 1.0)):
        scales = jax.jit(lambda bound=bound: [scale(name, bound) for name in makers])()
        chex.assert_trees_all_close(scales, [np.full(2, np.exp(np.float32(expected)))] * 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: posteriors.full_normal(0), ValueError, r"full_normal: size .*got 0"),
        (lambda: posteriors.full_normal((3,)), TypeError, r"full_normal: size .*got tuple"),
        (lambda: posteriors.planar_flow(0), ValueError, r"planar_flow: num_layers .*got 0"),
        (lambda: posteriors.radial_flow(0), ValueError, r"radial_flow: num_layers .*got 0"),
        (lambda: posteriors.autoregressive_flow(0), ValueError, r"autoregressive_flow: num_layers .*got 0"),
        (
            lambda: posteriors.autoregressive_flow(2, 0),
            ValueError,
            r"autoregressive_flow: hidden_size .*got 0",
        ),
        (
            lambda: posteriors.relaxed_categorical(0.0),
            ValueError,
            r"temperature .*0\.0",
        ),
        (lambda: posteriors.relaxed_categorical("warm"), TypeError, r"temperature .*got str"),
    ],
)
def test_bad_options_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
