"""Dense layers whose products stay products of two matrices, whatever is mapped over them."""

import jax
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype

from vaejax.nets.bilinear import define_derivatives, define_primitive
from vaejax.types import Array


class Dense(nnx.Linear):
    """A dense layer, with Flax's parameters."""

    def __call__(self, inputs: Array, out_sharding: None = None) -> Array:
        """`[N, inputs]` to `[N, outputs]`."""
        x, kernel, bias = self.promote_dtype((inputs, self.kernel[...], self.bias[...]))  # type: ignore[index]
        return product(x, kernel) + bias


def product(x: Array, kernel: Array) -> Array:
    """`x @ kernel`, of `[N, A]` and `[A, B]`, in the floating dtype that both promote to.

    A train step maps over examples and an objective over samples. For `@` the gradient of the kernel is then a sum over
    two axes or three, for which XLA moves its operands about; here it is one over the rows of two matrices.

    >>> import jax.numpy as jnp
    >>> product(jnp.ones((8, 784)), jnp.ones((784, 400))).shape
    (8, 400)
    """
    x, kernel = promote_dtype((x, kernel))
    return _forward.bind(x[None], kernel[None])[0]


_forward = define_primitive(
    "dense",
    lambda x, kernel: (*x[:2], kernel[2]),
    lambda x, kernel: x @ kernel,
    adds_examples=True,
)
_backward = define_primitive(
    "dense_transposed",
    lambda y, kernel: (*y[:2], kernel[1]),
    lambda y, kernel: y @ kernel.T,
    adds_examples=True,
)
_of_kernel = define_primitive(
    "dense_kernel",
    lambda x, y: (x[0], x[2], y[2]),
    lambda x, y: jax.lax.dot_general(x, y, (((0,), (0,)), ((), ()))),
    adds_examples=False,
)
define_derivatives(_forward, _backward, _of_kernel, lambda x: {})
