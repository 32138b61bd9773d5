"""Vector quantization against brute force, gradients by hand, and codebooks that have to learn."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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

# For losses, which take a key and draw nothing.
KEY = jax.random.key(5)
LEVELS = [(2,), (3,), (8, 5, 5), (2, 3, 4), (16, 7)]


def draws(seed, *shapes):
    return [jax.random.normal(key, shape) for key, shape in zip(jax.random.split(jax.random.key(seed), len(shapes)), shapes, strict=True)]  # fmt: skip


# --- the nearest code


@pytest.mark.parametrize(("batch", "event_ndims"), [((), 1), ((7,), 1), ((2, 3, 4), 3), ((2, 3, 4), 1)])
def test_the_code_is_the_nearest_by_brute_force(x64, batch, event_ndims):
    codebook, z = draws(0, (11, 3), (*batch, 3))
    q = vector_quantize(codebook, z, event_ndims)
    distances = np.linalg.norm(np.asarray(z)[..., None, :] - np.asarray(codebook), axis=-1)
    np.testing.assert_array_equal(q.indices, np.argmin(distances, axis=-1))
    assert q.indices.dtype == jnp.int32
    np.testing.assert_array_equal(q.codes, np.asarray(codebook)[np.argmin(distances, axis=-1)])
    chex.assert_shape(q.log_prob(q.mean), (*batch, 3)[: len(batch) + 1 - event_ndims])


def test_long_codes_and_equals():
    """Without its own square a long code would be nearest to all; of equally near ones the first is taken."""
    codebook = jnp.array([[9.0, 9.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    z = jnp.array([[1.0, 1.0], [0.0, 0.0], [-0.1, 2.0], [8.0, 8.0]])
    assert vector_quantize(codebook, z).indices.tolist() == [1, 1, 2, 0]


@given(st.integers(0, 10**6))
def test_single_precision_is_as_near_as_the_nearest(seed):
    codebook, z = draws(seed, (16, 4), (32, 4))
    distances = np.sum((np.asarray(z, float)[:, None] - np.asarray(codebook, float)) ** 2, axis=-1)
    found = np.take_along_axis(distances, np.asarray(vector_quantize(codebook, z).indices)[:, None], axis=-1)[:, 0]
    np.testing.assert_allclose(found, np.min(distances, axis=-1), atol=1e-5)


def test_half_precision_is_quantized_in_single():
    codebook, z = draws(1, (300, 2), (64, 2))
    half = vector_quantize(codebook, z.astype(jnp.bfloat16))
    assert half.codes.dtype == half.sample(KEY).dtype == jnp.float32
    expected = vector_quantize(codebook, z.astype(jnp.bfloat16).astype(jnp.float32))
    chex.assert_trees_all_equal(half, expected)


# --- the posterior


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
@pytest.mark.parametrize("quantize", ["one stage", "three stages"])
def test_draws_are_the_codes_exactly(transform, quantize, key):
    codebooks, z = draws(2, (3, 5, 2), (4, 6, 2))
    make = {
        "one stage": lambda z: vector_quantize(codebooks[0], z, 2),
        "three stages": lambda z: residual_quantize(codebooks, z, 2),
    }[quantize]

    def figures(z):
        q = make(1e4 * z)
        draw = q.sample(key, (3,))
        return draw, q.mean, q.codes, q.log_prob(draw), q.log_prob(draw.at[0, 0, 0, 0].add(1.0)), q.support(draw)

    draw, mean, codes, inside, outside, support = transform(figures)(z)
    chex.assert_trees_all_equal(draw, jnp.stack([codes] * 3))
    chex.assert_trees_all_equal(mean, codes)
    chex.assert_trees_all_equal(inside, jnp.zeros((3, 4)))
    chex.assert_trees_all_equal(outside, jnp.zeros((3, 4)).at[0, 0].set(-jnp.inf))
    assert jnp.all(support)


def test_the_gradient_of_draws_is_that_of_the_inputs_and_none_of_the_codebook(key):
    codebooks, z, weight = draws(3, (3, 5, 2), (4, 2), (4, 2))
    for make in (lambda c, z: vector_quantize(c[0], z), residual_quantize):
        for draw in (lambda q: q.sample(key, (2,)), lambda q: jnp.stack([q.mean, q.mean])):
            loss = lambda c, z, make=make, draw=draw: jnp.sum(weight * jnp.sin(draw(make(c, z))))
            to_codebooks, to_z = jax.jit(jax.grad(loss, argnums=(0, 1)))(codebooks, z)
            chex.assert_trees_all_close(to_z, 2 * weight * jnp.cos(make(codebooks, z).codes), rtol=1e-6)
            chex.assert_trees_all_equal(to_codebooks, jnp.zeros_like(codebooks))


def test_is_a_point_mass_for_divergences():
    codebook, z = draws(4, (5, 2), (4, 2))
    q = vector_quantize(codebook, z)
    expected = vaejax.kl_divergence(Delta(q.codes), vaejax.standard_normal)
    chex.assert_trees_all_close(vaejax.kl_divergence(q, vaejax.standard_normal), expected, rtol=1e-6)
    estimate = vaejax.monte_carlo_kl()(KEY, q, q.sample(jax.random.key(1)))
    chex.assert_trees_all_close(estimate, expected, rtol=1e-6)
    penalty = lambda z: jnp.sum(vaejax.kl_divergence(vector_quantize(codebook, z), vaejax.standard_normal))
    chex.assert_trees_all_close(jax.grad(penalty)(z), q.codes, rtol=1e-6)


def test_a_mapped_posterior_is_the_batched_one(key):
    codebooks, z = draws(5, (3, 5, 2), (4, 6, 2))
    for make in (lambda z, n: vector_quantize(codebooks[1], z, n), lambda z, n: residual_quantize(codebooks, z, n)):
        mapped, whole = jax.jit(lambda z, make=make: (jax.vmap(lambda z: make(z, 2))(z), make(z, 2)))(z)
        chex.assert_trees_all_close(mapped, whole, rtol=1e-6)
        chex.assert_trees_all_close(codebook_loss()(key, mapped, z), codebook_loss()(key, whole, z), rtol=1e-6)
    several = jax.vmap(vector_quantize, in_axes=(0, None))(codebooks, z[0])
    apart = [vector_quantize(codebook, z[0]) for codebook in codebooks]
    chex.assert_trees_all_equal(several.indices, jnp.stack([q.indices for q in apart]))
    chex.assert_trees_all_equal(several.codes, jnp.stack([q.codes for q in apart]))


# --- the losses

CODEBOOK = jnp.array([[0.0, 0.0], [4.0, 4.0], [50.0, 50.0]])
# Their codes are 0, 0 and 1, and they miss them by (1, 1), (-1, 0) and (-1, 2).
VECTORS = jnp.array([[1.0, 1.0], [-1.0, 0.0], [3.0, 6.0]])


def test_codebook_loss_and_its_gradients_by_hand():
    loss = lambda c, z: codebook_loss(commitment=0.25)(KEY, vector_quantize(c, z), z)
    chex.assert_trees_all_equal(loss(CODEBOOK, VECTORS), 1.25 * jnp.array([2.0, 1.0, 5.0]))
    to_codes, to_z = jax.jit(jax.grad(lambda *args: jnp.sum(loss(*args)), argnums=(0, 1)))(CODEBOOK, VECTORS)
    chex.assert_trees_all_equal(to_z, 0.25 * 2 * jnp.array([[1.0, 1.0], [-1.0, 0.0], [-1.0, 2.0]]))
    # Codes go towards the two inputs and the one that are theirs; the unused one stays.
    chex.assert_trees_all_equal(to_codes, -2 * jnp.array([[0.0, 1.0], [-1.0, 2.0], [0.0, 0.0]]))


def test_commitment_loss_and_its_gradients_by_hand():
    loss = lambda c, z: commitment_loss(weight=0.5)(KEY, vector_quantize(c, z), z)
    chex.assert_trees_all_equal(loss(CODEBOOK, VECTORS), 0.5 * jnp.array([2.0, 1.0, 5.0]))
    to_codes, to_z = jax.jit(jax.grad(lambda *args: jnp.sum(loss(*args)), argnums=(0, 1)))(CODEBOOK, VECTORS)
    chex.assert_trees_all_equal(to_z, 0.5 * 2 * jnp.array([[1.0, 1.0], [-1.0, 0.0], [-1.0, 2.0]]))
    chex.assert_trees_all_equal(to_codes, jnp.zeros_like(CODEBOOK))


def test_losses_are_summed_over_the_event_and_take_traced_weights(key):
    codebooks, z = draws(6, (2, 5, 2), (4, 3, 3, 2))
    each = codebook_loss(0.3)(key, residual_quantize(codebooks, z, 1), z)
    chex.assert_shape(each, (4, 3, 3))
    whole = jax.jit(lambda w: codebook_loss(w)(key, residual_quantize(codebooks, z, 3), z))(0.3)
    chex.assert_trees_all_close(whole, jnp.sum(each, axis=(1, 2)), rtol=1e-5)
    commitment = jax.jit(lambda w: commitment_loss(w)(key, residual_quantize(codebooks, z, 3), z))(1.3)
    chex.assert_trees_all_close(commitment, whole, rtol=1e-5)


def test_autoencode_with_a_codebook(key):
    """The method is one expression: its value and its gradients are those written out by hand."""
    codebook, weight, x = draws(7, (5, 2), (4, 2), (8, 4))

    def objective(params, num_samples=None, key=key):
        encode = lambda x: vector_quantize(params["codebook"], x @ params["weight"])
        decode = lambda z: Normal(z @ params["weight"].T, 1.0)
        return vaejax.autoencode(key, x, encode, decode, codebook_loss(0.25), num_samples=num_samples)

    def by_hand(params, fixed):
        z = x @ params["weight"]
        through = fixed["codes"] + z - fixed["z"]
        codes = params["codebook"][fixed["indices"]]
        penalty = jnp.sum((fixed["z"] - codes) ** 2, axis=-1) + 0.25 * jnp.sum((z - fixed["codes"]) ** 2, axis=-1)
        return Normal(through @ params["weight"].T, 1.0).log_prob(x) - penalty

    params = {"codebook": codebook, "weight": weight}
    terms = jax.jit(objective)(params)
    fixed = {"z": x @ weight, "codes": terms.posterior.codes, "indices": terms.posterior.indices}
    chex.assert_trees_all_close(terms.value, by_hand(params, fixed), rtol=1e-5)
    three = jax.jit(lambda p: objective(p, 3, jax.random.key(1)).value)(params)
    chex.assert_trees_all_close(three, terms.value, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(objective(p, key=jax.random.key(2)).value)))(params)
    expected = jax.jit(jax.grad(lambda p: jnp.sum(by_hand(p, fixed))))(params)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-4, atol=1e-4)


# --- stages


def test_one_stage_is_vector_quantize(key):
    codebook, z = draws(8, (5, 3), (6, 3))
    one, stages = jax.jit(lambda c, z: (vector_quantize(c, z), residual_quantize(c[None], z)))(codebook, z)
    for name in ("inputs", "codes", "mean", "stage_inputs"):
        chex.assert_trees_all_equal(getattr(one, name), getattr(stages, name))
    chex.assert_trees_all_equal(one.indices[..., None], stages.indices)
    chex.assert_trees_all_equal(codebook_loss()(key, one, z), codebook_loss()(key, stages, z))
    gradients = [
        jax.jit(jax.grad(lambda c, make=make: jnp.sum(codebook_loss()(key, make(c), z))))(codebook)
        for make in (lambda c: vector_quantize(c, z), lambda c: residual_quantize(c[None], z))
    ]
    chex.assert_trees_all_equal(*gradients)


def test_each_stage_quantizes_what_is_left(x64):
    codebooks, z = draws(9, (4, 6, 3), (5, 2, 3))
    q = jax.jit(lambda c, z: residual_quantize(c, z, 2))(codebooks, z)
    left_by_stage = np.asarray(q.stage_inputs)
    chex.assert_shape(q.indices, (5, 2, 4))
    left = np.asarray(z)
    for stage, codebook in enumerate(np.asarray(codebooks)):
        chex.assert_trees_all_close(left_by_stage[..., stage, :], left, atol=1e-12)
        nearest = np.argmin(np.linalg.norm(left[..., None, :] - codebook, axis=-1), axis=-1)
        np.testing.assert_array_equal(q.indices[..., stage], nearest)
        left = left - codebook[nearest]
    chex.assert_trees_all_close(z - q.codes, left, atol=1e-12)


def test_with_zero_in_the_codebooks_every_stage_is_nearer():
    codebooks, z = draws(10, (6, 8, 2), (64, 2))
    codebooks = (codebooks * 0.6 ** jnp.arange(6)[:, None, None]).at[:, 0].set(0.0)
    q = jax.jit(residual_quantize)(codebooks, z)
    left = np.concatenate([q.stage_inputs, (z - q.codes)[:, None]], axis=1)
    errors = np.linalg.norm(left, axis=-1)
    assert np.all(np.diff(errors, axis=1) <= 1e-6)
    assert np.mean(errors[:, -1]) < 0.3 * np.mean(errors[:, 1])


def test_the_loss_trains_every_stage_on_what_it_was_given():
    """By hand: 12 is 10 and 2, for which stage 2 has 3; 7.5 is 10 and -2.5, for which it has -1."""
    codebooks = jnp.array([[[0.0], [10.0]], [[-1.0], [3.0]]])
    z = jnp.array([[12.0], [7.5]])
    loss = lambda c, z: codebook_loss(0.25)(KEY, residual_quantize(c, z), z)
    assert residual_quantize(codebooks, z).codes.tolist() == [[13.0], [9.0]]
    chex.assert_trees_all_close(loss(codebooks, z), 1.25 * jnp.array([4.0 + 1.0, 6.25 + 2.25]))
    to_codes, to_z = jax.jit(jax.grad(lambda *args: jnp.sum(loss(*args)), argnums=(0, 1)))(codebooks, z)
    # Stage 1 is drawn to 12 and 7.5, stage 2 to what is left, 2 and -2.5, and not stage 1 by stage 2.
    expected = 2 * jnp.array([[[0.0], [(10 - 12) + (10 - 7.5)]], [[-1 + 2.5], [3 - 2.0]]])
    chex.assert_trees_all_close(to_codes, expected)
    chex.assert_trees_all_close(to_z, 0.25 * 2 * jnp.array([[2.0 - 1.0], [-2.5 - 1.5]]))


# --- codebooks of moving averages


def test_one_update_by_hand():
    inputs = np.array([[1.0, 2.0], [3.0, 0.0], [-1.0, 1.0], [2.0, 2.0]], np.float32)
    indices = np.array([[0, 2], [0, 0]])
    state = CodebookState(*(jnp.array(a) for a in ([[1.0, 1.0], [5.0, 5.0], [3.0, 1.0]], [2.0, 1.0, 4.0], [[2.0, 2.0], [5.0, 5.0], [12.0, 4.0]])))  # fmt: skip
    decay, epsilon = 0.8, 0.1
    counts = 0.8 * np.array([2.0, 1.0, 4.0]) + 0.2 * np.array([3, 0, 1])
    sums = 0.8 * np.asarray(state.sums) + 0.2 * np.array([[2.0, 5.0], [0.0, 0.0], [3.0, 0.0]])
    smooth = (counts + epsilon) / (counts.sum() + 3 * epsilon) * counts.sum()
    expected = CodebookState(sums / smooth[:, None], counts, sums)
    update = lambda s, d, e: update_codebook(s, inputs.reshape(2, 2, 2), indices, decay=d, epsilon=e)
    chex.assert_trees_all_close(update(state, decay, epsilon), expected, rtol=1e-6)
    traced = jax.jit(update)(state, decay, epsilon)
    chex.assert_trees_all_close(traced, expected, rtol=1e-6)
    # A state stays what a scan can carry.
    chex.assert_trees_all_equal_dtypes(update(state, jnp.float32(0.8), jnp.float32(0.1)), state)


def test_the_fixed_point_is_the_mean_of_what_is_assigned(x64):
    (inputs,) = draws(11, (40, 2))
    indices = jnp.arange(40) % 3
    state = init_codebook(jax.random.key(2), 3, 2)
    state = jax.lax.fori_loop(0, 400, lambda _, s: update_codebook(s, inputs, indices, decay=0.9, epsilon=0.0), state)
    means = np.stack([np.mean(inputs[code::3], axis=0) for code in range(3)])
    chex.assert_trees_all_close(state.codebook, means, atol=1e-12)
    chex.assert_trees_all_close(state.counts, jnp.array([14.0, 13.0, 13.0]), atol=1e-12)
    chex.assert_trees_all_close(update_codebook(state, inputs, indices).codebook, means, atol=1e-5)


def test_a_code_that_is_never_chosen_stays_finite_and_where_it_was():
    inputs, indices = jnp.ones((4, 2)), jnp.zeros(4, int)
    state = init_codebook(jax.random.key(2), 2, 2)
    for epsilon in (0.0, 1e-5):
        last = jax.lax.fori_loop(
            0, 3000, lambda _, s, e=epsilon: update_codebook(s, inputs, indices, decay=0.9, epsilon=e), state
        )
        chex.assert_tree_all_finite(last)
        chex.assert_trees_all_close(last.codebook[0], jnp.ones(2), atol=1e-4)
    once = update_codebook(state, inputs, indices, epsilon=0.0)
    chex.assert_trees_all_close(once.codebook[1], state.codebook[1], rtol=1e-5)


def test_no_gradient_passes_through_the_state():
    (inputs,) = draws(12, (4, 2))
    state = init_codebook(jax.random.key(2), 3, 2)

    def total(inputs, codebook):
        begin = state._replace(codebook=codebook, sums=codebook)
        updated = update_codebook(begin, inputs, jnp.array([0, 1, 1, 2]))
        revived = revive_dead_codes(jax.random.key(0), updated, inputs, threshold=1.0)
        return sum(jnp.sum(leaf) for leaf in (*updated, *revived, *init_codebook_from(jax.random.key(1), inputs, 2)))

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(inputs, state.codebook)
    chex.assert_trees_all_equal(gradients, (jnp.zeros((4, 2)), jnp.zeros((3, 2))))


def test_the_stages_of_a_residual_quantization_have_a_state_each(key):
    codebooks, z = draws(13, (3, 5, 2), (4, 6, 2))
    states = CodebookState(codebooks, jnp.ones((3, 5)), codebooks)

    @jax.jit
    def step(states, key):
        q = residual_quantize(states.codebook, z, 2)
        updated = jax.vmap(update_codebook, in_axes=(0, -2, -1))(states, q.stage_inputs, q.indices)
        revived = jax.vmap(revive_dead_codes, in_axes=(0, 0, -2))(jax.random.split(key, 3), updated, q.stage_inputs)
        return q, updated, revived

    q, updated, revived = step(states, key)
    apart = jax.jit(update_codebook)
    for stage in range(3):
        state = CodebookState(codebooks[stage], jnp.ones(5), codebooks[stage])
        expected = apart(state, q.stage_inputs[..., stage, :], q.indices[..., stage])
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, r=stage: leaf[r], updated), expected, rtol=1e-5)
    chex.assert_tree_all_finite(revived)
    assert jnp.all(revived.counts >= 1.0)


def test_initial_codebooks_are_consistent(key):
    first, second = jax.random.split(key)
    state = init_codebook(first, 2000, 3, scale=0.5)
    assert abs(jnp.std(state.codebook) / 0.5 - 1.0) < 5 / np.sqrt(2 * 6000)
    z = jnp.arange(24.0).reshape(2, 4, 3)
    drawn = init_codebook_from(second, z, 6)
    chosen = drawn.codebook[:, 0] / 3
    assert set(chosen.tolist()) < set(range(8))
    assert len(set(chosen.tolist())) == 6
    chex.assert_trees_all_equal(drawn.codebook, 3 * chosen[:, None] + jnp.arange(3.0))
    for each in (state, drawn):
        chex.assert_trees_all_close(each.sums, each.counts[:, None] * each.codebook, rtol=1e-6)
    chex.assert_trees_all_close(jnp.sum(drawn.counts), 8.0, rtol=1e-6)
    # More codes than inputs: every input is one.
    assert set(init_codebook_from(jax.random.key(1), z, 11).codebook[:, 0].tolist()) == set(range(0, 24, 3))


# --- revival


def test_dead_codes_become_different_inputs_and_the_others_stay(key):
    counts = jnp.array([5.0, 0.4, 0.6, 0.0, 0.49])
    codebook = jnp.arange(10.0).reshape(5, 2)
    state = CodebookState(codebook, counts, counts[:, None] * codebook)
    inputs = 100.0 + jnp.arange(6.0).reshape(3, 1, 2)
    revived = jax.jit(lambda t: revive_dead_codes(key, state, inputs, threshold=t))(0.5)
    alive = jnp.array([0, 2])
    chex.assert_trees_all_equal(*(jax.tree.map(lambda leaf: leaf[alive], each) for each in (revived, state)))
    assert sorted(revived.codebook[jnp.array([1, 3, 4])].tolist()) == inputs[:, 0].tolist()
    chex.assert_trees_all_close(revived.sums, revived.counts[:, None] * revived.codebook, rtol=1e-6)
    # With fewer inputs than dead codes all of them are taken.
    again = revive_dead_codes(jax.random.key(1), state, inputs[:2], threshold=0.5)
    assert {tuple(code) for code in again.codebook[jnp.array([1, 3, 4])].tolist()} == {(100.0, 101.0), (102.0, 103.0)}


def test_every_input_is_as_likely_to_be_taken(key):
    state = CodebookState(jnp.zeros((2, 1)), jnp.array([9.0, 0.0]), jnp.zeros((2, 1)))
    inputs = jnp.arange(4.0)[:, None]
    taken = jax.vmap(lambda key: revive_dead_codes(key, state, inputs).codebook[1, 0])(jax.random.split(key, 4000))
    frequencies = np.bincount(np.asarray(taken, int), minlength=4)
    assert np.all(np.abs(frequencies - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75))


@pytest.mark.parametrize("threshold", [0.1, 1.0, 20.0])
def test_a_revived_code_survives_the_next_updates(threshold):
    """It is chosen by nothing for a while; its old statistics would drag it back, or leave it dead."""
    codebook = jnp.array([[0.0, 0.0], [-50.0, 30.0]])
    counts = jnp.array([8.0, 0.5 * threshold])
    dead = CodebookState(codebook, counts, counts[:, None] * codebook)
    state = revive_dead_codes(jax.random.key(0), dead, jnp.array([[7.0, 7.0]]), threshold=threshold)

    def unused(state, key):
        state = update_codebook(state, 0.01 * jnp.ones((8, 2)), jnp.zeros(8, int))
        state = revive_dead_codes(key, state, jnp.array([[90.0, 90.0]]), threshold=threshold)
        return state, state.codebook[1]

    state, path = jax.jit(lambda s: jax.lax.scan(unused, s, jax.random.split(jax.random.key(1), 10)))(state)
    chex.assert_trees_all_close(path, jnp.full((10, 2), 7.0), rtol=1e-3)
    # And it goes to its inputs once it has them.
    chosen = lambda _, state: update_codebook(state, jnp.array([[6.0, 8.0]] * 8), jnp.ones(8, int))
    state = jax.jit(lambda s: jax.lax.fori_loop(0, 400, chosen, s))(state)
    chex.assert_trees_all_close(state.codebook[1], jnp.array([6.0, 8.0]), atol=0.15)


# Away from the origin, to which the smoothing lets unused codes drift.
CENTERS = 30.0 + 5.0 * jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])


@pytest.mark.parametrize("revive", [True, False])
def test_four_clusters_need_revival_from_a_bad_start(revive):
    """Codes that start around the origin: one takes all inputs, and without revival keeps them."""

    def train(key):
        data_key, start_key, steps_key = jax.random.split(key, 3)
        inputs = CENTERS[jnp.arange(64) % 4] + 0.3 * jax.random.normal(data_key, (64, 2))

        def step(state, key):
            q = vector_quantize(state.codebook, inputs)
            state = update_codebook(state, q.inputs, q.indices, decay=0.9)
            return revive_dead_codes(key, state, inputs) if revive else state, None

        state, _ = jax.lax.scan(step, init_codebook(start_key, 4, 2), jax.random.split(steps_key, 200))
        q = vector_quantize(state.codebook, inputs)
        return codebook_usage(q.indices, 4), jnp.mean(jnp.sum((q.inputs - q.codes) ** 2, axis=-1))

    usage, error = jax.jit(lambda keys: jax.lax.map(train, keys))(jax.random.split(jax.random.key(0), 20))
    if revive:
        chex.assert_trees_all_equal(usage.used_fraction, jnp.ones(20))
        # Used is not yet well placed: three codes may share one cluster for good, and the fourth have three.
        assert jnp.all(error < 26.0)
        assert jnp.min(error) < 0.3
        chex.assert_trees_all_close(jnp.max(usage.perplexity), 4.0, rtol=1e-5)
    else:
        chex.assert_trees_all_equal(usage.used_fraction, jnp.full(20, 0.25))
        assert jnp.all(error > 40.0)


# --- usage


def test_usage_by_hand():
    even = codebook_usage(jnp.arange(24).reshape(2, 3, 4) % 8, 8)
    chex.assert_trees_all_close((even.perplexity, even.used_fraction), (8.0, 1.0), rtol=1e-6)
    single = jax.jit(lambda i: codebook_usage(i, 8))(jnp.full((5, 2), 3))
    chex.assert_trees_all_close((single.perplexity, single.used_fraction), (1.0, 0.125), rtol=1e-6)
    skewed = codebook_usage(jnp.array([0, 0, 0, 5], jnp.uint8), 8)
    expected = np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    chex.assert_trees_all_close((skewed.perplexity, skewed.used_fraction), (expected, 0.25), rtol=1e-6)
    stages = jax.vmap(lambda i: codebook_usage(i, 8), in_axes=-1)(jnp.array([[0, 1], [0, 2]]))
    chex.assert_trees_all_close(stages.perplexity, jnp.array([1.0, 2.0]), rtol=1e-6)


# --- finite scalars


@pytest.mark.parametrize("levels", LEVELS)
def test_each_axis_takes_exactly_its_levels(levels):
    z = jnp.linspace(-12.0, 12.0, 4000)[:, None] * jnp.ones(len(levels))
    quantized = np.asarray(jax.jit(lambda z: finite_scalar_quantize(z, levels))(z))
    for axis, count in enumerate(levels):
        np.testing.assert_allclose(np.unique(quantized[:, axis]), np.linspace(-1.0, 1.0, count), atol=1e-6)
        assert len(np.unique(quantized[:, axis])) == count
    assert np.all(np.diff(quantized, axis=0) >= 0)
    # The level is the nearest one to the bounded value.
    distance = np.abs(quantized - np.tanh(z))
    assert np.all(distance <= 1.0 / (np.array(levels) - 1) + 1e-6)
    chex.assert_trees_all_close(quantized, -quantized[::-1], atol=1e-6)


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


def test_indices_of_any_shape_and_eagerly():
    indices = jnp.array([[0, 199], [7, 8]], jnp.uint8)
    codes = finite_scalar_codes(indices, (8, 5, 5))
    chex.assert_shape(codes, (2, 2, 3))
    assert codes[0].tolist() == [[-1.0] * 3, [1.0] * 3]
    assert codes[1, 0].tolist() == [1.0, -1.0, -1.0]
    assert codes[1, 1].tolist() == [-1.0, -0.5, -1.0]
    chex.assert_trees_all_equal(finite_scalar_indices(codes, (8, 5, 5)), indices.astype(jnp.int32))


def test_the_gradient_is_that_of_the_bounded_value():
    (z,) = draws(14, (50, 2))
    z = z.at[0].set(jnp.array([300.0, -300.0]))
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(jnp.sin(finite_scalar_quantize(z, (4, 5))))))(z)
    expected = jnp.cos(finite_scalar_quantize(z, (4, 5))) * (1 - jnp.tanh(z) ** 2)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-5, atol=1e-6)
    half = finite_scalar_quantize(z.astype(jnp.bfloat16), (4, 5))
    assert half.dtype == jnp.float32
    chex.assert_trees_all_equal(half, finite_scalar_quantize(z.astype(jnp.bfloat16).astype(jnp.float32), (4, 5)))


def test_autoencode_with_finite_scalars(key):
    (x,) = draws(15, (8, 2))
    encode = lambda x: Delta(finite_scalar_quantize(x, (3, 4)))
    terms = vaejax.autoencode(key, x, encode, lambda z: Normal(z, 1.0), vaejax.none)
    expected = Normal(finite_scalar_quantize(x, (3, 4)), 1.0).log_prob(x)
    chex.assert_trees_all_close(terms.value, expected, rtol=1e-6)


# --- bad input

STATE = CodebookState(jnp.zeros((4, 2)), jnp.ones(4), jnp.zeros((4, 2)))
ONES = jnp.ones((3, 2))
ZEROS = jnp.zeros(3, int)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: vector_quantize(ONES, jnp.ones((8, 3))), ValueError, r"vector_quantize: z must have.*size 2 .*\(8, 3\)"),
        (lambda: vector_quantize(ONES, ONES, 3), ValueError, r"at least 3 axes.*\(3, 2\)"),
        (lambda: vector_quantize(ONES, ONES, 0), ValueError, "event_ndims must be at least 1; got 0"),
        (lambda: vector_quantize(jnp.ones(2), ONES), ValueError, r"codebook must have shape \[C, D\].*\(2,\)"),
        (lambda: vector_quantize(jnp.ones((0, 2)), ONES), ValueError, r"none of them 0; got shape \(0, 2\)"),
        (lambda: vector_quantize(STATE, ONES), TypeError, "codebook must be an array; got CodebookState"),
        (lambda: vector_quantize(ONES, Normal(ONES, 1.0)), TypeError, "z must be an array; got Normal"),
        (lambda: residual_quantize(ONES, ONES), ValueError, r"codebooks must have shape \[R, C, D\].*\(3, 2\)"),
        (lambda: residual_quantize(jnp.ones((2, 4, 3)), ONES), ValueError, "residual_quantize: z must have.*size 3"),
        (lambda: VectorQuantized(ONES, ONES[:1], ZEROS), ValueError, r"codes must have shape \(3, 2\).*\(1, 2\)"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS[:2]), ValueError, r"indices must have shape \(3,\).*\(2,\)"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS, 3), ValueError, "inputs must have 3 event axes"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS, 1, jnp.ones((3, 4, 2))), ValueError, r"indices must have shape \(3, 4\)"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS, 1, ONES), ValueError, r"stage_codes must have shape \(3, 3, 2\)"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS).sample(0), TypeError, "VectorQuantized.sample: key must be a typed"),
        (lambda: VectorQuantized(ONES, ONES, ZEROS).log_prob(jnp.ones(3)), ValueError, r"event shape \(2,\)"),
        (lambda: codebook_loss(-0.1), ValueError, "codebook_loss: commitment must be at least 0 and finite; got -0.1"),
        (lambda: commitment_loss("1"), TypeError, "commitment_loss: weight must be an array; got str"),
        (lambda: codebook_loss()(KEY, Normal(ONES, 1.0), ONES), TypeError, "codebook_loss.*vector_quantize.*got Normal"),
        (lambda: commitment_loss()(KEY, Delta(ONES), ONES), TypeError, "commitment_loss.*vector_quantize.*got Delta"),
        (lambda: init_codebook(0, 4, 2), TypeError, "key must be a typed PRNG key"),
        (lambda: init_codebook(KEY, 0, 2), ValueError, "init_codebook: num_codes must be at least 1; got 0"),
        (lambda: init_codebook(KEY, 4, 2, 0.0), ValueError, "init_codebook: scale must be positive"),
        (lambda: init_codebook_from(KEY, jnp.ones((0, 2)), 4), ValueError, r"init_codebook_from: z.*\(0, 2\)"),
        (lambda: update_codebook(STATE, jnp.ones((3, 5)), ZEROS), ValueError, r"codes' size 2; got shape \(3, 5\)"),
        (lambda: update_codebook(STATE, ONES, ZEROS[:2]), ValueError, r"one index for each.*\(2,\) for inputs \(3, 2\)"),
        (lambda: update_codebook(STATE, ONES, jnp.zeros(3)), TypeError, "indices must be integers; got dtype float32"),
        (lambda: update_codebook(STATE, ONES, ZEROS + 4), ValueError, "indices must be from 0 to 3; got values from 4 to 4"),
        (lambda: update_codebook(STATE, ONES, ZEROS, decay=1.5), ValueError, r"decay must be in \[0, 1\].*1.5"),
        (lambda: update_codebook(STATE, ONES, ZEROS, decay=-0.5), ValueError, r"decay must be in \[0, 1\].*-0.5"),
        (lambda: update_codebook(STATE, ONES, ZEROS, epsilon=-1.0), ValueError, "epsilon must be at least 0"),
        (lambda: revive_dead_codes(KEY, STATE, ONES, threshold=-1.0), ValueError, "threshold must be at least 0.*-1.0"),
        (lambda: revive_dead_codes(None, STATE, ONES), TypeError, "key must be a typed PRNG key"),
        (lambda: revive_dead_codes(KEY, STATE, jnp.ones((3, 3))), ValueError, "revive_dead_codes: inputs.*size 2"),
        (lambda: codebook_usage(jnp.zeros(3), 4), TypeError, "codebook_usage: indices must be integers"),
        (lambda: codebook_usage(jnp.array([-1, 2]), 4), ValueError, "indices must be from 0 to 3; got values from -1 to 2"),
        (lambda: codebook_usage(jnp.zeros(0, int), 4), ValueError, r"indices must not be empty; got shape \(0,\)"),
        (lambda: finite_scalar_quantize(ONES, (3,)), ValueError, r"last axis of 1, one for each of \(3,\).*\(3, 2\)"),
        (lambda: finite_scalar_quantize(ONES, (3, 1)), ValueError, r"levels\[1\] must be at least 2; got 1"),
        (lambda: finite_scalar_quantize(ONES, (3, 2.0)), TypeError, r"levels\[1\] must be an integer; got float"),
        (lambda: finite_scalar_quantize(ONES, 5), TypeError, r"levels must be a tuple of integers.*got 5"),
        (lambda: finite_scalar_indices(2 * ONES, (3, 2)), ValueError, r"in \[-1, 1\].*2.0"),
        (lambda: finite_scalar_codes(jnp.array([6]), (3, 2)), ValueError, "indices must be from 0 to 5; got values from 6"),
        (lambda: finite_scalar_codes(jnp.ones(2), (3, 2)), TypeError, "indices must be integers; got dtype float32"),
        (lambda: finite_scalar_codes(ZEROS, (2,) * 32), ValueError, r"at most 2\*\*31 vectors"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()
