"""New data from a trained model, and a prior for a model that was trained without one."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaejax.checks import (
    check_array,
    check_callable,
    check_count,
    check_distribution,
    check_key,
    check_positive,
    check_scalar,
)
from vaejax.data import count_steps, epoch_indices
from vaejax.distributions import (
    Bernoulli,
    Bijector,
    Categorical,
    Chain,
    ElementwiseAffine,
    Laplace,
    Mixture,
    MultivariateNormal,
    Normal,
    Transformed,
    as_native,
    standard_normal,
)
from vaejax.training import begin, fit, init_state, make_train_step, resident
from vaejax.training.gradients import Metrics
from vaejax.types import Array, ArrayLike, Decode, Distribution, Encode


class Generated(NamedTuple):
    """Latents, and the likelihood that they give: its `mean` and its `sample(key)` are what is shown."""

    latents: Array
    likelihood: Distribution


def ancestral(key: Array, decode: Decode, prior: Distribution, count: int) -> Generated:
    """Draw as the model says data come about: `z ~ p(z)`, then p(x|z), `[count, ...]`.

    Args:
      key: one typed PRNG key.
      decode: z to p(x|z).
      prior: p(z) over one latent, with a size: `standard_normal.expand((latent_size,))`.
      count: how many.

    >>> import jax, vaejax
    >>> drawn = ancestral(jax.random.key(0), lambda z: vaejax.Normal(z, 0.1), standard_normal.expand((2,)), 5)
    >>> drawn.likelihood.sample(jax.random.key(1)).shape
    (5, 2)
    """
    check_key(key)
    check_callable("decode", decode)
    check_distribution("prior must be", prior)
    check_count("count", count)
    z = prior.sample(key, (count,))
    return Generated(z, decode(z))


def posterior_predictive(key: Array, x: Any, encode: Encode, decode: Decode, *, num_samples: int) -> Generated:
    """What else could have come of the latents behind x: `z_k ~ q(z|x)`, then p(x|z_k), `[num_samples, *B, ...]`.

    Their equal mixture is the posterior predictive distribution, `E_q p(x'|z)`.

    Raises:
      TypeError: a likelihood of numpyro that has no counterpart here.
    """
    check_key(key)
    for name, function in (("encode", encode), ("decode", decode)):
        check_callable(name, function)
    check_count("num_samples", num_samples)
    q = encode(x)
    check_distribution("encode must return", q)
    z = q.sample(key, (num_samples,))
    native: Callable[[Array], Any] = lambda z: as_native(decode(z))
    likelihood, of_one = jax.vmap(native)(z), jax.eval_shape(native, z[0])
    # numpyro stores the batch shape: a mapped distribution keeps that of one draw, and would share its noise.
    if hasattr(of_one, "batch_shape") and likelihood.batch_shape == of_one.batch_shape:
        raise TypeError(
            f"posterior_predictive: decode must return a distribution that jax.vmap can map, such as one of vaejax; "
            f"got numpyro's {type(likelihood).__name__} (draw with jax.vmap(lambda key, z: decode(z).sample(key)))"
        )
    return Generated(z, likelihood)


def tempered(distribution: Any, temperature: ArrayLike) -> Any:
    """The same distribution less random (temperature below 1) or more (above).

    A scale is multiplied by the temperature, logits are divided by it; a flow has its base tempered, a mixture its
    components. 1 changes nothing; towards 0, draws go to the mean or the mode.

    Raises:
      TypeError: a distribution of another kind.
      ValueError: a temperature that is not positive.

    Source: Kingma and Dhariwal 2018, Glow, section 6, for draws from a prior of reduced temperature.
    """
    check_scalar("tempered: temperature", temperature)
    check_positive("tempered: temperature", temperature)
    distribution = as_native(distribution)
    replace = partial(dataclasses.replace, distribution)
    match distribution:
        case Normal() | Laplace():
            return replace(scale=distribution.scale * temperature)
        case MultivariateNormal():
            return replace(scale_tril=distribution.scale_tril * temperature)
        case Bernoulli() | Categorical():
            return replace(logits=distribution.logits / temperature)
        case Transformed():
            return replace(base=tempered(distribution.base, temperature))
        case Mixture():
            return replace(components=tempered(distribution.components, temperature))
    raise TypeError(f"tempered: no temperature is defined for {type(distribution).__name__}")


def fit_gaussian_mixture(latents: ArrayLike, num_components: int = 10, *, seed: int = 0) -> Mixture:
    """A mixture of full-covariance Normals for latents `[N, Z]`, by expectation maximisation.

    It lets a deterministic autoencoder generate: draw a latent from the mixture, and decode it.

    Raises:
      ValueError: no more latents than components, or latents that are not finite.

    Source: Ghosh et al. 2020, From Variational to Deterministic Autoencoders, section 4 (ex-post density estimation).
    """
    # Slow to import, and needed here alone.
    from sklearn.mixture import GaussianMixture  # noqa: PLC0415

    points = _check_latents("fit_gaussian_mixture", latents)
    check_count("fit_gaussian_mixture: num_components", num_components)
    if len(points) <= num_components:
        raise ValueError(f"fit_gaussian_mixture: {num_components} components need more latents; got {len(points)}")
    fitted = GaussianMixture(num_components, reg_covar=1e-4, random_state=seed).fit(points)
    factors = np.linalg.cholesky(fitted.covariances_)
    # In the precision of the latents, but in that of no integer.
    dtype = jnp.promote_types(jnp.asarray(latents).dtype, jnp.float32)
    components = MultivariateNormal(jnp.asarray(fitted.means_, dtype), jnp.asarray(factors, dtype))
    return Mixture(jnp.asarray(np.log(fitted.weights_), dtype), components)


def fit_flow(
    key: Array,
    latents: ArrayLike,
    flow: Bijector,
    *,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
) -> Transformed:
    """A flow for latents `[N, Z]`, by maximum likelihood: a prior for a model that was trained without one.

    Args:
      key: one typed PRNG key, for the order of the latents.
      latents: `[N, Z]`; they are standardized before the flow sees them.
      flow: where to start, such as `coupling_flow(key, Z)` or `masked_autoregressive_flow(key, Z)`.
      epochs: passes over the latents.
      batch_size: latents per step.
      learning_rate: of Adam.

    Source: Ghosh et al. 2020, section 4, for the use; Dinh et al. 2017 for the likelihood.
    """
    check_key(key)
    points = _check_latents("fit_flow", latents)
    check_count("fit_flow: epochs", epochs)
    base = standard_normal.expand(points.shape[1:])
    spread = ElementwiseAffine(jnp.asarray(points.mean(0)), jnp.log(jnp.asarray(points.std(0)) + 1e-6))
    compose = lambda flow: Transformed(base, Chain((flow, spread)))

    def loss_fn(flow: Bijector, key: Array, batch: Array) -> tuple[Array, Metrics]:
        del key
        return -jnp.mean(compose(flow).log_prob(batch)), {}

    order_key, state_key = jax.random.split(key)
    size = {"num_examples": len(points), "batch_size": min(batch_size, len(points))}
    steps = count_steps(**size)
    optimizer = optax.adam(learning_rate)
    step = make_train_step(loss_fn, optimizer, max_skipped=0)
    feed = resident(step, points, partial(epoch_indices, order_key, **size), steps_per_epoch=steps)
    progress = begin(feed, init_state(state_key, flow, optimizer))
    return compose(fit(feed, progress, num_steps=epochs * steps, report_every=steps).state.params)


def _check_latents(owner: str, latents: Any) -> np.ndarray:
    check_array(f"{owner}: latents", latents)
    points = np.asarray(latents)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(f"{owner}: latents must be finite and of shape [N, Z]; got shape {points.shape}")
    return points
