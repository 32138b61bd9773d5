"""A discrete latent summed out: the bound of semi-supervised models."""

import jax
import jax.numpy as jnp

from vaejax.checks import check_support, check_weight
from vaejax.types import Array, ArrayLike, MarginalTerms


def marginalize_label(values: Array, logits: Array, label: Array, *, weight: ArrayLike = 0.0) -> MarginalTerms:
    """The bound of a model with a class y, known for some examples and summed out for the others.

    Known: `value_y + log p(y) + weight log q(y|x)`. Not known: `sum_y q(y|x) (value_y + log p(y) - log q(y|x))`,
    with all C classes alike, `p(y) = 1/C`.

    Args:
      values: bounds on `log p(x|y)` for each label, `[C, *B]`.
      logits: of q(y|x), `[*B, C]`.
      label: `[*B]` signed integers below C, negative where it is not known.
      weight: of log q(y|x) where the label is known; may be traced.

    Raises:
      TypeError: labels of an unsigned type, in which none can be unknown, or no integers.
      ValueError: shapes that do not fit, or a concrete label from C on.

    Source: Kingma et al. 2014, Semi-Supervised Learning with Deep Generative Models, equations 6 to 9.

    >>> import jax.numpy as jnp
    >>> terms = marginalize_label(jnp.zeros((3, 2)), jnp.zeros((2, 3)), jnp.array([0, -1]))
    >>> [round(each, 3) for each in terms.bound.tolist()]
    [-1.099, 0.0]
    """
    check_weight("marginalize_label: weight", weight)
    count = values.shape[0]
    if logits.shape != (*values.shape[1:], count) or label.shape != values.shape[1:]:
        raise ValueError(
            f"marginalize_label: for values {values.shape}, logits must have shape {(*values.shape[1:], count)} and "
            f"label {values.shape[1:]}; got {logits.shape} and {label.shape}"
        )
    if not jnp.issubdtype(label.dtype, jnp.signedinteger):
        raise TypeError(f"marginalize_label: label must be signed integers, negative where unknown; got {label.dtype}")
    check_support("marginalize_label: label", label, lambda value: value < count, f"below the {count} classes")
    joint = jnp.moveaxis(values, 0, -1) - jnp.log(count)
    log_q = jax.nn.log_softmax(logits)
    # A class that q rules out costs nothing, though its logarithm, or its bound, is minus infinity.
    possible = jnp.exp(log_q) > 0
    gain = jnp.where(possible, joint, 0.0) - jnp.where(possible, log_q, 0.0)
    marginal = jnp.sum(jnp.where(possible, jnp.exp(log_q) * gain, 0.0), axis=-1)
    known = label >= 0
    index = jnp.where(known, label, 0)[..., None]
    of_label, log_label = (jnp.take_along_axis(array, index, axis=-1)[..., 0] for array in (joint, log_q))
    bound = jnp.where(known, of_label, marginal)
    log_label = jnp.where(known, log_label, 0.0)
    return MarginalTerms(bound + weight * log_label, bound, log_label)
