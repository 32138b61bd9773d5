"""An experiment that trains in a moment, and what two runs of it are compared by.

It is loaded by its path, as a user's own file is. `--poison N ...` makes the likelihood of those steps NaN.
"""

import dataclasses
import json
import os
import threading
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import vaejax
from vaejax import cli, data, experiment, nets, trainer, training
from vaejax.program import make_program
from vaejax.settings import settings_from
from vaejax.training import loop

STEPS_PER_EPOCH = 25
POISON = ("--poison", "28", "29", "30")
WATCHED = ("--ema-decay", "0.9", "--validation-size", "10")
# Five steps an epoch. Where every step is a pause, each step is saved.
FIVE_STEPS = ("--batch-size", "20", "--checkpoint-seconds", "0")
# The runs of the fixture `bank`: the command and its settings.
BANK = {
    "plain": ("train",),
    "skip": ("train", *POISON, "--not-finite", "skip"),
    "roll back": ("train", *POISON, "--not-finite", "roll_back"),
    "validated": ("train", *WATCHED),
    "streamed": ("train", "--feed", "streamed"),
    "swept": (
        # The last of the eight members is the run that is validated.
        *("sweep", "--seed", "0", "--seeds", "2"),
        *("--over", "beta=0.5,1", "--over", "learning-rate=1e-3", "--over", "ema_decay=0.5,0.9"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Settings(experiment.VaeSettings):
    """Settings of the tiny experiment."""

    seed: int = 1
    """Seed of the parameters, the order of the examples and all noise."""
    epochs: int = 3
    """Passes over the training data."""
    batch_size: int = 4
    """Examples per step."""
    latent_size: int = 3
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = ()
    """Widths of the hidden layers."""
    poison: tuple[int, ...] = ()
    """Steps whose likelihood is NaN."""


def build(settings):
    images = np.random.default_rng(0).integers(0, 2, (120, 4, 4, 1)).astype(np.uint8)
    split = lambda part: data.Split(part, np.zeros(len(part), np.uint8))
    # As many examples to hold out as --validation-size says.
    held_out = settings.training.validation_size
    dataset = data.Dataset("tiny", split(images[: 100 + held_out]), split(images[-16:]), 1)
    model = nets.mlp((4, 4, 1), settings.latent_size, hidden_sizes=settings.hidden_sizes)
    model = experiment.adapt(model, settings)
    steps = jnp.asarray(settings.poison, jnp.int32)

    def objective(params, key, x, beta=settings.beta, poisoned=0.0):
        def decode(z):
            p = model.decode(params, z)
            return p if not settings.poison else vaejax.Bernoulli(jnp.where(poisoned, jnp.nan, p.logits), 3)

        return vaejax.elbo(key, x, partial(model.encode, params), decode, beta=beta)

    poisoned = {"poisoned": lambda step: jnp.isin(step, steps).astype(jnp.float32)} if settings.poison else {}
    return experiment.Experiment(
        dataset=dataset,
        model=model,
        prepare=lambda key, images: data.to_unit(images, 1),
        objective=objective,
        optimizer=experiment.make_optimizer(settings, dataset),
        prior=lambda params: vaejax.standard_normal.expand((settings.latent_size,)),
        schedules=experiment.kl_schedules(settings, dataset) | poisoned,
    )


def train(folder, *words):
    """The exit code of the command."""
    return cli.main(["train", __file__, *words, *([] if folder is None else ["--output", str(folder)])])


def stop_at(monkeypatch, step, number):
    """Have a signal come between two steps, each of which is a pause, of the next run that begins."""
    assert threading.current_thread() is threading.main_thread()
    on_pause, times = trainer.Trainer._on_pause, iter([None])

    def patched(self, progress):
        if trainer.done(progress) == step and list(times):
            os.kill(os.getpid(), number)
            while not self.interrupts.received:
                time.sleep(0.001)
        on_pause(self, progress)

    monkeypatch.setattr(loop, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(trainer.Trainer, "_on_pause", patched)


def lines(folder):
    """The reports of a run without what a clock says."""
    text = (Path(folder) / "metrics.jsonl").read_text()
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"} for line in text.splitlines()
    ]


def figures(folder):
    """What `results.json` says of the weights."""
    results = json.loads((Path(folder) / "results.json").read_text())
    return {name: results[name] for name in ("test", "active_units", "steps", "measured_step", "skipped")}


def newest(folder):
    """Step, arrays and what else is in the newest checkpoint; keys as integers."""
    config = json.loads((Path(folder) / "config.json").read_text())
    settings = settings_from(Settings, config["settings"])
    like = make_program(build(settings), settings).like()
    progress, about = training.load_newest(Path(folder) / "checkpoints", like)
    plain = lambda leaf: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    arrays = [plain(leaf) for leaf in jax.tree.leaves(progress)]
    assert all(np.all(np.isfinite(array)) for array in arrays), "a checkpoint never holds what is not finite"
    return int(progress.state.step), [(a.dtype.str, a.shape, a.tobytes()) for a in arrays], about


def outcome(folder):
    """All that two runs of the same must agree in, to the bit."""
    return lines(folder), figures(folder), newest(folder)


def _is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
