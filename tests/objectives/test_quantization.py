"""Vector quantization against brute force, gradients by hand, and codebooks that have to learn."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from vaejax import Delta, Normal
from vaejax.objectives.codebook import (
    CodebookState,
    codebook_usage,
    init_codebook,
    init_codebook_from,
    revive_dead_codes,
    update_codebook,
)
from vaejax.objectives.finite_scalar import finite_scalar_codes, finite_scalar_indices, finite_scalar_quantize
from vaejax.objectives.quantization import VectorQuantized, residual_quantize, vector_quantize
from vaejax.objectives.quantization_losses import codebook_loss, commitment_loss

SLOW = pytest.mark.slow("another shape of the same law")
FEW = (2, 3, 4)
LEVELS = [FEW, *(pytest.param(levels, marks=SLOW) for levels in [(2,), (3,), (8, 5, 5), (16, 7)])]


def draws(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


# --- the nearest code


@pytest.mark.parametrize(
    ("batch", "event_ndims"),
    [((2, 3, 4), 3), *(pytest.param(*case, marks=SLOW) for case in [((), 1), ((7,), 1), ((2, 3, 4), 1)])],
)
def test_the_code_is_the_nearest_by_brute_force(x64, batch, event_ndims):
    codebook, z = (each.astype(float) for each in draws(0, (11, 3), (*batch, 3)))

    @jax.jit
    def figures(codebook, z):
        q = vector_quantize(codebook, z, event_ndims)
        return q.indices, q.codes, q.log_prob(q.mean)

    indices, codes, log_prob = figures(codebook, z)
    nearest = np.argmin(np.linalg.norm(z[..., None, :] - codebook, axis=-1), axis=-1)
    np.testing.assert_array_equal(indices, nearest)
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(codes, codebook[nearest])
    chex.assert_shape(log_prob, (*batch, 3)[: len(batch) + 1 - event_ndims])


def test_long_codes_and_equals():
    """Without its own square a long code would be nearest to all; of equally near ones the first is taken."""
    codebook = np.array([[9.0, 9.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]], np.float32)
    z = np.array([[1.0, 1.0], [0.0, 0.0], [-0.1, 2.0], [8.0, 8.0]], np.float32)
    indices = jax.jit(lambda codebook, z: vector_quantize(codebook, z).indices)(codebook, z)
    assert indices.tolist() == [1, 1, 2, 0]


def test_single_precision_is_as_near_as_the_nearest():
    codebooks, z = draws(1, (25, 16, 4), (25, 32, 4))
    indices = jax.jit(jax.vmap(lambda codebook, z: vector_quantize(codebook, z).indices))(codebooks, z)
    distances = np.sum((z.astype(float)[:, :, None] - codebooks.astype(float)[:, None]) ** 2, axis=-1)
    found = np.take_along_axis(distances, np.asarray(indices)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found, np.min(distances, axis=-1), atol=1e-5)


def test_codes_far_from_the_origin_and_from_each_other():
    """Codes around 10, around 100, and around 0 with one at 1000: distances are as exact as their differences."""
    (noise,) = draws(2, (3, 80, 64))
    codes = np.float32([[[10.0]], [[100.0]], [[0.0]]]) + np.float32([[[0.03]], [[0.1]], [[0.03]]]) * noise
    codes[2, 0] += 1000.0
    codebooks, z = codes[:, :64], codes[:, 64:]
    indices = jax.jit(jax.vmap(lambda codebook, z: vector_quantize(codebook, z).indices))(codebooks, z)
    distances = np.sum((z.astype(float)[:, :, None] - codebooks.astype(float)[:, None]) ** 2, axis=-1)
    np.testing.assert_array_equal(indices, np.argmin(distances, axis=-1))


def test_half_precision_is_quantized_in_single():
    codebook, z = draws(1, (300, 2), (64, 2))

    @jax.jit
    def both(codebook, z):
        half, single = (vector_quantize(codebook, each) for each in (z, z.astype(jnp.float32)))
        return half, single, half.sample(jax.random.key(0))

    half, expected, sample = both(codebook, z.astype(jnp.bfloat16))
    assert half.codes.dtype == sample.dtype == np.float32
    chex.assert_trees_all_equal(half, expected)


# --- the posterior

QUANTIZE = {
    "one stage": lambda codebooks, z, event_ndims=1: vector_quantize(codebooks[0], z, event_ndims),
    "three stages": residual_quantize,
}
# One stage and several share all but the search.
ONE_STAGE = ["one stage", pytest.param("three stages", marks=pytest.mark.slow("more stages of the same"))]


@pytest.mark.parametrize("transform", [jax.jit, pytest.param(lambda f: f, marks=pytest.mark.slow("eager"))])
@pytest.mark.parametrize("name", ONE_STAGE)
def test_draws_are_the_codes_exactly(transform, name, key):
    codebooks, z = (jnp.asarray(each) for each in draws(2, (3, 5, 2), (4, 6, 2)))

    def figures(codebooks, z):
        q = QUANTIZE[name](codebooks, 1e4 * z, 2)
        draw = q.sample(key, (3,))
        return draw, q.mean, q.codes, q.log_prob(draw), q.log_prob(draw.at[0, 0, 0, 0].add(1.0)), q.support(draw)

    draw, mean, codes, inside, outside, support = (np.asarray(each) for each in transform(figures)(codebooks, z))
    np.testing.assert_array_equal(draw, np.stack([codes] * 3))
    np.testing.assert_array_equal(mean, codes)
    np.testing.assert_array_equal(inside, np.zeros((3, 4)))
    expected = np.zeros((3, 4))
    expected[0, 0] = -np.inf
    np.testing.assert_array_equal(outside, expected)
    assert np.all(support)


@pytest.mark.parametrize("name", ONE_STAGE)
def test_the_gradient_of_draws_is_that_of_the_inputs_and_none_of_the_codebook(name, key):
    codebooks, z, weight = draws(3, (3, 5, 2), (4, 2), (4, 2))
    ways = (lambda q: q.sample(key, (2,)), lambda q: jnp.stack([q.mean, q.mean]))

    @jax.jit
    def gradients(codebooks, z):
        loss = lambda codebooks, z, draw: jnp.sum(weight * jnp.sin(draw(QUANTIZE[name](codebooks, z))))
        each = [jax.grad(loss, argnums=(0, 1))(codebooks, z, draw) for draw in ways]
        return each, 2 * weight * jnp.cos(QUANTIZE[name](codebooks, z).codes)

    each, expected = gradients(codebooks, z)
    for to_codebooks, to_z in each:
        np.testing.assert_allclose(to_z, expected, rtol=1e-6)
        np.testing.assert_array_equal(to_codebooks, np.zeros_like(codebooks))


def test_is_a_point_mass_for_divergences():
    codebook, z = draws(4, (5, 2), (4, 2))

    @jax.jit
    def figures(codebook, z):
        q, standard = vector_quantize(codebook, z), vaejax.standard_normal
        penalty = lambda z: jnp.sum(vaejax.kl_divergence(vector_quantize(codebook, z), standard))
        divergences = [vaejax.kl_divergence(each, standard) for each in (q, Delta(q.codes))]
        return *divergences, jax.grad(penalty)(z), q.codes

    divergence, expected, gradient, codes = figures(codebook, z)
    np.testing.assert_allclose(divergence, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, codes, rtol=1e-6)


@pytest.mark.parametrize("name", ONE_STAGE)
def test_a_mapped_posterior_is_the_batched_one(name):
    codebooks, z = draws(5, (3, 5, 2), (4, 6, 2))

    @jax.jit
    def both(codebooks, z):
        make = lambda z: QUANTIZE[name](codebooks, z, 2)
        several = jax.vmap(vector_quantize, in_axes=(0, None))(codebooks, z[0])
        apart = [vector_quantize(codebook, z[0]) for codebook in codebooks]
        return [(q, codebook_loss()(None, q, z)) for q in (jax.vmap(make)(z), make(z))], several, apart

    (mapped, whole), several, apart = both(codebooks, z)
    chex.assert_trees_all_close(mapped, whole, rtol=1e-6)
    np.testing.assert_array_equal(several.indices, np.stack([q.indices for q in apart]))
    np.testing.assert_array_equal(several.codes, np.stack([q.codes for q in apart]))


# --- the losses

CODEBOOK = np.array([[0.0, 0.0], [4.0, 4.0], [50.0, 50.0]], np.float32)
# Their codes are 0, 0 and 1, and they miss them by (1, 1), (-1, 0) and (-1, 2).
VECTORS = np.array([[1.0, 1.0], [-1.0, 0.0], [3.0, 6.0]], np.float32)
MISSED = np.array([[1.0, 1.0], [-1.0, 0.0], [-1.0, 2.0]])


def loss_and_gradients(loss, quantize, codebook, z):
    """The losses, and the gradients of their sum to the codebook and to z."""

    @jax.jit
    def figures(*arguments):
        value = lambda codebook, z: loss(None, quantize(codebook, z), z)
        return value(*arguments), *jax.grad(lambda *each: jnp.sum(value(*each)), argnums=(0, 1))(*arguments)

    return figures(codebook, z)


def test_codebook_loss_and_its_gradients_by_hand():
    loss, to_codes, to_z = loss_and_gradients(codebook_loss(commitment=0.25), vector_quantize, CODEBOOK, VECTORS)
    np.testing.assert_array_equal(loss, 1.25 * np.array([2.0, 1.0, 5.0]))
    np.testing.assert_array_equal(to_z, 0.25 * 2 * MISSED)
    # Codes go towards the two inputs and the one that are theirs; the unused one stays.
    np.testing.assert_array_equal(to_codes, -2 * np.array([[0.0, 1.0], [-1.0, 2.0], [0.0, 0.0]]))


def test_commitment_loss_and_its_gradients_by_hand():
    loss, to_codes, to_z = loss_and_gradients(commitment_loss(weight=0.5), vector_quantize, CODEBOOK, VECTORS)
    np.testing.assert_array_equal(loss, 0.5 * np.array([2.0, 1.0, 5.0]))
    np.testing.assert_array_equal(to_z, 0.5 * 2 * MISSED)
    np.testing.assert_array_equal(to_codes, np.zeros_like(CODEBOOK))


def test_losses_are_summed_over_the_event_and_take_traced_weights():
    codebooks, z = draws(6, (2, 5, 2), (4, 3, 3, 2))

    @jax.jit
    def losses(commitment, weight):
        loss = lambda regularizer, ndims: regularizer(None, residual_quantize(jnp.asarray(codebooks), z, ndims), z)
        return loss(codebook_loss(0.3), 1), loss(codebook_loss(commitment), 3), loss(commitment_loss(weight), 3)

    each, whole, commitment = losses(np.float32(0.3), np.float32(1.3))
    chex.assert_shape(each, (4, 3, 3))
    np.testing.assert_allclose(whole, np.sum(each, axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(commitment, whole, rtol=1e-5)


@pytest.mark.slow("its parts have their values and gradients by hand above")
def test_autoencode_with_a_codebook():
    """The method is one expression: its value and its gradients are those written out by hand."""
    codebook, weight, x = draws(7, (5, 2), (4, 2), (8, 4))

    def objective(params, num_samples=None):
        encode = lambda x: vector_quantize(params["codebook"], x @ params["weight"])
        decode = lambda z: Normal(z @ params["weight"].T, 1.0)
        options = {"num_samples": num_samples}
        return vaejax.autoencode(jax.random.key(0), x, encode, decode, codebook_loss(0.25), **options)

    def by_hand(params, fixed):
        z = x @ params["weight"]
        through = fixed["codes"] + z - fixed["z"]
        codes = params["codebook"][fixed["indices"]]
        penalty = jnp.sum((fixed["z"] - codes) ** 2, axis=-1) + 0.25 * jnp.sum((z - fixed["codes"]) ** 2, axis=-1)
        return Normal(through @ params["weight"].T, 1.0).log_prob(x) - penalty

    @jax.jit
    def values_and_gradients(params):
        terms = objective(params)
        fixed = {"z": x @ weight, "codes": terms.posterior.codes, "indices": terms.posterior.indices}
        gradients = [
            jax.grad(lambda params, f=f: jnp.sum(f(params)))(params)
            for f in (lambda params: objective(params).value, lambda params: by_hand(params, fixed))
        ]
        return (terms.value, objective(params, 3).value, by_hand(params, fixed)), gradients

    (value, three, expected), gradients = values_and_gradients({"codebook": codebook, "weight": weight})
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(three, value, rtol=1e-5)
    chex.assert_trees_all_close(*gradients, rtol=1e-4, atol=1e-4)


# --- stages


def test_one_stage_is_vector_quantize():
    codebook, z = draws(8, (5, 3), (6, 3))

    @jax.jit
    def figures(codebook, z):
        def of(quantize):
            loss = lambda codebook: codebook_loss()(None, quantize(codebook), z)
            q = quantize(codebook)
            parts = (q.inputs, q.codes, q.mean, q.stage_inputs, q.indices.reshape(-1))
            return parts, loss(codebook), jax.grad(lambda codebook: jnp.sum(loss(codebook)))(codebook)

        return [of(lambda c: vector_quantize(c, z)), of(lambda c: residual_quantize(c[None], z))]

    chex.assert_trees_all_equal(*figures(codebook, z))


def stages_of(codebooks, z, event_ndims):
    """The posterior, and what each stage was given."""

    @jax.jit
    def quantize(codebooks, z):
        q = residual_quantize(codebooks, z, event_ndims)
        return q, q.stage_inputs

    return quantize(codebooks, z)


def test_each_stage_quantizes_what_is_left(x64):
    codebooks, z = (each.astype(float) for each in draws(9, (4, 6, 3), (5, 2, 3)))
    q, inputs = stages_of(codebooks, z, 2)
    indices, codes = q.indices, q.codes
    chex.assert_shape(indices, (5, 2, 4))
    left = z
    for stage, codebook in enumerate(codebooks):
        np.testing.assert_allclose(inputs[..., stage, :], left, atol=1e-12)
        nearest = np.argmin(np.linalg.norm(left[..., None, :] - codebook, axis=-1), axis=-1)
        np.testing.assert_array_equal(indices[..., stage], nearest)
        left = left - codebook[nearest]
    np.testing.assert_allclose(z - codes, left, atol=1e-12)


@pytest.mark.slow("follows where each stage quantizes what is left")
def test_with_zero_in_the_codebooks_every_stage_is_nearer():
    codebooks, z = draws(10, (6, 8, 2), (64, 2))
    codebooks *= (0.6 ** np.arange(6)[:, None, None]).astype(np.float32)
    codebooks[:, 0] = 0.0
    q, inputs = stages_of(codebooks, z, 1)
    errors = np.linalg.norm(np.concatenate([inputs, (z - q.codes)[:, None]], axis=1), axis=-1)
    assert np.all(np.diff(errors, axis=1) <= 1e-6)
    assert np.mean(errors[:, -1]) < 0.3 * np.mean(errors[:, 1])


def test_the_loss_trains_every_stage_on_what_it_was_given():
    """By hand: 12 is 10 and 2, for which stage 2 has 3; 7.5 is 10 and -2.5, for which it has -1."""
    codebooks = np.array([[[0.0], [10.0]], [[-1.0], [3.0]]], np.float32)
    z = np.array([[12.0], [7.5]], np.float32)
    loss, to_codes, to_z = loss_and_gradients(codebook_loss(0.25), residual_quantize, codebooks, z)
    np.testing.assert_allclose(loss, 1.25 * np.array([4.0 + 1.0, 6.25 + 2.25]), rtol=1e-6)
    # Stage 1 is drawn to 12 and 7.5, stage 2 to what is left, 2 and -2.5, and not stage 1 by stage 2.
    expected = 2 * np.array([[[0.0], [(10 - 12) + (10 - 7.5)]], [[-1 + 2.5], [3 - 2.0]]])
    np.testing.assert_allclose(to_codes, expected, rtol=1e-6)
    np.testing.assert_allclose(to_z, 0.25 * 2 * np.array([[2.0 - 1.0], [-2.5 - 1.5]]), rtol=1e-6)


# --- codebooks of moving averages


def state_of(codebook, counts):
    """A consistent state, in single precision."""
    codebook, counts = np.asarray(codebook, np.float32), np.asarray(counts, np.float32)
    return CodebookState(codebook, counts, counts[:, None] * codebook)


def test_one_update_by_hand():
    inputs = np.array([[1.0, 2.0], [3.0, 0.0], [-1.0, 1.0], [2.0, 2.0]], np.float32)
    indices = np.array([[0, 2], [0, 0]])
    state = state_of([[1.0, 1.0], [5.0, 5.0], [3.0, 1.0]], [2.0, 1.0, 4.0])
    counts = 0.8 * state.counts + 0.2 * np.array([3, 0, 1])
    sums = 0.8 * state.sums + 0.2 * np.array([[2.0, 5.0], [0.0, 0.0], [3.0, 0.0]])
    smooth = (counts + 0.1) / (counts.sum() + 3 * 0.1) * counts.sum()
    expected = CodebookState(*(np.float32(each) for each in (sums / smooth[:, None], counts, sums)))
    update = lambda decay, epsilon: update_codebook(
        state, inputs.reshape(2, 2, 2), indices, decay=decay, epsilon=epsilon
    )
    concrete, traced = jax.jit(lambda *options: (update(0.8, 0.1), update(*options)))(np.float32(0.8), np.float32(0.1))
    chex.assert_trees_all_close(concrete, expected, rtol=1e-6)
    chex.assert_trees_all_close(traced, expected, rtol=1e-6)
    # A state stays what a scan can carry.
    chex.assert_trees_all_equal_dtypes(traced, state)


def test_the_fixed_point_is_the_mean_of_what_is_assigned(x64):
    inputs, indices = draws(11, (40, 2))[0].astype(float), np.arange(40) % 3

    @jax.jit
    def fixed_point(key):
        update = lambda _, state: update_codebook(state, inputs, indices, decay=0.9, epsilon=0.0)
        state = jax.lax.fori_loop(0, 400, update, init_codebook(key, 3, 2))
        return state, update_codebook(state, inputs, indices)

    state, smoothed = fixed_point(jax.random.key(2))
    means = np.stack([np.mean(inputs[code::3], axis=0) for code in range(3)])
    np.testing.assert_allclose(state.codebook, means, atol=1e-12)
    np.testing.assert_allclose(state.counts, [14.0, 13.0, 13.0], atol=1e-12)
    np.testing.assert_allclose(smoothed.codebook, means, atol=1e-5)


def test_a_code_that_is_never_chosen_stays_finite_and_where_it_was():
    inputs, indices = np.ones((4, 2), np.float32), np.zeros(4, int)

    @jax.jit
    def updated(epsilon):
        state = init_codebook(jax.random.key(2), 2, 2)
        update = lambda _, state: update_codebook(state, inputs, indices, decay=0.9, epsilon=epsilon)
        return (
            state,
            update_codebook(state, inputs, indices, epsilon=epsilon),
            jax.lax.fori_loop(0, 3000, update, state),
        )

    for epsilon in (1e-5, 0.0):
        state, once, last = updated(np.float32(epsilon))
        chex.assert_tree_all_finite(last)
        np.testing.assert_allclose(last.codebook[0], np.ones(2), atol=1e-4)
    np.testing.assert_allclose(once.codebook[1], state.codebook[1], rtol=1e-5)


def test_no_gradient_passes_through_the_state():
    inputs, codebook = draws(12, (4, 2), (3, 2))

    def total(inputs, codebook):
        begin = CodebookState(codebook, jnp.ones(3), codebook)
        updated = update_codebook(begin, inputs, np.array([0, 1, 1, 2]))
        revived = revive_dead_codes(jax.random.key(0), updated, inputs, threshold=1.0)
        return sum(jnp.sum(leaf) for leaf in (*updated, *revived, *init_codebook_from(jax.random.key(1), inputs, 2)))

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(inputs, codebook)
    chex.assert_trees_all_equal(gradients, (np.zeros((4, 2)), np.zeros((3, 2))))


@pytest.mark.slow("updates and revivals of one stage, mapped over three")
def test_the_stages_of_a_residual_quantization_have_a_state_each(key):
    codebooks, z = draws(13, (3, 5, 2), (4, 6, 2))

    @jax.jit
    def step(codebooks, key):
        states = CodebookState(codebooks, jnp.ones((3, 5)), codebooks)
        q = residual_quantize(states.codebook, z, 2)
        updated = jax.vmap(update_codebook, in_axes=(0, -2, -1))(states, q.stage_inputs, q.indices)
        revived = jax.vmap(revive_dead_codes, in_axes=(0, 0, -2))(jax.random.split(key, 3), updated, q.stage_inputs)
        stages = [jax.tree.map(lambda leaf, stage=stage: leaf[stage], states) for stage in range(3)]
        apart = [
            update_codebook(state, q.stage_inputs[..., stage, :], q.indices[..., stage])
            for stage, state in enumerate(stages)
        ]
        return updated, jax.tree.map(lambda *leaves: jnp.stack(leaves), *apart), revived

    updated, expected, revived = jax.device_get(step(codebooks, key))
    chex.assert_trees_all_close(updated, expected, rtol=1e-5)
    chex.assert_tree_all_finite(revived)
    assert np.all(revived.counts >= 1.0)


def test_initial_codebooks_are_consistent(key):
    z = np.arange(24, dtype=np.float32).reshape(2, 4, 3)

    @jax.jit
    def codebooks(key):
        first, second, third = jax.random.split(key, 3)
        # Of the last there are more codes than inputs.
        return init_codebook(first, 2000, 3, scale=0.5), *(
            init_codebook_from(key, z, count) for key, count in ((second, 6), (third, 11))
        )

    state, drawn, many = jax.device_get(codebooks(key))
    assert abs(np.std(state.codebook) / 0.5 - 1.0) < 5 / np.sqrt(2 * 6000)
    chosen = np.asarray(drawn.codebook[:, 0]) / 3
    assert set(chosen.tolist()) < set(range(8))
    assert len(set(chosen.tolist())) == 6
    np.testing.assert_array_equal(drawn.codebook, 3 * chosen[:, None] + np.arange(3.0))
    for each in (state, drawn):
        np.testing.assert_allclose(each.sums, np.asarray(each.counts)[:, None] * each.codebook, rtol=1e-6)
    np.testing.assert_allclose(np.sum(drawn.counts), 8.0, rtol=1e-6)
    # Every input is one.
    assert set(np.asarray(many.codebook)[:, 0].tolist()) == set(range(0, 24, 3))


# --- revival


def test_dead_codes_become_different_inputs_and_the_others_stay(key):
    state = state_of(np.arange(10.0).reshape(5, 2), [5.0, 0.4, 0.6, 0.0, 0.49])
    inputs = 100 + np.arange(6, dtype=np.float32).reshape(3, 1, 2)

    @jax.jit
    def revive(key, threshold):
        few = revive_dead_codes(jax.random.clone(key), state, inputs[:2], threshold=threshold)
        return revive_dead_codes(key, state, inputs, threshold=threshold), few

    revived, few = jax.tree.map(np.asarray, revive(key, np.float32(0.5)))
    alive, dead = [0, 2], [1, 3, 4]
    chex.assert_trees_all_equal(*(jax.tree.map(lambda leaf: leaf[alive], each) for each in (revived, state)))
    assert sorted(revived.codebook[dead].tolist()) == inputs[:, 0].tolist()
    np.testing.assert_allclose(revived.sums, revived.counts[:, None] * revived.codebook, rtol=1e-6)
    # With fewer inputs than dead codes all of them are taken.
    assert {tuple(code) for code in few.codebook[dead].tolist()} == {(100.0, 101.0), (102.0, 103.0)}


def test_every_input_is_as_likely_to_be_taken(key):
    state, inputs = state_of(np.zeros((2, 1)), [9.0, 0.0]), np.arange(4, dtype=np.float32)[:, None]
    revive = jax.jit(jax.vmap(lambda key: revive_dead_codes(key, state, inputs).codebook[1, 0]))
    frequencies = np.bincount(np.asarray(revive(jax.random.split(key, 4000)), int), minlength=4)
    assert np.all(np.abs(frequencies - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75))


def test_a_revived_code_survives_the_next_updates():
    """It is chosen by nothing for a while; its old statistics would drag it back, or leave it dead."""
    ones = np.ones((8, 2), np.float32)

    @jax.jit
    @jax.vmap
    def revive_and_wait(threshold):
        codebook, counts = np.array([[0.0, 0.0], [-50.0, 30.0]], np.float32), jnp.stack([8.0, 0.5 * threshold])
        dead = CodebookState(jnp.asarray(codebook), counts, counts[:, None] * codebook)
        state = revive_dead_codes(jax.random.key(0), dead, np.float32([[7.0, 7.0]]), threshold=threshold)

        def unused(state, key):
            state = update_codebook(state, 0.01 * ones, np.zeros(8, int))
            state = revive_dead_codes(key, state, np.float32([[90.0, 90.0]]), threshold=threshold)
            return state, state.codebook[1]

        state, path = jax.lax.scan(unused, state, jax.random.split(jax.random.key(1), 10))
        # And it goes to its inputs once it has them.
        chosen = lambda _, state: update_codebook(state, ones * np.float32([6.0, 8.0]), np.ones(8, int))
        return path, jax.lax.fori_loop(0, 400, chosen, state).codebook[1]

    path, last = revive_and_wait(np.array([0.1, 1.0, 20.0], np.float32))
    np.testing.assert_allclose(path, np.full((3, 10, 2), 7.0), rtol=1e-3)
    np.testing.assert_allclose(last, [[6.0, 8.0]] * 3, atol=0.15)


# Away from the origin, to which the smoothing lets unused codes drift.
CENTERS = 30 + 5 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)


@pytest.mark.slow("trains; revival itself is checked above")
@pytest.mark.parametrize("revive", [True, False])
def test_four_clusters_need_revival_from_a_bad_start(revive):
    """Codes that start around the origin: one takes all inputs, and without revival keeps them."""

    def train(key):
        data_key, start_key, steps_key = jax.random.split(key, 3)
        inputs = CENTERS[np.arange(64) % 4] + 0.3 * jax.random.normal(data_key, (64, 2))

        def step(state, key):
            q = vector_quantize(state.codebook, inputs)
            state = update_codebook(state, q.inputs, q.indices, decay=0.9)
            return revive_dead_codes(key, state, inputs) if revive else state, None

        state, _ = jax.lax.scan(step, init_codebook(start_key, 4, 2), jax.random.split(steps_key, 200))
        q = vector_quantize(state.codebook, inputs)
        return codebook_usage(q.indices, 4), jnp.mean(jnp.sum((q.inputs - q.codes) ** 2, axis=-1))

    usage, error = jax.jit(lambda keys: jax.lax.map(train, keys))(jax.random.split(jax.random.key(0), 20))
    if revive:
        np.testing.assert_array_equal(usage.used_fraction, np.ones(20))
        # Used is not yet well placed: three codes may share one cluster for good, and the fourth have three.
        assert np.all(error < 26.0)
        assert np.min(error) < 0.3
        np.testing.assert_allclose(np.max(usage.perplexity), 4.0, rtol=1e-5)
    else:
        np.testing.assert_array_equal(usage.used_fraction, np.full(20, 0.25))
        assert np.all(error > 40.0)


# --- usage


def test_usage_by_hand():
    codes = {
        "even": np.arange(24).reshape(2, 3, 4) % 8, "single": np.full((5, 2), 3), "skewed": np.array([0, 0, 0, 5], np.uint8),
    }  # fmt: skip

    @jax.jit
    def usages(codes):
        stages = jax.vmap(lambda indices: codebook_usage(indices, 8), in_axes=-1)(np.array([[0, 1], [0, 2]]))
        return {name: codebook_usage(each, 8) for name, each in codes.items()}, stages.perplexity

    found, stages = usages(codes)
    skewed = np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    for name, expected in {"even": (8.0, 1.0), "single": (1.0, 0.125), "skewed": (skewed, 0.25)}.items():
        np.testing.assert_allclose((found[name].perplexity, found[name].used_fraction), expected, rtol=1e-6)
    np.testing.assert_allclose(stages, [1.0, 2.0], rtol=1e-6)


# --- finite scalars


@pytest.mark.parametrize("levels", LEVELS)
def test_each_axis_takes_exactly_its_levels(levels):
    z = (np.linspace(-12.0, 12.0, 4000)[:, None] * np.ones(len(levels))).astype(np.float32)
    quantized = np.asarray(jax.jit(lambda z: finite_scalar_quantize(z, levels))(z))
    for axis, count in enumerate(levels):
        np.testing.assert_allclose(np.unique(quantized[:, axis]), np.linspace(-1.0, 1.0, count), atol=1e-6)
        assert len(np.unique(quantized[:, axis])) == count
    assert np.all(np.diff(quantized, axis=0) >= 0)
    # The level is the nearest one to the bounded value.
    distance = np.abs(quantized - np.tanh(z))
    assert np.all(distance <= 1.0 / (np.array(levels) - 1) + 1e-6)
    np.testing.assert_allclose(quantized, -quantized[::-1], atol=1e-6)


@pytest.mark.parametrize("levels", LEVELS)
def test_indices_count_the_vectors(levels):
    indices = np.arange(np.prod(levels), dtype=np.int32)

    @jax.jit
    def cycle(indices):
        codes = finite_scalar_codes(indices, levels)
        # 0.999 of the outermost levels has a finite inverse, and rounds to them again.
        quantized = finite_scalar_quantize(jnp.arctanh(0.999 * codes), levels)
        return codes, finite_scalar_indices(codes, levels), quantized, finite_scalar_indices(quantized, levels)

    codes, back, quantized, again = cycle(indices)
    assert len(np.unique(np.asarray(codes), axis=0)) == len(indices)
    assert back.dtype == jnp.int32
    np.testing.assert_array_equal(back, indices)
    np.testing.assert_allclose(quantized, codes, atol=1e-6)
    np.testing.assert_array_equal(again, indices)


def test_indices_of_any_shape():
    indices = np.array([[0, 199], [7, 8]], np.uint8)

    @jax.jit
    def cycle(indices):
        codes = finite_scalar_codes(indices, (8, 5, 5))
        return codes, finite_scalar_indices(codes, (8, 5, 5))

    codes, back = cycle(indices)
    chex.assert_shape(codes, (2, 2, 3))
    assert codes.tolist() == [[[-1.0] * 3, [1.0] * 3], [[1.0, -1.0, -1.0], [-1.0, -0.5, -1.0]]]
    chex.assert_trees_all_equal(back, indices.astype(np.int32))


def test_a_codebook_in_half_precision_becomes_one_in_single():
    """In bfloat16 a count of 1000 stops at 256, and a decay of 0.999 is 1."""
    ones = lambda *shape: np.ones(shape, jnp.bfloat16)
    update = jax.jit(lambda state: update_codebook(state, ones(1000, 1), np.zeros(1000, np.int32), decay=0.999))
    state = update(CodebookState(0 * ones(1, 1), ones(1), 0 * ones(1, 1)))
    assert {leaf.dtype for leaf in state} == {np.dtype(np.float32)}
    np.testing.assert_allclose((state.counts[0], state.sums[0, 0]), (0.999 + 1.0, 1.0), rtol=1e-4)


def test_counts_that_the_dtype_of_the_indices_does_not_hold():
    """As many vectors as int32 tells apart, and more codes than uint8 does."""
    last = finite_scalar_codes(np.array([2**31 - 1, 0], np.int32), (2,) * 31)
    np.testing.assert_array_equal(last, np.float32([[1.0], [-1.0]]) * np.ones(31))
    assert codebook_usage(np.array([0, 255], np.uint8), 512).used_fraction == 2 / 512
    with pytest.raises(ValueError, match=r"levels .*\(2, 2,"):
        finite_scalar_codes(np.array([0]), (2,) * 32)


def test_the_gradient_is_that_of_the_bounded_value():
    (z,) = draws(14, (50, 2))
    z[0] = [300.0, -300.0]

    @jax.jit
    def figures(z):
        quantize = lambda z: finite_scalar_quantize(z, (4, 5))
        half = z.astype(jnp.bfloat16)
        halves = quantize(half), quantize(half.astype(jnp.float32))
        return jax.grad(lambda z: jnp.sum(jnp.sin(quantize(z))))(z), quantize(z), halves

    gradient, quantized, (half, single) = figures(z)
    np.testing.assert_allclose(gradient, np.cos(quantized) * (1 - np.tanh(z) ** 2), rtol=1e-5, atol=1e-6)
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, single)


def test_autoencode_with_finite_scalars(key):
    (x,) = draws(15, (8, 2))

    @jax.jit
    def both(key, x):
        encode = lambda x: Delta(finite_scalar_quantize(x, (3, 4)))
        terms = vaejax.autoencode(key, x, encode, lambda z: Normal(z, 1.0), vaejax.none)
        return terms.value, Normal(finite_scalar_quantize(x, (3, 4)), 1.0).log_prob(x)

    chex.assert_trees_all_close(*both(key, x), rtol=1e-6)


# --- bad input

STATE = state_of(np.zeros((4, 2)), np.ones(4))
ONES = np.ones((3, 2), np.float32)
ZEROS = np.zeros(3, np.int32)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: vector_quantize(ONES, np.ones((8, 3))), ValueError, r"vector_quantize: z must have.*size 2 .*\(8, 3\)"),
        (lambda: vector_quantize(ONES, ONES, 3), ValueError, r"at least 3 axes.*\(3, 2\)"),
        (lambda: vector_quantize(ONES, ONES, 0), ValueError, "event_ndims must be at least 1; got 0"),
        (lambda: vector_quantize(np.ones(2), ONES), ValueError, r"codebook must have shape \[C, D\].*\(2,\)"),
        (lambda: vector_quantize(np.ones((0, 2)), ONES), ValueError, r"none of them 0; got shape \(0, 2\)"),
        (lambda: vector_quantize(STATE, ONES), TypeError, "codebook must be an array; got CodebookState"),
        (lambda: vector_quantize(ONES, Normal(ONES, 1.0)), TypeError, "z must be an array; got Normal"),
        (lambda: residual_quantize(ONES, ONES), ValueError, r"codebooks must have shape \[R, C, D\].*\(3, 2\)"),
        (lambda: residual_quantize(np.ones((2, 4, 3)), ONES), ValueError, "residual_quantize: z must have.*size 3"),
        (lambda: VectorQuantized(ONES, ONES[:1], ZEROS), ValueError, r"codes must have shape \(3, 2\).*\(1, 2\)"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS[:2]), ValueError, r"indices must have shape \(3,\).*\(2,\)"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS, 3), ValueError, "inputs must have 3 event axes"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS, 1, np.ones((3, 4, 2))), ValueError, r"indices must have shape \(3, 4\)"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS, 1, ONES), ValueError, r"stage_codes must have shape \(3, 3, 2\)"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS).sample(0), TypeError, "VectorQuantized.sample: key must be a typed"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS).log_prob(np.ones(3)), ValueError, r"event shape \(2,\)"),
        (lambda: codebook_loss(-0.1), ValueError, r"codebook_loss: commitment must.*got -0.1"),
        (lambda: commitment_loss("1"), TypeError, "commitment_loss: weight must be an array; got str"),
        (lambda: codebook_loss()(jax.random.key(0), Normal(ONES, 1.0), ONES), TypeError, "codebook_loss.*vector_quantize.*got Normal"),
        (lambda: commitment_loss()(jax.random.key(0), Delta(ONES), ONES), TypeError, "commitment_loss.*vector_quantize.*got Delta"),
        (lambda: init_codebook(0, 4, 2), TypeError, "key must be a typed PRNG key"),
        (lambda: init_codebook(jax.random.key(0), 0, 2), ValueError, "init_codebook: num_codes must be at least 1; got 0"),
        (lambda: init_codebook(jax.random.key(0), 4, 2, 0.0), ValueError, "init_codebook: scale must be positive"),
        (lambda: init_codebook_from(jax.random.key(0), np.ones((0, 2)), 4), ValueError, r"init_codebook_from: z.*\(0, 2\)"),
        (lambda: update_codebook(STATE, np.ones((3, 5)), ZEROS), ValueError, r"codes' size 2; got shape \(3, 5\)"),
        (lambda: update_codebook(STATE, ONES, ZEROS[:2]), ValueError, r"one index for each.*\(2,\) for inputs \(3, 2\)"),
        (lambda: update_codebook(STATE, ONES, np.zeros(3)), TypeError, "indices must be integers; got dtype float32"),
        (lambda: update_codebook(STATE, ONES, ZEROS + 4), ValueError, "indices must be from 0 to 3; got 4"),
        (lambda: update_codebook(STATE, ONES, ZEROS, decay=1.5), ValueError, r"decay must be in \[0, 1\].*1.5"),
        (lambda: update_codebook(STATE, ONES, ZEROS, decay=-0.5), ValueError, r"decay must be in \[0, 1\].*-0.5"),
        (lambda: update_codebook(STATE, ONES, ZEROS, epsilon=-1.0), ValueError, "epsilon must be at least 0"),
        (lambda: revive_dead_codes(jax.random.key(0), STATE, ONES, threshold=-1.0), ValueError, "threshold must be at least 0.*-1.0"),
        (lambda: revive_dead_codes(None, STATE, ONES), TypeError, "key must be a typed PRNG key"),
        (lambda: revive_dead_codes(jax.random.key(0), STATE, np.ones((3, 3))), ValueError, "revive_dead_codes: inputs.*size 2"),
        (lambda: codebook_usage(np.zeros(3), 4), TypeError, "codebook_usage: indices must be integers"),
        (lambda: codebook_usage(np.array([-1, 2]), 4), ValueError, "indices must be from 0 to 3; got -1"),
        (lambda: codebook_usage(np.zeros(0, int), 4), ValueError, r"indices must not be empty; got shape \(0,\)"),
        (lambda: finite_scalar_quantize(ONES, (3,)), ValueError, r"last axis of 1, one for each of \(3,\).*\(3, 2\)"),
        (lambda: finite_scalar_quantize(ONES, (3, 1)), ValueError, r"levels\[1\] must be at least 2; got 1"),
        (lambda: finite_scalar_quantize(ONES, (3, 2.0)), TypeError, r"levels\[1\] must be an integer; got float"),
        (lambda: finite_scalar_quantize(ONES, 5), TypeError, r"levels must be a tuple of integers.*got 5"),
        (lambda: finite_scalar_indices(2 * ONES, (3, 2)), ValueError, r"in \[-1, 1\].*2.0"),
        (lambda: finite_scalar_codes(np.array([6]), (3, 2)), ValueError, "indices must be from 0 to 5; got 6"),
        (lambda: finite_scalar_codes(np.ones(2), (3, 2)), TypeError, "indices must be integers; got dtype float32"),
        (lambda: finite_scalar_codes(ZEROS, (2,) * 32), ValueError, r"at most 2\*\*31 vectors"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()
