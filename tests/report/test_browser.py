"""Decoders compiled for the browser, run there: they give what JAX gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax import nets
from vaejax.nets import heads, likelihoods
from vaejax.report.browser import UnsupportedOperation, compile_for_browser, javascript


@pytest.fixture(scope="module")
def run(browser):
    """`(program, zs)` to what a real browser makes of each z, in order."""
    page = browser.new_page()
    page.set_content(f"<script>{javascript()}</script>")
    code = "([document, zs]) => { const run = compileProgram(document); return zs.map((z) => Array.from(run(z))); }"

    def run(program, zs):
        given = [np.asarray(z, np.float64).ravel().tolist() for z in zs]
        results = page.evaluate(code, [program.document, given])
        return np.array(results, np.float64).reshape(len(zs), *program.output_shape)

    yield run
    page.close()


def some(shape, count=3, scale=1.5):
    return scale * np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def check(run, function, shape, tolerance=1e-5, zs=None):
    """The same numbers, to a small part of the largest of them, for several z one after the other."""
    zs = some(shape) if zs is None else zs
    expected = np.stack([np.asarray(each) for each in map(jax.jit(function), jnp.asarray(zs))]).astype(np.float64)
    found = run(compile_for_browser(function, shape), zs)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.max(np.abs(expected)))
    assert len(zs) == 1 or np.any(expected[0] != expected[1])


def decoder(model, seed=0):
    params = model.init(jax.random.key(seed))
    # Biases and a head's own parameters that are not at their start.
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), params)
    return lambda z: model.decode(params, z).mean


# Each head with an activation of its own, once as a perceptron and once with convolutions: all of both at half the cost.
HEADS = {
    "bernoulli": (heads.bernoulli(), jax.nn.relu, nets.mlp),
    "continuous bernoulli": (heads.continuous_bernoulli(), jax.nn.gelu, nets.conv),
    "categorical": (heads.categorical(17), jax.nn.tanh, nets.mlp),
    "normal": (heads.normal(), jax.nn.sigmoid, nets.conv),
    "learned normal": (heads.learned_normal(), jax.nn.silu, nets.mlp),
    "predicted normal": (heads.predicted_normal(), jax.nn.elu, nets.conv),
    "optimal normal": (heads.optimal_normal(), jax.nn.leaky_relu, nets.mlp),
    "delta": (heads.delta(), jax.nn.softplus, nets.conv),
    "poisson": (likelihoods.poisson(), lambda x: jax.nn.gelu(x, approximate=False), nets.mlp),
    "negative binomial": (likelihoods.negative_binomial(), jax.nn.mish, nets.conv),
    "discretized logistic": (likelihoods.discretized_logistic(17), jax.nn.selu, nets.mlp),
    "logistic mixture": (likelihoods.logistic_mixture(17, 3), jax.nn.relu, nets.conv),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_and_activation(run, name):
    head, activation, net = HEADS[name]
    sizes = {"hidden_sizes": (9,)} if net is nets.mlp else {"channels": (4, 5)}
    check(run, decoder(net((7, 6, 3), 4, likelihood=head, activation=activation, **sizes)), (4,))


def test_the_nets_that_are_usual(run):
    check(run, decoder(nets.mlp((8, 8, 1), 8, hidden_sizes=(128,), likelihood=heads.categorical(17))), (8,))
    check(run, decoder(nets.mlp((28, 28, 1), 2, hidden_sizes=(60,))), (2,))
    check(run, decoder(nets.conv((32, 32, 3), 6, channels=(8, 12))), (6,))


def test_half_precision_runs_in_single(run):
    model = nets.in_precision(nets.mlp((9,), 3, hidden_sizes=(8,), likelihood=heads.normal()), jnp.bfloat16)
    check(run, decoder(model), (3,), tolerance=0.03)


def test_any_shape_of_z_and_a_result_that_does_not_depend_on_it(run):
    check(run, lambda z: jax.nn.softmax(z, axis=0) @ jnp.ones((2, 3)), (4, 2))
    check(run, lambda z: z, (3,))
    constant = compile_for_browser(lambda z: jnp.arange(4.0) + 0 * jnp.zeros(4), (2,))
    np.testing.assert_array_equal(run(constant, some((2,), 1)), [[0, 1, 2, 3]])
    assert constant.document["operations"] == []


@pytest.mark.parametrize(
    ("numbers", "options"),
    [
        (("NHWC", "HWIO", "NHWC"), {"window_strides": (2, 1), "padding": ((1, 2), (0, 1))}),
        (("NCHW", "OIHW", "NHWC"), {"window_strides": (1, 1), "padding": ((2, 2), (1, 3)), "lhs_dilation": (2, 3)}),
        (("NHWC", "HWIO", "NCHW"), {"window_strides": (1, 2), "padding": "SAME", "rhs_dilation": (2, 1)}),
        (("NHWC", "HWIO", "NHWC"), {"window_strides": (1, 1), "padding": "VALID", "feature_group_count": 2}),
        (("NHWC", "HWIO", "NHWC"), {"window_strides": (1, 1), "padding": ((-1, 1), (1, -1))}),
    ],
)
def test_convolutions_of_every_layout(run, numbers, options):
    groups = options.get("feature_group_count", 1)
    sizes = {"N": 2, "H": 5, "W": 6, "C": 4}
    kernel_sizes = {"H": 3, "W": 2, "I": 4 // groups, "O": 6}
    shape = tuple(sizes[axis] for axis in numbers[0])
    kernel = some(tuple(kernel_sizes[axis] for axis in numbers[1]), 1)[0]
    check(run, lambda x: jax.lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options), shape)


def test_one_dimensional_convolution(run):
    kernel = some((3, 4, 2), 1)[0]
    numbers = ("NWC", "WIO", "NWC")
    check(run, lambda x: jax.lax.conv_general_dilated(x, kernel, (2,), "SAME", dimension_numbers=numbers), (1, 7, 4))


W = jnp.array([[0.5, -1.0, 2.0], [1.5, 0.3, -0.7]])
# Vectors of six numbers, some in pairs of three; many small functions in one program each.
FUNCTIONS = {
    "elementwise": lambda z: [
        *(f(z) for f in (jnp.abs, jnp.sign, jnp.floor, jnp.ceil, jnp.exp, jnp.expm1, jnp.exp2, jnp.sin, jnp.cos)),
        *(f(jnp.abs(z) + 0.1) for f in (jnp.log, jnp.log1p, jnp.sqrt, jax.lax.rsqrt, jnp.cbrt)),
        *(f(z) for f in (jax.lax.erf, jax.lax.erfc, jnp.arctan, jnp.sinh, jnp.round, lambda z: jax.lax.round(z))),
        jnp.arctan2(z, z[::-1]),
    ],
    "arithmetic": lambda z: [
        z / (1 + z**2), z**3, z**5, jnp.abs(z) ** 0.3, jnp.fmod(z, 0.7), z // 0.3, -z, jnp.maximum(z, 0.2),
        jnp.minimum(z, z[::-1]), jax.lax.clamp(-0.5, z, 0.4), z.astype(int) // 2, jnp.square(z), z * 0 + z.astype(int),
    ],
    "choices": lambda z: [
        jnp.where(z > 0, z, 2 * z), jnp.where((z > 0) & ~(z < 1) | (z == z[2]), 1.0, z), (z >= 0) ^ (z <= 1),
        jnp.isfinite(z / (z > 0)), jax.lax.select_n((z > 0).astype(int) + (z > 1), z, 2 * z, 3 * z), z != z[0],
        jax.nn.one_hot(jnp.argmax(z), 6), jnp.argmin(z.reshape(2, 3), axis=0).astype(float),
    ],
    "moves": lambda z: [
        z[::-1], jnp.roll(z, 2), jnp.repeat(z, 2), jnp.tile(z, 2), z[1:6:2], z.reshape(2, 3).T, jnp.stack([z, 2 * z], 1),
        jnp.pad(z, (2, 1), constant_values=3.0), jnp.pad(z.reshape(2, 3), 1, mode="edge"), z[jnp.array([3, 0, 3])],
        jnp.concatenate([z, jnp.ones(2), z[:1]]), jnp.split(z, 3)[1], jnp.outer(z, z), jax.lax.pad(z, 0.5, [(-1, 2, 1)]),
        jax.image.resize(z.reshape(2, 3), (4, 6), "nearest"), jax.image.resize(z.reshape(2, 3), (5, 4), "bilinear"),
    ],
    "reductions": lambda z: [
        z.reshape(2, 3).sum(0), z.reshape(2, 3).max(1), z.reshape(3, 2).min(0), jnp.prod(z), jnp.any(z > 1), jnp.all(z > 1),
        jnp.var(z), jax.nn.log_softmax(z), jax.nn.logsumexp(z.reshape(2, 3), 0), jnp.cumsum(z), jnp.cumsum(z[:, None] * W[0], 0),
        jax.lax.cumsum(z, reverse=True), jax.lax.cummax(z), jnp.cumprod(z), jax.lax.cummin(z),
        jax.nn.standardize(z.reshape(2, 3)), z.reshape(1, 2, 3, 1).sum((0, 2)),
    ],
    "products": lambda z: [
        W @ z[:3], z[:2] @ W, jnp.einsum("bi,bij->bj", z.reshape(3, 2), jnp.stack([W, 2 * W, -W])), z.reshape(2, 3) @ z.reshape(3, 2),
        jnp.einsum("ij,kj->ik", z.reshape(2, 3), W), jnp.einsum("ji,jk->ki", z.reshape(2, 3), W), jnp.outer(z, W[0]), z @ z,
    ],
    "broadcasting": lambda z: [
        z.reshape(2, 3) + W[0], z.reshape(2, 3) * W[:, :1], z.reshape(2, 3, 1) + W[:, None], z[:3] - z.reshape(2, 3), 1 - z,
    ],
    "loops": lambda z: [
        jax.lax.scan(lambda c, w: (jnp.tanh(c + w), c * w), z[:3], W)[0],
        jax.lax.scan(lambda c, w: (jnp.tanh(c + w), c * w), z[:3], W)[1],
        # The carries change places, and one of them is given out as it came in.
        *jax.lax.scan(lambda c, w: ((c[1], c[0] * w), c[1]), (z[0], z[1]), jnp.arange(1.0, 4), reverse=True)[0],
        jax.lax.scan(lambda c, w: ((c[1], c[0] * w), c[1]), (z[0], z[1]), jnp.arange(1.0, 4), reverse=True)[1],
        jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) + z, jnp.zeros(6)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_primitives(run, name):
    together = lambda z: jnp.concatenate([jnp.ravel(each).astype(jnp.float32) for each in FUNCTIONS[name](z)])
    check(run, together, (6,), tolerance=1e-6)


def test_what_does_not_depend_on_z_is_computed_before_and_stored_once():
    weights = jnp.ones((50, 40))
    program = compile_for_browser(lambda z: (z @ jnp.sin(weights)) * 2 + z @ jnp.sin(weights), (50,))
    assert [operation["op"] for operation in program.document["operations"]] == ["matmul", "map", "matmul", "map"]
    stored = [len(text) for _, _, text in program.document["constants"]]
    assert sorted(stored)[-2:] == [8, 4 * -(-4 * 50 * 40 // 3)]
    dead = compile_for_browser(lambda z: (z @ weights, z + 1)[1], (50,))
    assert [operation["op"] for operation in dead.document["operations"]] == ["map"]


def test_what_a_browser_cannot_run_is_named():
    with pytest.raises(UnsupportedOperation, match="operation sort"):
        compile_for_browser(jnp.sort, (3,))
    with pytest.raises(UnsupportedOperation, match="the operation while of JAX"):
        compile_for_browser(lambda z: jax.lax.while_loop(lambda c: c[0] < 1, lambda c: c + 1, z), (3,))
    with pytest.raises(UnsupportedOperation, match="integers beyond"):
        compile_for_browser(lambda z: z.astype(int) + 2**25, (3,))
    with pytest.raises(UnsupportedOperation, match="complex64"):
        compile_for_browser(lambda z: jnp.abs(z + 1j), (3,))


def test_bad_arguments():
    with pytest.raises(UnsupportedOperation, match=r"0\.1 MB .*at most 0\.01 MB"):
        compile_for_browser(lambda z: z @ jnp.ones((100, 100)), (100,), max_bytes=10_000)
    with pytest.raises(TypeError, match="one array; got 2"):
        compile_for_browser(lambda z: (z, z), (3,))
    with pytest.raises(TypeError, match="function must be a function"):
        compile_for_browser(3, (3,))
    with pytest.raises(TypeError, match="shape must be a tuple"):
        compile_for_browser(jnp.sin, 3)
