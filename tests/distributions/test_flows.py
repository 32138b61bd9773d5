"""Flows: log-determinants, inverses and densities against Jacobians, quadrature and draws."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import optax
import pytest
import scipy.stats
from jax.test_util import check_grads

from vaejax import MultivariateNormal, Normal, kl_divergence, standard_normal
from vaejax.distributions.autoregressive import (
    Autoregressive,
    autoregressive_masks,
    inverse_autoregressive_flow,
    masked_autoregressive_flow,
    with_context,
)
from vaejax.distributions.bijectors import LOOP_FROM, Chain, ElementwiseAffine, Inverse, Permutation, Reverse
from vaejax.distributions.coupling import AffineCoupling, coupling_flow, init_net
from vaejax.distributions.planar_radial import Planar, Radial, _planar_root
from vaejax.distributions.transformed import Transformed


def randomize(flow, key, scale=0.7):
    """The flow with Normal numbers in the place of its parameters."""
    leaves, structure = jax.tree.flatten(flow)
    keys = jax.random.split(key, len(leaves))
    drawn = [scale * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def planar(key, size=3, scale=1.5):
    return randomize(Planar(jnp.zeros(size), jnp.zeros(size), jnp.zeros(())), key, scale)


def squeezing(key):
    """A planar flow with 1 + w.u_hat = softplus(-12)."""
    flow = planar(key)
    return Planar(flow.weight, -12.0 * flow.weight / jnp.sum(flow.weight**2), flow.bias)


def radial(key, size=3, scale=1.0):
    return randomize(Radial(jnp.zeros(size), jnp.zeros(()), jnp.zeros(())), key, scale)


def contracting(key):
    return Radial(0.1 * radial(key).center, 2.0, -9.0)


def affine(key, size=3):
    return randomize(ElementwiseAffine(jnp.zeros(size), jnp.zeros(size)), key)


def coupling(key, size=3, swap=False):
    init_key, key = jax.random.split(key)
    return randomize(AffineCoupling.init(init_key, size, hidden_size=5, swap=swap), key)


def autoregressive(key, size=3, hidden_sizes=(7,), context_size=0, scale=0.7):
    init_key, key, context_key = jax.random.split(key, 3)
    flow = Autoregressive.init(init_key, size, hidden_sizes=hidden_sizes, context_size=context_size)
    flow = randomize(flow, key, scale)
    return with_context(flow, jax.random.normal(context_key, (context_size,))) if context_size else flow


def iaf(key, size=3, num_layers=2, scale=0.5):
    init_key, key, context_key = jax.random.split(key, 3)
    flow = inverse_autoregressive_flow(init_key, size, num_layers=num_layers, hidden_size=6, context_size=2)
    return with_context(randomize(flow, key, scale), jax.random.normal(context_key, (2,)))


def maf(key, size=3, num_layers=2):
    init_key, key = jax.random.split(key)
    return randomize(masked_autoregressive_flow(init_key, size, num_layers=num_layers, hidden_size=6), key, 0.5)


def couplings(key, size=3, scale=0.5):
    init_key, key = jax.random.split(key)
    return randomize(coupling_flow(init_key, size, num_layers=3, hidden_size=5), key, scale)


def couplings_with_context(key, size=3):
    init_key, key, context_key = jax.random.split(key, 3)
    flow = coupling_flow(init_key, size, num_layers=2, hidden_size=5, context_size=2)
    return with_context(randomize(flow, key, 0.5), jax.random.normal(context_key, (2,)))


def mixed(key):
    planar_key, radial_key, coupling_key = jax.random.split(key, 3)
    parts = (planar(planar_key), Permutation((1, 2, 0)), Inverse(radial(radial_key)), coupling(coupling_key, swap=True))
    return Chain(parts)


def long_chain(key):
    """Alike and many enough to be a loop."""
    return Chain(tuple(planar(each, scale=0.7) for each in jax.random.split(key, LOOP_FROM)))


FLOWS = {
    "planar": planar,
    "planar, nearly singular": squeezing,
    "radial": radial,
    "radial, nearly singular": contracting,
    "elementwise affine": affine,
    "coupling": coupling,
    "coupling, swapped": lambda key: coupling(key, swap=True),
    "coupling, size 2": lambda key: coupling(key, size=2),
    "couplings with context": couplings_with_context,
    "autoregressive": autoregressive,
    "autoregressive, two layers and context": lambda key: autoregressive(key, 4, (5, 6), 2),
    "autoregressive, size 1": lambda key: autoregressive(key, 1),
    "inverse planar": lambda key: Inverse(planar(key)),
    "iaf": iaf,
    "maf": maf,
    "mixed": mixed,
    "long chain": long_chain,
}
# Variants of the others, which take a minute to compile.
VARIANTS = {
    "coupling, swapped", "coupling, size 2", "autoregressive, size 1", "autoregressive", "inverse planar",
    "radial, nearly singular", "couplings with context",
}  # fmt: skip
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in FLOWS]


def size_of(name):
    return {"coupling, size 2": 2, "autoregressive, size 1": 1, "autoregressive, two layers and context": 4}.get(
        name, 3
    )


def both_ways(flow, z):
    y, log_det = flow.forward(z)
    back, log_det_of_inverse = flow.inverse(y)
    there, log_det_elsewhere = flow.inverse(z)
    return {
        "both": ((y, log_det), (there, log_det_elsewhere)), "log_det": log_det, "back": back, "log_det of inverse": log_det_of_inverse,
        "forward of inverse": flow.forward(there)[0], "log_det elsewhere": (log_det_elsewhere, flow.forward(there)[1]),
    }  # fmt: skip


@cache
def figures(name):
    """A batch of four random flows at five samples each, as one batched object and mapped one by one."""
    with jax.enable_x64(True):
        flow_key, z_key = jax.random.split(jax.random.key(20260))
        flows = jax.jit(jax.vmap(FLOWS[name]))(jax.random.split(flow_key, 4))
        size = size_of(name)
        z = jax.random.normal(z_key, (5, 4, size))
        jacobian = lambda flow, z: jnp.linalg.slogdet(jax.jacfwd(lambda z: flow.forward(z)[0])(z))[1]
        each = lambda function: jax.jit(jax.vmap(jax.vmap(function), in_axes=(None, 0)))
        return {
            "z": z,
            "slogdet": each(jacobian)(flows, z),
            "mapped": each(lambda flow, z: (flow.forward(z), flow.inverse(z)))(flows, z),
            "batched": jax.jit(both_ways)(flows, z),
        }


@pytest.mark.parametrize("name", NAMES)
def test_log_det_is_that_of_the_jacobian(x64, name):
    got = figures(name)
    chex.assert_shape(got["batched"]["log_det"], (5, 4))
    chex.assert_trees_all_close(got["batched"]["log_det"], got["slogdet"], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_inverse_undoes_forward_and_has_its_log_det(x64, name):
    got = figures(name)
    z, batched = got["z"], got["batched"]
    # A map that squeezes by 1e-5 loses as many digits on the way back.
    atol = 1e-7 if "singular" in name else 1e-10
    chex.assert_trees_all_close(batched["back"], z, atol=atol)
    chex.assert_trees_all_close(batched["forward of inverse"], z, atol=1e-10)
    chex.assert_trees_all_close(batched["log_det of inverse"], batched["log_det"], atol=atol)
    chex.assert_trees_all_close(*batched["log_det elsewhere"], atol=1e-6 if "singular" in name else 1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_mapped_flow_is_the_batched_one(x64, name):
    got = figures(name)
    chex.assert_trees_all_close(got["batched"]["both"], got["mapped"], atol=1e-7 if "singular" in name else 1e-10)


class Doubling:
    """No pytree, so that it has no parameters to be stacked."""

    forward = staticmethod(lambda z: (2 * z, 3 * jnp.log(2.0)))
    inverse = staticmethod(lambda y: (y / 2, 3 * jnp.log(2.0)))


WIDER = {"alike": [], "the first wider": [0], "the rest wider": range(1, LOOP_FROM + 1), "another wider": [5]}


@pytest.mark.parametrize("wide", [*WIDER, "of one's own"])
def test_a_long_chain_is_its_bijectors_one_by_one(x64, key, wide):
    flows = [planar(each) for each in jax.random.split(key, LOOP_FROM + 1)]
    for number in WIDER.get(wide, ()):
        flows[number] = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), flows[number])
    if wide == "of one's own":
        flows = [Doubling()] * LOOP_FROM
    z = jnp.array([0.3, -0.7, 1.1])
    y, total = z, 0.0
    for flow in flows:
        y, log_det = flow.forward(y)
        total = total + log_det
    chain = Chain(tuple(flows))
    chex.assert_trees_all_close(chain.forward(z), (y, total), rtol=1e-12)
    # A batch of points, where the chain has a batch of parameters: the way back meets them in another order.
    chex.assert_trees_all_close(chain.inverse(y), (jnp.broadcast_to(z, y.shape), total), rtol=1e-9)
    single = z.astype(jnp.float32)
    assert chain.forward(single)[0].dtype == flows[0].forward(single)[0].dtype


def test_what_there_is_to_compile_does_not_grow_with_a_chain():
    def program(length, move):
        flow = Chain((Planar(jnp.ones(2), jnp.ones(2), jnp.ones(())),) * length)
        return str(jax.make_jaxpr(move)(flow, jnp.ones(2)))

    for move in (lambda flow, z: flow.forward(z), lambda flow, z: flow.inverse(z)):
        assert program(LOOP_FROM, move).count("tanh") == program(4 * LOOP_FROM, move).count("tanh")


def test_shared_weights_take_any_batch(x64, key):
    context_key, z_key = jax.random.split(key)
    context, z = jax.random.normal(context_key, (4, 2)), jax.random.normal(z_key, (5, 4, 3))
    flow = iaf(jax.random.key(1))
    apply = jax.jit(lambda context, z: with_context(flow, context).forward(z))
    y, log_det = apply(context, z)
    apart = [apply(context[i], z[:, i]) for i in range(4)]
    chex.assert_trees_all_close(y, jnp.stack([values for values, _ in apart], axis=1), rtol=1e-12)
    chex.assert_trees_all_close(log_det, jnp.stack([each for _, each in apart], axis=1), rtol=1e-12)


def test_planar_is_the_formula_of_the_paper(x64, key):
    flow, z = planar(key), jnp.array([0.3, -0.7, 1.1])
    w, u, b = (np.asarray(each) for each in (flow.weight, flow.direction, flow.bias))
    u_hat = u + (-1 + np.log1p(np.exp(w @ u)) - w @ u) * w / (w @ w)
    chex.assert_trees_all_close(flow.forward(z)[0], z + u_hat * np.tanh(w @ z + b), rtol=1e-12)
    # Where w.u < -1 the unconstrained map would fold space.
    folding = Planar(w, -3.0 * w, b)
    points = jnp.linspace(-5.0, 5.0, 1001)[:, None] * w
    assert jnp.all(jnp.diff(folding.forward(points)[0] @ w) > 0)


def test_radial_is_the_formula_of_the_paper(x64, key):
    flow, z = radial(key), jnp.array([0.3, -0.7, 1.1])
    alpha = jnp.exp(flow.log_alpha)
    beta = -alpha + jnp.log1p(jnp.exp(flow.raw_beta))
    radius = jnp.linalg.norm(z - flow.center)
    chex.assert_trees_all_close(flow.forward(z)[0], z + beta / (alpha + radius) * (z - flow.center), rtol=1e-12)
    same = Radial(flow.center, 0.0, jnp.log(jnp.expm1(1.0)))
    chex.assert_trees_all_close(same.forward(z), (z, 0.0), atol=1e-12)


@pytest.mark.parametrize("double", [True, False])
def test_the_root_of_a_planar_flow_is_exact_at_every_slope(double):
    with jax.enable_x64(double):
        dtype = jnp.float64 if double else jnp.float32
        slopes = np.concatenate([10.0 ** np.arange(-30, 10, 0.5), 1 - 10.0 ** np.arange(-16, -0.1), [1.0]])
        targets = 10.0 ** np.arange(-18, 10, 0.25)
        slope, target = jnp.meshgrid(jnp.asarray(slopes, dtype), jnp.asarray([*targets, 0.0, *-targets], dtype))
        t, c = _planar_root(slope, target), slope - 1
        residual = jnp.abs(t + c * jnp.tanh(t) - target)
        # What the rounding of each term allows.
        bound = 4 * jnp.finfo(dtype).eps * (jnp.abs(t) + jnp.abs(c * jnp.tanh(t)) + jnp.abs(target))
        assert jnp.all(residual <= bound)


DENSITIES = {
    "planar 1": (lambda key: planar(key, 1), 1, 40.0),
    "radial 1": (lambda key: radial(key, 1), 1, 40.0),
    "autoregressive 1": (lambda key: autoregressive(key, 1, scale=0.4), 1, 40.0),
    "maf 1": (lambda key: maf(key, 1), 1, 40.0),
    "planar 2": (lambda key: planar(key, 2), 2, 12.0),
    "radial 2": (lambda key: Radial(jnp.array([0.3, -0.2]), 0.2, 1.5), 2, 12.0),
    "coupling 2": (lambda key: couplings(key, 2, 0.2), 2, 12.0),
    "iaf 2": (lambda key: iaf(key, 2, scale=0.3), 2, 12.0),
    "maf 2": (lambda key: maf(key, 2), 2, 12.0),
}


def on_a_grid(name, count):
    """The distribution of a random flow, grid points `[count^D, D]`, the density there and the cell's volume."""
    make, size, edge = DENSITIES[name]
    q = Transformed(standard_normal.expand((size,)), make(jax.random.key(7)))
    axis = jnp.linspace(-edge, edge, count)
    points = jnp.stack(jnp.meshgrid(*[axis] * size, indexing="ij"), axis=-1).reshape(-1, size)
    return q, points, jnp.exp(jax.jit(Transformed.log_prob)(q, points)), (2 * edge / (count - 1)) ** size


@pytest.mark.parametrize("name", DENSITIES)
def test_integrates_to_one(x64, name):
    _, _, density, volume = on_a_grid(name, 200_001 if name.endswith("1") else 501)
    # The density of a radial flow has a kink at its center.
    atol = 1e-4 if name.startswith("radial 2") else 1e-6
    chex.assert_trees_all_close(jnp.sum(density) * volume, 1.0, atol=atol)


@pytest.mark.parametrize("name", [name for name in DENSITIES if name.endswith("1")])
def test_draws_follow_the_density(x64, name, key):
    """Kolmogorov-Smirnov: a correct sampler exceeds the bound once in a million times."""
    q, points, density, volume = on_a_grid(name, 20_001)
    count = 20_000
    cumulative = np.cumsum(density) * volume - np.asarray(density) * volume / 2
    draws = np.asarray(q.sample(key, (count,)))[:, 0]
    distance = scipy.stats.kstest(draws, lambda y: np.interp(y, points[:, 0], cumulative)).statistic
    assert distance * np.sqrt(count) < 2.7


@pytest.mark.parametrize("name", [name for name in DENSITIES if name.endswith("2")])
def test_moments_of_draws_are_those_of_the_density(x64, name, key):
    q, points, density, volume = on_a_grid(name, 301)
    moments = lambda y: jnp.stack([y[..., 0], y[..., 1], y[..., 0] * y[..., 1], jnp.cos(y[..., 0]), y[..., 1] ** 2])
    expected = jnp.sum(moments(points) * density, axis=-1) * volume
    drawn = moments(jax.jit(lambda q: q.sample(key, (20_000,)))(q))
    deviation = (jnp.mean(drawn, axis=-1) - expected) / (jnp.std(drawn, axis=-1) / 20_000**0.5)
    assert jnp.all(jnp.abs(deviation) < 5)


@pytest.mark.parametrize("name", ["planar", "iaf", "mixed"])
def test_the_density_of_a_draw_needs_no_inverse(x64, name):
    flows = jax.jit(jax.vmap(FLOWS[name]))(jax.random.split(jax.random.key(4), 4))
    q = Transformed(Normal(jnp.ones((4, 3)), 0.5), flows)

    @jax.jit
    def draw(q):
        y, log_q = q.sample_and_log_prob(jax.random.key(1), (5,))
        return y, log_q, q.sample(jax.random.key(1), (5,)), q.log_prob(y)

    y, log_q, same, log_q_by_inverse = draw(q)
    chex.assert_shape([y, log_q], [(5, 4, 3), (5, 4)])
    chex.assert_trees_all_close(same, y, rtol=1e-12)
    chex.assert_trees_all_close(log_q_by_inverse, log_q, atol=1e-9)


def test_an_affine_flow_of_a_normal_is_a_normal(x64, key):
    factor = jnp.array([[0.5, 0.0], [0.9, 1.1]])
    scale, shift, y = jnp.array([2.0, 0.3]), jnp.array([1.0, -1.0]), jax.random.normal(key, (6, 2))
    expected = MultivariateNormal(shift, scale[:, None] * factor).log_prob(y)
    flow = ElementwiseAffine(shift, jnp.log(scale))
    for base in (MultivariateNormal(jnp.zeros(2), factor), numpyro.MultivariateNormal(jnp.zeros(2), scale_tril=factor)):
        q = Transformed(base, flow)
        chex.assert_trees_all_close(q.log_prob(y), expected, rtol=1e-12)
        chex.assert_shape(jax.eval_shape(lambda q=q: q.sample_and_log_prob(jax.random.key(1), (7, 5)))[1], (7, 5))
    independent = Transformed(numpyro.Normal(jnp.zeros((6, 2)), 1.0).to_event(1), flow)
    chex.assert_trees_all_close(independent.log_prob(y), Normal(shift, scale).log_prob(y), rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in FLOWS if name not in ("mixed", "iaf", "maf", "inverse planar")])
def test_gradients_through_both_directions_are_differences(x64, name):
    flow = jax.jit(FLOWS[name])(jax.random.key(11))
    y = 0.5 * jnp.arange(1.0, 1.0 + size_of(name))
    base = standard_normal.expand(y.shape)
    weights = jnp.cos(jnp.arange(1.0, 1.0 + len(y)))

    def figure(flow, y):
        z, log_det = flow.inverse(y)
        there, volume = flow.forward(0.3 * y)
        return base.log_prob(z) - log_det + there @ weights + volume

    check_grads(jax.jit(figure), (flow, y), order=1, modes=["rev"], atol=1e-5, rtol=1e-5, eps=1e-6)


@pytest.mark.parametrize("make", [planar, radial, lambda key: autoregressive(key, scale=0.3)])
def test_second_derivatives_through_the_inverse(x64, make):
    q = jax.jit(lambda flow, y: Transformed(standard_normal.expand((3,)), flow).log_prob(y))
    check_grads(
        q, (make(jax.random.key(12)), jnp.array([0.4, -0.3, 0.8])), order=2, modes=["rev"], atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(("hidden_sizes", "context_size"), [((9,), 0), ((3, 8), 2)])
def test_the_jacobian_of_an_autoregressive_layer_is_triangular(x64, size, hidden_sizes, context_size):
    flow = autoregressive(jax.random.key(3), size, hidden_sizes, context_size)
    z = jnp.linspace(-1.0, 1.0, size)
    jacobian_of = lambda way: jax.jit(jax.jacfwd(lambda z: way(z)[0]))(z)
    forward, inverse = jacobian_of(flow.forward), jacobian_of(flow.inverse)
    for jacobian in (forward, inverse):
        chex.assert_trees_all_equal(jnp.triu(jacobian, 1), jnp.zeros((size, size)))
    log_scale, _ = flow._scale_and_shift(z)
    chex.assert_trees_all_close(jnp.diag(forward), jnp.exp(log_scale), rtol=1e-12)
    if hidden_sizes == (9,):
        assert np.all(np.abs(np.asarray(forward)[np.tril_indices(size, -1)]) > 0)


@pytest.mark.parametrize("has_context", [True, False])
def test_masks_let_every_output_see_all_axes_before_it(has_context):
    first, second, last = autoregressive_masks(4, (12, 9), has_context)
    paths = first.astype(int) @ second.astype(int) @ last.astype(int)
    chex.assert_trees_all_equal(paths > 0, np.tile(np.arange(4)[:, None] < np.arange(4), 2))
    # With a context the first output has hidden units too, which see nothing else.
    assert np.any(last[:, 0]) == has_context


def test_every_output_depends_on_the_context(x64):
    flow = autoregressive(jax.random.key(3), 3, (9,), 2)
    jacobian = jax.jacrev(lambda context: with_context(flow, context).forward(jnp.ones(3))[0])(jnp.array([0.3, -0.5]))
    assert jnp.all(jnp.abs(jacobian) > 0)


@pytest.mark.parametrize(("num_layers", "size"), [(1, 3), (2, 2), (3, 3), (2, 1)])
def test_flows_start_as_the_identity(num_layers, size):
    z = jnp.linspace(-2.0, 3.0, 4 * size).reshape(4, size)
    settings = {"num_layers": num_layers, "hidden_size": 4}
    conditional = inverse_autoregressive_flow(jax.random.key(0), size, **settings, context_size=2)
    flows = [
        with_context(conditional, jnp.ones((4, 2))),
        inverse_autoregressive_flow(jax.random.key(0), size, **settings),
        masked_autoregressive_flow(jax.random.key(0), size, **settings),
        *([coupling_flow(jax.random.key(0), size, **settings)] if size > 1 else []),
    ]
    for flow in flows:
        both = jax.jit(lambda flow: (flow.forward(z), flow.inverse(z)))(flow)
        chex.assert_trees_all_equal(both, ((z, jnp.zeros(4)),) * 2)


@pytest.mark.parametrize(
    "make", [lambda k: coupling_flow(k, 3, num_layers=2), lambda k: iaf(k, 3), lambda k: maf(k, 3)]
)
def test_two_layers_change_every_axis(make, key):
    init_key, key = jax.random.split(key)
    flow = randomize(make(init_key), key)
    z = jnp.array([[0.5, -1.0, 2.0], [0.1, 0.2, 0.3]])
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda z: flow.forward(z)[0])))(z)
    assert not jnp.any(jnp.all(jacobian == jnp.eye(3), axis=-1))
    assert jnp.all(jnp.any(jnp.abs(jacobian - jnp.diag(jnp.diag(jacobian[0]))) > 0, axis=-1))


@pytest.mark.parametrize(
    "name",
    ["planar", "radial", "elementwise affine", "coupling", "autoregressive, two layers and context", "iaf", "maf"],
)
def test_huge_parameters_are_finite_in_single_precision(name):
    init_key, z_key, *keys = jax.random.split(jax.random.key(5), 6)
    single = jax.jit(FLOWS[name])(init_key)
    z = jax.random.normal(z_key, (8, size_of(name)))

    def figure(flow, z):
        y, log_det = flow.forward(z)
        back, log_det_of_inverse = flow.inverse(z)
        figures = jnp.stack([jnp.sum(each) for each in (y, log_det, back, log_det_of_inverse)])
        return figures, figures

    gradients = jax.jit(jax.jacrev(figure, argnums=(0, 1), has_aux=True))
    for scale, key in zip((1e4, 1e4, 1e2, 1e-10), keys, strict=True):
        flow = randomize(single, key, scale)
        chex.assert_tree_all_finite(gradients(flow, z))


def figure_of(flow, point):
    y, log_det = flow.forward(point)
    z, log_det_of_inverse = flow.inverse(point)
    return jnp.sum(y) + log_det + jnp.sum(z) + log_det_of_inverse


@pytest.mark.parametrize(
    ("flow", "point"),
    [
        (Planar(np.zeros(3, np.float32), np.ones(3, np.float32), np.float32(0.7)), np.ones(3, np.float32)),
        (Planar(np.full(3, 1e-30, np.float32), np.ones(3, np.float32), np.float32(0.7)), np.ones(3, np.float32)),
        # w.z + b = 0 exactly, at a slope that float32 cannot tell from 0.
        (Planar(np.ones(3, np.float32), np.full(3, -1e4, np.float32), np.float32(0.0)), np.zeros(3, np.float32)),
        (Radial(np.ones(3, np.float32), np.float32(0.3), np.float32(2.0)), np.ones(3, np.float32)),
        (Radial(np.ones(3, np.float32), np.float32(-1e4), np.float32(-1e4)), np.ones(3, np.float32)),
    ],
)
def test_singular_points_have_finite_gradients(flow, point):
    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(figure_of, argnums=(0, 1)))(flow, point))


def test_planar_without_a_weight_is_a_shift():
    y, log_det = Planar(jnp.zeros(2), jnp.array([1.0, 2.0]), jnp.array(0.5)).forward(jnp.zeros((4, 2)))
    chex.assert_trees_all_close(y, jnp.broadcast_to(jnp.array([1.0, 2.0]) * jnp.tanh(0.5), (4, 2)), rtol=1e-6)
    chex.assert_trees_all_close(log_det, jnp.zeros(4), atol=1e-6)


def test_half_precision_parameters_give_single_precision_densities():
    flow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), jax.jit(mixed)(jax.random.key(0)))
    y, log_det = jax.eval_shape(flow.forward, jnp.ones((4, 3), jnp.bfloat16))
    assert y.dtype == log_det.dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "rank"), [("planar", 0), ("planar", 1), ("planar", 2), ("radial", 1), ("iaf", 1), ("maf", 0)]
)
def test_a_mapped_constructor_is_the_batched_one(name, rank):
    """Also where the flow has fewer batch axes than the base, and the batch is as long as an inner axis."""
    loc = jax.random.normal(jax.random.key(1), (3, 3, 3, 3))
    seeds = jnp.arange(3)
    value = 0.3 * jnp.ones((3, 3, 3))

    def make(loc, seed):
        shared = FLOWS[name](jax.random.key(seed))
        flow = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (3,) * rank + leaf.shape), shared)
        return Transformed(Normal(loc, 0.5), flow)

    mapped = jax.jit(jax.vmap(make))(loc, seeds)
    apart = jax.jit(lambda loc, seed: make(loc, seed).log_prob(value))
    expected = jnp.stack([apart(loc[i], seeds[i]) for i in range(3)])
    chex.assert_trees_all_close(jax.jit(Transformed.log_prob)(mapped, value), expected, rtol=1e-3, atol=1e-3)
    chex.assert_shape(jax.eval_shape(lambda: mapped.sample(jax.random.key(3), (2,))), (2, 3, 3, 3, 3))


def test_a_flow_is_its_parameters():
    """It is fitted like any other parameters: a bimodal density that no Normal has."""
    start_key, noise_key, sign_key = jax.random.split(jax.random.key(0), 3)
    sign = jnp.where(jax.random.bernoulli(sign_key, 0.5, (256, 1)), 1.5, -1.5)
    x = jnp.concatenate([sign, -sign], axis=-1) + 0.5 * jax.random.normal(noise_key, (256, 2))
    params = {"prior": coupling_flow(start_key, 2, num_layers=2, hidden_size=16)}
    loss = lambda params: -jnp.mean(Transformed(standard_normal.expand((2,)), params["prior"]).log_prob(x))
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    values = []
    for _ in range(150):
        params, state, value = step(params, state)
        values.append(value)
    normal = MultivariateNormal(jnp.mean(x, axis=0), jnp.linalg.cholesky(jnp.cov(x.T, bias=True)))
    best_normal = -jnp.mean(normal.log_prob(x))
    assert values[-1] < best_normal - 0.1 < values[0]


def test_transformed_says_what_it_is():
    q = Transformed(standard_normal.expand((2,)), Reverse())
    assert q.event_ndims == 1
    assert q.has_rsample
    assert not hasattr(q, "mean")
    chex.assert_trees_all_equal(q.support(jnp.array([1.0, jnp.nan])), jnp.array([True, False]))
    with pytest.raises(TypeError, match="monte_carlo_kl"):
        kl_divergence(q, standard_normal)
    with pytest.raises(ValueError, match=r"Transformed.log_prob: value must be finite; got NaN"):
        q.log_prob(jnp.array([1.0, jnp.nan]))


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


NET = init_net(jax.random.key(0), (2, 4, 6))


def test_couplings_see_the_context_of_each_example(x64):
    """Two couplings move every axis, each by the context of its own example."""
    flow = randomize(
        coupling_flow(jax.random.key(0), 3, num_layers=2, hidden_size=5, context_size=2), jax.random.key(1)
    )
    context, z = jnp.array([[0.3, -0.5], [1.0, 0.2]]), jnp.ones((4, 2, 3))
    y, log_det = with_context(flow, context).forward(z)
    for index in range(2):
        alone = with_context(flow, context[index]).forward(z[:, index])
        chex.assert_trees_all_close((y[:, index], log_det[:, index]), alone, rtol=1e-10)
    slopes = jax.jacrev(lambda c: with_context(flow, c).forward(jnp.ones(3))[0])(context[0])
    assert jnp.all(jnp.abs(slopes) > 1e-4)
    with pytest.raises(ValueError, match="AffineCoupling: the flow needs a context of size 2"):
        flow.forward(jnp.ones(3))


CONTEXT_FLOW = inverse_autoregressive_flow(jax.random.key(0), 2, hidden_size=4, context_size=3)


@pytest.mark.parametrize(
    ("build", "error", "found"),
    [
        (lambda: Planar(jnp.ones(3), jnp.ones(2), 0.0), ValueError, r"vectors of one length; got weight \(3,\), direction \(2,\)"),
        (lambda: Planar(1.0, 1.0, 0.0), ValueError, "vectors of one length"),
        (lambda: Planar(jnp.ones((4, 3)), jnp.ones(3), jnp.ones(5)), ValueError, r"must broadcast; got .*bias \(5,\)"),
        (lambda: Planar([1.0], jnp.ones(1), 0.0), TypeError, "Planar: weight must be an array; got list"),
        (lambda: Radial(1.0, 0.0, 0.0), ValueError, r"center must be vectors.*center \(\)"),
        (lambda: planar(jax.random.key(0)).forward(jnp.ones(2)), ValueError, r"Planar.forward: z must have event shape \(3,\)"),
        (lambda: radial(jax.random.key(0)).inverse(jnp.ones(2)), ValueError, r"Radial.inverse: y must have event shape \(3,\)"),
        (lambda: affine(jax.random.key(0)).inverse(jnp.ones(2)), ValueError, r"event shape \(3,\)"),
        (lambda: coupling(jax.random.key(0)).forward(jnp.ones(4)), ValueError, r"AffineCoupling.forward: z.*\(3,\)"),
        (lambda: autoregressive(jax.random.key(0)).inverse(jnp.ones(4)), ValueError, r"Autoregressive.inverse: y.*\(3,\)"),
        (lambda: Permutation((0, 1)).forward(jnp.ones(3)), ValueError, r"event shape \(2,\)"),
        (lambda: Permutation((0, 0)), ValueError, r"each of 0, ..., D - 1 once; got \(0, 0\)"),
        (lambda: Permutation(), ValueError, "once"),
        (lambda: Chain(()), ValueError, "at least one"),
        (lambda: Chain([Reverse()]), TypeError, "must be a tuple; got list"),
        (lambda: Chain((Reverse(), 3)), TypeError, r"Chain: bijectors\[1\] must be a bijector.*got int"),
        (lambda: Inverse(None), TypeError, "Inverse: bijector must be a bijector"),
        (lambda: coupling_flow(jax.random.key(0), 1), ValueError, "at least 2; got 1"),
        (lambda: coupling_flow(jax.random.key(0), 2, num_layers=0), ValueError, "num_layers must be at least 1"),
        (lambda: AffineCoupling(NET, bound=-1.0), ValueError, "bound must be positive"),
        (lambda: AffineCoupling([NET]), TypeError, "params must be a dict of arrays; got list"),
        (lambda: AffineCoupling({"weight": jnp.ones((2, 2))}), ValueError, "weight_0, bias_0.*got.*weight"),
        (lambda: AffineCoupling(NET | {"bias_0": jnp.ones(3)}), ValueError, "must fit together"),
        (lambda: AffineCoupling(init_net(jax.random.key(0), (2, 4, 5))), ValueError, "must fit together"),
        (lambda: Autoregressive(NET), ValueError, "2 D = 4 outputs; got 6"),
        (lambda: Autoregressive.init(jax.random.key(0), 2, hidden_sizes=()), ValueError, "number of hidden layers"),
        (lambda: masked_autoregressive_flow(0, 2), TypeError, "masked_autoregressive_flow: key must be a typed"),
        (lambda: CONTEXT_FLOW.forward(jnp.ones(2)), ValueError, "needs a context of size 3: with_context"),
        (lambda: with_context(CONTEXT_FLOW, jnp.ones((5, 2))), ValueError, r"must have 3 as its last axis; got shape \(5, 2\)"),
        (lambda: with_context(maf(jax.random.key(0)), jnp.ones(3)), ValueError, "no layer of the flow takes a context"),
        (lambda: Autoregressive(init_net(jax.random.key(0), (2, 4, 4)), jnp.ones(3)), ValueError, "no weights for a context"),
        (lambda: Transformed(3, Reverse()), TypeError, "base must be a distribution.*got int"),
        (lambda: Transformed(standard_normal.expand((2,)), 3), TypeError, "bijector must be a bijector.*got int"),
        (lambda: Transformed(Normal(jnp.ones((3, 2)), 1.0, 2), Reverse()), ValueError, "1 event axis; got 2"),
        (lambda: Transformed(numpyro.Normal(jnp.ones(2), 1.0), Reverse()), ValueError, r"got 0 \(numpyro: .to_event\(1\)\)"),
        (lambda: Transformed(numpyro.Bernoulli(logits=jnp.ones(2)).to_event(1), Reverse()), ValueError, "discrete"),
        (lambda: Transformed(standard_normal, Reverse()), ValueError, "standard_normal.expand"),
        (lambda: Transformed(standard_normal.expand((2,)), affine(jax.random.key(0))), ValueError, r"event shape \(3,\)"),
        (lambda: Transformed(standard_normal.expand((2,)), Planar(jnp.ones((4, 2)), jnp.ones(2), 0.0)), ValueError, r"keep the shape \(2,\) .*got values of shape \(4, 2\).*batch axes"),
        (lambda: Transformed(standard_normal.expand((2,)), Reverse()).sample(0), TypeError, "Transformed.sample: key"),
        (lambda: Transformed(standard_normal.expand((2,)), Reverse()).sample(jax.random.key(0), 3), TypeError, "must be a tuple"),
    ],
)  # fmt: skip
def test_bad_input_is_named(build, error, found):
    with pytest.raises(error, match=found):
        build()
