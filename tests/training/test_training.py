"""The step, the loop and checkpoints."""

import os
import subprocess
import sys
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vaejax
from vaejax import data, evaluation, nets, training

IMAGES = np.random.default_rng(0).integers(0, 17, (40, 8, 8, 1)).astype(np.uint8)
MODEL = nets.mlp((8, 8, 1), 3, hidden_sizes=(16,))
OPTIMIZER = optax.adam(1e-3)


def loss_fn(params, key, images):
    binarize_key, elbo_key = jax.random.split(key)
    x = data.binarize(binarize_key, images, 16)
    loss, terms = vaejax.negative_elbo(
        elbo_key, x, partial(MODEL.encode, params), partial(MODEL.decode, params)
    )  # fmt: skip
    return loss, evaluation.batch_metrics(terms)


def start(optimizer=OPTIMIZER):
    return training.init_state(jax.random.key(1), MODEL.init(jax.random.key(0)), optimizer)


def chunk(num_steps, loss=loss_fn, optimizer=OPTIMIZER):
    plan = partial(data.batch_indices, jax.random.key(2), num_steps=num_steps, num_examples=40, batch_size=8)
    return training.scan_steps(training.make_train_step(loss, optimizer), plan)


def numbers(state):
    """The state with its typed key as integers, which can be compared."""
    return state._replace(key=jax.random.key_data(state.key))


def test_a_step_is_gradient_descent():
    """Against the update written out, with the key of the step."""
    optimizer = optax.sgd(0.1)
    state = start(optimizer)._replace(step=jnp.int32(5))
    after, metrics = training.make_train_step(loss_fn, optimizer)(state, IMAGES[:8])
    (loss, _), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
        start().params, jax.random.fold_in(jax.random.key(1), 5), IMAGES[:8]
    )
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, start().params, gradient)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-5, atol=1e-7)
    assert after.step == 6
    chex.assert_trees_all_close(metrics["loss"], loss, rtol=1e-6)
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(gradient)))
    chex.assert_trees_all_close(metrics["gradient_norm"], norm, rtol=1e-5)


def test_metrics_tell_the_parts():
    _, metrics = jax.jit(training.make_train_step(loss_fn, OPTIMIZER))(start(), IMAGES[:8])
    assert set(metrics) == {
        "loss", "gradient_norm", "negative_elbo", "reconstruction", "kl", "kl_per_axis", "active_units"
    }  # fmt: skip
    chex.assert_shape(metrics["kl_per_axis"], (3,))
    chex.assert_trees_all_close(jnp.sum(metrics["kl_per_axis"]), metrics["kl"], rtol=1e-5)
    chex.assert_trees_all_close(metrics["reconstruction"] + metrics["kl"], metrics["negative_elbo"], rtol=1e-5)


def test_it_traces_once_for_ten_steps_and_moves_nothing_to_the_host():
    traced = chex.assert_max_traces(loss_fn, n=1)
    step = jax.jit(training.make_train_step(traced, OPTIMIZER))
    state, batch = jax.device_put((start(), IMAGES[:8]))
    with jax.transfer_guard("disallow"):
        for _ in range(10):
            state, _ = step(state, batch)
    assert state.step == 10
    chex.clear_trace_counter()


def test_the_loop_traces_once_for_all_chunks():
    count = []

    def counted(params, key, images):
        count.append(1)
        return loss_fn(params, key, images)

    state = training.fit(chunk(5, counted), start(), IMAGES, 4)
    assert state.step == 20
    # The forward pass is traced once by value_and_grad, whatever the number of chunks.
    assert len(count) == 1


def test_nothing_is_changed_in_place():
    state = start()
    before = jax.tree.map(np.array, numbers(state))
    images = IMAGES.copy()
    training.fit(chunk(5), state, IMAGES, 2)
    chex.assert_trees_all_equal(numbers(state), before)
    np.testing.assert_array_equal(IMAGES, images)


def test_a_scan_is_the_python_loop():
    scanned, metrics = jax.jit(chunk(7))(start(), IMAGES)
    step = jax.jit(training.make_train_step(loss_fn, OPTIMIZER))
    state = start()
    plan = data.batch_indices(jax.random.key(2), 0, num_steps=7, num_examples=40, batch_size=8)
    losses = []
    for indices in plan:
        state, each = step(state, IMAGES[indices])
        losses.append(each["loss"])
    chex.assert_trees_all_close(numbers(scanned), numbers(state), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(metrics["loss"], jnp.stack(losses), rtol=1e-5)


def test_however_a_run_is_cut_into_chunks_it_is_the_same_run():
    whole = training.fit(chunk(12), start(), IMAGES, 1)
    pieces = training.fit(chunk(3), start(), IMAGES, 4)
    chex.assert_trees_all_close(numbers(whole), numbers(pieces), rtol=1e-5, atol=1e-6)


def test_the_noise_of_every_step_is_its_own():
    draws = []

    def spy(params, key, images):
        jax.debug.callback(lambda d: draws.append(np.asarray(d)), jax.random.normal(key, (2,)))
        return jnp.sum(params**2), {}

    optimizer = optax.sgd(0.1)
    state = training.init_state(jax.random.key(1), jnp.ones(2), optimizer)
    step = jax.jit(training.make_train_step(spy, optimizer))
    for _ in range(20):
        state, _ = step(state, IMAGES[:8])
    jax.effects_barrier()
    assert len(np.unique(np.stack(draws), axis=0)) == 20


def test_two_runs_with_one_seed_are_equal_and_two_seeds_are_not():
    once, again = (training.fit(chunk(10), start(), IMAGES, 1) for _ in range(2))
    chex.assert_trees_all_equal(numbers(once), numbers(again))
    other = training.fit(chunk(10), start()._replace(key=jax.random.key(9)), IMAGES, 1)
    assert any(jnp.any(a != b) for a, b in zip(*map(jax.tree.leaves, (once.params, other.params)), strict=True))


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step():
    def poisoned(params, key, images):
        loss, metrics = loss_fn(params, key, images)
        # The key of step 7 is the only one that is told apart here.
        seventh = jnp.all(jax.random.key_data(key) == jax.random.key_data(jax.random.fold_in(jax.random.key(1), 7)))
        return jnp.where(seventh, jnp.nan, loss), metrics

    seen = []
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 7, with .*loss.* not finite"):
        training.fit(chunk(5, poisoned), start(), IMAGES, 4, seen.append)
    assert [c.step for c in seen] == [5]


def test_chunks_are_reported():
    seen = []
    training.fit(chunk(5), start(), IMAGES, 3, seen.append)
    assert [(c.step, c.num_steps) for c in seen] == [(5, 5), (10, 5), (15, 5)]
    assert all(c.seconds > 0 for c in seen)
    assert seen[0].metrics["kl_per_axis"].shape == (3,)
    assert seen[-1].metrics["loss"] < seen[0].metrics["loss"]


def test_a_checkpoint_gives_every_bit_back(tmp_path):
    state = training.fit(chunk(5), start(), IMAGES, 1)
    training.save_checkpoint(tmp_path / "checkpoint", state)
    loaded = training.load_checkpoint(tmp_path / "checkpoint", jax.eval_shape(start))
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    chex.assert_trees_all_equal(numbers(loaded), numbers(state))
    # The run goes on as if it had never stopped.
    chex.assert_trees_all_equal(
        numbers(training.fit(chunk(5), loaded, IMAGES, 1)), numbers(training.fit(chunk(5), state, IMAGES, 1))
    )


def test_a_checkpoint_is_not_overwritten_and_another_models_is_refused(tmp_path):
    training.save_checkpoint(tmp_path / "checkpoint", start())
    with pytest.raises(FileExistsError, match="never overwrites"):
        training.save_checkpoint(tmp_path / "checkpoint", start())
    wider = nets.mlp((8, 8, 1), 3, hidden_sizes=(17,)).init(jax.random.key(0))
    other = training.init_state(jax.random.key(1), wider, OPTIMIZER)
    with pytest.raises(ValueError, match=r"another model: params.decoder.layers.0.bias is float32\[16\].*\[17\] here"):
        training.load_checkpoint(tmp_path / "checkpoint", other)
    with pytest.raises(ValueError, match="another model: opt_state"):
        training.load_checkpoint(tmp_path / "checkpoint", start(optax.sgd(0.1)))
    with pytest.raises(FileNotFoundError, match="nothing is no checkpoint"):
        training.load_checkpoint(tmp_path / "nothing", start())
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty is no checkpoint"):
        training.load_checkpoint(tmp_path / "empty", start())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: training.make_train_step(None, OPTIMIZER), TypeError, "loss_fn must be a function"),
        (lambda: training.make_train_step(loss_fn, 1e-3), TypeError, "optimizer must be an optax.*got float"),
        (lambda: training.init_state(0, {}, OPTIMIZER), TypeError, "key must be a typed PRNG key"),
        (lambda: training.fit(chunk(5), start(), IMAGES, 0), ValueError, "num_chunks must be at least 1"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_optimizer_sees_the_parameters():
    """Weight decay pulls at parameters that have no gradient."""
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    state = training.init_state(jax.random.key(1), jnp.ones(2), optimizer)
    state, _ = training.make_train_step(lambda params, key, batch: (0.0 * jnp.sum(params), {}), optimizer)(state, None)
    chex.assert_trees_all_close(state.params, jnp.full(2, 0.95), rtol=1e-6)


def test_a_whole_run_in_double_precision(x64):
    state = training.fit(chunk(5), start(), IMAGES, 2)
    assert state.step == 10
    chex.assert_tree_all_finite(state.params)


def test_a_scan_is_pure_and_takes_any_arrays():
    plain, _ = chunk(2)(start(), IMAGES)
    chex.assert_trees_all_close(numbers(plain), numbers(jax.jit(chunk(2))(start(), IMAGES)[0]), rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_another_device_loads_here(tmp_path):
    code = f"""
import jax, jax.numpy as jnp, optax
from vaejax import training
state = training.init_state(jax.random.key(1), {{"w": jnp.arange(3.0)}}, optax.sgd(0.1))
training.save_checkpoint({str(tmp_path / "checkpoint")!r}, jax.device_put(state, jax.devices()[3]))
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | flags)
    like = training.init_state(jax.random.key(0), {"w": jnp.zeros(3)}, optax.sgd(0.1))
    chex.assert_trees_all_equal(training.load_checkpoint(tmp_path / "checkpoint", like).params["w"], jnp.arange(3.0))
