"""The linear-Gaussian model, in which every quantity of a variational autoencoder is known exactly."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vaejax.checks import check_count
from vaejax.distributions import MultivariateNormal, Normal, kl_divergence, standard_normal
from vaejax.types import Array

# An oracle is exact on every device: an accelerator's default would round the factors.
_matmul = partial(jnp.matmul, precision="highest")


class LinearGaussian(NamedTuple):
    """Probabilistic principal component analysis: `z ~ N(0, I)`, `x|z ~ N(W z + b, s^2 I)`.

    `p(x) = N(b, W W^T + s^2 I)` and `p(z|x) = N(M W^T (x - b) / s^2, M)`, `M = (I + W^T W / s^2)^-1`.

    Source: Tipping and Bishop 1999, Probabilistic Principal Component Analysis.
    """

    weight: Array  # [X, Z] W
    bias: Array  # [X] b
    scale: Array  # [] s, the standard deviation of the noise

    def decode(self, z: Array) -> Normal:
        """p(x|z), z `[*B, Z]`."""
        return Normal(_matmul(z, self.weight.T) + self.bias, self.scale)

    def marginal(self) -> MultivariateNormal:
        """p(x), the exact evidence: `marginal().log_prob(x)` is what every bound is below."""
        covariance = _matmul(self.weight, self.weight.T) + self.scale**2 * jnp.eye(len(self.bias))
        return MultivariateNormal(self.bias, jnp.linalg.cholesky(covariance))

    def posterior(self, x: Array) -> MultivariateNormal:
        """p(z|x), x `[*B, X]`."""
        precision = jnp.eye(self.weight.shape[1]) + _matmul(self.weight.T, self.weight) / self.scale**2
        covariance = jnp.linalg.inv(precision)
        loc = _matmul(_matmul(x - self.bias, self.weight), covariance) / self.scale**2
        return MultivariateNormal(loc, jnp.linalg.cholesky(covariance))

    def log_likelihood(self, x: Array, q: Normal | MultivariateNormal) -> Array:
        """`E_q log p(x|z)` exactly, for any Gaussian q, in nats, `[*B]`."""
        size = len(self.bias)
        # E_q |x - W z - b|^2 is the error at the mean plus the trace of W Cov(q) W^T.
        factor = (
            q.scale_tril
            if isinstance(q, MultivariateNormal)
            else jnp.asarray(q.scale)[..., None] * jnp.eye(self.weight.shape[1])
        )
        error = jnp.sum((x - _matmul(q.mean, self.weight.T) - self.bias) ** 2, axis=-1)
        spread = jnp.sum(_matmul(self.weight, factor) ** 2, axis=(-2, -1))
        constant = size * (jnp.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return -0.5 * (error + spread) / self.scale**2 - constant

    def elbo(self, x: Array, q: Normal | MultivariateNormal) -> Array:
        """The evidence lower bound exactly, for any Gaussian q, in nats, `[*B]`."""
        return self.log_likelihood(x, q) - kl_divergence(q, standard_normal)


def linear_gaussian(key: Array, data_size: int, latent_size: int, scale: float = 0.5) -> LinearGaussian:
    """An asymmetric linear-Gaussian model with random weights: a sign error shows on it.

    >>> import jax
    >>> oracle = linear_gaussian(jax.random.key(0), data_size=5, latent_size=2)
    >>> x = oracle.marginal().sample(jax.random.key(1), (8,))
    >>> oracle.posterior(x).mean.shape
    (8, 2)
    """
    check_count("data_size", data_size)
    check_count("latent_size", latent_size)
    weight_key, bias_key = jax.random.split(key)
    weight = jax.random.normal(weight_key, (data_size, latent_size)) / math.sqrt(latent_size)
    bias = 1.0 + jax.random.normal(bias_key, (data_size,))
    return LinearGaussian(weight, bias, jnp.asarray(scale, weight.dtype))
