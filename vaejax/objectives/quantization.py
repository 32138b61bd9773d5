"""Vector quantization: posteriors whose draws are vectors of a codebook."""

from typing import Any

import jax
import jax.numpy as jnp

from vaejax.checks import check_array, check_count, check_event_shape
from vaejax.distributions import Delta, kl_divergence
from vaejax.distributions._base import at_least_float32, check_parameters, distribution, draw_shape, static
from vaejax.types import Array, ArrayLike, Distribution, Shape


def straight_through(value: Array, carrier: Array) -> Array:
    """`value`, exactly, with the gradient of `carrier`.

    The difference is of a number and itself, so nothing is rounded, and a NaN in `carrier` shows.
    """
    return jax.lax.stop_gradient(value) + (carrier - jax.lax.stop_gradient(carrier))


@distribution
class VectorQuantized:
    """A point mass at the nearest codes, whose draws pass the gradient straight through to the inputs.

    `z = inputs + sg(codes - inputs)`, sg being `jax.lax.stop_gradient`

    The draws have no gradient to the codebook: `codes` has it, and `codebook_loss` uses it. In all
    else this is `Delta(codes)`, also in its KL divergence.

    Args:
      inputs: what was quantized, `[*B, *E]`, codes along the last axis.
      codes: what stands in its place, `[*B, *E]`.
      indices: which codes those are, `[*B, *E[:-1]]`, or `[*B, *E[:-1], R]` where there are stages.
      event_ndims: how many trailing axes of the latent are one event: 1 for a vector, 3 for a map of
        vectors `[H, W, D]`.
      stage_codes: the code of each stage of a residual quantization, which sum to `codes`,
        `[*B, *E[:-1], R, D]`; None where there is one stage.

    Raises:
      TypeError: a parameter that is no array.
      ValueError: shapes that do not belong together.

    Source: van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning.

    >>> import jax, jax.numpy as jnp
    >>> q = vector_quantize(jnp.array([[0.0, 0.0], [4.0, 4.0]]), jnp.array([[1.0, 0.0], [3.0, 5.0]]))
    >>> q.sample(jax.random.key(0)).tolist(), q.indices.tolist()
    ([[0.0, 0.0], [4.0, 4.0]], [0, 1])
    """

    is_point = True

    inputs: ArrayLike
    codes: ArrayLike
    indices: ArrayLike
    event_ndims: int = static(default=1)
    stage_codes: ArrayLike | None = None

    def __post_init__(self) -> None:
        check_count("VectorQuantized: event_ndims", self.event_ndims)
        check_parameters("VectorQuantized", self.event_ndims, inputs=self.inputs, codes=self.codes)
        check_array("VectorQuantized: indices", self.indices)
        shape: Shape = jnp.shape(self.inputs)
        stages: Shape = ()
        if len(shape) < self.event_ndims:
            raise ValueError(f"VectorQuantized: inputs must have {self.event_ndims} event axes; got shape {shape}")
        if self.stage_codes is not None:
            check_array("VectorQuantized: stage_codes", self.stage_codes)
            stages = jnp.shape(self.stage_codes)[-2:-1]
            _check_shape("VectorQuantized: stage_codes", self.stage_codes, shape[:-1] + stages + shape[-1:])
        _check_shape("VectorQuantized: codes", self.codes, shape)
        _check_shape("VectorQuantized: indices", self.indices, shape[:-1] + stages)

    @property
    def mean(self) -> Array:
        """The codes, with the gradient of the inputs, `[*B, *E]`."""
        return straight_through(*at_least_float32(self.codes, self.inputs))

    @property
    def stage_inputs(self) -> Array:
        """What each stage quantized: the inputs less the codes of the stages before, `[*B, *E[:-1], R, D]`.

        The codes before are constants here, so that each stage is trained on what it was given.
        """
        (inputs,) = at_least_float32(self.inputs)
        if self.stage_codes is None:
            return inputs[..., None, :]
        codes = jax.lax.stop_gradient(jnp.asarray(self.stage_codes))
        before = jnp.cumsum(codes[..., :-1, :], axis=-2)
        return inputs[..., None, :] - jnp.concatenate([jnp.zeros_like(codes[..., :1, :]), before], axis=-2)

    def support(self, value: Array) -> Array:
        """Elementwise: equal to the codes."""
        return jnp.asarray(value) == self.codes

    def sample(self, key: Array, sample_shape: Shape = ()) -> Array:
        """The codes themselves, with the gradient of the inputs, `[*S, *B, *E]`."""
        shape = draw_shape("VectorQuantized", key, sample_shape, jnp.shape(self.codes), self.event_ndims)
        return jnp.broadcast_to(self.mean, shape)

    def log_prob(self, value: Array) -> Array:
        """0 where the whole event equals the codes, minus infinity elsewhere, `[*S, *B]`."""
        check_event_shape("VectorQuantized.log_prob: value", value, jnp.shape(self.codes), self.event_ndims)
        return Delta(self.codes, self.event_ndims).log_prob(value)

    def kl_divergence(self, other: Distribution) -> Array:
        """`-log p(codes)`, as of `Delta`, with the gradient of the inputs, `[*B]`."""
        return kl_divergence(Delta(self.mean, self.event_ndims), other)


def vector_quantize(codebook: Array, z: Array, event_ndims: int = 1) -> VectorQuantized:
    """Put the nearest code in the place of each vector.

    `codes = e_k`, `k = argmin_j |z - e_j|^2`, of equals the first.

    Args:
      codebook: C codes, `[C, D]`.
      z: `[*B, *E]`, vectors along the last axis, of size D.
      event_ndims: how many trailing axes of z are one event, at least 1.

    Returns:
      A posterior, for `codebook_loss` or, where the codes are moving averages, `commitment_loss`.

    Raises:
      TypeError: no arrays.
      ValueError: a codebook of another rank or without codes, vectors of another size than the codes.

    Source: van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning,
    section 3.1.

    >>> import jax.numpy as jnp
    >>> q = vector_quantize(jnp.eye(4), jnp.ones((8, 7, 7, 4)), event_ndims=3)
    >>> q.indices.shape, q.log_prob(q.mean).shape
    ((8, 7, 7), (8,))
    """
    _check_codebook("vector_quantize: codebook", codebook, ("C", "D"))
    _check_latents("vector_quantize", z, jnp.shape(codebook)[-1], event_ndims)
    codebook, z = at_least_float32(codebook, z)
    indices = _nearest(codebook, z)
    return VectorQuantized(z, codebook[indices], indices, event_ndims)


def residual_quantize(codebooks: Array, z: Array, event_ndims: int = 1) -> VectorQuantized:
    """Quantize in stages, each of which quantizes what those before it left.

    `codes = sum_r c_r`, `c_r` the code of codebook r nearest to `z - sum_{s<r} c_s`

    R codebooks of C codes tell `C^R` vectors apart. One codebook gives what `vector_quantize` does.

    Args:
      codebooks: `[R, C, D]`, in the order of the stages.
      z: `[*B, *E]`, vectors along the last axis, of size D.
      event_ndims: how many trailing axes of z are one event, at least 1.

    Returns:
      A posterior with `indices` `[*B, *E[:-1], R]`; `codebook_loss` sums over its stages.

    Raises:
      TypeError, ValueError: as `vector_quantize`.

    Source: Zeghidour et al. 2021, SoundStream: An End-to-End Neural Audio Codec, algorithm 1.

    >>> import jax.numpy as jnp
    >>> tens_and_ones = jnp.array([[[0.0], [10.0], [20.0]], [[-1.0], [0.0], [1.0]]])
    >>> q = residual_quantize(tens_and_ones, jnp.array([10.9]))
    >>> q.codes.tolist(), q.indices.tolist()
    ([11.0], [1, 2])
    """
    _check_codebook("residual_quantize: codebooks", codebooks, ("R", "C", "D"))
    _check_latents("residual_quantize", z, jnp.shape(codebooks)[-1], event_ndims)
    codebooks, z = at_least_float32(codebooks, z)

    def stage(total: Array, codebook: Array) -> tuple[Array, tuple[Array, Array]]:
        indices = _nearest(codebook, z - total)
        codes = codebook[indices]
        return total + codes, (codes, indices)

    total, (codes, indices) = jax.lax.scan(stage, jnp.zeros_like(z), codebooks)
    return VectorQuantized(z, total, jnp.moveaxis(indices, 0, -1), event_ndims, jnp.moveaxis(codes, 0, -2))


def _nearest(codebook: Array, z: Array) -> Array:
    """The index of the nearest code: codebook `[C, D]` and z `[*B, D]` to `[*B]` int32."""
    codebook, z = jax.lax.stop_gradient((codebook, z))
    # From a code in their midst: far from the origin, differences of squares have no digits left. A mean of all codes
    # would be far from most where a few are far away.
    from_mean = jnp.sum((codebook - jnp.mean(codebook, axis=0)) ** 2, axis=-1)
    center = codebook[jnp.argmin(from_mean)]
    codebook, z = codebook - center, z - center
    # |z|^2 is left out of |z - e|^2: it is the same for every code, and would cost digits.
    products = jnp.einsum("...d,cd->...c", z, codebook, precision="highest")
    return jnp.argmin(jnp.sum(codebook**2, axis=-1) - 2.0 * products, axis=-1).astype(jnp.int32)


def _check_shape(name: str, value: Any, expected: Shape) -> None:
    if jnp.shape(value) != expected:
        raise ValueError(f"{name} must have shape {expected}, as the inputs have it; got {jnp.shape(value)}")


def _check_codebook(name: str, value: Any, axes: tuple[str, ...]) -> None:
    check_array(name, value)
    shape = jnp.shape(value)
    if len(shape) != len(axes) or 0 in shape:
        raise ValueError(f"{name} must have shape [{', '.join(axes)}], none of them 0; got shape {shape}")


def _check_latents(owner: str, z: Any, size: int, event_ndims: int) -> None:
    check_count(f"{owner}: event_ndims", event_ndims)
    check_array(f"{owner}: z", z)
    shape = jnp.shape(z)
    if len(shape) < event_ndims or shape[-1] != size:
        raise ValueError(
            f"{owner}: z must have at least {event_ndims} axes, the last of size {size} as the codes have; got {shape}"
        )
