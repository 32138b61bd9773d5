"""What `test_parallel.py` looks at: the same steps on one and on eight devices, in a process that has eight.

    eight_devices.py FOLDER fast|slow

`fast` is the steps of single examples with one optimizer; `slow` is objectives that couple a batch, moves between
devices, other optimizers and precisions, and other ways to cut a batch.
"""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import vaejax
from vaejax import data, training

DEVICES, BATCH, EPOCH = 8, 64, 3
IMAGES = np.random.default_rng(0).integers(0, 2, (BATCH * EPOCH + 5, 64)).astype(np.uint8)
# Adam hides a gradient that is a multiple of the right one; SGD shows it.
OPTIMIZERS = {"sgd": optax.sgd(1e-2), "adam": optax.adam(1e-3)}
PLAN = partial(data.epoch_indices, jax.random.key(2), num_examples=len(IMAGES), batch_size=BATCH)


def init(width=8):
    """Parameters in the precision of the process."""
    normal = np.random.default_rng(1).normal
    return {
        "up": jnp.asarray(normal(0, 0.1, (64, width)), float), "down": jnp.asarray(normal(0, 0.1, (3, 64)), float),
        "mean": jnp.asarray(normal(0, 0.1, (width, 3)), float), "spread": jnp.asarray(normal(0, 0.1, (width, 3)), float),
        "bias": jnp.zeros(64),
    }  # fmt: skip


def loss_fn(params, key, images, objective=vaejax.elbo):
    x = images.astype(params["up"].dtype)

    def encode(x):
        h = jnp.tanh(x @ params["up"])
        return vaejax.Normal.from_log_variance(h @ params["mean"], h @ params["spread"])

    terms = objective(key, x, encode, lambda z: vaejax.Bernoulli(z @ params["down"] + params["bias"]))
    loss, _ = vaejax.negative_mean(terms)
    return loss, {"log_likelihood": jnp.mean(terms.log_likelihood)}


def loss_of_batch(params, key, batch, **options):
    """A loss that also logs numbers drawn for each example, `[B, 3]`."""
    draw_key, key = jax.random.split(key)
    loss, metrics = loss_fn(params, key, batch["images"], **options)
    return loss, metrics | {"draws": jax.random.normal(draw_key, (BATCH, 3))}


def loss_of_one(params, key, example):
    """The same for one example. The step logs means over examples: the others add 0, and B is a power of two."""
    draw_key, key = jax.random.split(key)
    loss, metrics = loss_fn(params, key, example["images"])
    mine = jnp.arange(BATCH)[:, None] == example["place"]
    return loss, metrics | {"draws": jnp.where(mine, BATCH * jax.random.normal(draw_key, (3,)), 0.0)}


def start(optimizer, **options):
    return training.init_state(jax.random.key(1), init(**options), optimizer)


def batches(count):
    rows = np.concatenate([PLAN(epoch) for epoch in range(count // EPOCH + 1)])[:count]
    return [{"images": IMAGES[each], "place": np.arange(BATCH)} for each in rows]


def run(step, state, batches):
    """The state after all batches, the metrics of the last, and what was drawn in each step."""
    draws = []
    for batch in batches:
        state, metrics = step(state, batch)
        draws.append(metrics.pop("draws", None))
    return state, metrics, draws


# -- ways to run a step


def one_device(step, state, batches):
    return run(jax.jit(step), state, batches)


def on_mesh(step, state, batches, **options):
    mesh = training.data_mesh(DEVICES)
    shardings = training.state_shardings(state, mesh, **options)
    return run(training.data_parallel(step, mesh, **options), training.place(state, shardings), batches)


def under_pmap(step, state, batches):
    """`step` has the name of the axis; each device has its share of the batch, and a copy of the state."""
    by_device = NamedSharding(training.data_mesh(DEVICES), PartitionSpec("data"))
    copies = jax.vmap(lambda _, state: state, (0, None))
    state = jax.jit(copies, out_shardings=by_device)(np.arange(DEVICES), state)
    shares = [jax.tree.map(lambda leaf: leaf.reshape(DEVICES, -1, *leaf.shape[1:]), batch) for batch in batches]
    after = jax.tree.map(np.asarray, plain(run(jax.pmap(step, axis_name="data"), state, shares)))
    for leaf in jax.tree.leaves(after):
        assert np.all(leaf == leaf[0])
    return jax.tree.map(lambda leaf: leaf[0], after)


def under_shard_map(step, state, batches):
    whole, cut = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(step, mesh=training.data_mesh(DEVICES), in_specs=(whole, cut), out_specs=whole)
    return run(jax.jit(mapped), state, batches)


AXIS = {"axis_name": "data"}
# How a loss of single examples is run, and the options of its step.
WAYS = {
    "one": (one_device, {}),
    "mesh": (on_mesh, {}),
    "pmap": (under_pmap, AXIS),
    "shard_map": (under_shard_map, AXIS),
    "micro2": (one_device, {"num_micro_batches": 2}),
    "micro4": (one_device, {"num_micro_batches": 4}),
    "micro8": (one_device, {"num_micro_batches": 8}),
    "micro4_mesh": (on_mesh, {"num_micro_batches": 4}),
    "micro4_pmap": (under_pmap, AXIS | {"num_micro_batches": 4}),
    "micro4_shard_map": (under_shard_map, AXIS | {"num_micro_batches": 4}),
}
FAST_WAYS = ("one", "micro4_pmap", "shard_map")


def by_example(optimizer, ways, num_steps):
    for name in ways:
        way, options = WAYS[name]
        step = training.make_train_step(training.per_example(loss_of_one), optimizer, **options)
        yield name, way(step, start(optimizer), batches(num_steps))


def by_batch(optimizer, num_steps, **options):
    step = training.make_train_step(partial(loss_of_batch, **options), optimizer)
    yield "one", one_device(step, start(optimizer), batches(num_steps))
    yield "mesh", on_mesh(step, start(optimizer), batches(num_steps))


def beta_tc_vae():
    return vaejax.recipes.beta_tc_vae(dataset_size=len(IMAGES))


def info_vae():
    return vaejax.recipes.info_vae(weight=10.0)


# -- what becomes of a tree


def plain(tree):
    """Typed keys as integers."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in map(np.asarray, jax.tree.leaves(plain(tree)))])


def parts_of(state):
    """The shape of each leaf, and of its part on each device."""
    paths, _ = jax.tree_util.tree_flatten_with_path(plain(state))
    found = {}
    for path, leaf in paths:
        (part,) = {shard.data.shape for shard in leaf.addressable_shards}
        assert len({shard.device for shard in leaf.addressable_shards}) == DEVICES
        found[jax.tree_util.keystr(path, simple=True, separator=".")] = [leaf.shape, part]
    return np.array(json.dumps(found))


# -- runs as loops on the devices, and their checkpoints


def feeds(names):
    """The same steps on one device, on eight, and there with the state cut as well."""
    mesh = training.data_mesh()
    step = training.make_train_step(loss_fn, OPTIMIZERS["adam"])
    feed = partial(training.resident, examples=IMAGES, plan=PLAN, steps_per_epoch=EPOCH)
    cut = partial(training.state_shardings, mesh=mesh, shard_params=True)
    found = {
        "one": feed(step),
        "mesh": feed(training.on_mesh(step, mesh), mesh=mesh),
        "cut": feed(training.on_mesh(step, mesh, shard_params=True), mesh=mesh, sharding_of=cut),
    }
    return {name: found[name] for name in names}


def moved(folder, num_steps, *moves):
    """Runs in one place, with a checkpoint between two places, and the parts of a state that is cut."""
    ways = feeds(dict.fromkeys(name for move in moves for name in move))
    go = lambda feed, progress, until=num_steps: training.fit(feed, progress, num_steps=until, report_every=EPOCH)
    begun = {name: training.begin(feed, start(OPTIMIZERS["adam"], width=256)) for name, feed in ways.items()}
    yield "shapes/begin", parts_of(begun["cut"].state)
    like = jax.eval_shape(lambda: begun["one"])
    halves = {name: go(feed, begun[name], 7) for name, feed in ways.items()}
    yield "shapes/fit", parts_of(halves["cut"].state)
    for name, feed in ways.items():
        training.save_checkpoint(folder / name, halves[name])
        yield f"moved/{name}", flat(go(feed, halves[name]).state.params)
    for first, second in moves:
        loaded = training.load_checkpoint(folder / first, like, ways[second].sharding_of)
        yield f"moved/{first}_to_{second}", flat(go(ways[second], loaded).state.params)


def cut_step():
    """The parts of a state after steps that are compiled one by one."""
    optimizer = OPTIMIZERS["adam"]
    step = training.make_train_step(loss_of_batch, optimizer)
    state, *_ = on_mesh(step, start(optimizer, width=256), batches(2), shard_params=True)
    yield "data_parallel", parts_of(state)


# -- what a step compiled for a mesh takes


def compiled_once(folder):
    """How often a step was traced in four calls, how many programs the last three made, and where they led.

    The state comes as it was made, from a checkpoint, and from one device on purpose; the batches likewise.
    """
    optimizer, made, traced = OPTIMIZERS["adam"], [], []
    jax.monitoring.register_event_duration_secs_listener(lambda name, _, **about: made.append(name))

    def counted(params, key, x):
        traced.append(1)
        return jnp.mean((x + jax.random.normal(key, x.shape) - params["w"]) ** 2), {}

    begin = lambda: training.init_state(jax.random.key(1), {"w": jnp.zeros(3)}, optimizer)
    training.save_checkpoint(folder / "loaded", begin())
    states = {
        "fresh": begin(),
        "loaded": training.load_checkpoint(folder / "loaded", begin()),
        "committed": jax.device_put(begin(), jax.devices()[3]),
    }
    x = np.random.default_rng(0).normal(size=(4, 16, 3)).astype(np.float32)
    for name, state in states.items():
        traced.clear()
        step = training.data_parallel(training.make_train_step(counted, optimizer), training.data_mesh())
        after, _ = step(state, jax.device_put(x[0], jax.devices()[3]) if name == "committed" else jnp.asarray(x[0]))
        made.clear()
        for batch in x[1:]:
            after, _ = step(after, batch)
        compiled = sum(each == "/jax/core/compile/backend_compile_duration" for each in made)
        yield f"{name}/counts", np.array([len(traced), compiled])
        yield f"{name}/params", flat(after.params)
    # The listener hears of programs at all.
    made.clear()
    jax.jit(lambda x: x * len(states))(jnp.ones(7))
    yield "heard", np.array("/jax/core/compile/backend_compile_duration" in made)
    # Whether each leaf of a state that went in, where it has to be, is gone.
    placed = training.place(begin(), training.state_shardings(begin(), training.data_mesh()))
    step(placed, x[0])
    yield "gone", np.array([leaf.is_deleted() for leaf in jax.tree.leaves(placed)])
    try:
        step(begin(), x[0, :12])
    except ValueError as error:
        yield "refused", np.array(str(error))


def save_on_another_device(folder):
    """A checkpoint of arrays on a device that the process of the tests does not have."""
    training.save_checkpoint(folder / "of_device_3", jax.device_put({"w": jnp.arange(3.0)}, jax.devices()[3]))


def main(folder, tier):
    assert jax.device_count() == DEVICES
    found = {}

    def keep(prefix, pairs):
        found.update({f"{prefix}{name}": value for name, value in pairs})

    def keep_runs(prefix, runs):
        for name, (state, metrics, draws) in runs:
            params = flat(state.params)
            found.update({f"{prefix}/{name}/params": params, f"{prefix}/{name}/metrics": flat(metrics)})
            found[f"{prefix}/{name}/draws"] = np.stack(draws)

    found["start"] = flat(init())
    if tier == "fast":
        keep_runs("example/sgd", by_example(OPTIMIZERS["sgd"], FAST_WAYS, 3))
        keep("compiled/", compiled_once(folder))
        save_on_another_device(folder)
    else:
        for name, optimizer in OPTIMIZERS.items():
            keep_runs(f"batch/{name}", by_batch(optimizer, 20))
        keep_runs("example/sgd", by_example(OPTIMIZERS["sgd"], WAYS, 20))
        keep_runs("example/adam", by_example(OPTIMIZERS["adam"], ("one", "mesh", "pmap", "shard_map"), 20))
        with jax.enable_x64(True):
            keep_runs("batch/x64", by_batch(OPTIMIZERS["sgd"], 20))
            keep_runs("example/x64", by_example(OPTIMIZERS["sgd"], ("one", "mesh", "pmap", "shard_map"), 20))
        for objective in (beta_tc_vae, info_vae):
            keep_runs(f"batch/{objective.__name__}", by_batch(OPTIMIZERS["sgd"], 5, objective=objective()))
        keep("", moved(folder, 20, ("one", "mesh"), ("mesh", "one"), ("one", "cut"), ("cut", "one"), ("cut", "mesh")))
        keep("shapes/", cut_step())
    np.savez(folder / "found.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
