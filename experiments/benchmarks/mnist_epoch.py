"""An epoch of the MNIST VAE (784-500-20, batch 128) in vaejax and in a bare JAX loop.

Shows: what the library costs over the arithmetic. The bare loop has the same matrix products, draws
and optimizer, written out by hand in one scan, and no metrics, checks or distributions.
Command: make bench
Time: a minute on 2 cores.
Measures: seconds per epoch, medians of interleaved rounds, and their ratio. Speed does not depend on
  what is in the images, so random ones stand in for MNIST.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import vaejax
from vaejax import data, experiment, nets, program

EXAMPLES, BATCH, PIXELS, HIDDEN, LATENTS = 60_000, 128, 784, 500, 20
STEPS = EXAMPLES // BATCH


def library(images: np.ndarray) -> tuple[Callable[[Any], Any], Any]:
    """An epoch as `make train EXPERIMENT=mnist_vae` runs it, and what it starts from."""
    model = nets.mlp((28, 28, 1), LATENTS, hidden_sizes=(HIDDEN,))

    def objective(params: Any, key: jax.Array, x: jax.Array) -> vaejax.ElboTerms:
        return vaejax.elbo(key, x, partial(model.encode, params), partial(model.decode, params), num_samples=1)

    split = data.Split(images, np.zeros(len(images), np.uint8))
    trained = experiment.Experiment(
        dataset=data.Dataset("noise", split, split, max_value=255),
        model=model,
        prepare=partial(data.binarize, max_value=255),
        objective=objective,
        optimizer=optax.adam(1e-3),
        prior=lambda params: vaejax.standard_normal.expand((LATENTS,)),
    )
    made = program.make_program(trained, experiment.Settings(batch_size=BATCH))
    return lambda progress: made.feed.advance(progress, int(progress.state.step) + STEPS), made.begin()


def bare(images: jax.Array) -> tuple[Callable[[Any], Any], Any]:
    """The same arithmetic with nothing around it."""
    sizes = [(PIXELS, HIDDEN), (HIDDEN, 2 * LATENTS), (LATENTS, HIDDEN), (HIDDEN, PIXELS)]
    keys = jax.random.split(jax.random.key(0), len(sizes))
    params = [(jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b)) for k, (a, b) in zip(keys, sizes, strict=True)]

    def loss(params: Any, key: jax.Array, images: jax.Array) -> jax.Array:
        (w1, b1), (w2, b2), (w3, b3), (w4, b4) = params
        binarize_key, noise_key = jax.random.split(key)
        intensity = images.reshape(-1, PIXELS).astype(jnp.float32) / 255
        x = (jax.random.uniform(binarize_key, intensity.shape) < intensity).astype(jnp.float32)
        raw = jax.nn.relu(x @ w1 + b1) @ w2 + b2
        mean, log_scale = raw[:, :LATENTS], raw[:, LATENTS:]
        z = mean + jnp.exp(log_scale) * jax.random.normal(noise_key, mean.shape)
        logits = jax.nn.relu(z @ w3 + b3) @ w4 + b4
        # log(1 + exp(l)) in the form that is fastest here.
        softplus = jnp.maximum(logits, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
        reconstruction = jnp.sum(softplus - x * logits, axis=-1)
        kl = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_scale) - 1 - 2 * log_scale, axis=-1)
        return jnp.mean(reconstruction + kl)

    def epoch(state: Any, images: jax.Array) -> tuple[Any, jax.Array]:
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(2), state[0]), EXAMPLES)

        def step(state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
            t, params, m, v = state
            value, gradient = jax.value_and_grad(loss)(params, jax.random.fold_in(jax.random.key(1), t), images[rows])
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
            rate = 1e-3 * jnp.sqrt(1 - 0.999 ** (t + 1)) / (1 - 0.9 ** (t + 1))
            params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, m, v)
            return (t + 1, params, m, v), value

        return jax.lax.scan(step, state, order[: STEPS * BATCH].reshape(STEPS, BATCH))

    zeros = jax.tree.map(jnp.zeros_like, params)
    compiled = jax.jit(epoch)
    return lambda state: compiled(state, images)[0], (jnp.zeros((), jnp.int32), params, zeros, zeros)


def main() -> None:
    """Measure both, turn about, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    noise = np.random.default_rng(0).integers(0, 256, (EXAMPLES, 28, 28, 1)).astype(np.uint8)
    contestants = {"vaejax": library(noise), "bare": bare(jax.device_put(noise))}
    states = {name: state for name, (_, state) in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, (epoch, _) in contestants.items():
            start = time.perf_counter()
            states[name] = jax.block_until_ready(epoch(states[name]))
            if turn:  # the first round compiles
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["vaejax"], seconds["bare"], strict=True)]
    for name, median in medians.items():
        print(f"{name:<8}{median:7.3f} s per epoch  {STEPS * BATCH / median:9,.0f} examples/s")
    print(f"ratio   {statistics.median(ratios):7.3f}  (vaejax by bare, median of {rounds} rounds)")
    environment = {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    print(json.dumps({"seconds": seconds, "ratio": statistics.median(ratios), **environment}))


if __name__ == "__main__":
    main()
