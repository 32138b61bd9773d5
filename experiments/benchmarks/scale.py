"""How the cost of a step grows with the batch, the width of the nets, the samples K, the latents and the devices.

The model is the MLP VAE, 784-400-20 with one sample on batches of 128, of which one size is changed at a time. The
exponent is the slope of log cost on log size: 1 where twice as much costs twice as much, less where a part of the cost
does not grow, and -1 for devices that share the work without loss. Devices are the real ones, or parts of the CPU where
there are not two: those show what dividing costs, and gain no more than there are cores.
"""

import json
import os
import subprocess
import sys
from functools import partial
from typing import NamedTuple

import jax

import vaejax
from vaejax import nets
from vaejax.settings import FeedChoice

from . import library
from .report import REPOSITORY, Curve, Line, Part
from .timing import Begin, Budget, Contest, Timing, exponent, race

EXAMPLES, FEW, STEPS = 8_192, 1_024, 64


class Sizes(NamedTuple):
    """A model and how it is trained."""

    batch: int = 128
    width: int = 400
    samples: int = 1
    latents: int = 20
    devices: int = 1


VARIED = {
    "batch": (32, 64, 128, 256, 512, 1024),
    "width": (100, 200, 400, 800, 1600),
    "samples": (1, 4, 16, 64),
    "latents": (4, 16, 64, 256),
    "devices": (1, 2, 4, 8),
}
LABELS = {"samples": "samples K"}


def run(budget: Budget) -> Part:
    """Each size by itself; the contestants of a race are its values."""
    contests = {name: contest_of(name, budget) for name in VARIED}
    lines, curves = [], []
    for name, contest in contests.items():
        sizes = [float(value) for value in contest.timings]
        costs = [timing.per_step for timing in contest.timings.values()]
        lines += [
            Line(label(name), f"{size:g}", {"ms per step": 1e3 * cost}) for size, cost in zip(sizes, costs, strict=True)
        ]
        if len(sizes) > 1:
            slope = exponent(sizes, costs)
            lines.append(Line(label(name), "exponent", {"exponent": slope}))
            curves.append(Curve(f"{label(name)}: {slope:.2f}", sizes, costs))
    return Part("Scale: cost of a step of the MLP VAE", lines, contests, curves=curves)


def label(name: str) -> str:
    """A size in words."""
    return LABELS.get(name, name)


def contest_of(name: str, budget: Budget) -> Contest:
    """The race of the values of a size; devices that there are not are made of the CPU, in a process of its own."""
    if name == "devices" and len(jax.devices()) < 2:
        return _on_divided_cpu(budget)
    return race(contestants(name, budget.quick), 4 if budget.quick else STEPS, budget)


def contestants(name: str, quick: bool) -> dict[str, Begin]:
    """The values of a size."""
    values = VARIED[name][:2] if quick else VARIED[name]
    if name == "devices":
        values = tuple(value for value in values if value <= len(jax.devices()))
    return {str(value): partial(begin, Sizes()._replace(**{name: value}), quick) for value in values}


def begin(sizes: Sizes, quick: bool) -> library.Advance:
    """The training of a model of these sizes."""
    images = library.noise_images(FEW if quick else EXAMPLES, (28, 28, 1))
    model = nets.mlp(images.shape[1:], sizes.latents, hidden_sizes=(sizes.width,))
    objective = partial(vaejax.elbo, num_samples=sizes.samples)
    built = library.compose(images, model, objective, latents=sizes.latents)
    return library.fed(built, sizes.batch, FeedChoice.RESIDENT, sizes.devices)


def _on_divided_cpu(budget: Budget) -> Contest:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={max(VARIED['devices'])}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-m", __spec__.name, json.dumps(budget)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=REPOSITORY)
    if done.returncode:
        return Contest({}, {"devices": done.stderr.strip().rpartition("\n")[2]})
    timings, left_out = json.loads(done.stdout)
    return Contest({name: Timing(*each) for name, each in timings.items()}, left_out)


if __name__ == "__main__":
    print(json.dumps(contest_of("devices", Budget(*json.loads(sys.argv[1])))))
