"""Half precision and recomputed activations: the same model, at another cost."""

import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

import vaejax
from tests.parameters import random_params
from vaejax import nets
from vaejax.nets import heads, likelihoods, posteriors

SHAPE = (8, 6, 2)
MAKERS = {
    "mlp": lambda **options: nets.mlp(SHAPE, 3, hidden_sizes=(16, 8), **options),
    "conv": lambda **options: nets.conv(SHAPE, 3, channels=(8, 4), **options),
}
LIKELIHOODS = {
    "bernoulli": heads.bernoulli(),
    "categorical": heads.categorical(2),
    "learned_normal": heads.learned_normal(0.5),
    "logistic_mixture": likelihoods.logistic_mixture(2, 2),
}


def levels(count):
    """Integers, as data sets have them."""
    return (np.random.default_rng(1).random((count, *SHAPE)) < 0.3).astype(np.uint8)


def loss_of(model, **options):
    return lambda params, x: vaejax.negative_elbo(
        jax.random.key(2), x, partial(model.encode, params), partial(model.decode, params), **options
    )[0]  # fmt: skip


def dot_dtypes(f, *args):
    """The dtypes that matrix products and convolutions are computed in, anywhere in a function."""

    def inside(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("dense", "convolve", "convolve_transposed", "dot_general"):
                yield from (variable.aval.dtype for variable in equation.invars)
            for nested in jaxprs_in_params(equation.params):
                yield from inside(nested)

    return set(inside(jax.make_jaxpr(f)(*args).jaxpr))


def model_and_data(maker, name, count=16):
    x = levels(count)
    return MAKERS[maker](likelihood=LIKELIHOODS[name]), (
        x.astype(np.float32) if name in ("bernoulli", "learned_normal") else x
    )


another_model = pytest.mark.slow("another net or likelihood")


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        (name, maker) if name == "bernoulli" else pytest.param(name, maker, marks=another_model)
        for maker in MAKERS
        for name in LIKELIHOODS
    ],
)
def test_half_precision_is_in_the_products_and_nowhere_else(maker, name):
    model, x = model_and_data(maker, name)
    half = nets.in_precision(model, jnp.bfloat16)
    params = random_params(half)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, random_params(model))
    assert dot_dtypes(jax.grad(loss_of(half)), params, x) == {jnp.dtype(jnp.bfloat16)}
    value, gradient = jax.eval_shape(jax.value_and_grad(loss_of(half)), params, x)
    assert value.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, params)
    z = np.ones((5, 3), np.float32)
    for distribution in (jax.eval_shape(half.encode, params, x), jax.eval_shape(half.decode, params, z)):
        floating = [leaf for leaf in jax.tree.leaves(distribution) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert floating
        assert all(leaf.dtype == jnp.float32 for leaf in floating)


@pytest.mark.slow("compiles the gradient to all parameters twice; that to a bias is near in the fast tier")
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_half_precision_is_near_the_whole(maker, name):
    model, x = model_and_data(maker, name)
    half = nets.in_precision(model, jnp.bfloat16)

    assert half.init is model.init
    value_and_gradient = lambda model, params: jax.value_and_grad(loss_of(model))(params, x)
    params = jax.jit(model.init)(jax.random.key(0))
    figures = jax.jit(lambda params: [value_and_gradient(each, params) for each in (half, model)])
    (value, gradient), (exact, exact_gradient) = jax.device_get(figures(params))
    assert value != exact
    chex.assert_trees_all_close(value, exact, rtol=1e-2)
    # Activations of relu that change sides are what is left.
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(exact_gradient), strict=True
    ):
        assert np.linalg.norm(a - b) < 0.2 * np.linalg.norm(b), jax.tree_util.keystr(path)


def test_the_gradient_of_a_bias_is_no_sum_in_half_precision():
    """Such a sum over 12,288 pixels stands still long before its end: bfloat16 has 8 bits."""
    model = nets.conv(SHAPE, 3, channels=(4,))
    half = nets.in_precision(model, jnp.bfloat16)

    @jax.jit
    def biases(params, x):
        gradients = [jax.grad(loss_of(each))(params, x) for each in (half, model)]
        return [gradient["decoder"]["convolutions"][0]["bias"] for gradient in gradients]

    found, expected = biases(random_params(model, 0.2), levels(256).astype(np.float32))
    chex.assert_trees_all_close(found, expected, rtol=1e-2)


def test_in_its_own_precision_a_model_is_the_same_program():
    model = MAKERS["conv"]()
    params, x = random_params(model), levels(4).astype(np.float32)
    program = lambda model: jax.jit(jax.grad(loss_of(model))).lower(params, x).as_text()
    assert program(nets.in_precision(model, jnp.float32)) == program(model)


def test_double_precision(x64):
    model, x = nets.in_precision(MAKERS["mlp"](), jnp.float64), levels(4)
    params = random_params(model)
    assert jax.eval_shape(lambda *a: model.encode(*a).mean, params, x).dtype == jnp.float64
    assert dot_dtypes(model.encode, params, x) == {jnp.dtype(jnp.float64)}
    # Data in double precision is promoted to, as ever, where nothing is in half.
    assert dot_dtypes(MAKERS["mlp"]().decode, params, np.ones((4, 3))) == {jnp.dtype(jnp.float64)}


def test_a_layer_with_a_dtype_of_its_own_keeps_it():
    model = nets.make_model(
        lambda rngs: nnx.Linear(4, 4, dtype=jnp.float32, rngs=rngs),
        lambda rngs: nnx.Linear(2, 4, use_bias=False, rngs=rngs),
        data_shape=(4,), latent_shape=(2,), posterior=heads.predicted_normal(), likelihood=heads.bernoulli(),
    )  # fmt: skip
    half = nets.in_precision(model, jnp.bfloat16)
    params, x, z = random_params(half), np.ones((3, 4), np.float32), np.ones((3, 2), np.float32)
    assert dot_dtypes(half.encode, params, x) == {jnp.dtype(jnp.float32)}
    assert dot_dtypes(half.decode, params, z) == {jnp.dtype(jnp.bfloat16)}
    # Without a bias to promote it, a product is promoted all the same before the head sees it.
    assert jax.eval_shape(half.decode, params, z).logits.dtype == jnp.float32


POSTERIORS = {"normal": heads.predicted_normal(), "flow": posteriors.autoregressive_flow(1, 4)}
POLICIES = {"nothing": None, "products": jax.checkpoint_policies.dots_saveable}


@pytest.mark.parametrize(
    ("maker", "posterior", "policy"),
    [
        case if case == ("mlp", "normal", "products")
        else pytest.param(*case, marks=pytest.mark.slow("another combination"))
        for case in itertools.product(MAKERS, POSTERIORS, POLICIES)
    ],
)  # fmt: skip
def test_a_rematerialized_model_has_the_same_values_and_gradients(maker, posterior, policy):
    model = MAKERS[maker](likelihood=heads.categorical(2), posterior=POSTERIORS[posterior])
    leaner = nets.rematerialize(model, POLICIES[policy])
    assert leaner.init is model.init
    params, x = random_params(model), levels(6)
    chex.assert_trees_all_equal_structs(*(jax.eval_shape(each.encode, params, x) for each in (leaner, model)))
    gradient_of = lambda model: jax.value_and_grad(loss_of(model, kl=vaejax.monte_carlo_kl))
    found, expected = jax.jit(lambda *a: [gradient_of(each)(*a) for each in (leaner, model)])(params, x)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def residual_bytes(model, params, x):
    """The memory that the backward pass is handed by the forward pass."""
    backward = jax.eval_shape(lambda params: jax.vjp(partial(loss_of(model), x=x), params)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))


@pytest.mark.parametrize("maker", ["mlp", pytest.param("conv", marks=another_model)])
def test_a_rematerialized_model_saves_no_activations(maker):
    deep = {
        "mlp": lambda: nets.mlp(SHAPE, 3, hidden_sizes=(64,) * 6),
        "conv": lambda: nets.conv(SHAPE, 3, channels=(32, 32)),
    }[maker]()
    params, x = random_params(deep), levels(128).astype(np.float32)
    # What is left: the parameters, the data, and what the head and the density keep, of the size of the data each.
    allowed = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) + 6 * x.nbytes
    bytes_of = partial(residual_bytes, params=params, x=x)
    leaner = bytes_of(nets.rematerialize(deep))
    assert leaner < allowed < bytes_of(deep)
    everything = nets.rematerialize(deep, jax.checkpoint_policies.everything_saveable)
    assert bytes_of(everything) == pytest.approx(bytes_of(deep), rel=0.1)
    assert bytes_of(nets.rematerialize(nets.in_precision(deep, jnp.bfloat16))) <= leaner
    assert bytes_of(nets.in_precision(deep, jnp.bfloat16)) < bytes_of(deep)


@pytest.mark.slow("another parameter of a head")
def test_the_scale_of_a_head_may_be_traced_through_both():
    make = lambda scale: nets.mlp((5,), 2, hidden_sizes=(6,), likelihood=heads.normal(scale))
    both = lambda model: nets.rematerialize(nets.in_precision(model, jnp.bfloat16))
    params = random_params(make(1.0), 0.3)

    @jax.jit
    def figures(scales, x):
        value = lambda scale, change: loss_of(change(make(scale)))(params, x)
        return [jax.vmap(jax.value_and_grad(partial(value, change=each)))(scales) for each in (both, lambda m: m)]

    found, expected = figures(np.float32([0.5, 2.0]), np.ones((4, 5), np.float32))
    chex.assert_trees_all_close(found, expected, rtol=2e-2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda model: nets.in_precision(model, jnp.int32), TypeError, r"dtype .*got int32"),
        (lambda model: nets.in_precision(model, jnp.bfloat16).encode({"weights": 1}, np.ones(4)), ValueError,
         r"params .*'encoder'.*got weights"),
        (lambda model: nets.in_precision(model, jnp.bfloat16).decode([1.0], np.ones(2)), ValueError,
         r"params .*'decoder'.*got list"),
        (lambda model: nets.rematerialize(model, "dots"), TypeError, r"policy .*got str"),
        (lambda model: nets.rematerialize(model).encode({}, np.ones((8, 5))), ValueError, "encode: x"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make(nets.mlp((4,), 2))
