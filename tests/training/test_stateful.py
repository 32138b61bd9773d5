"""Steps that carry more than parameters, and two players in one step."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vaejax
from tests.typed_keys import as_numbers
from vaejax import training

BATCH = np.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]], np.float32)
SGD = optax.sgd(0.1)


def moving_average(params, extra, key, batch):
    """A loss that reads its extra, and writes another one."""
    mean = 0.5 * extra["mean"] + 0.5 * jnp.mean(batch + jax.random.normal(key, batch.shape), axis=0)
    loss = jnp.sum((params["w"] - extra["mean"]) ** 2)
    return loss, ({"distance": loss}, {"mean": mean, "count": extra["count"] + 1})


def start(optimizer=SGD):
    extra = {"mean": np.array([4.0, -4.0], np.float32), "count": np.int32(0)}
    return training.init_state(jax.random.key(3), {"w": np.array([1.0, -2.0], np.float32)}, optimizer, extra)


@functools.cache
def shared_step():
    """The compiled step, and a list that grows by one each time that it is traced."""
    traces = []

    def counted(*arguments):
        traces.append(1)
        return moving_average(*arguments)

    return jax.jit(training.make_stateful_train_step(counted, SGD)), traces


def test_extra_is_threaded_from_step_to_step():
    step, _ = shared_step()
    noise_of = jax.jit(lambda count: jax.random.normal(jax.random.fold_in(jax.random.key(3), count), BATCH.shape))
    state, w, mean = start(), np.array([1.0, -2.0]), np.array([4.0, -4.0])
    for count in range(3):
        state, metrics = step(state, BATCH)
        loss, norm = np.sum((w - mean) ** 2), np.linalg.norm(2 * (w - mean))
        # The gradient is at the extra of before the step.
        w, mean = w - 0.2 * (w - mean), 0.5 * mean + 0.5 * np.mean(BATCH + np.asarray(noise_of(count)), axis=0)
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
        np.testing.assert_allclose(state.extra["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose([metrics["loss"], metrics["distance"]], [loss, loss], rtol=1e-5)
        # The norm is that of the parameters' gradient alone.
        np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
        assert state.extra["count"] == state.step == count + 1
    assert set(metrics) == {"loss", "distance", "gradient_norm"}


def test_the_optimizer_never_sees_extra():
    """Integers may be in it, which have no gradient."""
    optimizer = optax.adam(0.1)
    state = start(optimizer)
    chex.assert_trees_all_equal_shapes(state.opt_state, optimizer.init(state.params))
    after, _ = jax.eval_shape(training.make_stateful_train_step(moving_average, optimizer), state, BATCH)
    chex.assert_trees_all_equal_shapes(after.opt_state, state.opt_state)
    assert after.extra["count"].dtype == jnp.int32


def test_without_extra_it_is_the_plain_step():
    def plain(params, key, batch):
        x = batch + jax.random.normal(key, batch.shape)
        loss = jnp.mean((x - params["w"]) ** 2)
        return loss, {"half": loss / 2}

    def stateful(params, extra, key, batch):
        assert extra == ()
        loss, metrics = plain(params, key, batch)
        return loss, (metrics, extra)

    # Equal as text, so that they are one program.
    state = training.init_state(jax.random.key(3), {"w": np.ones(2, np.float32)}, SGD)
    both = [training.make_train_step(plain, SGD), training.make_stateful_train_step(stateful, SGD)]
    first, second = (str(jax.make_jaxpr(step)(state, BATCH)) for step in both)
    assert first == second
    assert jax.eval_shape(both[0], state, BATCH)[0].extra == ()


def test_the_plain_step_keeps_an_extra_that_it_does_not_know():
    step = jax.jit(training.make_train_step(lambda params, key, batch: (jnp.sum(params["w"] ** 2), {}), SGD))
    chex.assert_trees_all_equal(step(start(), BATCH)[0].extra, start().extra)


def discriminate(params, z):
    return jnp.tanh(z @ params["in"]) @ params["out"]


def players():
    normal = lambda *shape: np.random.default_rng(7).normal(size=shape).astype(np.float32)
    return {"autoencoder": {"w": normal(2, 2)}, "discriminator": {"in": normal(2, 4), "out": normal(4)}}


def generator_term(params, frozen, key, batch):
    """Latents that fool a discriminator whose parameters stay as they are."""
    fool = vaejax.fool(lambda z: discriminate(jax.lax.stop_gradient(frozen), z))
    z = batch @ params["w"]
    return jnp.mean(fool(key, None, z)) + jnp.mean((z - batch) ** 2)


def discriminator_term(params, frozen, key, batch):
    """Latents against draws of the prior; `discriminator_loss` stops the points."""
    points = jax.random.normal(key, batch.shape)
    return vaejax.discriminator_loss(lambda z: discriminate(params, z), batch @ frozen["w"], points)


def sum_of_terms(params, key, batch):
    first, second = jax.random.split(key)
    mine = generator_term(params["autoencoder"], params["discriminator"], first, batch)
    theirs = discriminator_term(params["discriminator"], params["autoencoder"], second, batch)
    return mine + theirs, {"mine": mine, "theirs": theirs}


@pytest.mark.slow("test_players has the gradient of each; here they take steps")
def test_two_players_move_each_by_its_own_term_alone():
    """One loss and one step against two losses and two steps, with a learning rate for each."""
    rates = {"autoencoder": 0.1, "discriminator": 0.03}
    optimizer = optax.partition({name: optax.sgd(rate) for name, rate in rates.items()}, {name: name for name in rates})

    @jax.jit
    def both(state, params):
        """The step, and the gradient of each term to its own parameters."""
        first, second = jax.random.split(jax.random.fold_in(jax.random.key(0), state.step))
        mine, theirs = params["autoencoder"], params["discriminator"]
        return training.make_train_step(sum_of_terms, optimizer)(state, BATCH), {
            "autoencoder": jax.grad(generator_term)(mine, theirs, first, BATCH),
            "discriminator": jax.grad(discriminator_term)(theirs, mine, second, BATCH),
        }

    state, expected = training.init_state(jax.random.key(0), players(), optimizer), players()
    for _ in range(3):
        (state, metrics), gradients = jax.device_get(both(state, expected))
        assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients))
        expected = {
            name: jax.tree.map(lambda p, g, rate=rates[name]: p - np.float32(rate) * g, expected[name], gradients[name])
            for name in rates
        }
        chex.assert_trees_all_close(state.params, expected, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(metrics["loss"], metrics["mine"] + metrics["theirs"], rtol=1e-6)


def test_it_traces_once_for_ten_steps():
    step, traces = shared_step()
    state, batch = jax.device_put((start(), BATCH))
    with jax.transfer_guard("disallow"):
        for _ in range(10):
            state, _ = step(state, batch)
    assert state.step == state.extra["count"] == 10
    assert len(traces) == 1


def test_the_loop_on_the_device_carries_extra_too():
    step = training.make_stateful_train_step(moving_average, SGD)
    feed = training.resident(step, BATCH, lambda epoch: jnp.tile(jnp.arange(3), (2, 1)), steps_per_epoch=2)
    looped = training.fit(feed, training.begin(feed, start()), num_steps=5, report_every=2).state
    state, (one_step, _) = start(), shared_step()
    for _ in range(5):
        state, _ = one_step(state, BATCH)
    chex.assert_trees_all_close(as_numbers(looped), as_numbers(state), rtol=1e-5)
    assert looped.extra["count"] == 5


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="loss_fn must be a function; got NoneType"):
        training.make_stateful_train_step(None, SGD)
    with pytest.raises(TypeError, match=r"optimizer must.*got float"):
        training.make_stateful_train_step(moving_average, 0.1)


def test_parameters_made_of_python_numbers_are_compiled_for_once():
    """`jnp.full((), 2.0)` has a weak type, which the first update would take away."""
    traces = []

    def loss_fn(params, extra, key, batch):
        traces.append(1)
        return jnp.mean((params["scale"] - batch) ** 2), ({}, {"count": extra["count"] + 1.0})

    optimizer = optax.adam(1e-2)
    params, extra = {"scale": jnp.full((), 2.0)}, {"count": jnp.full((), 0.0)}
    state = training.init_state(jax.random.key(0), params, optimizer, extra)
    step = jax.jit(training.make_stateful_train_step(loss_fn, optimizer))
    for _ in range(3):
        state, _ = step(state, jnp.ones(4))
    assert len(traces) == 1
    assert state.extra["count"] == 3.0
