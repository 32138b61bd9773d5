"""Flows: log-determinants, inverses and densities against Jacobians, quadrature and draws.

The numbers of random flows come from numpy, and all flows of one kind have the same shapes: the time
goes into compiling a few programs for each kind.
"""

from functools import cache, partial
from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import optax
import pytest
import scipy.stats

from tests.tiers import slow_but
from vaejax import (
    MultivariateNormal,
    Normal,
    PowerSpherical,
    RelaxedCategorical,
    kl_divergence,
    standard_normal,
)
from vaejax.distributions.autoregressive import (
    Autoregressive,
    autoregressive_masks,
    inverse_autoregressive_flow,
    masked_autoregressive_flow,
    with_context,
)
from vaejax.distributions.bijectors import LOOP_FROM, Chain, ElementwiseAffine, Inverse, Permutation, Reverse
from vaejax.distributions.coupling import AffineCoupling, coupling_flow
from vaejax.distributions.planar_radial import Planar, Radial, _planar_root
from vaejax.distributions.transformed import Transformed


def fill(make, scale, batch=(), seed=0):
    """The flow that `make(key)` returns, or a batch of such flows, with Normal numbers as its parameters."""
    shapes = jax.eval_shape(lambda: make(jax.random.key(0)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: scale * rng.normal(size=(*batch, *leaf.shape)), shapes)


def planar(size=3, scale=1.5, **options):
    return fill(lambda _: Planar(jnp.zeros(size), jnp.zeros(size), jnp.zeros(())), scale, **options)


def squeezing(**options):
    """A planar flow with 1 + w.u_hat = softplus(-12)."""
    flow = planar(**options)
    return Planar(flow.weight, -12.0 * flow.weight / np.sum(flow.weight**2, axis=-1, keepdims=True), flow.bias)


def radial(size=3, scale=1.0, **options):
    return fill(lambda _: Radial(jnp.zeros(size), jnp.zeros(()), jnp.zeros(())), scale, **options)


def contracting(**options):
    flow = radial(**options)
    return Radial(0.1 * flow.center, np.full_like(flow.log_alpha, 2.0), np.full_like(flow.raw_beta, -9.0))


def affine(size=3, **options):
    return fill(lambda _: ElementwiseAffine(jnp.zeros(size), jnp.zeros(size)), 0.7, **options)


def coupling(size=3, swap=False, **options):
    return fill(lambda key: AffineCoupling.init(key, size, hidden_size=5, swap=swap), 0.7, **options)


def autoregressive(size=3, hidden_sizes=(7,), context_size=0, scale=0.7, **options):
    def make(key):
        flow = Autoregressive.init(key, size, hidden_sizes=hidden_sizes, context_size=context_size)
        return with_context(flow, jnp.zeros(context_size)) if context_size else flow

    return fill(make, scale, **options)


def iaf(size=3, num_layers=2, scale=0.5, **options):
    def make(key):
        flow = inverse_autoregressive_flow(key, size, num_layers=num_layers, hidden_size=6, context_size=2)
        return with_context(flow, jnp.zeros(2))

    return fill(make, scale, **options)


def maf(size=3, num_layers=2, scale=0.5, **options):
    def make(key):
        flow = masked_autoregressive_flow(key, size, num_layers=num_layers, hidden_size=6, context_size=2)
        return with_context(flow, jnp.zeros(2))

    return fill(make, scale, **options)


def couplings(size=3, scale=0.5, **options):
    return fill(lambda key: coupling_flow(key, size, num_layers=3, hidden_size=5), scale, **options)


def couplings_with_context(size=3, scale=0.5, **options):
    def make(key):
        return with_context(coupling_flow(key, size, num_layers=2, hidden_size=5, context_size=2), jnp.zeros(2))

    return fill(make, scale, **options)


def mixed(**options):
    point, number = np.zeros(3), np.zeros(())
    parts = (ElementwiseAffine(point, point), Permutation((1, 2, 0)), Inverse(Radial(point, number, number)))
    return fill(lambda _: Chain(parts), 1.0, **options)


def long_chain(**options):
    """Alike and many enough to be a loop."""
    return Chain(tuple(planar(scale=0.7, **options | {"seed": seed}) for seed in range(LOOP_FROM)))


FLOWS = {
    "planar": planar,
    "planar, nearly singular": squeezing,
    "radial": radial,
    "radial, nearly singular": contracting,
    "elementwise affine": affine,
    "coupling": coupling,
    "coupling, swapped": lambda **options: coupling(swap=True, **options),
    "coupling, size 2": lambda **options: coupling(2, **options),
    "couplings with context": couplings_with_context,
    "autoregressive": autoregressive,
    "autoregressive, two layers and context": lambda **options: autoregressive(4, (5, 6), 2, **options),
    "autoregressive, size 1": lambda **options: autoregressive(1, **options),
    "inverse planar": lambda **options: Inverse(planar(**options)),
    "iaf": iaf,
    "maf": maf,
    "mixed": mixed,
    "long chain": long_chain,
}
SIZES = {"coupling, size 2": 2, "autoregressive, size 1": 1, "autoregressive, two layers and context": 4}
VARIANTS = {
    "coupling", "coupling, swapped", "coupling, size 2", "autoregressive, size 1", "autoregressive",
    "autoregressive, two layers and context", "inverse planar", "long chain", "iaf", "elementwise affine",
}  # fmt: skip


def fast_first(names):
    """The names as parameters of a test; the variants among them are slow."""
    slow = pytest.mark.slow("a variant of a flow of the fast tier")
    return [pytest.param(name, marks=slow) if name in VARIANTS else name for name in names]


def size_of(name):
    return SIZES.get(name, 3)


@jax.jit
def both_ways(flows, z):
    """Four flows at five points each: one by one with the Jacobian, and as one flow with a batch axis."""

    def single(flow, z):
        def value_and_outputs(z):
            y, log_det = flow.forward(z)
            return y, (y, log_det)

        jacobian, forward = jax.jacfwd(value_and_outputs, has_aux=True)(z)
        return forward, flow.inverse(z), jacobian

    return jax.vmap(jax.vmap(single), in_axes=(None, 0))(flows, z), (flows.forward(z), flows.inverse(z))


@cache
def figures(name):
    """Points `z` with both directions from there, and the ways back: `inverse(forward(z))` and `forward(inverse(z))`."""
    flows, z = FLOWS[name](batch=(4,)), np.random.default_rng(1).normal(size=(5, 4, size_of(name)))
    with jax.enable_x64(True):
        (forward, inverse, jacobian), batched = jax.device_get(both_ways(flows, z))
        (_, inverse_of_forward, _), _ = jax.device_get(both_ways(flows, forward[0]))
        (forward_of_inverse, _, _), _ = jax.device_get(both_ways(flows, inverse[0]))
    return {
        "z": z,
        "forward": forward,
        "inverse": inverse,
        "jacobian": jacobian,
        "batched": batched,
        "inverse of forward": inverse_of_forward,
        "forward of inverse": forward_of_inverse,
    }


@pytest.mark.parametrize("name", fast_first(FLOWS))
def test_log_det_is_that_of_the_jacobian(name):
    got = figures(name)
    log_det = np.linalg.slogdet(got["jacobian"]).logabsdet
    chex.assert_shape(log_det, (5, 4))
    chex.assert_trees_all_close(got["forward"][1], log_det, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", fast_first(FLOWS))
def test_inverse_undoes_forward_and_has_its_log_det(name):
    got = figures(name)
    back, log_det_of_inverse = got["inverse of forward"]
    again, log_det_elsewhere = got["forward of inverse"]
    # A map that squeezes by 1e-5 loses as many digits on the way back.
    singular = "singular" in name
    chex.assert_trees_all_close(back, got["z"], atol=1e-7 if singular else 1e-10)
    chex.assert_trees_all_close(again, got["z"], atol=1e-10)
    chex.assert_trees_all_close(log_det_of_inverse, got["forward"][1], atol=1e-7 if singular else 1e-10)
    chex.assert_trees_all_close(got["inverse"][1], log_det_elsewhere, atol=1e-6 if singular else 1e-10)


@pytest.mark.parametrize("name", fast_first(FLOWS))
def test_a_mapped_flow_is_the_batched_one(name):
    got = figures(name)
    mapped = (got["forward"], got["inverse"])
    chex.assert_trees_all_close(got["batched"], mapped, atol=1e-7 if "singular" in name else 1e-10)


@pytest.mark.parametrize("name", fast_first(["couplings with context", "iaf", "maf"]))
def test_two_layers_change_every_axis_by_the_others(name):
    jacobian, on_diagonal = figures(name)["jacobian"], np.eye(3, dtype=bool)
    assert not np.any(np.all(jacobian == np.eye(3), axis=-1))
    assert np.all(np.any((jacobian != 0) & ~on_diagonal, axis=-1))


class Doubling:
    """No pytree, so that it has no parameters to be stacked."""

    forward = staticmethod(lambda z: (2 * z, 3 * jnp.log(2.0)))
    inverse = staticmethod(lambda y: (y / 2, 3 * jnp.log(2.0)))


WIDER = {"alike": [], "the first wider": [0], "the rest wider": range(1, LOOP_FROM + 1), "another wider": [5]}


PLACE = pytest.mark.slow("another place of the wider bijector")


@pytest.mark.parametrize(
    "wide",
    [
        "alike",
        "the first wider",
        "of one's own",
        *(pytest.param(wide, marks=PLACE) for wide in ("the rest wider", "another wider")),
    ],
)
def test_a_long_chain_is_its_bijectors_one_by_one(x64, wide):
    """Alike they are a loop; where one has a batch of parameters, or none at all, they are not."""
    flows = [affine(seed=seed) for seed in range(LOOP_FROM + 1)]
    for number in WIDER.get(wide, ()):
        flows[number] = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), flows[number])
    if wide == "of one's own":
        flows = [Doubling()] * LOOP_FROM
    z = np.array([0.3, -0.7, 1.1])

    @jax.jit
    def move(z):
        y, total, chain = z, 0.0, Chain(tuple(flows))
        for flow in flows:
            y, log_det = flow.forward(y)
            total = total + log_det
        return (y, total), chain.forward(z), chain.inverse(y)

    (y, total), forward, back = move(z)
    chex.assert_trees_all_close(forward, (y, total), rtol=1e-12)
    # A batch of points, where the chain has a batch of parameters: the way back meets them in another order.
    chex.assert_trees_all_close(back, (np.broadcast_to(z, y.shape), total), rtol=1e-9)
    dtype = lambda flow: jax.eval_shape(flow.forward, z.astype(np.float32))[0].dtype
    assert dtype(Chain(tuple(flows))) == dtype(flows[0])


def test_what_there_is_to_compile_does_not_grow_with_a_chain():
    def program(length, move):
        flow = Chain((Planar(np.ones(2), np.ones(2), np.ones(())),) * length)
        return str(jax.make_jaxpr(move)(flow, np.ones(2)))

    for move in (lambda flow, z: flow.forward(z), lambda flow, z: flow.inverse(z)):
        assert program(LOOP_FROM, move).count("tanh") == program(4 * LOOP_FROM, move).count("tanh")


@pytest.mark.parametrize("make", slow_but([iaf], [iaf, maf, couplings_with_context], "another flow"))
def test_shared_weights_meet_the_context_of_each_example(x64, make):
    """Any batch of contexts and points gives what each example gives alone, and every output depends on its context."""
    flow, rng = make(), np.random.default_rng(2)
    context, z = rng.normal(size=(4, 2)), rng.normal(size=(5, 4, 3))
    apply = lambda context, z: with_context(flow, context).forward(z)

    @jax.jit
    def figure(context, z):
        alone = jax.vmap(jax.vmap(apply), in_axes=(None, 0))(context, z)
        return apply(context, z), alone, jax.jacrev(lambda context: apply(context, z[0, 0])[0])(context[0])

    together, alone, slopes = figure(context, z)
    chex.assert_trees_all_close(together, alone, rtol=1e-10)
    assert jnp.all(jnp.abs(slopes) > 1e-4)


@pytest.mark.parametrize("make", [inverse_autoregressive_flow, coupling_flow])
def test_a_context_that_is_missing_is_named(make):
    flow = fill(lambda key: make(key, 3, context_size=2), 1.0)
    with pytest.raises(ValueError, match="needs a context of size 2"):
        flow.forward(np.ones(3))


def test_planar_is_the_formula_of_the_paper(x64):
    flow, z = planar(), np.array([0.3, -0.7, 1.1])
    w, u, b = flow.weight, flow.direction, flow.bias
    u_hat = u + (-1 + np.log1p(np.exp(w @ u)) - w @ u) * w / (w @ w)
    chex.assert_trees_all_close(jax.jit(Planar.forward)(flow, z)[0], z + u_hat * np.tanh(w @ z + b), rtol=1e-12)
    # Where w.u < -1 the unconstrained map would fold space.
    points = np.linspace(-5.0, 5.0, 1001)[:, None] * w
    assert np.all(np.diff(jax.jit(Planar.forward)(Planar(w, -3.0 * w, b), points)[0] @ w) > 0)


def test_radial_is_the_formula_of_the_paper(x64):
    flow, z = radial(), np.array([0.3, -0.7, 1.1])
    forward = jax.jit(Radial.forward)
    alpha = np.exp(flow.log_alpha)
    beta = -alpha + np.log1p(np.exp(flow.raw_beta))
    radius = np.linalg.norm(z - flow.center)
    chex.assert_trees_all_close(forward(flow, z)[0], z + beta / (alpha + radius) * (z - flow.center), rtol=1e-12)
    same = Radial(flow.center, np.zeros(()), np.log(np.expm1(1.0)))
    chex.assert_trees_all_close(forward(same, z), (z, 0.0), atol=1e-12)


@pytest.mark.parametrize("double", [True, False])
def test_the_root_of_a_planar_flow_is_exact_at_every_slope(double):
    with jax.enable_x64(double):
        dtype = np.float64 if double else np.float32
        slopes = np.concatenate([10.0 ** np.arange(-30, 10, 0.5), 1 - 10.0 ** np.arange(-16, -0.1), [1.0]])
        targets = 10.0 ** np.arange(-18, 10, 0.25)
        slope, target = np.meshgrid(slopes.astype(dtype), np.array([*targets, 0.0, *-targets], dtype))

        @jax.jit
        def residual_and_sizes(slope, target):
            t, c = _planar_root(slope, target), slope - 1
            step = c * jnp.tanh(t)
            return jnp.abs(t + step - target), jnp.abs(t) + jnp.abs(step) + jnp.abs(target)

        residual, sizes = residual_and_sizes(slope, target)
    assert residual.dtype == dtype
    # What the rounding of each term allows.
    assert np.all(np.asarray(residual) <= 4 * np.finfo(dtype).eps * np.asarray(sizes))


DENSITIES = {
    "planar 1": (lambda: planar(1), 1, 40.0),
    "radial 1": (lambda: radial(1), 1, 40.0),
    "autoregressive 1": (lambda: autoregressive(1, scale=0.4), 1, 40.0),
    "maf 1": (lambda: maf(1), 1, 40.0),
    "planar 2": (lambda: planar(2), 2, 12.0),
    "radial 2": (lambda: Radial(np.array([0.3, -0.2]), 0.2, 1.5), 2, 12.0),
    "coupling 2": (lambda: couplings(2, 0.2), 2, 12.0),
    "iaf 2": (lambda: iaf(2, scale=0.25), 2, 12.0),
    "maf 2": (lambda: maf(2, scale=0.25), 2, 12.0),
}


def densities(size):
    """The names of the densities on vectors of a size: one of them is in the fast tier."""
    reason = "follows from the log-determinant and the inverse, which every layer is tested for"
    return slow_but({"radial 2"}, [name for name in DENSITIES if name.endswith(str(size))], reason)


@cache
def on_a_grid(name):
    """Points `[N, D]` of a grid, the density of a random flow there, the volume of a cell, and draws."""
    make, size, edge = DENSITIES[name]
    count = 200_001 if size == 1 else 501
    axis = np.linspace(-edge, edge, count)
    points = np.stack(np.meshgrid(*[axis] * size, indexing="ij"), axis=-1).reshape(-1, size)

    @jax.jit
    def density_and_draws(flow, points, key):
        q = Transformed(standard_normal.expand((size,)), flow)
        return jnp.exp(q.log_prob(points)), q.sample(key, (20_000,))

    with jax.enable_x64(True):
        density, draws = jax.device_get(density_and_draws(make(), points, jax.random.key(20260)))
    return points, density, (2 * edge / (count - 1)) ** size, draws


@pytest.mark.parametrize("name", densities(1) + densities(2))
def test_integrates_to_one(name):
    _, density, volume, _ = on_a_grid(name)
    # The density of a radial flow has a kink at its center.
    atol = 1e-4 if name.startswith("radial 2") else 1e-6
    chex.assert_trees_all_close(np.sum(density) * volume, 1.0, atol=atol)


@pytest.mark.parametrize("name", densities(1))
def test_draws_follow_the_density(name):
    """Kolmogorov-Smirnov: a correct sampler exceeds the bound once in a million times."""
    points, density, volume, draws = on_a_grid(name)
    cumulative = np.cumsum(density) * volume - density * volume / 2
    distance = scipy.stats.kstest(draws[:, 0], lambda y: np.interp(y, points[:, 0], cumulative)).statistic
    assert distance * np.sqrt(len(draws)) < 2.7


@pytest.mark.parametrize("name", densities(2))
def test_moments_of_draws_are_those_of_the_density(name):
    points, density, volume, draws = on_a_grid(name)
    moments = lambda y: np.stack([y[..., 0], y[..., 1], y[..., 0] * y[..., 1], np.cos(y[..., 0]), y[..., 1] ** 2])
    expected = np.sum(moments(points) * density, axis=-1) * volume
    drawn = moments(draws)
    deviation = (np.mean(drawn, axis=-1) - expected) / (np.std(drawn, axis=-1) / len(draws) ** 0.5)
    assert np.all(np.abs(deviation) < 5)


ANOTHER_FLOW = pytest.mark.slow("another flow")


@pytest.mark.parametrize(
    "name", ["radial", *(pytest.param(name, marks=ANOTHER_FLOW) for name in ("iaf", "planar", "mixed"))]
)
def test_a_draw_comes_with_its_density(x64, name):
    @jax.jit
    def draw(flows):
        q = Transformed(Normal(jnp.ones((4, 3)), 0.5), flows)
        y, log_q = q.sample_and_log_prob(jax.random.key(1), (5,))
        return y, log_q, q.sample(jax.random.key(1), (5,)), q.log_prob(y)

    y, log_q, same, log_q_by_inverse = draw(FLOWS[name](batch=(4,)))
    chex.assert_shape([y, log_q], [(5, 4, 3), (5, 4)])
    chex.assert_trees_all_close(same, y, rtol=1e-12)
    chex.assert_trees_all_close(log_q_by_inverse, log_q, atol=1e-9)


def test_the_density_of_a_draw_needs_no_inverse():
    class OneWay(Doubling):
        def inverse(self, y):
            raise AssertionError("inverted")

    q = Transformed(Normal(np.zeros(3), 1.0), OneWay())
    draw = lambda: q.sample_and_log_prob(jax.random.key(0), (5,))
    chex.assert_shape(jax.eval_shape(draw), [(5, 3), (5,)])


def test_an_affine_flow_of_a_normal_is_a_normal(x64):
    factor, shift, scale = np.array([[0.5, 0.0], [0.9, 1.1]]), np.array([1.0, -1.0]), np.array([2.0, 0.3])
    y = np.random.default_rng(0).normal(size=(6, 2))

    @jax.jit
    def log_probs(y):
        flow = ElementwiseAffine(shift, jnp.log(scale))
        theirs = numpyro.MultivariateNormal(jnp.zeros(2), scale_tril=factor, validate_args=False)
        bases = [MultivariateNormal(jnp.zeros(2), factor), theirs, numpyro.Normal(jnp.zeros((6, 2)), 1.0).to_event(1)]
        drawn = [Transformed(base, flow).sample_and_log_prob(jax.random.key(1), (7, 5)) for base in bases[:2]]
        return [Transformed(base, flow).log_prob(y) for base in bases], drawn

    full = scipy.stats.multivariate_normal(shift, (scale[:, None] * factor) @ (scale[:, None] * factor).T).logpdf(y)
    independent = scipy.stats.norm(shift, scale).logpdf(y).sum(-1)
    (ours, theirs, apart), drawn = log_probs(y)
    chex.assert_trees_all_close([ours, theirs, apart], [full, full, independent], rtol=1e-12)
    for values, log_q in drawn:
        chex.assert_shape([values, log_q], [(7, 5, 2), (7, 5)])


def figure(flow, y):
    """A number that depends on all outputs of both directions."""
    weights = np.cos(np.arange(1.0, 1.0 + len(y)))
    z, log_det = flow.inverse(y)
    there, volume = flow.forward(0.3 * y)
    return standard_normal.log_prob(z) - log_det + there @ weights + volume


@jax.jit
def derivatives_and_differences(flow, y):
    """The gradient, and central differences along every axis of every parameter and of the point."""
    flat, unravel = jax.flatten_util.ravel_pytree((flow, y))
    steps = jnp.concatenate([jnp.zeros((1, flat.size)), jnp.eye(flat.size), -jnp.eye(flat.size)])
    values, slopes = jax.vmap(jax.value_and_grad(lambda flat: figure(*unravel(flat))))(flat + 1e-6 * steps)
    above, below = values[1:].reshape(2, -1)
    return slopes[0], (above - below) / 2e-6


# A planar flow has the derivative of its root by hand.
@pytest.mark.parametrize(
    "name",
    slow_but(
        {"planar", "planar, nearly singular"},
        [name for name in FLOWS if name not in ("mixed", "maf", "inverse planar")],
        "derived by JAX from directions that are tested",
    ),
)
def test_gradients_through_both_directions_are_differences(x64, name):
    flow, y = FLOWS[name](seed=11), 0.5 * np.arange(1.0, 1.0 + size_of(name))
    chex.assert_trees_all_close(*derivatives_and_differences(flow, y), atol=1e-5, rtol=1e-5)


@pytest.mark.slow("derived by JAX from first derivatives that are tested")
@pytest.mark.parametrize("make", [planar, radial, partial(autoregressive, scale=0.3)])
def test_second_derivatives_through_the_inverse(x64, make):
    @jax.jit
    def derivative_and_difference(flow, y):
        flat, unravel = jax.flatten_util.ravel_pytree((flow, y))
        direction = jnp.cos(jnp.arange(flat.size))

        def density(flat):
            flow, y = unravel(flat)
            z, log_det = flow.inverse(y)
            return standard_normal.log_prob(z) - log_det

        points = flat + 1e-6 * jnp.array([[0.0], [1.0], [-1.0]]) * direction
        slope_and_change = lambda flat: jax.jvp(jax.grad(density), (flat,), (direction,))
        slopes, changes = jax.vmap(slope_and_change)(points)
        return changes[0], (slopes[1] - slopes[2]) / 2e-6

    derivative, difference = derivative_and_difference(make(seed=12), np.array([0.4, -0.3, 0.8]))
    chex.assert_trees_all_close(derivative, difference, atol=1e-4, rtol=1e-4)


@pytest.mark.slow("follows from the masks, which are tested below")
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(("hidden_sizes", "context_size"), [((9,), 0), ((3, 8), 2)])
def test_the_jacobian_of_an_autoregressive_layer_is_triangular(x64, size, hidden_sizes, context_size):
    flow = autoregressive(size, hidden_sizes, context_size, seed=3)

    @jax.jit
    def jacobians(flow, z):
        of = lambda way: jax.jacfwd(lambda z: way(z)[0])(z)
        return of(flow.forward), of(flow.inverse), flow._scale_and_shift(z)[0]

    forward, inverse, log_scale = jacobians(flow, np.linspace(-1.0, 1.0, size))
    for jacobian in (forward, inverse):
        chex.assert_trees_all_equal(np.triu(jacobian, 1), np.zeros((size, size)))
    chex.assert_trees_all_close(np.diag(forward), np.exp(log_scale), rtol=1e-12)
    if hidden_sizes == (9,):
        assert np.all(np.abs(np.asarray(forward)[np.tril_indices(size, -1)]) > 0)


@pytest.mark.parametrize("has_context", [True, False])
def test_masks_let_every_output_see_all_axes_before_it(has_context):
    first, second, last = autoregressive_masks(4, (12, 9), has_context)
    paths = first.astype(int) @ second.astype(int) @ last.astype(int)
    chex.assert_trees_all_equal(paths > 0, np.tile(np.arange(4)[:, None] < np.arange(4), 2))
    # With a context the first output has hidden units too, which see nothing else.
    assert np.any(last[:, 0]) == has_context


STARTS = {
    "iaf": inverse_autoregressive_flow,
    "iaf with context": partial(inverse_autoregressive_flow, context_size=2),
    "maf": masked_autoregressive_flow,
    "coupling": coupling_flow,
}


@pytest.mark.parametrize(
    ("name", "num_layers", "size"),
    [
        ("coupling", 1, 3),
        pytest.param("maf", 1, 3, marks=pytest.mark.slow("the same layers as iaf")),
        pytest.param(
            "iaf with context", 2, 3, marks=pytest.mark.slow("as the posterior of that flow, in test_posteriors")
        ),
        *[
            pytest.param(name, num_layers, size, marks=pytest.mark.slow("another length or size"))
            for name in STARTS
            for num_layers, size in [(1, 3), (2, 2), (3, 3), (2, 1)]
            if (name, num_layers) not in [("maf", 1), ("coupling", 1)] and (name, size) != ("coupling", 1)
        ],
    ],
)
def test_flows_start_as_the_identity(name, num_layers, size):
    z = np.linspace(-2.0, 3.0, 4 * size, dtype=np.float32).reshape(4, size)

    @jax.jit
    def both_ways(key, z):
        flow = STARTS[name](key, size, num_layers=num_layers, hidden_size=4)
        flow = with_context(flow, jnp.ones((4, 2))) if name == "iaf with context" else flow
        return flow.forward(z), flow.inverse(z)

    chex.assert_trees_all_equal(both_ways(jax.random.key(0), z), ((z, np.zeros(4, np.float32)),) * 2)


@jax.jit
def outputs_and_slopes(flow, z):
    """All outputs of both directions, and the slopes of a sum over them: finite where every slope is."""

    def weighted_sum(flow, z):
        outputs = (*flow.forward(z), *flow.inverse(z))
        return sum(weight * jnp.sum(each) for weight, each in zip((1.0, 0.7, -0.4, 1.3), outputs, strict=True)), outputs

    return jax.value_and_grad(weighted_sum, argnums=(0, 1), has_aux=True)(flow, z)


@pytest.mark.parametrize(
    "name",
    slow_but(
        {"planar"},
        [name for name in FLOWS if "singular" not in name],
        "bounded by the functions that bound a planar flow",
    ),
)
def test_huge_parameters_are_finite_in_single_precision(name):
    single, rng = FLOWS[name](), np.random.default_rng(5)
    z = rng.normal(size=(8, size_of(name))).astype(np.float32)
    for scale in (1e4, 1e4, 1e2, 1e-10):
        flow = jax.tree.map(lambda leaf, scale=scale: (scale * rng.normal(size=leaf.shape)).astype(np.float32), single)
        chex.assert_tree_all_finite(outputs_and_slopes(flow, z))


RADIAL = pytest.mark.slow("compiles the slopes of another flow")


@pytest.mark.parametrize(
    ("flow", "point"),
    [
        (Planar(np.zeros(3, np.float32), np.ones(3, np.float32), np.float32(0.7)), 1.0),
        (Planar(np.full(3, 1e-30, np.float32), np.ones(3, np.float32), np.float32(0.7)), 1.0),
        # w.z + b = 0 exactly, at a slope that float32 cannot tell from 0.
        (Planar(np.ones(3, np.float32), np.full(3, -1e4, np.float32), np.float32(0.0)), 0.0),
        pytest.param(Radial(np.ones(3, np.float32), np.float32(0.3), np.float32(2.0)), 1.0, marks=RADIAL),
        pytest.param(Radial(np.ones(3, np.float32), np.float32(-1e4), np.float32(-1e4)), 1.0, marks=RADIAL),
    ],
)
def test_singular_points_have_finite_gradients(flow, point):
    # As many points as above, so that nothing is compiled anew.
    chex.assert_tree_all_finite(outputs_and_slopes(flow, np.full((8, 3), point, np.float32)))


def test_planar_without_a_weight_is_a_shift():
    flow = Planar(np.zeros(2), np.array([1.0, 2.0]), np.array(0.5))
    y, log_det = jax.jit(Planar.forward)(flow, np.zeros((4, 2)))
    chex.assert_trees_all_close(y, np.tile(np.array([1.0, 2.0], np.float32) * np.tanh(0.5), (4, 1)), rtol=1e-6)
    chex.assert_trees_all_close(log_det, np.zeros(4), atol=1e-6)


def test_half_precision_parameters_give_single_precision_densities():
    half = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16)
    move = lambda flow, z: (flow.forward(z), flow.inverse(z))
    for each in jax.tree.leaves(jax.eval_shape(move, jax.tree.map(half, mixed()), half(np.ones((4, 3))))):
        assert each.dtype == jnp.float32


ANOTHER_RANK = pytest.mark.slow("another kind or number of batch axes")


@pytest.mark.parametrize(
    ("make", "rank"),
    [
        (radial, 1),
        pytest.param(coupling, 1, marks=ANOTHER_RANK),
        pytest.param(iaf, 1, marks=ANOTHER_RANK),
        pytest.param(planar, 0, marks=ANOTHER_RANK),
        pytest.param(planar, 1, marks=ANOTHER_RANK),
        pytest.param(planar, 2, marks=ANOTHER_RANK),
        pytest.param(maf, 0, marks=ANOTHER_RANK),
    ],
)
def test_a_mapped_constructor_is_the_batched_one(make, rank):
    """Also where the flow has fewer batch axes than the base, and the batch is as long as an inner axis."""
    loc = np.random.default_rng(1).normal(size=(3, 3, 3, 3)).astype(np.float32)
    flows = make(batch=(3,))
    value = np.full((3, 3, 3), 0.3, np.float32)

    def construct(loc, shared):
        flow = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (3,) * rank + leaf.shape), shared)
        return Transformed(Normal(loc, 0.5), flow)

    mapped = lambda loc, flows: jax.vmap(construct)(loc, flows)

    @jax.jit
    def mapped_and_apart(loc, flows, value):
        apart = jax.lax.map(lambda pair: construct(*pair).log_prob(value), (loc, flows))
        return mapped(loc, flows).log_prob(value), apart

    chex.assert_trees_all_close(*mapped_and_apart(loc, flows, value), rtol=1e-3, atol=1e-3)
    draws = jax.eval_shape(lambda: mapped(loc, flows).sample(jax.random.key(3), (2,)))
    chex.assert_shape(draws, (2, 3, 3, 3, 3))


@pytest.mark.slow("trains a flow, whose gradients are tested above")
def test_a_flow_is_its_parameters():
    """It is fitted like any other parameters: a bimodal density that no Normal has."""
    rng = np.random.default_rng(0)
    sign = np.where(rng.random((256, 1)) < 0.5, 1.5, -1.5)
    x = np.concatenate([sign, -sign], axis=-1) + 0.5 * rng.normal(size=(256, 2))
    loss = lambda params, x: -jnp.mean(Transformed(standard_normal.expand((2,)), params["prior"]).log_prob(x))
    optimizer = optax.adam(1e-2)

    @jax.jit
    def fit(key, x):
        params = {"prior": coupling_flow(key, 2, num_layers=2, hidden_size=16)}

        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params, x)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, optimizer.init(params)), length=150)[1]

    values = fit(jax.random.key(0), x.astype(np.float32))
    best_normal = -scipy.stats.multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(x).mean()
    assert values[-1] < best_normal - 0.1 < values[0]


def test_transformed_says_what_it_is():
    q = Transformed(standard_normal.expand((2,)), Reverse())
    assert q.event_ndims == 1
    assert q.has_rsample
    assert not hasattr(q, "mean")
    chex.assert_trees_all_equal(q.support(np.array([1.0, np.nan])), np.array([True, False]))
    with pytest.raises(TypeError, match="monte_carlo_kl"):
        kl_divergence(q, standard_normal)
    with pytest.raises(ValueError, match=r"Transformed.log_prob: value must be finite; got NaN"):
        q.log_prob(np.array([1.0, np.nan]))


class Stuck:
    """A base whose draws have no gradient."""

    event_ndims = 1
    has_rsample = False

    def sample(self, key, sample_shape=()):
        return jax.random.normal(key, (*sample_shape, 2))

    def log_prob(self, value):
        return jnp.sum(value, axis=-1)


def test_draws_are_differentiable_where_the_bases_are():
    assert not Transformed(Stuck(), Reverse()).has_rsample


def net(*sizes):
    """Parameters of a net."""
    layers = enumerate(pairwise(sizes))
    parts = [{f"weight_{n}": np.ones(fans), f"bias_{n}": np.ones(fans[1])} for n, fans in layers]
    return {name: array for part in parts for name, array in part.items()}


def without_context(**options):
    return fill(lambda key: inverse_autoregressive_flow(key, 2, hidden_size=4, context_size=3), 1.0, **options)


STANDARD = lambda: standard_normal.expand((2,))


@pytest.mark.parametrize(
    ("build", "error", "found"),
    [
        (lambda: Planar(np.ones(3), np.ones(2), 0.0), ValueError, r"vectors of one length; got weight \(3,\), direction \(2,\)"),
        (lambda: Planar(1.0, 1.0, 0.0), ValueError, "vectors of one length"),
        (lambda: Planar(np.ones((4, 3)), np.ones(3), np.ones(5)), ValueError, r"must broadcast; got .*bias \(5,\)"),
        (lambda: Planar([1.0], np.ones(1), 0.0), TypeError, "Planar: weight must be an array; got list"),
        (lambda: Radial(1.0, 0.0, 0.0), ValueError, r"center must be vectors.*center \(\)"),
        (lambda: planar().forward(np.ones(2)), ValueError, r"Planar.forward: z must have event shape \(3,\)"),
        (lambda: radial().inverse(np.ones(2)), ValueError, r"Radial.inverse: y must have event shape \(3,\)"),
        (lambda: affine().inverse(np.ones(2)), ValueError, r"event shape \(3,\)"),
        (lambda: coupling().forward(np.ones(4)), ValueError, r"AffineCoupling.forward: z.*\(3,\)"),
        (lambda: autoregressive().inverse(np.ones(4)), ValueError, r"Autoregressive.inverse: y.*\(3,\)"),
        (lambda: Permutation((0, 1)).forward(np.ones(3)), ValueError, r"event shape \(2,\)"),
        (lambda: Permutation((0, 0)), ValueError, r"each of 0, ..., D - 1 once; got \(0, 0\)"),
        (lambda: Permutation(), ValueError, "once"),
        (lambda: Chain(()), ValueError, "at least one"),
        (lambda: Chain([Reverse()]), TypeError, "must be a tuple; got list"),
        (lambda: Chain((Reverse(), 3)), TypeError, r"Chain: bijectors\[1\] must be a bijector.*got int"),
        (lambda: Inverse(None), TypeError, "Inverse: bijector must be a bijector"),
        (lambda: coupling_flow(jax.random.key(0), 1), ValueError, "at least 2; got 1"),
        (lambda: coupling_flow(jax.random.key(0), 2, num_layers=0), ValueError, "num_layers must be at least 1"),
        (lambda: AffineCoupling(net(2, 4, 6), bound=-1.0), ValueError, "bound must be positive"),
        (lambda: AffineCoupling([net(2, 4, 6)]), TypeError, "params must be a dict of arrays; got list"),
        (lambda: AffineCoupling({"weight": np.ones((2, 2))}), ValueError, "weight_0, bias_0.*got.*weight"),
        (lambda: AffineCoupling(net(2, 4, 6) | {"bias_0": np.ones(3)}), ValueError, "must fit together"),
        (lambda: AffineCoupling(net(2, 4, 5)), ValueError, "must fit together"),
        (lambda: Autoregressive(net(2, 4, 6)), ValueError, "2 D = 4 outputs; got 6"),
        (lambda: Autoregressive.init(jax.random.key(0), 2, hidden_sizes=()), ValueError, "number of hidden layers"),
        (lambda: masked_autoregressive_flow(0, 2), TypeError, "masked_autoregressive_flow: key must be a typed"),
        (lambda: without_context().forward(np.ones(2)), ValueError, "needs a context of size 3: with_context"),
        (lambda: with_context(without_context(), np.ones((5, 2))), ValueError, r"must have 3 as its last axis; got shape \(5, 2\)"),
        (lambda: with_context(couplings(), np.ones(3)), ValueError, "no layer of the flow takes a context"),
        (lambda: Autoregressive(net(2, 4, 4), np.ones(3)), ValueError, "no weights for a context"),
        (lambda: Transformed(3, Reverse()), TypeError, "base must be a distribution.*got int"),
        (lambda: Transformed(STANDARD(), 3), TypeError, "bijector must be a bijector.*got int"),
        (lambda: Transformed(Normal(np.ones((3, 2)), 1.0, 2), Reverse()), ValueError, "1 event axis; got 2"),
        (lambda: Transformed(numpyro.Normal(np.ones(2), 1.0), Reverse()), ValueError, r"got 0 \(numpyro: .to_event\(1\)\)"),
        (lambda: Transformed(numpyro.Bernoulli(logits=np.ones(2)).to_event(1), Reverse()), ValueError, "discrete"),
        (lambda: Transformed(PowerSpherical(np.ones(2), 1.0), Reverse()), ValueError, "PowerSpherical, which has no density"),
        (lambda: Transformed(RelaxedCategorical(np.ones(2), 1.0, 1), Reverse()), ValueError, "RelaxedCategorical, which"),
        (lambda: Transformed(numpyro.Dirichlet(np.ones(2)), Reverse()), ValueError, "Dirichlet, which has no density"),
        (lambda: Transformed(standard_normal, Reverse()), ValueError, "standard_normal.expand"),
        (lambda: Transformed(STANDARD(), affine()), ValueError, r"event shape \(3,\)"),
        (lambda: Transformed(STANDARD(), Planar(np.ones((4, 2)), np.ones(2), 0.0)), ValueError, r"shape \(2,\) .*got .*\(4, 2\).*batch axes"),
        (lambda: Transformed(STANDARD(), Reverse()).sample(0), TypeError, "Transformed.sample: key"),
        (lambda: Transformed(STANDARD(), Reverse()).sample(jax.random.key(0), 3), TypeError, "must be a tuple"),
    ],
)  # fmt: skip
def test_bad_input_is_named(build, error, found):
    with pytest.raises(error, match=found):
        build()
