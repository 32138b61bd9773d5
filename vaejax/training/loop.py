"""Many steps: a chunk of them as one compiled scan, and the loop over chunks."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from vaejax.checks import check_count
from vaejax.training.step import Metrics, Step, TrainState
from vaejax.types import Array

# The first step of a chunk, traced, to the examples of its steps: [num_steps, batch_size] integers.
Plan = Callable[[Array], Array]


class Chunk(NamedTuple):
    """What a chunk of steps leaves behind."""

    step: int  # steps done in all
    num_steps: int  # steps of this chunk
    metrics: dict[str, np.ndarray]  # each averaged over the steps of the chunk
    seconds: float  # that it took


def scan_steps(step: Step, plan: Plan) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """The steps of a plan as one `lax.scan` over examples that stay on the device.

    Returns:
      `run(state, examples) -> (state, metrics)`, pure; `examples` is a pytree of arrays `[N, ...]` and
      each metric gets a leading axis of steps.
    """

    def run(state: TrainState, examples: Any) -> tuple[TrainState, Metrics]:
        def body(state: TrainState, indices: Array) -> tuple[TrainState, Metrics]:
            return step(state, jax.tree.map(lambda array: jax.numpy.asarray(array)[indices], examples))

        return jax.lax.scan(body, state, plan(state.step))

    return run


def fit(
    run: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    state: TrainState,
    examples: Any,
    num_chunks: int,
    on_chunk: Callable[[Chunk], None] = lambda chunk: None,
) -> TrainState:
    """Run `num_chunks` chunks of steps, compiled once, and report each.

    Args:
      run: `(state, examples) -> (state, metrics)`, as `scan_steps` makes it.
      state: where to start; it is donated, so use the state that is returned instead.
      examples: a pytree of arrays `[N, ...]`, moved to the device once.
      num_chunks: how many.
      on_chunk: called after each chunk; what it raises ends the run.

    Raises:
      FloatingPointError: a loss was not finite; it names the step and the metrics that are not.
    """
    check_count("num_chunks", num_chunks)
    compiled = jax.jit(run, donate_argnums=0)
    # A copy, since donation would take the caller's arrays away.
    state, examples = jax.tree.map(jax.numpy.copy, state), jax.device_put(examples)
    for _ in range(num_chunks):
        start = time.perf_counter()
        state, stacked = compiled(state, examples)
        stacked = jax.device_get(stacked)
        done, num_steps = int(state.step), len(stacked["loss"])
        _check_finite(stacked, first_step=done - num_steps)
        metrics = {name: np.mean(values, axis=0) for name, values in stacked.items()}
        on_chunk(Chunk(done, num_steps, metrics, time.perf_counter() - start))
    return state


def _check_finite(stacked: dict[str, np.ndarray], first_step: int) -> None:
    bad = ~np.isfinite(stacked["loss"])
    if bad.any():
        row = int(np.argmax(bad))
        terms = [name for name, values in stacked.items() if not np.all(np.isfinite(values[row]))]
        raise FloatingPointError(
            f"the loss is {stacked['loss'][row]} at step {first_step + row}, with {', '.join(sorted(terms))} not "
            f"finite: check the data for NaN, lower the learning rate, or bound the scales"
        )
