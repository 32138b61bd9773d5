"""A variational autoencoder of dense layers, 784-400-20, on batches of 128.

All contestants have the same nets, draw each image as 0 and 1 afresh at every step (but for pythae, which takes floats
from an array and so has less to do), and train with Adam. "JAX, bare loop" is the loss, its gradient and optax's Adam
with nothing around them; "JAX, by hand" never computes the loss and has an Adam of its own. "matrix products alone" is
what remains of a step where all else is left out; how near a contestant comes to it is its share of the machine's
matrix rate.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import vaejax
from vaejax import nets

from . import library, matrix, plain
from .report import REFERENCE, Line, Part, figures_of
from .timing import Begin, Budget, Contest, race, times_faster

PIXELS, HIDDEN, LATENTS, BATCH = 784, 400, 20, 128
EXAMPLES, FEW = 60_000, 2_560
# Where the launch of each operation costs more than the operation, larger batches show what the device can do.
LARGE_BATCHES = (1024, 4096, 16_384)
SCANNED, LOOP, COMPILED = "vaejax, scanned", "JAX, bare loop", "PyTorch, compiled"
SCALING = (SCANNED, LOOP, REFERENCE, COMPILED, matrix.PRODUCTS)


def run(budget: Budget) -> Part:
    """Batches of 128, and on an accelerator larger ones."""
    images = library.noise_images(FEW if budget.quick else EXAMPLES, (28, 28, 1))
    contests = {BATCH: race(contestants(images, BATCH), len(images) // BATCH, budget)}
    if jax.default_backend() != "cpu" and not budget.quick:
        for batch in LARGE_BATCHES:
            chosen = {name: begin for name, begin in contestants(images, batch).items() if name in SCALING}
            contests[batch] = race(chosen, 4 * max(1, len(images) // batch), budget)
    lines = [line for batch, contest in contests.items() for line in lines_of(contest, shape(batch), f"batch {batch}")]
    named = {f"batch {batch}": contest for batch, contest in contests.items()}
    return Part("VAE of dense layers, 784-400-20", lines, named, notes=notes(contests[BATCH]))


def shape(batch: int) -> matrix.Perceptrons:
    """The matrix products of a step."""
    return matrix.Perceptrons((PIXELS, HIDDEN, 2 * LATENTS), (LATENTS, HIDDEN, PIXELS), batch)


def contestants(images: np.ndarray, batch: int) -> dict[str, Begin]:
    """Who trains it."""

    def pytorch(compiled: bool) -> Callable[[int], object]:
        from . import torch_vaes

        return torch_vaes.mlp(images, batch, HIDDEN, LATENTS, compiled=compiled)

    def numpyro() -> Callable[[int], object]:
        from . import numpyro_vaes

        return numpyro_vaes.mlp(images, batch, HIDDEN, LATENTS)

    def pythae() -> Callable[[int], object]:
        from . import pythae_vae

        return pythae_vae.mlp(images, batch, HIDDEN, LATENTS)

    return {
        SCANNED: lambda: library.scanned(built(images), batch),
        "vaejax, per step": lambda: library.per_step(built(images), batch),
        "vaejax, streamed": lambda: library.streamed(built(images), batch),
        LOOP: lambda: bare(images, batch, plain.BARE),
        "JAX, by hand": lambda: bare(images, batch, plain.BY_HAND),
        REFERENCE: lambda: pytorch(False),
        COMPILED: lambda: pytorch(True),
        "numpyro": numpyro,
        "pythae": pythae,
        matrix.PRODUCTS: lambda: matrix.products(shape(batch)),
    }


def built(images: np.ndarray) -> library.experiment.Experiment:
    """The experiment, as `experiments/mnist_vae.py` has it."""
    model = nets.mlp(images.shape[1:], LATENTS, hidden_sizes=(HIDDEN,))
    return library.compose(images, model, vaejax.elbo, latents=LATENTS)


def bare(images: np.ndarray, batch: int, way: plain.Way) -> Callable[[int], object]:
    """The same arithmetic with nothing around it."""
    keys = jax.random.split(jax.random.key(0))
    sizes = (PIXELS, HIDDEN, 2 * LATENTS), (LATENTS, HIDDEN, PIXELS)
    params = [plain.dense(key, each) for key, each in zip(keys, sizes, strict=True)]

    def loss(params: list[plain.Layers], key: jax.Array, images: jax.Array) -> jax.Array:
        binarize_key, noise_key = jax.random.split(key)
        x = plain.binarized(binarize_key, images.reshape(len(images), -1))
        mean, log_scale = jnp.split(plain.perceptron(params[0], x, jax.nn.relu), 2, axis=-1)
        z = mean + jnp.exp(log_scale) * jax.random.normal(noise_key, mean.shape)
        logits = plain.perceptron(params[1], z, jax.nn.relu)
        return jnp.mean(plain.bernoulli_cost(x, logits) + plain.kl_to_standard(mean, log_scale))

    return plain.training(loss, params, images, batch, way)


def lines_of(contest: Contest, products: matrix.Perceptrons, case: str) -> list[Line]:
    """What is said of each contestant: its speed, and its share of the machine's matrix rate."""
    lines = []
    for name, timing in contest.timings.items():
        rates = {"GFLOP/s": products.flops() / timing.per_step / 1e9} | matrix.share_of(contest, name)
        lines.append(Line(case, name, figures_of(contest, name, products.batch) | rates))
    return lines


def notes(contest: Contest) -> list[str]:
    """How it stands to the bare loop, and on an accelerator how long a step takes."""
    found = []
    scanned, loop = contest.timings.get(SCANNED), contest.timings.get(LOOP)
    if scanned and loop:
        found.append(f"vaejax, scanned, makes {times_faster(scanned, loop):.3f} steps in one of the bare loop.")
    if scanned and jax.default_backend() != "cpu":
        found.append(
            f"At batch {BATCH} a step takes {scanned.per_step * 1e6:.0f} microseconds ({1 / scanned.per_step:,.0f} "
            "steps/s): what bounds it is how fast operations are launched, not how much is computed."
        )
    return found
