"""Steps that carry more than parameters, and two players in one step."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import vaejax
from vaejax import training

BATCH = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])


def numbers(state):
    """The state with its typed key as integers, which can be compared."""
    return state._replace(key=jax.random.key_data(state.key))


def moving_average(params, extra, key, batch):
    """A loss that reads its extra, and writes another one."""
    mean = 0.5 * extra["mean"] + 0.5 * jnp.mean(batch + jax.random.normal(key, batch.shape), axis=0)
    loss = jnp.sum((params["w"] - extra["mean"]) ** 2)
    return loss, ({"distance": loss}, {"mean": mean, "count": extra["count"] + 1})


def start(optimizer, extra=None):
    extra = {"mean": jnp.array([4.0, -4.0]), "count": jnp.int32(0)} if extra is None else extra
    return training.init_state(jax.random.key(3), {"w": jnp.array([1.0, -2.0])}, optimizer, extra)


def test_extra_is_threaded_from_step_to_step():
    optimizer = optax.sgd(0.1)
    step = jax.jit(training.make_stateful_train_step(moving_average, optimizer))
    state, w, mean = start(optimizer), jnp.array([1.0, -2.0]), jnp.array([4.0, -4.0])
    for count in range(3):
        state, metrics = step(state, BATCH)
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(3), count), BATCH.shape)
        loss = jnp.sum((w - mean) ** 2)
        # The gradient is at the extra of before the step.
        w, mean = w - 0.2 * (w - mean), 0.5 * mean + 0.5 * jnp.mean(BATCH + noise, axis=0)
        chex.assert_trees_all_close(state.params["w"], w, rtol=1e-5)
        chex.assert_trees_all_close(state.extra["mean"], mean, rtol=1e-5)
        chex.assert_trees_all_close((metrics["loss"], metrics["distance"]), (loss, loss), rtol=1e-5)
        assert state.extra["count"] == state.step == count + 1
    assert set(metrics) == {"loss", "distance", "gradient_norm"}


def test_extra_has_no_gradient():
    """Integers may be in it, the optimizer never sees it, and the norm is that of the parameters' gradient."""
    optimizer = optax.adam(0.1)
    state = start(optimizer)
    chex.assert_trees_all_equal_shapes(state.opt_state, optimizer.init(state.params))
    after, metrics = training.make_stateful_train_step(moving_average, optimizer)(state, BATCH)
    chex.assert_trees_all_close(metrics["gradient_norm"], 2 * jnp.hypot(1.0 - 4.0, -2.0 + 4.0), rtol=1e-6)
    # The loss alone would pull the mean towards w; what is written is what the loss function returned.
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(3), 0), BATCH.shape)
    chex.assert_trees_all_close(
        after.extra["mean"], 0.5 * state.extra["mean"] + 0.5 * jnp.mean(BATCH + noise, axis=0), rtol=1e-6
    )


def test_without_extra_it_is_the_plain_step():
    def plain(params, key, batch):
        x = batch + jax.random.normal(key, batch.shape)
        loss = jnp.mean((x - params["w"]) ** 2)
        return loss, {"half": loss / 2}

    def stateful(params, extra, key, batch):
        assert extra == ()
        loss, metrics = plain(params, key, batch)
        return loss, (metrics, extra)

    optimizer = optax.adam(0.1)
    states = [training.init_state(jax.random.key(3), {"w": jnp.ones(2)}, optimizer) for _ in range(2)]
    for _ in range(3):
        results = [
            make(loss, optimizer)(state, BATCH) for make, loss, state in zip(
                (training.make_train_step, training.make_stateful_train_step), (plain, stateful), states, strict=True
            )
        ]  # fmt: skip
        states = [state for state, _ in results]
        chex.assert_trees_all_equal(*[(numbers(state), metrics) for state, metrics in results])
    assert states[0].extra == ()


def test_the_plain_step_keeps_an_extra_that_it_does_not_know():
    optimizer = optax.sgd(0.1)
    step = training.make_train_step(lambda params, key, batch: (jnp.sum(params["w"] ** 2), {}), optimizer)
    state = start(optimizer)
    chex.assert_trees_all_equal(step(state, BATCH)[0].extra, state.extra)


def discriminate(params, z):
    return jnp.tanh(z @ params["in"]) @ params["out"]


def players():
    keys = jax.random.split(jax.random.key(7), 3)
    return {
        "autoencoder": {"w": jax.random.normal(keys[0], (2, 2))},
        "discriminator": {"in": jax.random.normal(keys[1], (2, 4)), "out": jax.random.normal(keys[2], (4,))},
    }


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


def test_two_players_move_each_by_its_own_term_alone():
    """One loss and one step against two losses and two steps, with a learning rate for each."""
    rates = {"autoencoder": 0.1, "discriminator": 0.03}
    optimizer = optax.partition({name: optax.sgd(rate) for name, rate in rates.items()}, {name: name for name in rates})
    state = training.init_state(jax.random.key(0), players(), optimizer)
    step = jax.jit(training.make_train_step(sum_of_terms, optimizer))
    expected = players()
    for count in range(3):
        state, metrics = step(state, BATCH)
        first, second = jax.random.split(jax.random.fold_in(jax.random.key(0), count))
        gradients = {
            "autoencoder": jax.grad(generator_term)(
                expected["autoencoder"], expected["discriminator"], first, BATCH
            ),
            "discriminator": jax.grad(discriminator_term)(
                expected["discriminator"], expected["autoencoder"], second, BATCH
            ),
        }  # fmt: skip
        assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradients))
        expected = {
            name: jax.tree.map(lambda p, g, rate=rates[name]: p - rate * g, expected[name], gradients[name])
            for name in rates
        }
        chex.assert_trees_all_close(state.params, expected, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(metrics["loss"], metrics["mine"] + metrics["theirs"], rtol=1e-6)


def test_it_traces_once_for_ten_steps():
    traced = chex.assert_max_traces(moving_average, n=1)
    optimizer = optax.adam(0.1)
    step = jax.jit(training.make_stateful_train_step(traced, optimizer))
    state, batch = jax.device_put((start(optimizer), BATCH))
    with jax.transfer_guard("disallow"):
        for _ in range(10):
            state, _ = step(state, batch)
    assert state.step == state.extra["count"] == 10
    chex.clear_trace_counter()


def test_the_loop_on_the_device_carries_extra_too():
    optimizer = optax.sgd(0.1)
    step = training.make_stateful_train_step(moving_average, optimizer)
    feed = training.resident(step, BATCH, lambda epoch: jnp.tile(jnp.arange(3), (2, 1)), steps_per_epoch=2)
    looped = training.fit(feed, training.begin(feed, start(optimizer)), num_steps=5, report_every=2).state
    state = start(optimizer)
    for _ in range(5):
        state, _ = step(state, BATCH)
    chex.assert_trees_all_close(numbers(looped), numbers(state), rtol=1e-5)
    assert looped.extra["count"] == 5


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="loss_fn must be a function; got NoneType"):
        training.make_stateful_train_step(None, optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"optimizer must be an optax.GradientTransformation; got float"):
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
