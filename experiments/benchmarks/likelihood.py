"""The importance-weighted likelihood of a VAE 784-500-20: speed, and memory as the samples grow.

vaejax does what `vaejax evaluate` does, 20 examples at a time, with the effective sample size and the index of the
tail; PyTorch a loop by hand over as many examples in inference mode, a chunk of samples at a time. "matrix products
alone" is what remains of it where all but the decoder's products is left out, which nobody can pass in float32. A step
is 20 examples. Memory is the most that a process of its own has taken beyond what it had before.
"""

import json
import subprocess
import sys
from functools import partial
from typing import Any

import jax
import numpy as np

import vaejax
from vaejax import evaluation, memory, nets
from vaejax.assess.bounds import SAMPLED_TOGETHER
from vaejax.assess.subject import Wanted
from vaejax.outcome import map_examples

from . import matrix
from .report import REFERENCE, REPOSITORY, Line, Part, figures_of
from .timing import Advance, Begin, Budget, Contest, attempt_each, race

PIXELS, HIDDEN, LATENTS = 784, 500, 20
TOGETHER = 20
SAMPLES = (100, 1000, 5000, 50_000)
EXAMPLES = 100 * TOGETHER


def run(budget: Budget) -> Part:
    """Every number of samples."""
    contests, lines = {}, []
    for samples in SAMPLES[:2] if budget.quick else SAMPLES:
        case = f"K = {samples:,}"
        contests[case] = contest = race(contestants(samples), EXAMPLES // TOGETHER, budget)
        peaks = memories(contest, samples)
        for name in contest.timings:
            figures = figures_of(contest, name, TOGETHER) | matrix.share_of(contest, name)
            lines.append(Line(case, name, figures | ({"MiB": peaks[name] / 2**20} if name in peaks else {})))
    return Part("Importance-weighted likelihood, 784-500-20", lines, contests)


def contestants(samples: int) -> dict[str, Begin]:
    """Who estimates it."""

    def pytorch() -> Advance:
        from . import torch_vaes

        return torch_vaes.likelihood(binary_images(), HIDDEN, LATENTS, samples, TOGETHER)

    def products() -> Advance:
        at_once = SAMPLED_TOGETHER * min(samples, Wanted().chunk_size)
        return matrix.passes((LATENTS, HIDDEN, PIXELS), TOGETHER * samples, at_once)

    return {"vaejax": partial(library, samples), REFERENCE: pytorch, matrix.PRODUCTS: products}


def binary_images() -> np.ndarray:
    """Examples to estimate it of."""
    return np.random.default_rng(0).integers(0, 2, (EXAMPLES, 28, 28, 1)).astype(np.float32)


def library(samples: int) -> Advance:
    """As `vaejax evaluate` estimates it."""
    images, model = binary_images(), nets.mlp((28, 28, 1), LATENTS, hidden_sizes=(HIDDEN,))
    params, noise = model.init(jax.random.key(0)), jax.random.key(1)

    def of_example(params: Any, number: jax.Array, x: jax.Array) -> evaluation.LogLikelihood:
        return evaluation.importance_log_likelihood(
            jax.random.fold_in(noise, number),
            x,
            partial(model.encode, params),
            partial(model.decode, params),
            vaejax.standard_normal.expand((LATENTS,)),
            num_samples=samples,
        )

    over = map_examples(of_example, together=SAMPLED_TOGETHER, advance=lambda done: None)
    return lambda steps: over(params, images, np.arange(steps * TOGETHER) % EXAMPLES)


def memories(contest: Contest, samples: int) -> dict[str, int]:
    """Bytes that each contestant that has arrived takes; where it cannot be told, it is not among them."""
    return attempt_each({name: partial(memory_of, name, samples) for name in contest.timings}, contest.left_out)


def memory_of(name: str, samples: int) -> int:
    """What a step takes in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, name, str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    return int(json.loads(done.stdout)["bytes"])


def report_memory(name: str, samples: int) -> dict[str, int]:
    """In that process: the bytes by which a step raises the peak."""
    advance = contestants(samples)[name]()
    before = peak()
    advance(1)
    return {"bytes": peak() - before}


def peak() -> int:
    """The most bytes that this process has had, on the device where it has a memory of its own."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    found = memory.peak_memory()
    return found.get("device", found.get("host", 0))


if __name__ == "__main__":
    print(json.dumps(report_memory(sys.argv[1], int(sys.argv[2]))))
