"""Heads for posteriors: what their raw outputs mean, that they never overflow, and that they train."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest

import vaejax
from vaejax import Chain, Normal, Planar, Radial, RelaxedCategorical, SphericalUniform, Transformed
from vaejax.nets import mlp, posteriors

VECTOR, TABLE = (3,), (2, 4)
# Each head, the event axes of its latents, and a prior with the divergence to it.
HEADS = {
    "full normal": (posteriors.full_normal(3), VECTOR, vaejax.kl(vaejax.standard_normal)),
    "planar flow": (posteriors.planar_flow(2), VECTOR, vaejax.monte_carlo_kl(vaejax.standard_normal)),
    "radial flow": (posteriors.radial_flow(2), VECTOR, vaejax.monte_carlo_kl(vaejax.standard_normal)),
    "autoregressive flow": (
        posteriors.autoregressive_flow(2, 8), VECTOR, vaejax.monte_carlo_kl(vaejax.standard_normal)
    ),
    "power spherical": (posteriors.power_spherical(), VECTOR, vaejax.kl(SphericalUniform(3))),
    "relaxed categorical": (
        posteriors.relaxed_categorical(0.5), TABLE, vaejax.kl(vaejax.Categorical(jnp.zeros(TABLE)))
    ),
    "relaxed densities": (
        posteriors.relaxed_categorical(0.5), TABLE, vaejax.monte_carlo_kl(RelaxedCategorical(jnp.zeros(TABLE), 0.5))
    ),
}  # fmt: skip


def moved(params, size=0.3):
    """Parameters away from where they start: the nets of a flow end in zeros."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), max(len(leaves), 1))
    return jax.tree.unflatten(
        structure, [leaf + size * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=False)]
    )


@partial(jax.jit, static_argnums=(0, 1, 4))
def draw(head, event, params, raw, sample_shape=()):
    """Draws and their log-densities, as the objectives get them."""
    q = head.distribution(params, raw, len(event))
    if hasattr(q, "sample_and_log_prob"):
        return q.sample_and_log_prob(jax.random.key(2), sample_shape)
    z = q.sample(jax.random.key(2), sample_shape)
    return z, q.log_prob(z)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
@pytest.mark.parametrize("name", [name for name in HEADS if name != "relaxed densities"])
def test_any_batch_axes(name, batch):
    head, event, _ = HEADS[name]
    params = moved(head.init(jax.random.key(0), event))
    raw = jax.random.normal(jax.random.key(1), (*batch, *event, head.channels))

    @jax.jit
    def figures(raw):
        z, log_q = draw(head, event, params, raw, (4,))
        q = head.distribution(params, raw, len(event))
        return z, log_q, q.log_prob(z), q.support(z)

    z, log_q, again, inside = figures(raw)
    chex.assert_shape(z, (4, *batch, *event))
    chex.assert_shape([log_q, again], (4, *batch))
    assert jnp.all(inside)
    assert len(jnp.unique(log_q)) == log_q.size
    chex.assert_trees_all_close(again, log_q, atol=1e-3)
    assert head.distribution(params, raw, len(event)).event_ndims == len(event)
    if batch:
        # An example by itself has the density that it has among others.
        first = (0,) * len(batch)
        alone = jax.jit(lambda raw, z: head.distribution(params, raw, len(event)).log_prob(z))(
            raw[first], z[(slice(None), *first)]
        )
        chex.assert_trees_all_close(alone, again[(slice(None), *first)], atol=1e-3)


@pytest.mark.parametrize("name", [name for name in HEADS if name != "relaxed densities"])
def test_a_wild_net_stays_finite(name):
    head, event, _ = HEADS[name]
    params = moved(head.init(jax.random.key(0), event))
    signs = jax.random.rademacher(jax.random.key(1), (6, *event, head.channels), jnp.float32)
    raw = 1e4 * signs.at[0].set(1.0).at[1].set(-1.0)
    if name == "full normal":
        # Not below the diagonal: a factor with 1e4 there and exp(-19) on it has no inverse in float32.
        raw = raw * jnp.concatenate([jnp.ones((3, 1)), jnp.eye(3)], axis=1)

    def total(raw):
        z, log_q = draw(head, event, params, raw)
        return jnp.sum(log_q), (z, log_q)

    (_, figures), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(raw)
    chex.assert_tree_all_finite(figures)
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("name", HEADS)
def test_every_parameter_learns(name):
    """The gradient of the bound, to the net before the head and to the head's own parameters."""
    head, event, kl = HEADS[name]
    size = 4
    x = jax.random.normal(jax.random.key(3), (5, size))
    params = moved({
        "encoder": jnp.zeros((size, *event, head.channels)), "decoder": jnp.zeros((*event, size)),
        "head": head.init(jax.random.key(0), event),
    })  # fmt: skip

    def loss(params):
        encode = lambda x: head.distribution(
            params["head"], jnp.tensordot(x, params["encoder"], 1), len(event)
        )  # fmt: skip
        decode = lambda z: Normal(jnp.tensordot(z, params["decoder"], len(event)), 0.5)
        terms = vaejax.elbo(jax.random.key(1), x, encode, decode, kl=lambda prior: kl, num_samples=2)
        return -jnp.mean(terms.value)

    gradient = jax.jit(jax.grad(loss))(params)
    chex.assert_tree_all_finite(gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.any(leaf != 0), jax.tree_util.keystr(path)
    # Every channel counts, in every element; a factor is read up to its diagonal.
    used = jnp.any(gradient["encoder"] != 0, axis=0)
    chex.assert_trees_all_equal(used, jnp.tril(jnp.ones((3, 4), bool), 1) if name == "full normal" else used | True)


def test_a_head_fits_a_whole_model():
    head = posteriors.autoregressive_flow(2, 8)
    model = mlp((6,), 3, hidden_sizes=(5,), posterior=head)
    params = model.init(jax.random.key(0))
    x = jnp.ones((4, 6))
    terms = jax.jit(lambda params: vaejax.elbo(
        jax.random.key(1), x, lambda x: model.encode(params, x), lambda z: model.decode(params, z),
        kl=vaejax.monte_carlo_kl,
    ))(params)  # fmt: skip
    chex.assert_shape(terms.value, (4,))
    assert isinstance(terms.posterior, Transformed)


def test_only_the_autoregressive_flow_has_parameters_and_they_come_of_the_key():
    for name, (head, event, _) in HEADS.items():
        params, same, other = (head.init(jax.random.key(seed), event) for seed in (0, 0, 1))
        chex.assert_trees_all_equal(params, same)
        assert bool(jax.tree.leaves(params)) == (name == "autoregressive flow")
        if params:
            pairs = zip(*map(jax.tree.leaves, (params, other)), strict=True)
            # Those that do not start at 0.
            drawn = [(a, b) for a, b in pairs if jnp.any(a != 0)]
            assert len(drawn) == 4
            assert all(jnp.all(a != b) for a, b in drawn)


def test_an_autoregressive_flow_starts_as_the_normal_and_then_sees_its_context():
    head = posteriors.autoregressive_flow(2, 8)
    params = head.init(jax.random.key(0), VECTOR)
    raw = jax.random.normal(jax.random.key(1), (5, 3, 3))
    z, log_q = draw(head, VECTOR, params, raw, (4,))
    base = Normal.from_log_scale(raw[..., 0], raw[..., 1])
    chex.assert_trees_all_close(z, base.sample(jax.random.key(2), (4,)), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(log_q, base.log_prob(z), rtol=1e-4, atol=1e-5)
    other = raw.at[..., 2].add(1.0)
    chex.assert_trees_all_equal(draw(head, VECTOR, params, other)[0], draw(head, VECTOR, params, raw)[0])
    assert jnp.all(draw(head, VECTOR, moved(params), other)[1] != draw(head, VECTOR, moved(params), raw)[1])


def test_a_full_normal_has_a_cholesky_factor():
    raw = 2.0 * jax.random.normal(jax.random.key(0), (50, 3, 4))
    q = posteriors.full_normal(3).distribution({}, raw, 1)
    chex.assert_trees_all_equal(q.loc, raw[..., 0])
    assert jnp.all(jnp.triu(q.scale_tril, 1) == 0)
    chex.assert_trees_all_equal(jnp.tril(q.scale_tril, -1), jnp.tril(raw[..., 1:], -1))
    diagonal = jnp.diagonal(q.scale_tril, axis1=1, axis2=2)
    chex.assert_trees_all_close(
        jnp.log(diagonal), jnp.stack([raw[:, i, 1 + i] for i in range(3)], axis=-1), rtol=1e-4, atol=1e-5
    )
    # And it is the factor of its own covariance, which is unique.
    small = q.scale_tril[:3] / jnp.max(jnp.abs(q.scale_tril[:3]))
    again = jnp.linalg.cholesky(small @ jnp.swapaxes(small, 1, 2) + 1e-12 * jnp.eye(3))
    chex.assert_trees_all_close(again, small, atol=1e-2)


def test_the_channels_of_the_flows_come_layer_by_layer():
    """Mean, log-scale, and then for each layer its vectors and a number that is a mean over the axes."""
    raw = jax.random.normal(jax.random.key(0), (5, 3, 8))
    base = Normal.from_log_scale(raw[..., 0], raw[..., 1])
    planar = Chain(tuple(Planar(raw[..., c], raw[..., c + 1], raw[..., c + 2].mean(-1)) for c in (2, 5)))
    radial = Chain(tuple(Radial(raw[..., c], raw[..., c + 1].mean(-1), raw[..., c + 2].mean(-1)) for c in (2, 5)))
    for head, flow in ((posteriors.planar_flow(2), planar), (posteriors.radial_flow(2), radial)):
        assert head.channels == 8
        moved_base = Transformed(base, flow)
        expected = jax.jit(lambda q: q.sample_and_log_prob(jax.random.key(2), (4,)))(moved_base)
        chex.assert_trees_all_close(draw(head, VECTOR, {}, raw, (4,)), expected, rtol=1e-5, atol=1e-5)


def test_directions_are_unit_vectors_with_a_concentration_from_one_on():
    raw = 3.0 * jax.random.normal(jax.random.key(0), (20, 3, 2))
    q = posteriors.power_spherical().distribution({}, raw, 1)
    chex.assert_trees_all_close(q.concentration, 1 + jnp.log1p(jnp.exp(raw[..., 1].sum(-1))), rtol=1e-4)
    assert jnp.all(q.concentration >= 1)
    z, _ = draw(posteriors.power_spherical(), VECTOR, {}, raw, (500,))
    chex.assert_trees_all_close(jnp.linalg.norm(z, axis=-1), jnp.ones((500, 20)), atol=1e-5)
    # On the whole they point where the net says, the more so the higher the concentration.
    along = jnp.mean(jnp.sum(z * raw[..., 0] / jnp.linalg.norm(raw[..., 0], axis=-1, keepdims=True), axis=-1), axis=0)
    chex.assert_trees_all_close(along, q.concentration / (q.concentration + 2), atol=0.2)


def test_relaxed_categories_lie_in_the_simplex_and_take_their_temperature():
    raw = jax.random.normal(jax.random.key(0), (5, *TABLE, 1))
    for temperature in (0.1, 2.0):
        head = posteriors.relaxed_categorical(temperature)
        z, log_q = draw(head, TABLE, {}, raw, (300,))
        assert jnp.all(z > 0)
        chex.assert_trees_all_close(jnp.sum(z, axis=-1), jnp.ones((300, 5, 2)), atol=1e-5)
        chex.assert_trees_all_close(log_q, RelaxedCategorical(raw[..., 0], temperature).log_prob(z), rtol=1e-5)
        assert (jnp.mean(jnp.max(z, axis=-1)) > 0.9) == (temperature == 0.1)


def test_the_bound_can_be_switched_off_and_replaced():
    raw = jnp.full((2, 5), 50.0).at[:, 0].set(0.0)
    sizes = {"full": 3, "planar": 5, "radial": 5, "autoregressive": 3}
    makers = {
        "full": lambda bound: posteriors.full_normal(2, bound), "planar": lambda bound: posteriors.planar_flow(1, bound),
        "radial": lambda bound: posteriors.radial_flow(1, bound),
        "autoregressive": lambda bound: posteriors.autoregressive_flow(1, 4, bound),
    }  # fmt: skip
    for name, make in makers.items():
        for bound, expected in ((None, 50.0), (lambda s: jnp.minimum(s, 1.0), 1.0)):
            head = make(bound)
            params = head.init(jax.random.key(0), (2,))
            q = head.distribution(params, raw[:, : sizes[name]], 1)
            scale = jnp.diagonal(q.scale_tril) if name == "full" else q.base.scale
            chex.assert_trees_all_close(scale, jnp.full(2, jnp.exp(expected)), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: posteriors.full_normal(0), ValueError, "full_normal: size must be at least 1; got 0"),
        (lambda: posteriors.full_normal((3,)), TypeError, "full_normal: size must be an integer"),
        (lambda: posteriors.planar_flow(0), ValueError, "planar_flow: num_layers must be at least 1"),
        (lambda: posteriors.radial_flow(0), ValueError, "radial_flow: num_layers must be at least 1"),
        (lambda: posteriors.autoregressive_flow(0), ValueError, "autoregressive_flow: num_layers must be at least 1"),
        (
            lambda: posteriors.autoregressive_flow(2, 0),
            ValueError,
            "autoregressive_flow: hidden_size must be at least 1",
        ),
        (
            lambda: posteriors.relaxed_categorical(0.0),
            ValueError,
            "temperature must be positive; got values down to 0.0",
        ),
        (lambda: posteriors.relaxed_categorical("warm"), TypeError, "temperature must be an array; got str"),
    ],
)
def test_bad_options_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
