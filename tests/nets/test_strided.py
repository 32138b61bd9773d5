import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads

from tests.tiers import slow_but
from vaejax.nets import strided
from vaejax.nets.strided import convolve, convolve_transposed

# Even and odd sizes, one channel and many, windows that are narrow and wide.
SIZES = [(8, 8, 1, 9), (7, 5, 3, 4), (4, 6, 5, 3), (1, 2, 2, 9)]


def plain(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_transposed(y, kernel, size):
    dimensions = ("NHWC", "HWIO", "NHWC")
    large = jax.lax.conv_transpose(y, kernel, (2, 2), "SAME", dimension_numbers=dimensions, transpose_kernel=True)
    return large[:, : size[0], : size[1]]


def ours_and_jaxs(size):
    """Each map of this module and the same by JAX, as functions of images, `[N, H, W, C]` or halved, and a kernel."""
    ours = convolve, lambda y, kernel: convolve_transposed(y, kernel, size)
    return ours, (plain, lambda y, kernel: plain_transposed(y, kernel, size))


def arrays(sizes, dtype=np.float32, count=3):
    height, width, channels, outputs = sizes
    random = np.random.default_rng(0)
    shapes = [
        (count, height, width, channels),
        (4, 4, channels, outputs),
        (count, -(-height // 2), -(-width // 2), outputs),
    ]
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("sizes", slow_but([SIZES[1]], SIZES, "another shape of the same law"))
def test_the_convolutions_and_their_gradients_are_those_of_jax(sizes, x64):
    x, kernel, y = arrays(sizes, np.float64)

    @jax.jit
    def figures(x, kernel, y):
        both = lambda f, g: [(value, jax.vjp(f, *g)[1](value)) for value in (f(*g),)]
        of = lambda forward, transposed: (both(forward, (x, kernel)), both(transposed, (y, kernel)))
        return [of(*maps) for maps in ours_and_jaxs(sizes[:2])]

    chex.assert_trees_all_close(*figures(x, kernel, y), rtol=1e-12, atol=1e-12)


@pytest.mark.slow("the same in another precision")
def test_gradients_agree_in_float32():
    x, kernel, y = arrays((32, 32, 3, 8))

    @jax.jit
    def gradients(x, kernel, y):
        of = lambda f, *inputs: jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), (0, 1))(*inputs)
        return [(*of(f, x, kernel), *of(g, y, kernel)) for f, g in ours_and_jaxs((32, 32))]

    for one, other in zip(*jax.device_get(gradients(x, kernel, y)), strict=True):
        assert np.abs(one - other).max() < 1e-5 * np.abs(other).max()


@pytest.mark.slow("derivatives of the primitives that test_dense differentiates twice")
def test_second_derivatives_are_those_of_jax(x64):
    """The derivatives of the gradients along a direction."""
    x, kernel, y = arrays((2, 3, 1, 2), np.float64, count=1)
    direction = lambda inputs: [np.cos(np.arange(each.size)).reshape(each.shape) for each in inputs]

    @jax.jit
    def second(x, kernel, y):
        def of(f, *inputs):
            gradient = jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), (0, 1))
            return jax.jvp(gradient, inputs, tuple(direction(inputs)))[1]

        return [(of(f, x, kernel), of(g, y, kernel)) for f, g in ours_and_jaxs((2, 3))]

    chex.assert_trees_all_close(*second(x, kernel, y), rtol=1e-11, atol=1e-11)


@pytest.mark.slow("central differences of what is compared with JAX above")
def test_derivatives_of_every_order(x64):
    x, kernel, y = arrays((2, 3, 1, 2), np.float64, count=1)
    check_grads(jax.jit(convolve), (x, kernel), order=2)
    check_grads(jax.jit(lambda y, kernel: convolve_transposed(y, kernel, (2, 3))), (y, kernel), order=2)


@pytest.mark.slow("maps bilinear primitives by the code that test_dense maps")
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, 3)])
@pytest.mark.parametrize("sizes", SIZES[:2])
def test_mapping_over_images_kernels_or_both(axes, sizes, x64):
    x, kernel, y = arrays(sizes, np.float64)
    several = lambda inputs: [
        value if axis is None else np.stack([value, 2 * value, value - 1], axis)
        for value, axis in zip(inputs, axes, strict=True)
    ]

    @jax.jit
    def mapped(images, halved):
        gradient = lambda f: jax.grad(lambda *a: jnp.sum(f(*a) ** 3), (0, 1))
        of = lambda f, inputs: (jax.vmap(f, axes)(*inputs), jax.vmap(gradient(f), axes)(*inputs))
        return [(of(f, images), of(g, halved)) for f, g in ours_and_jaxs(sizes[:2])]

    chex.assert_trees_all_close(*mapped(several((x, kernel)), several((y, kernel))), rtol=1e-11, atol=1e-11)


def test_the_gradient_of_mapped_examples_is_that_of_a_batch():
    # Not one gradient for each example, which is then summed.
    x, kernel, _ = arrays(SIZES[0])
    loss = lambda kernel: jnp.sum(jax.vmap(lambda image: convolve(image[None], kernel))(x) ** 2)
    (of_kernel,) = [
        equation for equation in jax.make_jaxpr(jax.grad(loss))(kernel).eqns if "kernel" in equation.primitive.name
    ]
    assert of_kernel.outvars[0].aval.shape == (1, *kernel.shape)


@pytest.mark.parametrize("dtype", [np.int32, jnp.bfloat16])
def test_mixed_dtypes_are_promoted(dtype):
    """A window holds four pixels; a pixel of the result is in one window."""
    kernel = np.full((4, 4, 1, 1), 1.125, np.float32)
    found = convolve(np.ones((1, 2, 2, 1), dtype), kernel)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.full((1, 1, 1, 1), 4.5))
    found = convolve_transposed(np.ones((1, 1, 1, 1), dtype), kernel, (2, 2))
    np.testing.assert_array_equal(found, np.full((1, 2, 2, 1), 1.125))


def test_half_precision_is_added_up_in_float32():
    x, kernel, y = (value.astype(jnp.bfloat16) for value in arrays((8, 8, 32, 16)))

    @jax.jit
    def figures(x, kernel, y):
        pairs = []
        for f, inputs in zip(ours_and_jaxs((8, 8))[0], [(x, kernel), (y, kernel)], strict=True):
            result, gradient = jax.vjp(f, *inputs)
            exact, exact_gradient = jax.vjp(f, *(value.astype(jnp.float32) for value in inputs))
            pairs += zip((result, *gradient(result)), (exact, *exact_gradient(result.astype(jnp.float32))), strict=True)
        return pairs

    for one, other in jax.device_get(figures(x, kernel, y)):
        assert one.dtype == jnp.bfloat16
        # One rounding at the end.
        assert np.all(np.abs(one.astype(np.float32) - other) <= 2**-8 * np.abs(other) + 1e-6)


def gradients_of(forward, transposed):
    """The gradients of both maps as one function."""
    return lambda x, kernel, y: (jax.vjp(forward, x, kernel)[1](y), jax.vjp(transposed, y, kernel)[1](x))


def xlas_transposed(y, kernel):
    """The gradient of JAX's own convolution, which is what a transposed convolution is."""
    x = jnp.zeros((len(y), *SIZES[1][:3]), y.dtype)
    return jax.vjp(lambda x: plain(x, kernel), x)[1](y)[0]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_elsewhere_they_are_xlas_own(platform):
    inputs = arrays(SIZES[1])
    ours, xlas = (gradients_of(*maps) for maps in (ours_and_jaxs(SIZES[1][:2])[0], (plain, xlas_transposed)))
    text_of = lambda f, platform: jax.export.export(jax.jit(f), platforms=[platform])(*inputs).mlir_module()
    count = lambda f: text_of(f, platform).count("stablehlo.convolution")
    assert count(ours) == count(xlas) > 0
    assert "stablehlo.convolution" not in text_of(ours, "cpu")


def test_what_xla_has_elsewhere_computes_the_same():
    @jax.jit
    def figures(x, kernel, y):
        size = {"size": SIZES[1][:2]}
        here = (
            strided._forward_on_cpu(x, kernel), strided._transposed_on_cpu(y, kernel, **size),
            strided._kernel_on_cpu(x, y), gradients_of(*ours_and_jaxs(size["size"])[0])(x, kernel, y),
        )  # fmt: skip
        elsewhere = (
            strided._forward_elsewhere(x, kernel), strided._transposed_elsewhere(y, kernel, **size),
            strided._kernel_elsewhere(x, y), gradients_of(plain, xlas_transposed)(x, kernel, y),
        )  # fmt: skip
        return here, elsewhere

    chex.assert_trees_all_close(*figures(*arrays(SIZES[1])), rtol=1e-5, atol=1e-5)


def test_a_number_of_examples_that_is_not_known_yet():
    x, kernel, y = arrays(SIZES[0])
    (count,) = jax.export.symbolic_shape("n")
    shapes = [jax.ShapeDtypeStruct((count, *each.shape[1:]), each.dtype) for each in (x, y)]
    ours, theirs = (lambda x, y, maps=maps: (maps[0](x, kernel), maps[1](y, kernel)) for maps in ours_and_jaxs((8, 8)))
    exported = jax.export.export(jax.jit(ours), platforms=["cpu", "cuda"])(*shapes)
    chex.assert_trees_all_close(exported.call(x, y), jax.jit(theirs)(x, y), rtol=1e-5, atol=1e-5)


def test_shares_of_a_batch_under_shard_map():
    x, kernel, _ = arrays(SIZES[0])
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))

    def gradient(kernel, x):
        kernel = jax.lax.pcast(kernel, "data", to="varying")
        return jax.lax.pmean(jax.grad(lambda kernel: jnp.sum(convolve(x, kernel) ** 2))(kernel), "data")

    specs = (PartitionSpec(), PartitionSpec("data"))

    @jax.jit
    def figures(kernel, x):
        shared = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())(kernel, x)
        return shared, jax.grad(lambda kernel: jnp.sum(plain(x, kernel) ** 2))(kernel)

    # Of entries in the hundreds some are near zero, as sums of terms in the hundreds.
    chex.assert_trees_all_close(*figures(kernel, x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, k, y: convolve(x[0], k), r"convolve: x .* got \(8, 8, 1\)"),
        (lambda x, k, y: convolve(x, k[:3]), r"got \(3, 8, 8, 1\) and \(3, 4, 1, 9\)"),
        (lambda x, k, y: convolve_transposed(x, k, (16, 16)), r"convolve_transposed: y .* got \(3, 8, 8, 1\)"),
        (lambda x, k, y: convolve_transposed(y, k, (8, 9)), r"size .* got \(8, 9\)"),
    ],
)
def test_other_shapes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*arrays(SIZES[0]))
