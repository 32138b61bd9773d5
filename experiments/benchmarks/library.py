"""vaejax in a race: an experiment whose steps are made in each of the ways that it offers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

import vaejax
from vaejax import data, experiment, nets, program
from vaejax.settings import FeedChoice, Running, Settings

from .timing import Advance

Objective = Callable[..., Any]
MAX_VALUE = 255


def noise_images(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Images that stand in for real ones: speed does not depend on what is in them."""
    return np.random.default_rng(0).integers(0, MAX_VALUE + 1, (count, *shape), np.uint8)


def compose(
    images: np.ndarray, model: nets.Model, objective: Objective, *, binarize: bool = True, latents: int
) -> experiment.Experiment:
    """What is trained, with everything that a run measures of each step."""

    def of_params(params: Any, key: jax.Array, x: jax.Array) -> Any:
        return objective(key, x, partial(model.encode, params), partial(model.decode, params))

    split = data.Split(images)
    draw, scale = partial(data.binarize, max_value=MAX_VALUE), lambda key, stored: data.to_unit(stored, MAX_VALUE)
    return experiment.Experiment(
        dataset=data.Dataset("noise", split, data.Split(images[:1]), MAX_VALUE),
        model=model,
        prepare=draw if binarize else scale,
        objective=of_params,
        optimizer=optax.adam(1e-3),
        prior=lambda params: vaejax.standard_normal.expand((latents,)),
    )


def fed(built: experiment.Experiment, batch: int, feed: FeedChoice, devices: int = 1) -> Advance:
    """A run's own steps: resident examples in one compiled loop, or batches streamed from the host."""
    settings = Settings(batch_size=batch, running=Running(feed=feed, devices=devices))
    made = program.make_program(built, settings)
    progress = [made.begin()]

    def advance(steps: int) -> None:
        done = int(progress[0].state.step)
        progress[0] = jax.block_until_ready(made.feed.advance(progress[0], done + steps))

    return advance


scanned = partial(fed, feed=FeedChoice.RESIDENT)
streamed = partial(fed, feed=FeedChoice.STREAMED)


def per_step(built: experiment.Experiment, batch: int) -> Advance:
    """A compiled step in a Python loop over batches of an array, as in a script of one's own."""
    settings, images = Settings(batch_size=batch), built.dataset.train.examples
    step = jax.jit(program.make_step(built, settings), donate_argnums=0)
    state = [jax.jit(partial(program.initial_state, built, settings))()]
    orders = np.random.default_rng(0)

    def advance(steps: int) -> None:
        for rows in np.resize(orders.permutation(len(images)), (steps, batch)):
            state[0], _ = step(state[0], images[rows])
        jax.block_until_ready(state[0])

    return advance
