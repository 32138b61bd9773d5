"""Examples that stay on the device, and the steps over them as one compiled loop."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vaejax.checks import check_count
from vaejax.training.loop import Feed, Progress, advance_one, steps_done
from vaejax.training.parallel import place, state_shardings
from vaejax.training.step import Step
from vaejax.types import Array

# The number of an epoch, traced, to the examples of its steps: [*M, steps_per_epoch, batch_size] integers.
Plan = Callable[[Array], Array]


def resident(
    step: Step,
    examples: Any,
    plan: Plan,
    *,
    steps_per_epoch: int,
    mesh: Mesh | None = None,
    sharding_of: Callable[[Any], Any] | None = None,
) -> Feed:
    """Examples that stay on the device; all steps up to a pause are one compiled loop.

    How many they are is an argument of the program and no part of it, so where a run pauses does not change a bit of
    what it computes.

    Args:
      step: `(state, batch) -> (state, metrics)`, as `make_train_step` makes it; with a mesh, as `on_mesh` does.
      examples: a pytree of arrays `[N, ...]`.
      plan: the number of an epoch to the examples of each of its steps.
      steps_per_epoch: how many it has.
      mesh: on each of its devices the examples then are.
      sharding_of: where a run's own arrays lie on it; `state_shardings` where None.
    """
    check_count("steps_per_epoch", steps_per_epoch)
    if mesh is not None:
        sharding_of = sharding_of or partial(state_shardings, mesh=mesh)
    examples = place_examples(examples, mesh)

    def batch_of(rows: Array, number: Array, examples: Any) -> Any:
        indices = jnp.take(rows, number % steps_per_epoch, axis=-2)
        return jax.tree.map(lambda array: jnp.asarray(array)[indices], examples)

    def epoch(carry: tuple[Progress, Array], examples: Any, stop: Array) -> tuple[Progress, Array]:
        """The steps up to `stop` or the end of an epoch, whichever comes first, and whether the last one went."""
        number = steps_done(carry[0].state) // steps_per_epoch
        rows = plan(number)
        end = jnp.minimum(stop, (number + 1) * steps_per_epoch)

        def body(carry: tuple[Progress, Array]) -> tuple[Progress, Array]:
            done = steps_done(carry[0].state)
            progress = advance_one(step, carry[0], batch_of(rows, done, examples))
            return progress, steps_done(progress.state) > done

        return jax.lax.while_loop(lambda carry: (steps_done(carry[0].state) < end) & carry[1], body, carry)

    def run(progress: Progress, examples: Any, stop: Array) -> Progress:
        unfinished = lambda carry: (steps_done(carry[0].state) < stop) & carry[1]
        begun = (progress, jnp.bool_(True))
        after, _ = jax.lax.while_loop(unfinished, lambda carry: epoch(carry, examples, stop), begun)
        # A program that left its arrays elsewhere than it took them would be compiled again.
        return after if sharding_of is None else jax.lax.with_sharding_constraint(after, sharding_of(after))

    compiled = jax.jit(run, donate_argnums=0)
    first = lambda state: step(state, batch_of(plan(jnp.int32(0)), jnp.int32(0), examples))[1]
    return Feed(lambda progress, stop: compiled(progress, examples, np.int32(stop)), first, sharding_of)


def place_examples(examples: Any, mesh: Mesh | None = None) -> Any:
    """Examples on the device, or on each device of a mesh; those that are there already are not moved."""
    return jax.device_put(examples) if mesh is None else place(examples, state_shardings(examples, mesh))
