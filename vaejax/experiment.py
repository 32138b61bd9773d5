"""An experiment as data: a Python file with a dataclass `Settings` and a function `build(settings)`.

`build` returns an `Experiment`. The way of the data through one is short: stored images, `prepare`,
`objective`, a step.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from vaejax import training
from vaejax.data import Dataset
from vaejax.evaluation import Terms
from vaejax.experiment_files import experiment_names, experiment_path, load_experiment
from vaejax.nets import Model, in_precision, rematerialize
from vaejax.settings import KlSchedule, Precision, Running, Settings, Training, VaeSettings
from vaejax.types import Array, Distribution, Params

# With what an experiment's file is written.
__all__ = [
    "Experiment",
    "KlSchedule",
    "Running",
    "Settings",
    "Training",
    "VaeSettings",
    "adapt",
    "experiment_names",
    "experiment_path",
    "kl_schedules",
    "load_experiment",
    "make_optimizer",
]


class Experiment(NamedTuple):
    """What is trained on what."""

    dataset: Dataset
    model: Model
    # (key, examples [*B, *E] as they are stored) to the x that the model sees; each example of a step has a key of its
    # own, and each of the test set a fixed one
    prepare: Callable[[Array, Any], Array]
    # (params, key, x), and what is scheduled by keyword, to the terms of which the value is maximised
    objective: Callable[..., Terms]
    optimizer: optax.GradientTransformation
    # params to p(z) over one latent [Z]; None where there is nothing to sample from
    prior: Callable[[Params], Distribution] | None = None
    # (params, key, x) to the terms that are reported of the test set, example by example; the objective where None
    report: Callable[[Params, Array, Array], Terms] | None = None
    # whether the objective is a function of the batch as a whole; else each example has a key of its own
    couples_batch: bool = False
    # keyword arguments of the objective as functions of the step
    schedules: Mapping[str, Callable[[Array], Any]] = MappingProxyType({})


def adapt(model: Model, settings: Settings) -> Model:
    """The model with the precision and the memory that the settings ask for."""
    if settings.training.precision is Precision.BFLOAT16:
        model = in_precision(model, jnp.bfloat16)
    return rematerialize(model) if settings.training.rematerialize else model


def make_optimizer(
    settings: Settings, dataset: Dataset, optimizer: Callable[..., optax.GradientTransformation] | None = None
) -> optax.GradientTransformation:
    """The optimizer that the settings ask for, or another with their learning rates and their bound on the gradient."""
    wanted = settings.training
    return training.make_optimizer(
        settings.learning_rate,
        num_steps=settings.num_steps(dataset),
        optimizer=optimizer or wanted.optimizer,
        schedule=wanted.schedule,
        warm_up_steps=int(wanted.warm_up * settings.steps_per_epoch(dataset) + 0.5),
        clip_norm=wanted.clip_norm,
        schedule_options=wanted.schedule_options,
    )


def kl_schedules(settings: VaeSettings, dataset: Dataset) -> dict[str, Callable[[Array], Any]]:
    """The weight of the KL term as a function of the step, for `Experiment.schedules`; none where it is constant."""
    steps = settings.kl_epochs * settings.steps_per_epoch(dataset)
    match settings.kl_schedule:
        case KlSchedule.LINEAR:
            return {"beta": training.linear(0.0, settings.beta, steps)}
        case KlSchedule.SIGMOID:
            return {"beta": training.sigmoid(0.0, settings.beta, steps)}
        case KlSchedule.CYCLIC:
            return {"beta": training.cyclic(0.0, settings.beta, steps)}
    return {}
