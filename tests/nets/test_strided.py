import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads

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


def arrays(sizes, dtype=jnp.float32, count=3):
    height, width, channels, outputs = sizes
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = [
        (count, height, width, channels),
        (4, 4, channels, outputs),
        (count, -(-height // 2), -(-width // 2), outputs),
    ]
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("sizes", SIZES)
def test_the_convolutions_and_their_gradients_are_those_of_jax(sizes):
    with jax.enable_x64(True):
        x, kernel, y = arrays(sizes, jnp.float64)
        size = sizes[:2]
        both = lambda f, g: [(value, *jax.vjp(f, *g)[1](value)) for value in (f(*g),)]
        close = lambda a, b: chex.assert_trees_all_close(a, b, rtol=1e-12, atol=1e-12)
        close(both(convolve, (x, kernel)), both(plain, (x, kernel)))
        ours = lambda y, kernel: convolve_transposed(y, kernel, size)
        theirs = lambda y, kernel: plain_transposed(y, kernel, size)
        close(both(ours, (y, kernel)), both(theirs, (y, kernel)))


def test_gradients_agree_in_float32():
    x, kernel, y = arrays((32, 32, 3, 8))
    for ours, theirs, inputs in [
        (convolve, plain, (x, kernel)),
        (lambda y, k: convolve_transposed(y, k, (32, 32)), lambda y, k: plain_transposed(y, k, (32, 32)), (y, kernel)),
    ]:
        gradients = [jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), (0, 1))(*inputs) for f in (ours, theirs)]
        for one, other in zip(*gradients, strict=True):
            assert np.abs(one - other).max() < 1e-5 * np.abs(other).max()


def test_derivatives_of_every_order():
    with jax.enable_x64(True):
        x, kernel, y = arrays((2, 3, 1, 2), jnp.float64, count=1)
        check_grads(convolve, (x, kernel), order=2)
        check_grads(lambda y, kernel: convolve_transposed(y, kernel, (2, 3)), (y, kernel), order=2)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, 3)])
@pytest.mark.parametrize("sizes", SIZES[:2])
def test_mapping_over_images_kernels_or_both(axes, sizes):
    with jax.enable_x64(True):
        x, kernel, y = arrays(sizes, jnp.float64)
        size = sizes[:2]
        pairs = [
            (convolve, plain, (x, kernel)),
            (
                lambda y, kernel: convolve_transposed(y, kernel, size),
                lambda y, kernel: plain_transposed(y, kernel, size),
                (y, kernel),
            ),
        ]
        for ours, theirs, inputs in pairs:
            several = [
                value if axis is None else jnp.stack([value, 2 * value, value - 1], axis)
                for value, axis in zip(inputs, axes, strict=True)
            ]
            cubed = lambda f: lambda *a: jnp.sum(f(*a) ** 3)
            for f, g in [(ours, theirs), (jax.grad(cubed(ours), (0, 1)), jax.grad(cubed(theirs), (0, 1)))]:
                mapped = jax.vmap(f, axes)(*several), jax.vmap(g, axes)(*several)
                chex.assert_trees_all_close(*mapped, rtol=1e-11, atol=1e-11)


def test_the_gradient_of_mapped_examples_is_that_of_a_batch():
    # Not one gradient for each example, which is then summed.
    x, kernel, _ = arrays(SIZES[0])
    loss = lambda kernel: jnp.sum(jax.vmap(lambda image: convolve(image[None], kernel))(x) ** 2)
    (of_kernel,) = [
        equation for equation in jax.make_jaxpr(jax.grad(loss))(kernel).eqns if "kernel" in equation.primitive.name
    ]
    assert of_kernel.outvars[0].aval.shape == (1, *kernel.shape)


def test_half_precision_is_added_up_in_float32():
    x, kernel, y = arrays((8, 8, 32, 16))
    half = [value.astype(jnp.bfloat16) for value in (x, kernel, y)]
    for f, inputs in [(convolve, half[:2]), (lambda y, k: convolve_transposed(y, k, (8, 8)), [half[2], half[1]])]:
        result, gradient = jax.vjp(f, *inputs)
        exact, exact_gradient = jax.vjp(f, *(value.astype(jnp.float32) for value in inputs))
        assert result.dtype == jnp.bfloat16
        pairs = zip((result, *gradient(result)), (exact, *exact_gradient(result.astype(jnp.float32))), strict=True)
        for one, other in pairs:
            # One rounding at the end.
            assert np.all(np.abs(one - other) <= 2**-8 * np.abs(other) + 1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_elsewhere_they_are_xlas_own(platform):
    x, kernel, y = arrays(SIZES[1])
    size = SIZES[1][:2]
    ours = lambda x, kernel, y: (
        jax.vjp(convolve, x, kernel)[1](y),
        jax.vjp(lambda y, k: convolve_transposed(y, k, size), y, kernel)[1](x),
    )
    theirs = lambda x, kernel, y: (
        jax.vjp(plain, x, kernel)[1](y),
        jax.vjp(lambda y, k: jax.vjp(lambda x: plain(x, k), x)[1](y)[0], y, kernel)[1](x),
    )
    count = lambda f: (
        jax.export.export(jax.jit(f), platforms=[platform])(x, kernel, y).mlir_module().count("stablehlo.convolution")
    )
    assert count(ours) == count(theirs) > 0
    here = jax.export.export(jax.jit(ours), platforms=["cpu"])(x, kernel, y).mlir_module()
    assert "stablehlo.convolution" not in here
    chex.assert_trees_all_close(ours(x, kernel, y), theirs(x, kernel, y), rtol=1e-5, atol=1e-5)


def test_what_xla_has_elsewhere_computes_the_same():
    x, kernel, y = arrays(SIZES[1])
    for ours, theirs, inputs, parameters in [
        (strided._forward_on_cpu, strided._forward_elsewhere, (x, kernel), {}),
        (strided._transposed_on_cpu, strided._transposed_elsewhere, (y, kernel), {"size": SIZES[1][:2]}),
        (strided._kernel_on_cpu, strided._kernel_elsewhere, (x, y), {}),
    ]:
        chex.assert_trees_all_close(ours(*inputs, **parameters), theirs(*inputs, **parameters), rtol=1e-5, atol=1e-5)


def test_a_number_of_examples_that_is_not_known_yet():
    _, kernel, _ = arrays(SIZES[0])
    (count,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((count, 8, 8, 1), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: convolve(x, kernel)), platforms=["cpu", "cuda"])(shape)
    x = jnp.ones((5, 8, 8, 1))
    chex.assert_trees_all_close(exported.call(x), plain(x, kernel), rtol=1e-5, atol=1e-5)


def test_shares_of_a_batch_under_shard_map():
    x, kernel, _ = arrays(SIZES[0])
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))

    def gradient(kernel, x):
        kernel = jax.lax.pcast(kernel, "data", to="varying")
        return jax.lax.pmean(jax.grad(lambda kernel: jnp.sum(convolve(x, kernel) ** 2))(kernel), "data")

    specs = (PartitionSpec(), PartitionSpec("data"))
    shared = jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())(kernel, x)
    expected = jax.grad(lambda kernel: jnp.sum(plain(x, kernel) ** 2))(kernel)
    # Of entries in the hundreds some are near zero, as sums of terms in the hundreds.
    chex.assert_trees_all_close(shared, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, k, y: convolve(x[0], k), r"x must be \[N, H, W, C\] and kernel \[4, 4, C, O\]; got \(8, 8, 1\)"),
        (lambda x, k, y: convolve(x, k[:3]), r"got \(3, 8, 8, 1\) and \(3, 4, 1, 9\)"),
        (
            lambda x, k, y: convolve_transposed(x, k, (16, 16)),
            r"y must be \[N, h, w, O\] and kernel .* got \(3, 8, 8, 1\)",
        ),
        (lambda x, k, y: convolve_transposed(y, k, (8, 9)), r"size must be 2h or 2h - 1 .*; got \(8, 9\)"),
    ],
)
def test_other_shapes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*arrays(SIZES[0]))
