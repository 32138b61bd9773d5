"""Convolutional variational autoencoders: 4x4 kernels of stride 2, 32-64-128 channels, 20 latents, batches of 128.

Grey 32x32 with a Bernoulli likelihood, drawn as 0 and 1 afresh at every step, and coloured 64x64 with half the squared
error. Plain JAX is `lax.conv_general_dilated` and `lax.conv_transpose` with the gradients that JAX derives,
as compiled steps in a Python loop: inside a compiled loop those convolutions are ten times slower on a CPU.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import vaejax
from vaejax import nets

from . import library, plain
from .report import REFERENCE, Line, Part, figures_of
from .timing import Begin, Budget, race, times_faster

CHANNELS, LATENTS, BATCH = (32, 64, 128), 20, 128
SCANNED = "vaejax, scanned"
LAYOUT = ("NHWC", "HWIO", "NHWC")


class Case(NamedTuple):
    """A size of images."""

    shape: tuple[int, int, int]
    examples: int
    is_binary: bool


CASES = {"32x32x1": Case((32, 32, 1), 10_240, True), "64x64x3": Case((64, 64, 3), 2560, False)}


def run(budget: Budget) -> Part:
    """Both sizes."""
    contests, lines, notes = {}, [], []
    for name, case in CASES.items():
        images = library.noise_images(2 * BATCH if budget.quick else case.examples, case.shape)
        contests[name] = contest = race(contestants(images, case), len(images) // BATCH, budget)
        lines += [Line(name, each, figures_of(contest, each, BATCH)) for each in contest.timings]
        if {SCANNED, REFERENCE} <= set(contest.timings):
            ratio = times_faster(contest.timings[SCANNED], contest.timings[REFERENCE])
            notes.append(f"{name}: {SCANNED}, makes {ratio:.2f} steps in one of PyTorch.")
    return Part("Convolutional VAE, 32-64-128", lines, contests, notes=notes)


def contestants(images: np.ndarray, case: Case) -> dict[str, Begin]:
    """Who trains it."""

    def pytorch() -> Callable[[int], object]:
        from . import torch_vaes

        return torch_vaes.conv(images, BATCH, CHANNELS, LATENTS, is_binary=case.is_binary)

    return {
        SCANNED: lambda: library.scanned(built(images, case), BATCH),
        "vaejax, per step": lambda: library.per_step(built(images, case), BATCH),
        REFERENCE: pytorch,
        "JAX, plain": lambda: bare(images, case),
    }


def built(images: np.ndarray, case: Case) -> library.experiment.Experiment:
    """The experiment."""
    likelihood = nets.heads.bernoulli() if case.is_binary else nets.heads.normal(1.0)
    model = nets.conv(case.shape, LATENTS, channels=CHANNELS, likelihood=likelihood)
    return library.compose(images, model, vaejax.elbo, binarize=case.is_binary, latents=LATENTS)


def bare(images: np.ndarray, case: Case) -> Callable[[int], object]:
    """The same arithmetic with nothing around it."""
    height, _, colours = case.shape
    inner = height // 2 ** len(CHANNELS)
    features = CHANNELS[-1] * inner**2
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "down": kernels(keys[0], (colours, *CHANNELS)),
        "encode": plain.dense(keys[1], (features, 2 * LATENTS)),
        "decode": plain.dense(keys[2], (LATENTS, features)),
        "up": kernels(keys[3], (*reversed(CHANNELS), colours)),
    }

    def loss(params: Any, key: jax.Array, images: jax.Array) -> jax.Array:
        pixel_key, noise_key = jax.random.split(key)
        x = plain.binarized(pixel_key, images) if case.is_binary else images.astype(jnp.float32) / 255
        hidden = x
        for kernel, offset in params["down"]:
            passed = jax.lax.conv_general_dilated(hidden, kernel, (2, 2), "SAME", dimension_numbers=LAYOUT)
            hidden = jax.nn.relu(passed + offset)
        raw = plain.perceptron(params["encode"], hidden.reshape(len(x), -1), jax.nn.relu)
        mean, log_scale = jnp.split(raw, 2, axis=-1)
        z = mean + jnp.exp(log_scale) * jax.random.normal(noise_key, mean.shape)
        made = plain.perceptron(params["decode"], z, jax.nn.relu).reshape(len(x), inner, inner, CHANNELS[-1])
        for kernel, offset in params["up"]:
            made = jax.nn.relu(made)
            made = jax.lax.conv_transpose(made, kernel, (2, 2), "SAME", dimension_numbers=LAYOUT) + offset
        return jnp.mean(cost(x, made) + plain.kl_to_standard(mean, log_scale))

    def cost(x: jax.Array, made: jax.Array) -> jax.Array:
        x, made = x.reshape(len(x), -1), made.reshape(len(x), -1)
        return plain.bernoulli_cost(x, made) if case.is_binary else 0.5 * jnp.sum((x - made) ** 2, axis=-1)

    return plain.training_by_steps(loss, params, images, BATCH, plain.BARE)


def kernels(key: jax.Array, channels: tuple[int, ...]) -> plain.Layers:
    """Kernels and offsets of 4x4 convolutions."""
    keys = jax.random.split(key, len(channels) - 1)
    return [
        (jax.random.normal(key, (4, 4, a, b)) / (16 * a) ** 0.5, jnp.zeros(b))
        for key, (a, b) in zip(keys, pairwise(channels), strict=True)
    ]
