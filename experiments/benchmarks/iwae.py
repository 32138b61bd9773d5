"""The importance-weighted bound on the net of its paper, 784-200-200-50 with tanh, at batches of 20 and 100.

Every contestant draws each image as 0 and 1 afresh at every step, and encodes it once for all its samples.
Source: Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders.
"""

from collections.abc import Callable
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

import vaejax
from vaejax import nets

from . import library, matrix, mlp, plain
from .report import REFERENCE, Part
from .timing import Begin, Budget, race

PIXELS, HIDDEN, LATENTS = 784, (200, 200), 50
EXAMPLES, FEW = 12_000, 400
BATCHES, SAMPLES = (20, 100), (1, 5, 50)


def run(budget: Budget) -> Part:
    """Every batch with every number of samples."""
    images = library.noise_images(FEW if budget.quick else EXAMPLES, (28, 28, 1))
    contests, lines = {}, []
    for batch, samples in product(BATCHES[:1], SAMPLES[1:2]) if budget.quick else product(BATCHES, SAMPLES):
        case = f"batch {batch}, k = {samples}"
        contests[case] = race(contestants(images, batch, samples), len(images) // batch, budget)
        lines += mlp.lines_of(contests[case], shape(batch, samples), case)
    return Part("IWAE, 784-200-200-50", lines, contests)


def shape(batch: int, samples: int) -> matrix.Perceptrons:
    """The matrix products of a step."""
    return matrix.Perceptrons((PIXELS, *HIDDEN, 2 * LATENTS), (LATENTS, *HIDDEN[::-1], PIXELS), batch, samples)


def contestants(images: np.ndarray, batch: int, samples: int) -> dict[str, Begin]:
    """Who trains it."""

    def pytorch() -> Callable[[int], object]:
        from . import torch_vaes

        return torch_vaes.iwae(images, batch, HIDDEN, LATENTS, samples)

    def numpyro() -> Callable[[int], object]:
        from . import numpyro_vaes

        return numpyro_vaes.iwae(images, batch, HIDDEN, LATENTS, samples)

    return {
        mlp.SCANNED: lambda: library.scanned(built(images, samples), batch),
        mlp.LOOP: lambda: bare(images, batch, samples),
        REFERENCE: pytorch,
        "numpyro": numpyro,
        matrix.PRODUCTS: lambda: matrix.products(shape(batch, samples)),
    }


def built(images: np.ndarray, samples: int) -> library.experiment.Experiment:
    """The experiment, as `experiments/static_mnist_iwae.py` has it."""
    model = nets.mlp(images.shape[1:], LATENTS, hidden_sizes=HIDDEN, activation=jnp.tanh)
    return library.compose(images, model, partial(vaejax.importance_bound, num_samples=samples), latents=LATENTS)


def bare(images: np.ndarray, batch: int, samples: int) -> Callable[[int], object]:
    """The same arithmetic with nothing around it."""
    keys, nets = jax.random.split(jax.random.key(0)), shape(batch, samples)
    params = [plain.dense(key, each) for key, each in zip(keys, (nets.encoder, nets.decoder), strict=True)]

    def loss(params: list[plain.Layers], key: jax.Array, images: jax.Array) -> jax.Array:
        binarize_key, noise_key = jax.random.split(key)
        x = plain.binarized(binarize_key, images.reshape(len(images), -1))
        mean, log_scale = jnp.split(plain.perceptron(params[0], x, jnp.tanh), 2, axis=-1)
        noise = jax.random.normal(noise_key, (samples, *mean.shape))
        z = mean + jnp.exp(log_scale) * noise
        cost = plain.bernoulli_cost(x, plain.perceptron(params[1], z, jnp.tanh))
        log_weights = 0.5 * jnp.sum(noise**2 - z**2 + 2 * log_scale, axis=-1) - cost
        return -jnp.mean(jax.nn.logsumexp(log_weights, axis=0))

    return plain.training(loss, params, images, batch, plain.BARE)
