"""Codebooks that are moving averages of what is assigned to them, and how well one is used."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaejax.checks import check_array, check_count, check_key, check_positive, check_scalar, check_support, check_weight
from vaejax.distributions._base import at_least_float32
from vaejax.types import Array, ArrayLike


class CodebookState(NamedTuple):
    """A codebook and the statistics that it is the quotient of: state, not parameters."""

    codebook: Array  # [C, D], for vector_quantize
    counts: Array  # [C] moving average of how many inputs of a batch each code got
    sums: Array  # [C, D] moving average of the sums of those inputs


class CodebookUsage(NamedTuple):
    """How evenly the codes are used."""

    perplexity: Array  # [] exp of the entropy, from 1 (one code) to C (all alike)
    used_fraction: Array  # [] of the codes, those used at all


def init_codebook(key: Array, num_codes: int, size: int, scale: ArrayLike = 1.0) -> CodebookState:
    """Codes drawn from a Normal of the given scale, each as if it had got one input a batch.

    Args:
      key: one typed PRNG key.
      num_codes: C.
      size: D, of each code.
      scale: the standard deviation of the draws, positive.

    Raises:
      TypeError, ValueError: no typed key, no codes, codes of size 0, a concrete scale that is not positive.

    >>> import jax
    >>> init_codebook(jax.random.key(0), 512, 64).codebook.shape
    (512, 64)
    """
    check_key(key)
    check_count("init_codebook: num_codes", num_codes)
    check_count("init_codebook: size", size)
    check_array("init_codebook: scale", scale)
    check_positive("init_codebook: scale", scale)
    codebook = jnp.asarray(scale) * jax.random.normal(key, (num_codes, size))
    return CodebookState(codebook, jnp.ones(num_codes, codebook.dtype), codebook)


def init_codebook_from(key: Array, z: Array, num_codes: int) -> CodebookState:
    """Codes that are random inputs, different ones as far as there are as many, each with an even share of them.

    Args:
      key: one typed PRNG key.
      z: what will be quantized, `[*B, *E]`, vectors along the last axis.
      num_codes: C.

    Raises:
      TypeError, ValueError: no typed key, no vectors, or no codes.

    >>> import jax, jax.numpy as jnp
    >>> state = init_codebook_from(jax.random.key(0), jnp.array([[3.0], [5.0]]), 2)
    >>> sorted(state.codebook.ravel().tolist()), state.counts.tolist()
    ([3.0, 5.0], [1.0, 1.0])
    """
    check_key(key)
    check_count("init_codebook_from: num_codes", num_codes)
    vectors = _vectors("init_codebook_from: z", z, None)
    vectors = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    codebook = _draw(key, vectors, jnp.arange(num_codes))
    counts = jnp.full(num_codes, len(vectors) / num_codes, codebook.dtype)
    return CodebookState(codebook, counts, counts[:, None] * codebook)


def update_codebook(
    state: CodebookState, inputs: Array, indices: Array, *, decay: ArrayLike = 0.99, epsilon: ArrayLike = 1e-5
) -> CodebookState:
    """Move each code towards the mean of the inputs that it stood for in this batch.

    `N_j <- decay N_j + (1 - decay) n_j`, `m_j <- decay m_j + (1 - decay) sum_{i: k_i = j} z_i`,
    `e_j = m_j / N'_j`, `N'_j = (N_j + epsilon) / (N + C epsilon) N`, `N = sum_j N_j`

    At its fixed point, up to epsilon, every code is the mean of what is assigned to it. One that
    nothing is assigned to drifts to the origin once its count is below epsilon, which
    `revive_dead_codes` is against. No gradient passes. The state is in float32 or more: in bfloat16 a count stops at
    256, and a decay of 0.999 is 1.

    The stages of a residual quantization have a state each, with a leading axis of stages:
    `jax.vmap(update_codebook, in_axes=(0, -2, -1))(states, q.stage_inputs, q.indices)`.

    Args:
      state: before the batch.
      inputs: what was quantized, `q.inputs`, `[*B, *E]`; all axes but the last are flattened.
      indices: the codes that it got, `q.indices`, `[*B, *E[:-1]]`.
      decay: of the averages, in [0, 1]; it may be traced.
      epsilon: at least 0, keeps the counts of unused codes from 0; it may be traced.

    Raises:
      TypeError, ValueError: shapes that do not belong together, and concrete indices, decay or
        epsilon out of their range.

    Source: van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning,
    appendix A.1; the smoothing is that of the authors' program.

    >>> import jax.numpy as jnp
    >>> state = CodebookState(jnp.array([[0.0]]), jnp.ones(1), jnp.zeros((1, 1)))
    >>> update_codebook(state, jnp.array([[3.0], [5.0]]), jnp.array([0, 0]), decay=0.0).codebook.item()
    4.0
    """
    state = _precise(state)
    vectors = _vectors("update_codebook: inputs", inputs, state)
    num_codes = len(state.codebook)
    chosen = _indices("update_codebook: indices", indices, num_codes)
    if jnp.shape(indices) != jnp.shape(inputs)[:-1]:
        shapes = f"{jnp.shape(indices)} for inputs {jnp.shape(inputs)}"
        raise ValueError(f"update_codebook: indices must have one index for each vector of inputs; got {shapes}")
    check_scalar("update_codebook: decay", decay)
    check_support("update_codebook: decay", decay, lambda value: (value >= 0) & (value <= 1), "in [0, 1]")
    check_weight("update_codebook: epsilon", epsilon)

    decay, epsilon = (jnp.asarray(value, state.codebook.dtype) for value in (decay, epsilon))
    batch_counts = jax.ops.segment_sum(jnp.ones_like(vectors[:, 0]), chosen, num_codes)
    batch_sums = jax.ops.segment_sum(vectors, chosen, num_codes)
    counts = decay * state.counts + (1 - decay) * batch_counts
    sums = decay * state.sums + (1 - decay) * batch_sums
    return CodebookState(_quotient(state.codebook, counts, sums, epsilon), counts, sums)


def revive_dead_codes(key: Array, state: CodebookState, inputs: Array, *, threshold: ArrayLike = 1.0) -> CodebookState:
    """Put random inputs of the batch in the place of codes that are hardly used.

    A code is dead where its count is below the threshold. Its place takes a random input, with
    statistics to match: a count as of an average code, and at least twice the threshold so that it
    has time to be chosen, and that many times the input as the sum. The next update then neither
    drags it back to where it was nor leaves it dead.

    Args:
      key: one typed PRNG key.
      state: after `update_codebook`.
      inputs: of the batch, `[*B, *E]`; all axes but the last are flattened. No two codes take the
        same one unless there are more dead codes than inputs.
      threshold: in inputs per batch, at least 0; well below the even share, which is the number of
        inputs over the number of codes. It may be traced.

    Raises:
      TypeError, ValueError: inputs of another size than the codes, a concrete threshold below 0.

    Source: Dhariwal et al. 2020, Jukebox: A Generative Model for Music, section 3.1.

    >>> import jax, jax.numpy as jnp
    >>> state = CodebookState(jnp.array([[0.0], [9.0]]), jnp.array([6.0, 0.2]), jnp.array([[0.0], [1.8]]))
    >>> revive_dead_codes(jax.random.key(0), state, jnp.array([[2.0]])).codebook.tolist()
    [[0.0], [2.0]]
    """
    check_key(key)
    state = _precise(state)
    vectors = _vectors("revive_dead_codes: inputs", inputs, state)
    check_weight("revive_dead_codes: threshold", threshold)
    threshold = jnp.asarray(threshold, state.counts.dtype)
    dead = state.counts < threshold
    fresh = _draw(key, vectors, jnp.cumsum(dead) - 1)
    count = jnp.maximum(jnp.mean(state.counts), 2.0 * threshold)
    return CodebookState(
        jnp.where(dead[:, None], fresh, state.codebook),
        jnp.where(dead, count, state.counts),
        jnp.where(dead[:, None], count * fresh, state.sums),
    )


def codebook_usage(indices: Array, num_codes: int) -> CodebookUsage:
    """The perplexity of the codes of a batch, and the fraction of all codes that occur in it.

    `exp(-sum_j p_j log p_j)`, `p_j` the frequency of code j among the indices

    Args:
      indices: integers of any shape, from 0 to C - 1.
      num_codes: C.

    Raises:
      TypeError, ValueError: indices that are no integers, none at all, or concrete ones out of range.

    >>> import jax.numpy as jnp
    >>> usage = codebook_usage(jnp.array([0, 0, 3, 3]), 8)
    >>> round(usage.perplexity.item(), 5), usage.used_fraction.item()
    (2.0, 0.25)
    """
    check_count("codebook_usage: num_codes", num_codes)
    chosen = _indices("codebook_usage: indices", indices, num_codes)
    counts = jax.ops.segment_sum(jnp.ones(chosen.shape), chosen, num_codes)
    entropy = jnp.sum(jax.scipy.special.entr(counts / chosen.size))
    return CodebookUsage(jnp.exp(entropy), jnp.mean(counts > 0, dtype=counts.dtype))


def _precise(state: CodebookState) -> CodebookState:
    """The state without a gradient, in one dtype of 32 bits or more."""
    return CodebookState(*jax.lax.stop_gradient(at_least_float32(*state)))


def _quotient(codebook: Array, counts: Array, sums: Array, epsilon: Array) -> Array:
    """`m_j / N'_j`; without smoothing, codes that were never chosen stay where they are."""
    total = jnp.sum(counts)
    smooth = (counts + epsilon) / (total + len(counts) * epsilon) * total
    known = smooth > 0
    return jnp.where(known[:, None], sums / jnp.where(known, smooth, 1.0)[:, None], codebook)


def _draw(key: Array, vectors: Array, ranks: Array) -> Array:
    """The vectors at the given ranks of a random order, which begins again at its end: `[C]` to `[C, D]`."""
    order = jax.random.permutation(key, len(vectors))
    return vectors[order[ranks % len(vectors)]]


def _vectors(name: str, inputs: Any, state: CodebookState | None) -> Array:
    """The inputs as one list `[N, D]` without a gradient, in the dtype of the state."""
    check_array(name, inputs)
    shape = jnp.shape(inputs)
    if not shape or 0 in shape:
        raise ValueError(f"{name} must be vectors along the last axis, at least one; got shape {shape}")
    if state is not None and shape[-1] != state.codebook.shape[-1]:
        raise ValueError(f"{name} must be vectors of the codes' size {state.codebook.shape[-1]}; got shape {shape}")
    vectors = jax.lax.stop_gradient(jnp.asarray(inputs)).reshape(-1, shape[-1])
    return vectors if state is None else vectors.astype(state.codebook.dtype)


def _indices(name: str, indices: Any, num_codes: int) -> Array:
    """The indices as one list `[N]`."""
    check_array(name, indices)
    indices = jnp.asarray(indices)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers; got dtype {indices.dtype}")
    if indices.size == 0:
        raise ValueError(f"{name} must not be empty; got shape {indices.shape}")
    inside = lambda value: (value >= 0) & (value < num_codes)
    check_support(name, indices, inside, f"from 0 to {num_codes - 1}")
    return indices.reshape(-1)
