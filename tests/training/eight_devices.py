"""What `test_parallel.py` looks at: the same steps on one and on eight devices, in a process that has eight."""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

import vaejax
from vaejax import data, training

DEVICES, BATCH, STEPS, EPOCH = 8, 64, 20, 3
LEVELS = np.random.default_rng(0).integers(0, 17, (BATCH * EPOCH + 5, 64)).astype(np.uint8)
OPTIMIZERS = {"sgd": optax.sgd(1e-2), "adam": optax.adam(1e-3)}
PLAN = partial(data.epoch_indices, jax.random.key(2), num_examples=len(LEVELS), batch_size=BATCH)


def init(width=8):
    """Parameters in the precision of the process."""
    up, down, mean, spread = jax.random.split(jax.random.key(0), 4)
    normal = lambda key, *shape: 0.1 * jax.random.normal(key, shape)
    return {
        "up": normal(up, 64, width), "mean": normal(mean, width, 3), "spread": normal(spread, width, 3),
        "down": normal(down, 3, 64), "bias": jnp.zeros(64),
    }  # fmt: skip


def loss_fn(params, key, levels, objective=vaejax.elbo):
    binarize_key, elbo_key = jax.random.split(key)
    x = data.binarize(binarize_key, levels, 16).astype(params["up"].dtype)

    def encode(x):
        h = jnp.tanh(x @ params["up"])
        return vaejax.Normal.from_log_variance(h @ params["mean"], h @ params["spread"])

    terms = objective(elbo_key, x, encode, lambda z: vaejax.Bernoulli(z @ params["down"] + params["bias"]))
    loss, _ = vaejax.negative_mean(terms)
    return loss, {"log_likelihood": jnp.mean(terms.log_likelihood)}


def draws_of_batch(params, key, places):
    """A loss that logs what is drawn for each example, `[B, 3]`."""
    return jnp.mean(params), {"draws": jax.random.normal(key, (len(places), 3))}


def draws_of_one(params, key, place):
    """The same as a mean over examples: the others add 0, and the factor is a power of two."""
    drawn = jax.random.normal(key, (3,))
    return jnp.mean(params), {"draws": jnp.zeros((BATCH, 3)).at[place].set(BATCH * drawn)}


def start(optimizer, **options):
    return training.init_state(jax.random.key(1), init(**options), optimizer)


def batches():
    return [jnp.asarray(LEVELS[rows]) for epoch in range(STEPS // EPOCH + 1) for rows in np.asarray(PLAN(epoch))][
        :STEPS
    ]


def run(step, state, batches):
    for batch in batches:
        state, metrics = step(state, batch)
    return state, metrics


def one_device(step, state, batches):
    return run(jax.jit(step), state, batches)


def on_mesh(step, state, batches, **options):
    mesh = training.data_mesh(DEVICES)
    shardings = training.state_shardings(state, mesh, **options)
    return run(training.data_parallel(step, mesh, **options), training.place(state, shardings), batches)


def under_pmap(step, state, batches):
    """`step` has the name of the axis; each device has its share of the batch, and a copy of the state."""
    state = jax.tree.map(lambda leaf: jnp.stack([leaf] * DEVICES), state)
    shares = [batch.reshape(DEVICES, -1, *batch.shape[1:]) for batch in batches]
    after = jax.tree.map(np.asarray, plain(run(jax.pmap(step, axis_name="data"), state, shares)))
    for leaf in jax.tree.leaves(after):
        assert np.all(leaf == leaf[0])
    return jax.tree.map(lambda leaf: leaf[0], after)


def under_shard_map(step, state, batches):
    whole, cut = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(step, mesh=training.data_mesh(DEVICES), in_specs=(whole, cut), out_specs=whole)
    return run(jax.jit(mapped), state, batches)


def plain(tree):
    """Typed keys as integers."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in map(np.asarray, jax.tree.leaves(plain(tree)))])


def whole_batch(optimizer):
    step = training.make_train_step(loss_fn, optimizer)
    yield "one", one_device(step, start(optimizer), batches())
    yield "mesh", on_mesh(step, start(optimizer), batches())


def by_example(optimizer):
    step = partial(training.make_train_step, training.per_example(loss_fn), optimizer)
    yield "one", one_device(step(), start(optimizer), batches())
    yield "mesh", on_mesh(step(), start(optimizer), batches())
    yield "pmap", under_pmap(step(axis_name="data"), start(optimizer), batches())
    yield "shard_map", under_shard_map(step(axis_name="data"), start(optimizer), batches())


def in_micro_batches(optimizer):
    step = partial(training.make_train_step, training.per_example(loss_fn), optimizer)
    yield "one", one_device(step(), start(optimizer), batches())
    for count in (2, 4, 8):
        yield f"{count}", one_device(step(num_micro_batches=count), start(optimizer), batches())
    yield "mesh", on_mesh(step(num_micro_batches=4), start(optimizer), batches())
    yield "shard_map", under_shard_map(step(axis_name="data", num_micro_batches=4), start(optimizer), batches())


def coupled():
    """Objectives that look at the whole batch at once."""
    for name, objective in [
        ("beta_tc_vae", vaejax.recipes.beta_tc_vae(dataset_size=len(LEVELS))),
        ("info_vae", vaejax.recipes.info_vae(weight=10.0)),
    ]:
        step = training.make_train_step(partial(loss_fn, objective=objective), OPTIMIZERS["sgd"])
        yield f"{name}/one", one_device(step, start(OPTIMIZERS["sgd"]), batches()[:5])
        yield f"{name}/mesh", on_mesh(step, start(OPTIMIZERS["sgd"]), batches()[:5])


def drawn():
    """What is drawn for each example in two steps, `[2, B, 3]`."""
    state = lambda: training.init_state(jax.random.key(1), jnp.ones(2), optax.sgd(0.1))
    both = lambda way, step: np.stack([way(step, state(), [jnp.arange(BATCH)] * n)[1]["draws"] for n in (1, 2)])
    whole = training.make_train_step(draws_of_batch, optax.sgd(0.1))
    each = partial(training.make_train_step, training.per_example(draws_of_one), optax.sgd(0.1))
    yield "batch/one", both(one_device, whole)
    yield "batch/mesh", both(on_mesh, whole)
    yield "example/one", both(one_device, each())
    yield "example/mesh", both(on_mesh, each())
    yield "example/pmap", both(under_pmap, each(axis_name="data"))
    yield "example/shard_map", both(under_shard_map, each(axis_name="data"))
    yield "example/micro", both(one_device, each(num_micro_batches=4))
    yield "example/micro_pmap", both(under_pmap, each(axis_name="data", num_micro_batches=4))


def feeds():
    """The same steps as loops on the devices: on one, on eight, and there with the state cut as well."""
    optimizer, mesh = OPTIMIZERS["adam"], training.data_mesh()
    step = training.make_train_step(loss_fn, optimizer)
    feed = partial(training.resident, examples=LEVELS, plan=PLAN, steps_per_epoch=EPOCH)
    cut = partial(training.state_shardings, mesh=mesh, shard_params=True)
    yield "one", feed(step)
    yield "mesh", feed(training.on_mesh(step, mesh), mesh=mesh)
    yield "cut", feed(training.on_mesh(step, mesh, shard_params=True), mesh=mesh, sharding_of=cut)


def go(feed, progress, num_steps=STEPS):
    return training.fit(feed, progress, num_steps=num_steps, report_every=EPOCH)


def moved(folder):
    """Runs in one place, and with a checkpoint between two places."""
    ways = dict(feeds())
    begin = lambda name: training.begin(ways[name], start(OPTIMIZERS["adam"], width=256))
    for name, feed in ways.items():
        yield name, flat(go(feed, begin(name)).state.params)
        training.save_checkpoint(folder / name, go(feed, begin(name), 7))
    for first, second in [("one", "mesh"), ("mesh", "one"), ("one", "cut"), ("cut", "mesh")]:
        loaded = training.load_checkpoint(folder / first, begin(second), ways[second].sharding_of)
        yield f"{first}_to_{second}", flat(go(ways[second], loaded).state.params)


def shapes():
    """The shape of each leaf of a state that is cut, and of its part on each device."""
    optimizer = OPTIMIZERS["adam"]
    step = training.make_train_step(loss_fn, optimizer)
    state, _ = on_mesh(step, start(optimizer, width=256), batches()[:2], shard_params=True)
    yield "data_parallel", parts_of(state)
    feed = dict(feeds())["cut"]
    yield "begin", parts_of(training.begin(feed, start(optimizer, width=256)).state)
    yield "fit", parts_of(go(feed, training.begin(feed, start(optimizer, width=256)), 2).state)


def parts_of(state):
    paths, _ = jax.tree_util.tree_flatten_with_path(plain(state))
    found = {}
    for path, leaf in paths:
        (part,) = {shard.data.shape for shard in leaf.addressable_shards}
        assert len({shard.device for shard in leaf.addressable_shards}) == DEVICES
        found[jax.tree_util.keystr(path, simple=True, separator=".")] = [leaf.shape, part]
    return np.array(json.dumps(found))


def donated():
    """Whether each leaf of the state that went in is gone."""
    mesh, optimizer = training.data_mesh(), OPTIMIZERS["adam"]
    state = training.place(start(optimizer), training.state_shardings(start(optimizer), mesh))
    training.data_parallel(training.make_train_step(loss_fn, optimizer), mesh)(state, batches()[0])
    yield "gone", np.array([leaf.is_deleted() for leaf in jax.tree.leaves(state)])


def compiled_once(folder):
    """How often a step was traced in four calls, how many programs the last three made, and where they led.

    The state comes as it was made, from a checkpoint, and from one device on purpose; the batches likewise.
    """
    optimizer, made, traced = OPTIMIZERS["adam"], [], []
    jax.monitoring.register_event_duration_secs_listener(lambda name, _, **about: made.append(name))

    def counted(params, key, levels):
        traced.append(1)
        return loss_fn(params, key, levels)

    training.save_checkpoint(folder / "loaded", start(optimizer))
    states = {
        "fresh": start(optimizer),
        "loaded": training.load_checkpoint(folder / "loaded", start(optimizer)),
        "committed": jax.device_put(start(optimizer), jax.devices()[3]),
    }
    on_one = jax.device_put(batches()[:4], jax.devices()[3])
    for name, state in states.items():
        traced.clear()
        step = training.data_parallel(training.make_train_step(counted, optimizer), training.data_mesh())
        after, _ = step(state, on_one[0] if name == "committed" else batches()[0])
        made.clear()
        after, _ = run(step, after, [np.asarray(batch) for batch in on_one[1:]])
        compiled = sum(each == "/jax/core/compile/backend_compile_duration" for each in made)
        yield f"{name}/counts", np.array([len(traced), compiled])
        yield f"{name}/params", flat(after.params)
    # The listener hears of programs at all.
    made.clear()
    jax.jit(lambda x: x * len(states))(jnp.ones(7))
    yield "heard", np.array("/jax/core/compile/backend_compile_duration" in made)


def refused():
    step = training.data_parallel(training.make_train_step(loss_fn, OPTIMIZERS["sgd"]), training.data_mesh())
    try:
        step(start(OPTIMIZERS["sgd"]), batches()[0][:60])
    except ValueError as error:
        yield "batch", np.array(str(error))


def main(folder):
    assert jax.device_count() == DEVICES
    found = {}

    def keep(prefix, pairs):
        found.update({f"{prefix}/{name}": value for name, value in pairs})

    def keep_runs(prefix, runs):
        for name, (state, metrics) in runs:
            keep(f"{prefix}/{name}", [("params", flat(state.params)), ("metrics", flat(metrics))])

    for name, optimizer in OPTIMIZERS.items():
        keep_runs(f"batch/{name}", whole_batch(optimizer))
        keep_runs(f"example/{name}", by_example(optimizer))
    keep_runs("micro", in_micro_batches(OPTIMIZERS["sgd"]))
    with jax.enable_x64(True):
        keep_runs("batch/x64", whole_batch(OPTIMIZERS["sgd"]))
        keep_runs("example/x64", by_example(OPTIMIZERS["sgd"]))
    keep_runs("coupled", coupled())
    keep("drawn", drawn())
    keep("moved", moved(folder))
    keep("shapes", shapes())
    keep("donated", donated())
    keep("refused", refused())
    keep("compiled", compiled_once(folder))
    np.savez(folder / "found.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
