"""Encoders, decoders and heads as pure functions."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vaejax
from tests.parameters import random_params
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
    return np.random.default_rng(1).integers(0, 2, (count, *SHAPE)).astype(np.float32)


def loss_of(model):
    return lambda params, x: vaejax.negative_elbo(
        jax.random.key(2), x, partial(model.encode, params), partial(model.decode, params)
    )


# One head without parameters of its own and one with.
FEW = ("bernoulli", "learned_normal")
OTHERS = tuple(name for name in LIKELIHOODS if name not in FEW)
OTHER_HEADS = pytest.mark.slow("other heads on the same net")
OTHER_NET = pytest.mark.slow("another net of the same law")


@pytest.mark.parametrize(
    ("maker", "names"),
    [
        ("mlp", FEW),
        pytest.param("mlp", OTHERS, marks=OTHER_HEADS),
        pytest.param("conv", FEW, marks=OTHER_NET),
        pytest.param("conv", OTHERS, marks=OTHER_HEADS),
    ],
    ids=["mlp", "mlp with other heads", "conv", "conv with other heads"],
)
def test_every_net_with_every_likelihood_gives_a_bound_and_gradients(maker, names):
    models = {name: MAKERS[maker](likelihood=LIKELIHOODS[name][0]) for name in names}
    params = {name: random_params(model) for name, model in models.items()}

    @jax.jit
    def bounds(params, x):
        gradient_of = lambda model: jax.value_and_grad(loss_of(model), has_aux=True)
        return {name: gradient_of(model)(params[name], x) for name, model in models.items()}

    for name, ((_, terms), gradient) in jax.device_get(bounds(params, images())).items():
        chex.assert_shape(terms.value, (4,))
        chex.assert_tree_all_finite(gradient)
        # Every parameter takes part: a head's scale, each layer, each bias.
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            assert np.any(leaf), (name, jax.tree_util.keystr(path))


@pytest.mark.parametrize("maker", ["mlp", pytest.param("conv", marks=OTHER_HEADS)])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_what_is_decoded_has_the_axes_of_data(name, maker):
    head, kind = LIKELIHOODS[name]
    model = MAKERS[maker](likelihood=head)

    def decode(params, z):
        p = model.decode(params, z)
        assert type(p) is kind
        return p.mean, None if kind is vaejax.OptimalNormal else p.sample(jax.random.key(3), (2,))

    mean, draws = jax.eval_shape(decode, random_params(model), np.zeros((5, 3), np.float32))
    chex.assert_shape(mean, (5, *SHAPE))
    if draws is not None:
        chex.assert_shape(draws, (2, 5, *SHAPE))


@pytest.mark.parametrize("maker", ["mlp", pytest.param("conv", marks=OTHER_NET)])
def test_any_batch_axes(maker):
    model = MAKERS[maker]()

    @jax.jit
    def figures(params, x):
        encode, decode = lambda x: model.encode(params, x).mean, lambda z: model.decode(params, z).logits
        means = encode(x)
        return means, encode(x[0]), encode(x.reshape(2, 3, *SHAPE)), decode(means), decode(means[0])

    means, first_mean, table, logits, first_logits = jax.device_get(figures(random_params(model), images(6)))
    chex.assert_shape(means, (6, 3))
    chex.assert_trees_all_close(first_mean, means[0], atol=1e-5)
    chex.assert_trees_all_close(table, means.reshape(2, 3, 3), atol=1e-5)
    chex.assert_trees_all_close(first_logits, logits[0], atol=1e-5)
    assert not np.allclose(logits[0], logits[1])


@pytest.mark.parametrize("maker", ["mlp", pytest.param("conv", marks=OTHER_NET)])
def test_parameters_are_plain_dicts_that_depend_on_the_key_alone(maker):
    model = MAKERS[maker]()
    init = jax.jit(model.init)
    params, same, other = (init(jax.random.key(seed)) for seed in (0, 0, 1))
    assert set(params) == {"encoder", "posterior", "decoder", "likelihood"}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    chex.assert_trees_all_equal(params, same)
    pairs = zip(*map(jax.tree.leaves, (params, other)), strict=True)
    assert not any(np.any(np.asarray(a) == np.asarray(b)) for a, b in pairs if a.ndim > 1)


@pytest.mark.slow("compiles each operation of the initializers by itself")
@pytest.mark.parametrize("maker", MAKERS)
def test_parameters_are_the_same_compiled_or_not(maker):
    init = MAKERS[maker]().init
    chex.assert_trees_all_equal(init(jax.random.key(0)), jax.jit(init)(jax.random.key(0)), init(jax.random.key(0)))


def kernel_shapes(net):
    """Of all layers, in their order."""
    return [leaf.shape for leaf in jax.tree.leaves(net) if leaf.ndim > 1]


def test_the_decoder_is_the_mirror_image_of_the_encoder():
    params = {name: jax.eval_shape(make().init, jax.random.key(0)) for name, make in MAKERS.items()}
    assert kernel_shapes(params["mlp"]["encoder"]) == [(84, 8), (8, 5), (5, 6)]
    assert kernel_shapes(params["mlp"]["decoder"]) == [(3, 5), (5, 8), (8, 84)]
    assert kernel_shapes(params["conv"]["encoder"]) == [(4, 4, 2, 4), (4, 4, 4, 5), (20, 6)]
    assert kernel_shapes(params["conv"]["decoder"]) == [(4, 4, 5, 4), (4, 4, 4, 2), (3, 20)]


def test_a_perceptron_by_hand():
    model = nets.mlp((4,), 2, hidden_sizes=(5, 3))
    params, x = random_params(model), np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    out = x
    for index, layer in sorted(params["encoder"]["layers"].items()):
        out = (np.maximum(out, 0) if index else out) @ layer["kernel"] + layer["bias"]
    q = jax.jit(model.encode)(params, x)
    chex.assert_trees_all_close(
        np.stack([q.mean, np.log(q.scale)], axis=-1), out.reshape(6, 2, 2), rtol=1e-4, atol=1e-5
    )


def test_the_nets_of_a_model_have_keys_of_their_own():
    """The first layers are of one shape."""
    params = jax.jit(nets.mlp((3,), 3, hidden_sizes=(5,)).init)(jax.random.key(0))
    first, second = (np.asarray(params[net]["layers"][0]["kernel"]) for net in ("encoder", "decoder"))
    assert first.shape == second.shape
    assert np.all(first != second)


def test_the_posterior_is_a_normal_or_a_point():
    for posterior, kind in ((None, vaejax.Normal), (heads.delta(), vaejax.Delta)):
        model = nets.mlp((4,), 3, posterior=posterior)
        q = jax.eval_shape(model.encode, random_params(model), np.ones((2, 4), np.float32))
        assert isinstance(q, kind)


def test_scales_of_the_normal_heads():
    names = ("normal", "learned_normal", "per_dimension_normal")

    @jax.jit
    def scales_of(key, z):
        models = [MAKERS["mlp"](likelihood=LIKELIHOODS[name][0]) for name in names]
        return [jnp.asarray(model.decode(model.init(jax.random.clone(key)), z).scale) for model in models]

    scales = dict(zip(names, scales_of(jax.random.key(0), np.ones((2, 3), np.float32)), strict=True))
    for scale in scales.values():
        chex.assert_trees_all_close(scale, np.full(scale.shape, 0.5, np.float32), rtol=1e-6)
    assert {name: scale.size for name, scale in scales.items()} == {
        "normal": 1,
        "learned_normal": 1,
        "per_dimension_normal": 7 * 6 * 2,
    }


def test_a_wild_net_stays_finite_unless_the_bound_is_switched_off():
    raw = np.array([[1.0, 1e4]], np.float32)
    bounds = {}, {"bound": None}
    scales = jax.jit(lambda: [heads.predicted_normal(**each).distribution({}, raw, 1).scale for each in bounds])
    assert [bool(np.isfinite(scale)) for scale in scales()] == [True, False]


def test_integer_levels_are_scaled_for_the_net_and_counted_by_the_likelihood():
    head = heads.categorical(17)
    model = nets.mlp((4,), 2, hidden_sizes=(5,), likelihood=head)
    params, x = random_params(model, 0.1), np.array([[0, 16, 8, 3]], np.uint8)

    @jax.jit
    def figures(params, x):
        means = [
            each.encode(params, y).mean for each, y in ((model, x), (nets.mlp((4,), 2, hidden_sizes=(5,)), x / 16))
        ]
        return head.standardize(x), means, model.decode(params, means[0]).log_prob(x)

    standardized, means, log_prob = figures(params, x)
    chex.assert_trees_all_close(*means, rtol=1e-5)
    chex.assert_trees_all_close(standardized, np.float32([[0, 1, 1 / 2, 3 / 16]]), rtol=1e-6)
    assert -40 < log_prob[0] < 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nets.mlp(784, 20), TypeError, r"data_shape .*got 784"),
        (lambda: nets.mlp((), 20), TypeError, r"data_shape .*got \(\)"),
        (lambda: nets.mlp((784,), 0), ValueError, "latent_size must be at least 1; got 0"),
        (lambda: nets.mlp((784,), 20, hidden_sizes=(0,)), ValueError, "hidden_sizes .*got 0"),
        (lambda: nets.mlp((784,), 2.5), TypeError, "latent_size .*got float 2.5"),
        (lambda: nets.conv((784,), 20), ValueError, r"data_shape .*got \(784,\)"),
        (lambda: nets.conv((8, 8, 1), 20, channels=()), ValueError, "channels must"),
        (lambda: heads.categorical(1), ValueError, "num_levels must be at least 2; got 1"),
        (lambda: heads.normal(0.0), ValueError, "normal: scale .*0.0"),
        (lambda: heads.learned_normal(-1.0), ValueError, "initial_scale .*-1.0"),
        (lambda: nets.mlp((4,), 2).init(0), TypeError, "key must"),
        (lambda: nets.mlp((4,), 2).encode({}, np.ones((8, 5))), ValueError,
         r"encode: x .*\(4,\); got shape \(8, 5\)"),
        (lambda: nets.mlp((4,), 2).decode({}, np.ones(3)), ValueError, r"decode: z .*\(2,\); got shape \(3,\)"),
        (lambda: nets.mlp((2, 2), 2).encode({}, np.ones(2)), ValueError, r"encode: x .*got shape \(2,\)"),
    ],
)  # fmt: skip
def test_bad_sizes_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("names", [FEW, pytest.param(OTHERS, marks=OTHER_HEADS)], ids=["few", "others"])
def test_a_mapped_decoder_is_the_batched_one(names):
    models = {name: nets.mlp((4, 4, 1), 2, hidden_sizes=(5,), likelihood=LIKELIHOODS[name][0]) for name in names}

    @jax.jit
    def figures(params, z):
        x = jnp.ones((4, 4, 4, 1))
        mapped, batched = {}, {}
        for name, model in models.items():
            decode = partial(model.decode, params[name])
            mapped[name], batched[name] = ((p.log_prob(x), p.mean) for p in (jax.vmap(decode)(z), decode(z)))
        return mapped, batched

    z = np.random.default_rng(1).standard_normal((4, 2)).astype(np.float32)
    params = {name: random_params(model) for name, model in models.items()}
    chex.assert_trees_all_close(*figures(params, z), rtol=1e-4, atol=1e-6)


def test_the_scale_of_a_head_may_be_traced():
    make = lambda scale: nets.mlp((4,), 2, hidden_sizes=(5,), likelihood=heads.normal(scale))
    params = random_params(make(1.0))

    def bound(scale):
        return make(scale).decode(params, jnp.zeros((8, 2))).log_prob(jnp.ones((8, 4))).sum()

    scales = np.array([0.5, 2.0], np.float32)
    values, expected = jax.jit(lambda scales: (jax.vmap(bound)(scales), jnp.stack([bound(0.5), bound(2.0)])))(scales)
    chex.assert_trees_all_close(values, expected, rtol=1e-5)


class Bilinear(nnx.Module):
    """Two inputs `[N, 2, 3]` and `[N, 4]` to `[N, 10]`, nowhere the same for two of its numbers."""

    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(6, 10, rngs=rngs), nnx.Linear(4, 10, rngs=rngs)

    def __call__(self, x, y):
        return self.first(x.reshape(len(x), -1)) * self.second(y)


def test_a_net_of_several_inputs_broadcasts_their_batch_axes():
    make = lambda: nets.make_net(Bilinear, [(2, 3), (4,)], (5, 2))
    net, random = make(), np.random.default_rng(0)
    params, same = jax.jit(lambda: [each.init(jax.random.key(0)) for each in (net, make())])()
    chex.assert_trees_all_equal(params, same)
    x, y = (random.standard_normal(shape).astype(np.float32) for shape in ((7, 2, 3), (8, 7, 4)))
    found, alone = jax.jit(lambda x, y: (net.apply(params, x, y), net.apply(params, x[0], y[0, 0])))(x, y)
    first, second = (np.asarray(params[name]["kernel"]) for name in ("first", "second"))
    expected = ((x.reshape(7, 6) @ first) * (y @ second)).reshape(8, 7, 5, 2)
    chex.assert_shape(found, (8, 7, 5, 2))
    chex.assert_trees_all_close(found, expected, atol=1e-5)
    chex.assert_trees_all_close(alone, expected[0, 0], atol=1e-5)


def test_what_a_net_does_not_take_is_named():
    net = nets.make_net(Bilinear, [(2, 3), (4,)], (5, 2))
    params = random_params(net)
    with pytest.raises(ValueError, match="2 inputs; got 1"):
        net.apply(params, np.zeros((7, 2, 3)))
    with pytest.raises(ValueError, match=r"axes \(4,\); got shape \(7, 5\)"):
        net.apply(params, np.zeros((7, 2, 3)), np.zeros((7, 5)))
    with pytest.raises(TypeError, match=r"make .*got int"):
        nets.make_net(3, [(4,)], (5,))


class Stack(nnx.Module):
    """Layers one after the other."""

    def __init__(self, *layers):
        self.layers = nnx.List(layers)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_variables_that_do_not_change_are_constants():
    """A recurrent layer begins with zeros, averages are those of the start, and dropout may be off."""
    recurrent = nets.make_net(lambda rngs: nnx.RNN(nnx.SimpleCell(3, 4, rngs=rngs), rngs=rngs), [(5, 3)], (5, 4))
    constant = nets.make_net(
        lambda rngs: Stack(
            nnx.BatchNorm(3, use_running_average=True, epsilon=0.5, rngs=rngs),
            nnx.Dropout(0.5, deterministic=True, rngs=rngs),
        ),
        [(3,)],
        (3,),
    )
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)

    @jax.jit
    def figures(x):
        params = recurrent.init(jax.random.key(1))
        scaled = constant.apply(constant.init(jax.random.key(1)), x)
        return params["cell"], recurrent.apply(params, x), scaled

    cell, found, scaled = jax.device_get(figures(x))
    kernel, bias, recurrent_kernel = cell["dense_i"]["kernel"], cell["dense_i"]["bias"], cell["dense_h"]["kernel"]
    state = np.zeros((2, 4))
    for step in range(5):
        state = np.tanh(x[:, step] @ kernel + bias + state @ recurrent_kernel)
        np.testing.assert_allclose(found[:, step], state, atol=1e-5)
    np.testing.assert_allclose(scaled, x / np.sqrt(1.5), rtol=1e-5)


CHANGING = {
    "batch statistics": (lambda rngs: nnx.BatchNorm(3, rngs=rngs), r"layers/1/mean \(BatchStat\)"),
    "dropout": (lambda rngs: nnx.Dropout(0.5, rngs=rngs), r"layers/1/rngs/count \(RngCount\)"),
}


@pytest.mark.parametrize("name", CHANGING)
def test_layers_that_change_a_variable_are_named(name):
    layer, message = CHANGING[name]
    net = nets.make_net(lambda rngs: Stack(nnx.Linear(3, 3, rngs=rngs), layer(rngs)), [(3,)], (3,))
    with pytest.raises(ValueError, match=f"^make_net: {message}"):
        jax.eval_shape(lambda x: net.apply(net.init(jax.random.key(0)), x), np.ones((2, 3), np.float32))
