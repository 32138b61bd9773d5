import chex
import jax
import jax.numpy as jnp
import pytest
from jax.test_util import check_grads

from vaejax import nets
from vaejax.nets.dense import product


def arrays(dtype=jnp.float64):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (5, 3), dtype), jax.random.normal(keys[1], (3, 4), dtype)


def test_derivatives_of_every_order():
    with jax.enable_x64(True):
        check_grads(product, arrays(), order=2)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 2)])
def test_mapping_is_that_of_a_product_of_matrices(axes):
    with jax.enable_x64(True):
        inputs = [
            value if axis is None else jnp.stack([value, 2 * value, value - 1], axis)
            for value, axis in zip(arrays(), axes, strict=True)
        ]
        gradient = lambda f: jax.grad(lambda *a: jnp.sum(f(*a) ** 3), (0, 1))
        for ours, theirs in [(product, jnp.matmul), (gradient(product), gradient(jnp.matmul))]:
            mapped = jax.vmap(ours, axes)(*inputs), jax.vmap(theirs, axes)(*inputs)
            chex.assert_trees_all_close(*mapped, rtol=1e-12)


def test_gradients_of_examples_and_samples_are_products_of_matrices():
    model = nets.mlp((6,), 2, hidden_sizes=(5,))
    params = model.init(jax.random.key(0))

    def loss(params, x):
        of_sample = lambda z: model.decode(params, z).log_prob(x)
        samples = jnp.stack([model.encode(params, x).mean, x[:, :2]])
        return jnp.sum(jax.vmap(of_sample)(samples))

    of_examples = lambda params, x: jnp.sum(jax.vmap(lambda example: loss(params, example[None]))(x))
    equations = jax.make_jaxpr(jax.grad(of_examples))(params, jnp.ones((7, 6))).eqns
    shapes = [each.outvars[0].aval.shape for each in equations if each.primitive.name == "dense_kernel"]
    assert sorted(shapes) == [(1, 2, 5), (1, 5, 4), (1, 5, 6), (1, 6, 5)]
    # All that is left of JAX's own products.
    assert not [each for each in equations if each.primitive.name == "dot_general"]


def test_half_precision_stays_half():
    x, kernel = arrays(jnp.bfloat16)
    assert product(x, kernel).dtype == jnp.bfloat16
    chex.assert_trees_all_equal(product(x, kernel), x @ kernel)
