"""Steps without a guard, and the guarded ones only where something was not finite."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vaejax.training.loop import Feed, Progress
from vaejax.training.step import is_sound
from vaejax.types import Array


def optimistic(fast: Feed, careful: Feed) -> Feed:
    """Advance without a guard and look back at each pause; where a step was not finite, do the same steps with one.

    A guard costs a choice between old and new for every number of the state at every step. What is not finite stays so
    in a state and in a sum, so that it can be seen afterwards; the progress of the last pause is kept until then.

    Args:
      fast: of a step that is made without `max_skipped`.
      careful: of the same step with it, which stops before a step that is not finite.

    Returns:
      A feed that stops where `careful` does. Its memory is that of one more state.
    """

    def advance(progress: Progress, stop: int) -> Progress:
        before = _copy(progress)
        after = fast.advance(progress, stop)
        return after if bool(_went_well(before, after)) else careful.advance(before, stop)

    return Feed(advance, fast.metrics_of, fast.sharding_of)


_copy: Callable[[Progress], Progress] = jax.jit(lambda progress: jax.tree.map(jnp.copy, progress))


@jax.jit
def _went_well(before: Progress, after: Progress) -> Array:
    """Whether all that a guard looks at was finite at every step since: `[]` bool."""
    return is_sound(before.state, after.state, after.totals["loss"], after.totals["gradient_norm"])
