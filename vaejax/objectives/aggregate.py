"""Penalties on the aggregate posterior `q(z) = 1/N sum_n q(z|x_n)`, estimated from a batch."""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from vaejax.checks import (
    check_callable,
    check_count,
    check_distribution,
    check_positive,
    check_scalar,
    check_weight,
)
from vaejax.distributions import by_axis, sized, standard_normal
from vaejax.distributions._base import at_least_float32, log_sum_exp
from vaejax.distributions.normal import matched
from vaejax.objectives.draws import batch_of, check_density
from vaejax.objectives.regularizers import check_batch
from vaejax.types import Array, ArrayLike, Distribution, Regularizer

# (batch_size, dataset_size) to the log of how much each posterior of a batch counts at each draw, [B, B].
LogWeights = Callable[[int, int], np.ndarray]
# Points [N, D] and [M, D] to their similarities [N, M].
Kernel = Callable[[Array, Array], Array]


def stratified_weights(batch_size: int, dataset_size: int) -> np.ndarray:
    """Weights with which a batch estimates the density of the aggregate posterior without bias, `[B, B]`.

    `log q(z_i) ~ log sum_j W_ij q(z_i|x_j)`: 1/N where j = i, since z_i came from x_i for certain, and
    `(N - 1) / (N (B - 1))` for each of the others, which stand for all the rest. Each row sums to 1.

    Departs from the paper, which puts what the others lack on one of them: the mean is the same, and no
    example of the batch is set apart.

    Source: Chen et al. 2018, Isolating Sources of Disentanglement in VAEs, appendix C.2.
    """
    others = (dataset_size - 1) / (dataset_size * (batch_size - 1))
    weights = np.full((batch_size, batch_size), others)
    np.fill_diagonal(weights, 1.0 / dataset_size)
    return np.log(weights)


def minibatch_weights(batch_size: int, dataset_size: int) -> np.ndarray:
    """The plain weights `1 / (N B)`, `[B, B]`: simple, and biased, since they do not sum to 1.

    Source: Chen et al. 2018, Isolating Sources of Disentanglement in VAEs, section 4.1.
    """
    return np.full((batch_size, batch_size), -math.log(dataset_size * batch_size))


def tc_decomposition(
    prior: Distribution = standard_normal,
    dataset_size: int | None = None,
    *,
    index_code: ArrayLike = 1.0,
    total_correlation: ArrayLike = 1.0,
    dimension_wise: ArrayLike = 1.0,
    log_weights: LogWeights = stratified_weights,
) -> Regularizer:
    """The divergence from the prior taken apart, each part with a weight of its own, `[B]`.

    `index_code I(z; n) + total_correlation KL(q(z) || prod_i q(z_i)) + dimension_wise sum_i KL(q(z_i) || p(z_i))`

    With all weights 1 it is `monte_carlo_kl(prior)` exactly, whatever the batch. The parts are estimates
    and may be negative.

    Args:
      prior: p(z).
      dataset_size: N, how many examples the aggregate posterior is made of.
      index_code: weight of the information that z carries about the example.
      total_correlation: weight of the dependence between latent axes; 6 is the paper's beta.
      dimension_wise: weight of the divergence of each axis.
      log_weights: `stratified_weights` or `minibatch_weights`.

    Raises (when it is used):
      ValueError: a single example; a batch larger than the data set.
      TypeError: a posterior whose axes are not independent.

    Source: Chen et al. 2018, Isolating Sources of Disentanglement in VAEs, equation 2.
    """
    if dataset_size is None:
        raise TypeError("tc_decomposition: dataset_size must be the number of training examples; got None")
    check_count("tc_decomposition: dataset_size", dataset_size, minimum=2)
    check_distribution("tc_decomposition: prior must be", prior)
    for name, weight in (
        ("index_code", index_code),
        ("total_correlation", total_correlation),
        ("dimension_wise", dimension_wise),
    ):
        check_weight(f"tc_decomposition: {name}", weight)

    def penalty(key: Array, q: Distribution, z: Array) -> Array:
        del key
        check_density("tc_decomposition", q)
        batch = batch_of(q, z)
        check_batch("tc_decomposition", batch)
        if batch[0] > dataset_size:
            raise ValueError(
                f"tc_decomposition: dataset_size must be at least the batch of {batch[0]}; got {dataset_size}"
            )
        log_joint, log_product = _aggregate(q, z, log_weights(batch[0], dataset_size))
        mutual_information = q.log_prob(z) - log_joint
        return jnp.asarray(
            index_code * mutual_information
            + total_correlation * (log_joint - log_product)
            + dimension_wise * (log_product - matched(prior, q).log_prob(z))
        )

    return penalty


def _aggregate(q: Distribution, z: Array, log_weights: np.ndarray) -> tuple[Array, Array]:
    """`log q(z_i)` and `sum_d log q(z_id)` of each draw under the weighted posteriors of the batch, `[B]` each."""
    size = z.shape[0]
    each = by_axis(q).log_prob(z[:, None]).reshape(size, size, -1)  # [draw, posterior, axis]
    weights = jnp.asarray(log_weights, each.dtype)
    log_joint = log_sum_exp(jnp.sum(each, axis=-1) + weights, axis=1)
    log_marginals = log_sum_exp(each + weights[..., None], axis=1)
    return log_joint, jnp.sum(log_marginals, axis=-1)


def inverse_multiquadratic(scales: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)) -> Kernel:
    """`k(a, b) = sum_s C_s / (C_s + |a - b|^2)`, `C_s = 2 D s`: heavy tails, so far codes are still pulled.

    `2 D` is the expected squared distance of two draws of a standard normal in D dimensions.

    Source: Tolstikhin et al. 2018, Wasserstein Auto-Encoders, section 4; the scales are those of its authors' code.
    """
    for each in scales:
        check_positive("inverse_multiquadratic: scales", each)

    def kernel(a: Array, b: Array) -> Array:
        squared = _squared_distances(a, b)
        sizes = [2.0 * a.shape[-1] * each for each in scales]
        return sum((size / (size + squared) for size in sizes), start=jnp.zeros(()))

    return kernel


def gaussian_kernel(bandwidth: ArrayLike = 1.0) -> Kernel:
    """`k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2))`."""
    check_scalar("gaussian_kernel: bandwidth", bandwidth)
    check_positive("gaussian_kernel: bandwidth", bandwidth)
    return lambda a, b: jnp.exp(-_squared_distances(a, b) / (2 * bandwidth**2))


def mmd_to(prior: Distribution = standard_normal, kernel: Kernel | None = None) -> Regularizer:
    """The squared maximum mean discrepancy of the aggregate posterior from the prior, one number `[]`.

    `E k(z, z') + E k(p, p') - 2 E k(z, p)`, `z ~ q(z)`, `p ~ p(z)`, over distinct pairs of the batch and as many
    draws of the prior: without bias, so it is negative now and then where the two agree.

    Args:
      prior: p(z).
      kernel: `inverse_multiquadratic()` (where None), `gaussian_kernel(...)`, or any function of
        points `[N, D]` and `[M, D]` to `[N, M]`.

    Raises (when it is used):
      ValueError: a single example, or a prior over latents of another shape.

    Source: Gretton et al. 2012, A Kernel Two-Sample Test, lemma 6; Tolstikhin et al. 2018; Zhao et al. 2019, InfoVAE.
    """
    check_distribution("mmd_to: prior must be", prior)
    kernel = inverse_multiquadratic() if kernel is None else kernel
    check_callable("mmd_to: kernel", kernel)

    def penalty(key: Array, q: Distribution, z: Array) -> Array:
        check_batch("mmd_to", batch_of(q, z))
        size = z.shape[0]
        draws = sized(prior, z.shape[1:]).sample(key, (size,))
        if draws.shape != z.shape:
            raise ValueError(
                f"mmd_to: the prior must be over one latent of shape {z.shape[1:]}; its draws have shape "
                f"{draws.shape[1:]}"
            )
        codes, draws = at_least_float32(z, draws)
        codes, draws = codes.reshape(size, -1), draws.reshape(size, -1)
        return _mean_pair(kernel(codes, codes)) + _mean_pair(kernel(draws, draws)) - 2 * jnp.mean(kernel(codes, draws))

    return penalty


def _mean_pair(similarities: Array) -> Array:
    """The mean over pairs of distinct points, from `[N, N]`."""
    size = similarities.shape[0]
    return (jnp.sum(similarities) - jnp.trace(similarities)) / (size * (size - 1))


def _squared_distances(a: Array, b: Array) -> Array:
    # The differences themselves, since |a|^2 - 2 a.b + |b|^2 loses all digits where points are close.
    return jnp.sum((a[:, None] - b[None]) ** 2, axis=-1)
