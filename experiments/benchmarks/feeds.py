"""Examples streamed from the host against the same examples on the device, under the same train step.

Shows: whether reading keeps the step busy: for images of MNIST's size and for 64x64x3, in memory, mapped from a file,
  and decoded from PNG files one by one.
Command: python experiments/benchmarks/feeds.py
Time: five minutes on 2 cores.
Measures: examples per second of each feed, medians of interleaved rounds, and their ratio to the resident feed with a
  real step (an MLP VAE); and of reading alone, with no step. Compilation is not in them.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from PIL import Image

import vaejax
from vaejax import data, experiment, nets, program
from vaejax.data.image_folder import load_image_folder
from vaejax.feed import make_plan
from vaejax.settings import FeedChoice, Running, Settings

BATCH = 128


def build(dataset: data.Dataset) -> experiment.Experiment:
    """A VAE whose step is light for the size of the images, so that reading is what is seen."""
    model = nets.mlp(dataset.shape, 20, hidden_sizes=(400,), likelihood=nets.heads.continuous_bernoulli())

    def objective(params: Any, key: jax.Array, x: jax.Array) -> vaejax.ElboTerms:
        return vaejax.elbo(key, x, partial(model.encode, params), partial(model.decode, params))

    prepare = lambda key, images: data.to_unit(images, 255)
    return experiment.Experiment(dataset, model, prepare, objective, optax.adam(1e-3))


def sources(folder: Path, name: str, count: int, shape: tuple[int, int, int]) -> dict[str, data.Dataset]:
    """The same images in memory, mapped and as files; noise of few levels, which PNG packs as it packs pictures."""
    images = (np.random.default_rng(0).integers(0, 8, (count, *shape)) * 32).astype(np.uint8)
    np.save(folder / f"{name}.npy", images)
    files = folder / name / "train"
    files.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(files / f"{number:06}.png")
    # Whatever is tested on, nothing is tested here.
    (folder / name / "test").mkdir()
    Image.fromarray(255 - images[0].squeeze()).save(folder / name / "test" / "0.png")
    whole = lambda examples: data.Dataset(name, data.Split(examples), data.Split(examples[:BATCH]), 255)
    mapped = np.load(folder / f"{name}.npy", mmap_mode="r")
    return {"memory": whole(images), "mapped": whole(mapped), "png files": load_image_folder(folder / name)}


def contestants(sets: dict[str, data.Dataset], threads: int) -> dict[str, Callable[[int], None]]:
    """What advances by so many steps, by name."""
    feeds = {"resident": (sets["memory"], FeedChoice.RESIDENT)}
    feeds |= {f"streamed, {name}": (each, FeedChoice.STREAMED) for name, each in sets.items()}

    def contestant(dataset: data.Dataset, feed: FeedChoice) -> Callable[[int], None]:
        settings = Settings(batch_size=BATCH, running=Running(feed=feed, reader_threads=threads))
        made = program.make_program(build(dataset), settings)
        progress = [made.begin()]

        def advance(steps: int) -> None:
            done = int(progress[0].state.step)
            progress[0] = jax.block_until_ready(made.feed.advance(progress[0], done + steps))

        return advance

    def reader(dataset: data.Dataset) -> Callable[[int], None]:
        plan = make_plan(dataset, Settings(batch_size=BATCH))
        batches = data.batches_from(plan, dataset.train.examples, 0, num_threads=threads)
        # What was read ahead between two rounds is no work of this one; four times as many are read as are trained on.
        return lambda steps: [next(batches) for _ in range(4 * steps)] and None

    advancing = {name: contestant(*each) for name, each in feeds.items()}
    return advancing | {f"reading alone, {name}": reader(each) for name, each in sets.items()}


def main() -> None:
    """Measure all feeds of both sizes, turn about, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    results = {}
    sizes = {"mnist-size": (12_800, (28, 28, 1), 200), "64x64x3": (6_400, (64, 64, 3), 25)}
    with tempfile.TemporaryDirectory() as folder:
        for name, (count, shape, steps) in sizes.items():
            made = contestants(sources(Path(folder), name, count, shape), options.threads)
            seconds: dict[str, list[float]] = {each: [] for each in made}
            for turn in range(options.rounds + 1):
                for each, advance in made.items():
                    is_reader = each.startswith("reading")
                    if is_reader:
                        advance(8)
                    start = time.perf_counter()
                    advance(steps)
                    if turn:  # the first round compiles
                        seconds[each].append((time.perf_counter() - start) / (4 if is_reader else 1))
            base = statistics.median(seconds["resident"])
            for each, times in seconds.items():
                median = statistics.median(times)
                speed = f"{steps * BATCH / median:12,.0f} examples/s"
                print(f"{name:<12}{each:<26}{speed}   {base / median:6.2f} of resident")
            results[name] = seconds
    print(json.dumps({"seconds": results, "jax": jax.__version__, "device": jax.devices()[0].device_kind}))


if __name__ == "__main__":
    main()
