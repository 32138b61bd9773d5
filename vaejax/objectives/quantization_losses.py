"""What trains a codebook, and what keeps the encoder near it: penalties on a `VectorQuantized` posterior."""

from typing import Any

import jax
import jax.numpy as jnp

from vaejax.checks import check_weight
from vaejax.distributions._base import at_least_float32, sum_event
from vaejax.objectives.quantization import VectorQuantized
from vaejax.types import Array, ArrayLike, Distribution, Regularizer


def codebook_loss(commitment: ArrayLike = 0.25) -> Regularizer:
    """What trains a codebook by gradient descent, and keeps the encoder near it.

    `|sg(inputs) - codes|^2 + commitment |inputs - sg(codes)|^2`, summed over the event and the stages.

    The first part moves the codes only, the second the encoder only. As in the paper they stand
    beside a log-likelihood summed over the data's axes, not beside a mean squared error.

    Args:
      commitment: at least 0, the paper's beta; it may be traced.

    Raises (when it is used):
      TypeError: the posterior is not of `vector_quantize` or `residual_quantize`.

    Source: van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning,
    equation 3.

    >>> import jax, jax.numpy as jnp
    >>> from vaejax.objectives.quantization import vector_quantize
    >>> q = vector_quantize(jnp.array([[0.0], [4.0]]), jnp.array([[1.0], [6.0]]))
    >>> codebook_loss(commitment=0.5)(jax.random.key(0), q, q.mean).tolist()
    [1.5, 6.0]
    """
    check_weight("codebook_loss: commitment", commitment)

    def loss(key: Array, q: Distribution, z: Array) -> Array:
        del key, z
        codes_to_inputs, inputs_to_codes = _squared_errors("codebook_loss", q)
        return codes_to_inputs + jnp.asarray(commitment) * inputs_to_codes

    return loss


def commitment_loss(weight: ArrayLike = 0.25) -> Regularizer:
    """What keeps the encoder near a codebook that is no parameter, as one of moving averages.

    `weight |inputs - sg(codes)|^2`, summed over the event and the stages: `codebook_loss` less the
    part that moves the codes.

    Args:
      weight: at least 0; it may be traced.

    Raises (when it is used):
      TypeError: the posterior is not of `vector_quantize` or `residual_quantize`.

    Source: van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning,
    appendix A.1.

    >>> import jax, jax.numpy as jnp
    >>> from vaejax.objectives.quantization import vector_quantize
    >>> q = vector_quantize(jnp.array([[0.0], [4.0]]), jnp.array([[1.0], [6.0]]))
    >>> commitment_loss(weight=0.5)(jax.random.key(0), q, q.mean).tolist()
    [0.5, 2.0]
    """
    check_weight("commitment_loss: weight", weight)

    def loss(key: Array, q: Distribution, z: Array) -> Array:
        del key, z
        _, inputs_to_codes = _squared_errors("commitment_loss", q)
        return jnp.asarray(weight) * inputs_to_codes

    return loss


def _squared_errors(owner: str, q: Any) -> tuple[Array, Array]:
    """`|sg(inputs) - codes|^2` and `|inputs - sg(codes)|^2`, each `[*B]`, over all stages of q."""
    if not isinstance(q, VectorQuantized):
        raise TypeError(
            f"{owner}: the posterior must be of vector_quantize or residual_quantize; got {type(q).__name__}"
        )
    codes = jnp.asarray(q.codes)[..., None, :] if q.stage_codes is None else q.stage_codes
    inputs, codes = at_least_float32(q.stage_inputs, codes)
    fixed_inputs, fixed_codes = jax.lax.stop_gradient((inputs, codes))
    # One axis more than the event has: the stages.
    event_ndims = q.event_ndims + 1
    return sum_event((fixed_inputs - codes) ** 2, event_ndims), sum_event((inputs - fixed_codes) ** 2, event_ndims)
