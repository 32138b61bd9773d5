import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from tests.parameters import random_params
from vaejax import nets
from vaejax.nets.dense import product


def arrays():
    random = np.random.default_rng(0)
    return random.standard_normal((5, 3)), random.standard_normal((3, 4))


def test_derivatives_of_every_order(x64):
    check_grads(jax.jit(product), arrays(), order=2)


def test_mapping_is_that_of_a_product_of_matrices(x64):
    gradient = lambda f: jax.grad(lambda *a: jnp.sum(f(*a) ** 3), (0, 1))
    several = {
        axes: [
            value if axis is None else np.stack([value, 2 * value, value - 1], axis)
            for value, axis in zip(arrays(), axes, strict=True)
        ]
        for axes in [(0, None), (None, 0), (0, 0), (1, 2)]
    }

    @jax.jit
    def mapped():
        of = lambda f: {str(axes): jax.vmap(f, axes)(*inputs) for axes, inputs in several.items()}
        return [(of(f), of(gradient(f))) for f in (product, jnp.matmul)]

    chex.assert_trees_all_close(*mapped(), rtol=1e-12)


def test_gradients_of_examples_and_samples_are_products_of_matrices():
    model = nets.mlp((6,), 2, hidden_sizes=(5,))

    def loss(params, x):
        of_sample = lambda z: model.decode(params, z).log_prob(x)
        samples = jnp.stack([model.encode(params, x).mean, x[:, :2]])
        return jnp.sum(jax.vmap(of_sample)(samples))

    of_examples = lambda params, x: jnp.sum(jax.vmap(lambda example: loss(params, example[None]))(x))
    equations = jax.make_jaxpr(jax.grad(of_examples))(random_params(model), np.ones((7, 6), np.float32)).eqns
    shapes = [each.outvars[0].aval.shape for each in equations if each.primitive.name == "dense_kernel"]
    assert sorted(shapes) == [(1, 2, 5), (1, 5, 4), (1, 5, 6), (1, 6, 5)]
    # All that is left of JAX's own products.
    assert not [each for each in equations if each.primitive.name == "dot_general"]


def test_half_precision_stays_half():
    x, kernel = (jnp.asarray(value, jnp.bfloat16) for value in arrays())
    assert product(x, kernel).dtype == jnp.bfloat16
    chex.assert_trees_all_equal(product(x, kernel), x @ kernel)


def test_mixed_dtypes_are_promoted():
    """As `@` does it, gradients included; of integers, to floats."""
    x, kernel = (jnp.asarray(value, jnp.float32) for value in arrays())
    half, whole = x.astype(jnp.bfloat16), jnp.round(4 * x).astype(jnp.int32)
    gradients = lambda f: jax.grad(lambda *inputs: jnp.sum(f(*inputs) ** 2), (0, 1))(half, kernel)
    ours, jaxs = jax.jit(lambda: [(f(half, kernel), f(whole, kernel), gradients(f)) for f in (product, jnp.matmul)])()
    chex.assert_trees_all_equal_dtypes(ours, jaxs)
    chex.assert_trees_all_close(ours, jaxs, rtol=1e-2)
    chex.assert_trees_all_close(ours[:2], jaxs[:2], rtol=1e-5)
