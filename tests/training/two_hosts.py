"""What `test_hosts.py` starts twice: a run over the devices of two processes, and its checkpoint."""

import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaejax import data, training
from vaejax.training import hosts, loop, parallel

STEPS, BATCH, EPOCH = 20, 16, 3
EXAMPLES = np.random.default_rng(0).normal(size=(BATCH * EPOCH + 5, 6)).astype(np.float32)
OPTIMIZER = optax.adam(1e-2)


def loss_fn(params, key, x):
    """Noise for the whole batch, whose parts lie on four devices, and a second metric."""
    distances = (x + jax.random.normal(key, x.shape) - params["mean"]) ** 2
    return jnp.mean(distances / params["scale"] + jnp.log(params["scale"])), {"distance": jnp.mean(distances)}


def start():
    params = {"mean": np.zeros(6, np.float32), "scale": np.ones(6, np.float32)}
    return training.init_state(jax.random.key(1), params, OPTIMIZER)


def feed_on(mesh):
    step = training.make_train_step(loss_fn, OPTIMIZER)
    plan = partial(data.epoch_indices, jax.random.key(2), num_examples=len(EXAMPLES), batch_size=BATCH)
    on_mesh = step if mesh is None else training.on_mesh(step, mesh)
    return training.resident(on_mesh, EXAMPLES, plan, steps_per_epoch=EPOCH, mesh=mesh)


def go(feed, progress, num_steps=STEPS):
    """The progress at the end, and the losses of the reports."""
    losses = []
    progress = training.fit(
        feed, progress, num_steps=num_steps, report_every=EPOCH,
        on_report=lambda report, _: losses.append(report.metrics["loss"]),
    )  # fmt: skip
    return progress, losses


def save_twice(path, tree, index):
    """Whether each of two saves was refused; the second host comes when the first has made the folder."""
    for _ in range(2):
        time.sleep(index)
        try:
            training.save_checkpoint(path, tree)
            yield False
        except FileExistsError:
            yield True


def main(folder, address, index):
    assert training.join_cluster(address, 2, index, timeout=60)
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 4, 2)
    assert training.is_first_host() == (index == 0)
    found = {"agreed": np.array(hosts.agree(index, 5 - index))}

    # Hosts of different patience: where they pause is what they agree on.
    loop.PAUSE_SECONDS = (0.0, 0.01)[index]
    feed = feed_on(training.data_mesh())
    progress, losses = go(feed, training.begin(feed, start()), 10)
    with training.Checkpoints(folder / "saves") as saves:
        saves.save(10, progress, {"cost": 1.0})
        saves.save(10, progress)
        saves.wait()
    like = training.begin(feed, start())
    loaded, about = training.load_newest(folder / "saves", like, feed.sharding_of)
    assert about == {"cost": 1.0}
    progress, more = go(feed, loaded)
    found["refused"] = np.array([*save_twice(folder / "once", progress, index)])
    params = parallel.to_host(progress.state.params)
    np.savez(folder / f"host{index}.npz", losses=np.array(losses + more), **params, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
