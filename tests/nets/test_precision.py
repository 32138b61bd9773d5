"""Half precision and recomputed activations: the same model, at another cost."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

import vaejax
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
    return jax.random.bernoulli(jax.random.key(1), 0.3, (count, *SHAPE)).astype(jnp.uint8)


def loss_of(model, x, **options):
    return lambda params: vaejax.negative_elbo(
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


@pytest.mark.parametrize("maker", ["mlp", pytest.param("conv", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_half_precision_is_in_the_products_and_nowhere_else(maker, name):
    model = MAKERS[maker](likelihood=LIKELIHOODS[name])
    half = nets.in_precision(model, jnp.bfloat16)
    params, x = half.init(jax.random.key(0)), levels(16)
    x = x.astype(jnp.float32) if name in ("bernoulli", "learned_normal") else x
    chex.assert_trees_all_equal(params, model.init(jax.random.key(0)))
    gradient_of = lambda model: jax.jit(jax.value_and_grad(loss_of(model, x)))
    assert dot_dtypes(gradient_of(half), params) == {jnp.dtype(jnp.bfloat16)}
    for distribution in (half.encode(params, x), half.decode(params, jnp.ones((5, 3)))):
        floating = [leaf for leaf in jax.tree.leaves(distribution) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        assert floating
        assert all(leaf.dtype == jnp.float32 for leaf in floating)
    (value, gradient), (exact, exact_gradient) = gradient_of(half)(params), gradient_of(model)(params)
    assert value.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, params)
    assert value != exact
    chex.assert_trees_all_close(value, exact, rtol=1e-2)
    # Activations of relu that change sides are what is left.
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(exact_gradient), strict=True
    ):
        assert jnp.linalg.norm(a - b) < 0.2 * jnp.linalg.norm(b), jax.tree_util.keystr(path)


def test_the_gradient_of_a_bias_is_no_sum_in_half_precision():
    """Such a sum over 12,288 pixels stands still long before its end: bfloat16 has 8 bits."""
    model = nets.conv(SHAPE, 3, channels=(4,))
    params, x = model.init(jax.random.key(0)), levels(256).astype(jnp.float32)
    bias = lambda model: jax.jit(jax.grad(loss_of(model, x)))(params)["decoder"]["convolutions"][0]["bias"]
    chex.assert_trees_all_close(bias(nets.in_precision(model, jnp.bfloat16)), bias(model), rtol=1e-2)


def test_in_its_own_precision_a_model_is_the_same_bit_for_bit():
    model = MAKERS["conv"]()
    params, x = model.init(jax.random.key(0)), levels(4).astype(jnp.float32)
    same = nets.in_precision(model, jnp.float32)
    found, expected = (jax.jit(jax.grad(loss_of(each, x)))(params) for each in (same, model))
    chex.assert_trees_all_equal(found, expected)


def test_double_precision(x64):
    model = nets.in_precision(MAKERS["mlp"](), jnp.float64)
    params = model.init(jax.random.key(0))
    assert model.encode(params, levels(4)).mean.dtype == jnp.float64
    assert dot_dtypes(model.encode, params, levels(4)) == {jnp.dtype(jnp.float64)}
    # Data in double precision is promoted to, as ever, where nothing is in half.
    assert dot_dtypes(MAKERS["mlp"]().decode, params, jnp.ones((4, 3))) == {jnp.dtype(jnp.float64)}


def test_a_layer_with_a_dtype_of_its_own_keeps_it():
    model = nets.make_model(
        lambda rngs: nnx.Linear(4, 4, dtype=jnp.float32, rngs=rngs),
        lambda rngs: nnx.Linear(2, 4, use_bias=False, rngs=rngs),
        data_shape=(4,), latent_shape=(2,), posterior=heads.predicted_normal(), likelihood=heads.bernoulli(),
    )  # fmt: skip
    half = nets.in_precision(model, jnp.bfloat16)
    params = half.init(jax.random.key(0))
    assert dot_dtypes(half.encode, params, jnp.ones((3, 4))) == {jnp.dtype(jnp.float32)}
    assert dot_dtypes(half.decode, params, jnp.ones((3, 2))) == {jnp.dtype(jnp.bfloat16)}
    # Without a bias to promote it, a product is promoted all the same before the head sees it.
    assert half.decode(params, jnp.ones((3, 2))).logits.dtype == jnp.float32


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("posterior", [heads.predicted_normal(), posteriors.autoregressive_flow(1, 4)])
def test_a_rematerialized_model_has_the_same_values_and_gradients(maker, posterior):
    model = MAKERS[maker](likelihood=heads.categorical(2), posterior=posterior)
    params, x = model.init(jax.random.key(0)), levels(6)
    for policy in (None, jax.checkpoint_policies.dots_saveable):
        leaner = nets.rematerialize(model, policy)
        chex.assert_trees_all_equal(leaner.init(jax.random.key(0)), params)
        chex.assert_trees_all_equal_structs(leaner.encode(params, x), model.encode(params, x))
        found, expected = (
            jax.jit(jax.value_and_grad(loss_of(each, x, kl=vaejax.monte_carlo_kl)))(params) for each in (leaner, model)
        )
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def residual_bytes(model, params, x):
    """The memory that the backward pass is handed by the forward pass."""
    backward = jax.eval_shape(lambda params: jax.vjp(loss_of(model, x), params)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))


@pytest.mark.parametrize("maker", MAKERS)
def test_a_rematerialized_model_saves_no_activations(maker):
    deep = {
        "mlp": lambda: nets.mlp(SHAPE, 3, hidden_sizes=(64,) * 6),
        "conv": lambda: nets.conv(SHAPE, 3, channels=(32, 32)),
    }[maker]()
    params, x = deep.init(jax.random.key(0)), levels(128).astype(jnp.float32)
    # What is left: the parameters, the data, and what the head and the density keep, of the size of the data each.
    allowed = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) + 6 * x.nbytes
    bytes_of = partial(residual_bytes, params=params, x=x)
    leaner = bytes_of(nets.rematerialize(deep))
    assert leaner < allowed < bytes_of(deep)
    everything = nets.rematerialize(deep, jax.checkpoint_policies.everything_saveable)
    assert bytes_of(everything) == pytest.approx(bytes_of(deep), rel=0.1)
    assert bytes_of(nets.rematerialize(nets.in_precision(deep, jnp.bfloat16))) <= leaner
    assert bytes_of(nets.in_precision(deep, jnp.bfloat16)) < bytes_of(deep)


def test_the_scale_of_a_head_may_be_traced_through_both():
    x = jnp.ones((4, 5))

    def value(scale, change):
        model = change(nets.mlp((5,), 2, hidden_sizes=(6,), likelihood=heads.normal(scale)))
        return loss_of(model, x)(model.init(jax.random.key(0)))

    both = lambda model: nets.rematerialize(nets.in_precision(model, jnp.bfloat16))
    scales = jnp.array([0.5, 2.0])
    found, expected = (
        jax.jit(jax.vmap(jax.value_and_grad(partial(value, change=change))))(scales) for change in (both, lambda m: m)
    )
    chex.assert_trees_all_close(found, expected, rtol=2e-2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda model: nets.in_precision(model, jnp.int32), TypeError, "dtype must be a floating dtype.*got int32"),
        (lambda model: nets.in_precision(model, jnp.bfloat16).encode({"weights": 1}, jnp.ones(4)), ValueError,
         "params must be a dict with 'encoder'.*got weights"),
        (lambda model: nets.in_precision(model, jnp.bfloat16).decode([1.0], jnp.ones(2)), ValueError,
         "params must be a dict with 'decoder'.*got list"),
        (lambda model: nets.rematerialize(model, "dots"), TypeError, "policy must be a function; got str"),
        (lambda model: nets.rematerialize(model).encode({}, jnp.ones((8, 5))), ValueError, "encode: x must be"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make(nets.mlp((4,), 2))
