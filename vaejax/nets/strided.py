"""4x4 convolutions of stride 2 and their transposes, fast forwards and backwards on every device.

XLA computes the gradients of strided convolutions well on accelerators. On a CPU it takes a path for them that is 10
to 40 times slower than its matrix products, so there they are written as matrix products. Which of the two is used is
decided when a program is compiled for a platform, and seen nowhere else.

The trilinear form behind them (see `bilinear`), for x `[N, H, W, C]`, k `[4, 4, C, O]` and y `[N, h, w, O]` with
h = ceil(H / 2), is

  `<x, k, y> = sum_{n, i, j, a, b, c, o} x[n, 2i + a - 1, 2j + b - 1, c] k[a, b, c, o] y[n, i, j, o]`
"""

import jax
import jax.numpy as jnp
from flax.nnx.nn.dtypes import promote_dtype

from vaejax.nets.bilinear import define_derivatives, define_primitive
from vaejax.types import Array

STRIDES = (2, 2)
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def convolve(x: Array, kernel: Array) -> Array:
    """A 4x4 convolution of stride 2 that halves an image, with as many zeros around it as that takes.

    `y[n, i, j, o] = sum_{a, b, c} x[n, 2i + a - 1, 2j + b - 1, c] kernel[a, b, c, o]`

    Args:
      x: `[N, H, W, C]`.
      kernel: `[4, 4, C, O]`.

    Returns:
      `[N, ceil(H / 2), ceil(W / 2), O]`, as `jax.lax.conv_general_dilated` with "SAME" padding, in the floating dtype
      that x and the kernel promote to.

    Raises:
      ValueError: other shapes.

    >>> import jax.numpy as jnp
    >>> convolve(jnp.ones((8, 28, 28, 1)), jnp.ones((4, 4, 1, 32))).shape
    (8, 14, 14, 32)
    """
    if jnp.ndim(x) != 4 or jnp.shape(kernel)[:3] != (4, 4, x.shape[3]):
        expected = "x must be [N, H, W, C] and kernel [4, 4, C, O]"
        raise ValueError(f"convolve: {expected}; got {jnp.shape(x)} and {jnp.shape(kernel)}")
    x, kernel = promote_dtype((x, kernel))
    return _forward.bind(x[None], kernel[None])[0]


def convolve_transposed(y: Array, kernel: Array, size: tuple[int, int]) -> Array:
    """The transpose of `convolve`, which doubles an image.

    `x[n, p, q, c] = sum y[n, i, j, o] kernel[a, b, c, o]` over all i, j, a, b, o with `2i + a - 1 = p`,
    `2j + b - 1 = q`

    Args:
      y: `[N, h, w, O]`.
      kernel: `[4, 4, C, O]`, as `convolve` has it. What `jax.lax.conv_transpose` takes without `transpose_kernel` is
        this one turned by half a turn, with its last two axes exchanged.
      size: H and W of the result, 2h or 2h - 1 and 2w or 2w - 1.

    Returns:
      `[N, H, W, C]`, in the floating dtype that y and the kernel promote to.

    Raises:
      ValueError: other shapes, or a size that `convolve` does not make y of.

    >>> import jax.numpy as jnp
    >>> convolve_transposed(jnp.ones((8, 7, 7, 32)), jnp.ones((4, 4, 1, 32)), (14, 14)).shape
    (8, 14, 14, 1)
    """
    if jnp.ndim(y) != 4 or (*jnp.shape(kernel)[:2], jnp.shape(kernel)[3:]) != (4, 4, y.shape[3:]):
        expected = "y must be [N, h, w, O] and kernel [4, 4, C, O]"
        raise ValueError(f"convolve_transposed: {expected}; got {jnp.shape(y)} and {jnp.shape(kernel)}")
    if tuple(map(_half, size)) != y.shape[1:3]:
        raise ValueError(f"convolve_transposed: size must be 2h or 2h - 1 by 2w or 2w - 1 of y {y.shape}; got {size}")
    y, kernel = promote_dtype((y, kernel))
    return _transposed.bind(y[None], kernel[None], size=tuple(size))[0]


# On a CPU: products of two matrices, the windows of x that the pixels of y see and the kernel. A window is put together
# from four blocks of 2x2 pixels, since XLA copies rows of channels that lie together much faster than strided ones.


def _forward_on_cpu(x: Array, kernel: Array) -> Array:
    return _product(_windows(x), jnp.concatenate(_kernels_of_blocks(kernel), axis=0)).astype(x.dtype)


def _transposed_on_cpu(y: Array, kernel: Array, *, size: tuple[int, int]) -> Array:
    matrix = jnp.concatenate([each.T for each in _kernels_of_blocks(kernel)], axis=1)
    made, channels = _product(y, matrix), matrix.shape[1] // 4
    part = lambda i, j: _pad(made[..., (2 * i + j) * channels :][..., :channels], (0, 0), (j, 1 - j))
    # First over columns: two passes over half the numbers each take less than one over all.
    first, second = (_pad(part(i, 0) + part(i, 1), (i, 1 - i), (0, 0)) for i in (0, 1))
    return _from_blocks(first + second, size).astype(y.dtype)


def _kernel_on_cpu(x: Array, y: Array) -> Array:
    windows = _windows(x)
    seen, outputs = windows.shape[-1], y.shape[-1]
    # One of the two is moved for a product of matrices as they lie: one over the first axes of both takes half as long
    # again. It is y unless windows are so narrow that the product would be slow, which wants the wide one on its right.
    if seen < 2 * outputs:
        kernels = _product_over_pixels(windows, y)
    else:
        kernels = jnp.moveaxis(_product_over_pixels(y, windows).reshape(outputs, 4, -1), 0, 2)
    return _from_kernels_of_blocks(kernels.reshape(4, seen // 4, outputs)).astype(x.dtype)


def _windows(x: Array) -> Array:
    """What each pixel of y sees, as blocks of 2x2, `[N, h, w, 2 * 2 * 4 C]`."""
    blocks = _to_blocks(x)
    (count, _, _, channels), rows, columns = blocks.shape, blocks.shape[1] - 1, blocks.shape[2] - 1
    seen = [blocks[:, i : i + rows, j : j + columns] for i in (0, 1) for j in (0, 1)]
    # Not side by side in one last axis: XLA would copy each of them twice for that.
    return jnp.stack(seen, axis=3).reshape(count, rows, columns, 4 * channels)


def _to_blocks(x: Array) -> Array:
    """Blocks of 2x2 pixels as channels, `[N, h + 1, w + 1, 4 C]`."""
    count, height, width, channels = x.shape
    rows, columns = _half(height) + 1, _half(width) + 1
    x = _pad(x, (1, 2 * rows - 1 - height), (1, 2 * columns - 1 - width))
    return x.reshape(count, rows, 2, columns, 2, channels).swapaxes(2, 3).reshape(count, rows, columns, 4 * channels)


def _from_blocks(blocks: Array, size: tuple[int, int]) -> Array:
    """The transpose of `_to_blocks`."""
    count, rows, columns, channels = blocks.shape
    x = blocks.reshape(count, rows, columns, 2, 2, channels // 4).swapaxes(2, 3)
    x = x.reshape(count, 2 * rows, 2 * columns, channels // 4)
    return x[:, 1 : 1 + size[0], 1 : 1 + size[1]]


def _kernels_of_blocks(kernel: Array) -> list[Array]:
    """What a window's four blocks are multiplied by, `[4 C, O]` each.

    As slices to be put together: XLA does that once for all micro-batches, and a transpose anew for each.
    """
    channels, outputs = kernel.shape[2:]
    corners = [kernel[i : i + 2, j : j + 2] for i in (0, 2) for j in (0, 2)]
    return [corner.reshape(4 * channels, outputs) for corner in corners]


def _from_kernels_of_blocks(kernels: Array) -> Array:
    """`[4, 4 C, O]` to a kernel `[4, 4, C, O]`."""
    channels, outputs = kernels.shape[1] // 4, kernels.shape[2]
    return kernels.reshape(2, 2, 2, 2, channels, outputs).swapaxes(1, 2).reshape(4, 4, channels, outputs)


def _pad(x: Array, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _product(pixels: Array, matrix: Array) -> Array:
    """`[N, h, w, A]` times `[A, B]`, in float32 or more. Two plain matrices: more axes would be moved about for it."""
    product = _dot(pixels.reshape(-1, len(matrix)), matrix)
    return product.reshape(*pixels.shape[:-1], matrix.shape[1])


def _product_over_pixels(left: Array, right: Array) -> Array:
    """`[N, h, w, A]` and `[N, h, w, B]` to the sum over all pixels of their outer products, `[A, B]`."""
    lying = jnp.moveaxis(left, -1, 0).reshape(left.shape[-1], -1)
    return _dot(lying, right.reshape(-1, right.shape[-1]))


def _dot(left: Array, right: Array) -> Array:
    return jnp.dot(left, right, preferred_element_type=jnp.promote_types(left.dtype, jnp.float32))


# On all else.


def _forward_elsewhere(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, STRIDES, "SAME", dimension_numbers=DIMENSIONS)


def _transposed_elsewhere(y: Array, kernel: Array, *, size: tuple[int, int]) -> Array:
    x = jax.ShapeDtypeStruct((y.shape[0], *size, kernel.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: _forward_elsewhere(x, kernel), x)(y)[0]


def _kernel_elsewhere(x: Array, y: Array) -> Array:
    kernel = jax.ShapeDtypeStruct((4, 4, x.shape[-1], y.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _forward_elsewhere(x, kernel), kernel)(y)[0]


def _half(size: int) -> int:
    return size // 2 + size % 2


_forward = define_primitive(
    "convolve",
    lambda x, kernel: (*x[:2], _half(x[2]), _half(x[3]), kernel[4]),
    _forward_elsewhere,
    _forward_on_cpu,
    adds_examples=True,
)
_transposed = define_primitive(
    "convolve_transposed",
    lambda y, kernel, *, size: (*y[:2], *size, kernel[3]),
    _transposed_elsewhere,
    _transposed_on_cpu,
    adds_examples=True,
)
_of_kernel = define_primitive(
    "convolve_kernel",
    lambda x, y: (x[0], 4, 4, x[4], y[4]),
    _kernel_elsewhere,
    _kernel_on_cpu,
    adds_examples=False,
)
define_derivatives(_forward, _transposed, _of_kernel, lambda x: {"size": x[2:4]})
