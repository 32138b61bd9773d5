"""Encoders, decoders and heads as pure functions."""

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import vaejax
from vaejax import nets
from vaejax.nets import heads

SHAPE = (7, 6, 2)  # neither square nor a power of two
LIKELIHOODS = {
    "bernoulli": (heads.bernoulli(), vaejax.Bernoulli),
    "continuous_bernoulli": (heads.continuous_bernoulli(), vaejax.ContinuousBernoulli),
    "categorical": (heads.categorical(256), vaejax.Categorical),
    "normal": (heads.normal(0.5), vaejax.Normal),
    "learned_normal": (heads.learned_normal(0.5), vaejax.Normal),
    "per_dimension_normal": (heads.per_dimension_normal(0.5), vaejax.Normal),
    "predicted_normal": (heads.predicted_normal(), vaejax.Normal),
    "optimal_normal": (heads.optimal_normal(), vaejax.OptimalNormal),
}
MAKERS = {
    "mlp": lambda **options: nets.mlp(SHAPE, 3, hidden_sizes=(8, 5), **options),
    "conv": lambda **options: nets.conv(SHAPE, 3, channels=(4, 5), **options),
}


def images(count=4):
    return jax.random.bernoulli(jax.random.key(1), 0.5, (count, *SHAPE)).astype(jnp.float32)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_net_with_every_likelihood_gives_a_bound_and_gradients(maker, name):
    head, kind = LIKELIHOODS[name]
    model = MAKERS[maker](likelihood=head)
    params = model.init(jax.random.key(0))

    def loss(params):
        encode, decode = (lambda x: model.encode(params, x)), (lambda z: model.decode(params, z))
        return vaejax.negative_elbo(jax.random.key(2), images(), encode, decode)

    (_, terms), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    chex.assert_shape(terms.value, (4,))
    chex.assert_tree_all_finite(gradient)
    # Every parameter takes part: a head's scale, each layer, each bias.
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.any(leaf != 0), jax.tree_util.keystr(path)
    p = model.decode(params, jnp.zeros((5, 3)))
    assert type(p) is kind
    chex.assert_shape(p.mean, (5, *SHAPE))
    if kind is not vaejax.OptimalNormal:
        chex.assert_shape(p.sample(jax.random.key(3), (2,)), (2, 5, *SHAPE))


@pytest.mark.parametrize("maker", MAKERS)
def test_any_batch_axes(maker):
    model = MAKERS[maker]()
    params = model.init(jax.random.key(0))
    x = images(6)
    means = model.encode(params, x).mean
    chex.assert_shape(means, (6, 3))
    chex.assert_trees_all_close(model.encode(params, x[0]).mean, means[0], atol=1e-5)
    chex.assert_trees_all_close(model.encode(params, x.reshape(2, 3, *SHAPE)).mean, means.reshape(2, 3, 3), atol=1e-5)
    logits = model.decode(params, means).logits
    chex.assert_trees_all_close(model.decode(params, means[0]).logits, logits[0], atol=1e-5)
    assert not jnp.allclose(logits[0], logits[1])


@pytest.mark.parametrize("maker", MAKERS)
def test_parameters_are_plain_dicts_that_depend_on_the_key_alone(maker):
    model = MAKERS[maker]()
    params = model.init(jax.random.key(0))
    assert set(params) == {"encoder", "posterior", "decoder", "likelihood"}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    chex.assert_trees_all_equal(params, model.init(jax.random.key(0)))
    chex.assert_trees_all_equal(params, jax.jit(model.init)(jax.random.key(0)))
    other = model.init(jax.random.key(1))
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    others = [leaf for leaf in jax.tree.leaves(other) if leaf.ndim > 1]
    assert not any(jnp.any(a == b) for a, b in zip(kernels, others, strict=True))


def test_the_posterior_is_a_normal_or_a_point():
    model = nets.mlp((4,), 3)
    params = model.init(jax.random.key(0))
    assert isinstance(model.encode(params, jnp.ones((2, 4))), vaejax.Normal)
    model = nets.mlp((4,), 3, posterior=heads.delta())
    params = model.init(jax.random.key(0))
    assert isinstance(model.encode(params, jnp.ones((2, 4))), vaejax.Delta)


def test_scales_of_the_normal_heads():
    x = jnp.ones((2, *SHAPE))
    scales = {}
    for name in ("normal", "learned_normal", "per_dimension_normal"):
        model = MAKERS["mlp"](likelihood=LIKELIHOODS[name][0])
        params = model.init(jax.random.key(0))
        scales[name] = jnp.asarray(model.decode(params, model.encode(params, x).mean).scale)
        chex.assert_trees_all_close(scales[name], jnp.full_like(scales[name], 0.5), rtol=1e-6)
    assert {name: scale.size for name, scale in scales.items()} == {
        "normal": 1,
        "learned_normal": 1,
        "per_dimension_normal": 7 * 6 * 2,
    }


def test_a_wild_net_stays_finite_unless_the_bound_is_switched_off():
    raw = jnp.array([[1.0, 1e4]])
    assert jnp.isfinite(heads.predicted_normal().distribution({}, raw, 1).scale)
    assert not jnp.isfinite(heads.predicted_normal(bound=None).distribution({}, raw, 1).scale)


def test_integer_levels_are_scaled_for_the_net_and_counted_by_the_likelihood():
    head = heads.categorical(17)
    chex.assert_trees_all_close(head.standardize(jnp.array([0, 16], jnp.uint8)), jnp.array([0.0, 1.0]))
    model = nets.mlp((4,), 2, likelihood=head)
    params = model.init(jax.random.key(0))
    x = jnp.array([[0, 16, 8, 3]], jnp.uint8)
    log_prob = model.decode(params, model.encode(params, x).mean).log_prob(x)
    assert -40 < log_prob[0] < 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nets.mlp(784, 20), TypeError, r"data_shape must be a non-empty tuple.*got 784"),
        (lambda: nets.mlp((), 20), TypeError, "data_shape must be a non-empty tuple"),
        (lambda: nets.mlp((784,), 0), ValueError, "latent_size must be at least 1; got 0"),
        (lambda: nets.mlp((784,), 20, hidden_sizes=(0,)), ValueError, "hidden_sizes must be at least 1"),
        (lambda: nets.mlp((784,), 2.5), TypeError, "latent_size must be an integer"),
        (lambda: nets.conv((784,), 20), ValueError, r"must be \(height, width, channels\); got \(784,\)"),
        (lambda: nets.conv((8, 8, 1), 20, channels=()), ValueError, "channels must have at least one"),
        (lambda: heads.categorical(1), ValueError, "num_levels must be at least 2; got 1"),
        (lambda: heads.normal(0.0), ValueError, "normal: scale must be positive; got values down to 0.0"),
        (lambda: heads.learned_normal(-1.0), ValueError, "initial_scale must be positive"),
        (lambda: nets.mlp((4,), 2).init(0), TypeError, "key must be a typed PRNG key"),
        (lambda: nets.mlp((4,), 2).encode({}, jnp.ones((8, 5))), ValueError,
         r"encode: x must be an array that ends in the axes \(4,\); got shape \(8, 5\)"),
        (lambda: nets.mlp((4,), 2).decode({}, jnp.ones(3)), ValueError, r"decode: z must be.*\(2,\); got shape \(3,\)"),
        (lambda: nets.mlp((2, 2), 2).encode({}, jnp.ones(2)), ValueError, r"encode: x must be.*got shape \(2,\)"),
    ],
)  # fmt: skip
def test_bad_sizes_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_mapped_decoder_is_the_batched_one(name):
    model = nets.mlp((4, 4, 1), 2, hidden_sizes=(5,), likelihood=LIKELIHOODS[name][0])
    params = model.init(jax.random.key(0))
    z = jax.random.normal(jax.random.key(1), (4, 2))
    mapped, batched = jax.vmap(lambda z: model.decode(params, z))(z), model.decode(params, z)
    x = jnp.ones((4, 4, 4, 1))
    chex.assert_trees_all_close(mapped.log_prob(x), batched.log_prob(x), rtol=1e-4)
    chex.assert_trees_all_close(mapped.mean, batched.mean, rtol=1e-4, atol=1e-6)


def test_the_scale_of_a_head_may_be_traced():
    def bound(scale):
        model = nets.mlp((4,), 2, likelihood=heads.normal(scale))
        params = model.init(jax.random.key(0))
        return model.decode(params, jnp.zeros((8, 2))).log_prob(jnp.ones((8, 4))).sum()

    values = jax.jit(jax.vmap(bound))(jnp.array([0.5, 2.0]))
    chex.assert_trees_all_close(values, jnp.stack([bound(0.5), bound(2.0)]), rtol=1e-5)


class Bilinear(nnx.Module):
    """Two inputs `[N, 2, 3]` and `[N, 4]` to `[N, 10]`, nowhere the same for two of its numbers."""

    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(6, 10, rngs=rngs), nnx.Linear(4, 10, rngs=rngs)

    def __call__(self, x, y):
        return self.first(x.reshape(len(x), -1)) * self.second(y)


def test_a_net_of_several_inputs_broadcasts_their_batch_axes():
    net = nets.make_net(Bilinear, [(2, 3), (4,)], (5, 2))
    params = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (7, 2, 3))
    y = jax.random.normal(jax.random.key(2), (8, 7, 4))
    found = net.apply(params, x, y)
    chex.assert_shape(found, (8, 7, 5, 2))
    by_hand = lambda x, y: (x.ravel() @ params["first"]["kernel"]) * (y @ params["second"]["kernel"])
    expected = jax.vmap(jax.vmap(by_hand), (None, 0))(x, y).reshape(8, 7, 5, 2)
    chex.assert_trees_all_close(found, expected, atol=1e-5)
    chex.assert_trees_all_close(net.apply(params, x[0], y[0, 0]), expected[0, 0], atol=1e-5)
    chex.assert_trees_all_equal(params, nets.make_net(Bilinear, [(2, 3), (4,)], (5, 2)).init(jax.random.key(0)))


def test_what_a_net_does_not_take_is_named():
    net = nets.make_net(Bilinear, [(2, 3), (4,)], (5, 2))
    params = net.init(jax.random.key(0))
    with pytest.raises(ValueError, match="this net takes 2 inputs; got 1"):
        net.apply(params, jnp.zeros((7, 2, 3)))
    with pytest.raises(ValueError, match=r"an input must be an array that ends in the axes \(4,\); got shape \(7, 5\)"):
        net.apply(params, jnp.zeros((7, 2, 3)), jnp.zeros((7, 5)))
    with pytest.raises(TypeError, match="make"):
        nets.make_net(3, [(4,)], (5,))
