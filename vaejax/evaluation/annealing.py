"""The likelihood of data by annealed importance sampling, and from both sides for data that were simulated."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaejax.checks import (
    check_array,
    check_callable,
    check_count,
    check_distribution,
    check_key,
    check_positive,
    is_concrete,
)
from vaejax.distributions import as_native, standard_normal
from vaejax.distributions.interop import has_trait
from vaejax.distributions.normal import matched
from vaejax.evaluation.hmc import Moved, hamiltonian_step
from vaejax.evaluation.likelihood import check_likelihood
from vaejax.evaluation.weights import add_weights, effective_sample_size, log_mean_error, log_mean_weight, no_weights
from vaejax.objectives.autoencode import check_data
from vaejax.types import Array, ArrayLike, Decode, Distribution, Encode, Shape

# Of Wu et al. 2017: where HMC does best, and how steep the sigmoid of the schedule is.
_TARGET_ACCEPTANCE = 0.65
_STEEPNESS = 4.0
# How far the log of a step size goes for an acceptance that is off by one.
_GAIN = 0.1

_Three = tuple[Array, Array, Array]
_Four = tuple[Array, Array, Array, Array]


class Annealed(NamedTuple):
    """An estimate of `log p(x)` from the weights of C chains, one number per example."""

    value: Array  # [*B] in nats
    standard_error: Array  # [*B] of value, by the delta method; NaN for one chain
    effective_sample_size: Array  # [*B] of the chains' weights, from 1 to C
    acceptance: Array  # [*B] the mean acceptance of the moves, near 0.65; NaN for one temperature


class Bidirectional(NamedTuple):
    """Bounds on `log p(x)` from both sides, for data drawn from the model."""

    lower: Annealed  # [N] below log p(x) in expectation
    upper: Annealed  # [N] above it; its errors are those of chains from one start, and leave out that of the start
    x: Array  # [N, *E]
    latents: Array  # [N, *Z] the latents of which x was drawn: exact draws from the true posterior


class _Path(NamedTuple):
    """`log f_t(z) = start(z) + t ratio(z)`, from the density of the start at t = 0 to `log p(x, z)` at t = 1."""

    start: Callable[[Array], Array]
    ratio: Callable[[Array], Array]


def annealed_log_likelihood(
    key: Array,
    x: Any,
    decode: Decode,
    prior: Distribution = standard_normal,
    *,
    base: Distribution | None = None,
    num_temperatures: int = 1000,
    num_chains: int = 16,
    num_leapfrog: int = 10,
    step_size: ArrayLike = 0.1,
    num_pilots: int = 4,
) -> Annealed:
    """`log p(x)` by annealed importance sampling, a lower bound in expectation, per example, in nats.

    `f_t(z) = base(z)^(1-t) (p(x|z) p(z))^t`, `log w = sum_j (t_j - t_{j-1}) (log p(x, z_{j-1}) - log base(z_{j-1}))`

    `z_0 ~ base`, `z_j` one step of Hamiltonian Monte Carlo from `z_{j-1}` at `f_{t_j}`, `0 = t_0 < ... < t_T = 1` on a
    sigmoidal schedule, and `value = log 1/C sum_c w_c`. With one temperature it is importance sampling from the base.

    `E[w] = p(x)` holds exactly. To that end the step sizes are adapted, to an acceptance of 0.65, by the pilots: chains
    of their own that run beside the others and whose weights are left out. Departs from Wu et al., where each chain
    adapts its own step size, which depends then on the past of the chain.

    Args:
      key: one typed PRNG key.
      x: data, `[*B, *E]`.
      decode: z `[*B, *Z]` to p(x|z), differentiable; it never sees the axis of chains.
      prior: p(z) over `[*Z]`, continuous; with a size (`standard_normal.expand((latent_size,))`) where `base` is None.
      base: where the chains start, the prior where None: a distribution over `[*B, *Z]` whose density is known
        everywhere, such as the posterior of an encoder. One that is close to the true posterior needs fewer
        temperatures; one that is too narrow needs more.
      num_temperatures: T.
      num_chains: C.
      num_leapfrog: the leapfrog steps at each temperature.
      step_size: the first step size, positive, `[]` or `[*B]`; may be traced.
      num_pilots: how many chains the step sizes are adapted to.

    Raises:
      TypeError: latents that are discrete, a point, or not free to be any real number, since chains follow gradients.
      ValueError: a number below 1, a step size that is not positive, a prior without a size where it is the base.

    Source: Neal 2001, Annealed Importance Sampling; Wu, Burda, Salakhutdinov and Grosse 2017, On the Quantitative
    Analysis of Decoder-Based Generative Models.

    >>> import jax, jax.numpy as jnp, vaejax
    >>> x, prior = jnp.array([0.5, -1.0, 2.0]), vaejax.standard_normal.expand((3,))
    >>> options = dict(num_temperatures=50, num_chains=8, num_leapfrog=3, step_size=0.5)
    >>> unit = lambda z: vaejax.Normal(z, 1.0)
    >>> result = annealed_log_likelihood(jax.random.key(0), x, unit, prior, **options)
    >>> exact = vaejax.Normal(jnp.zeros(3), 2**0.5).log_prob(x)
    >>> bool(jnp.abs(result.value - exact) < 5 * result.standard_error)
    True
    """
    check_key(key)
    check_data(x)
    _check_options(decode, prior, base, num_temperatures, num_chains, num_leapfrog, step_size, num_pilots)
    start_key, key = jax.random.split(key)
    path, z = _begin(start_key, x, decode, prior, base, num_pilots + num_chains)
    result, _ = _forward(key, z, path, num_temperatures, step_size, num_pilots, num_leapfrog)
    return result


def bidirectional(
    key: Array,
    decode: Decode,
    prior: Distribution,
    count: int,
    *,
    encode: Encode | None = None,
    num_temperatures: int = 1000,
    num_chains: int = 16,
    num_leapfrog: int = 10,
    step_size: ArrayLike = 0.1,
    num_pilots: int = 4,
) -> Bidirectional:
    """Bounds on `log p(x)` from below and from above, for `count` examples drawn from the model itself.

    `z* ~ p(z)`, `x ~ p(x|z*)`: so z* is an exact draw from p(z|x). Annealed importance sampling gives the lower bound;
    its chains run backwards from z*, through the same temperatures, have weights with `E[1/w] = 1 / p(x)`, and give
    the upper one, `-log 1/C sum_c 1/w_c`. The difference says how far either is from `log p(x)`, which the figures for
    real data do not say of themselves.

    The chains that run backwards take the step sizes that the pilots of `annealed_log_likelihood` found, which know x
    and nothing of z* or of the other chains. So every move is reversible, and both bounds hold in expectation, however
    short or badly tuned the chains are.

    Args:
      key: one typed PRNG key.
      decode: z `[N, *Z]` to p(x|z), which must be one that can be sampled.
      prior: p(z) over one latent, with a size: `standard_normal.expand((latent_size,))`.
      count: N, how many examples.
      encode: x to the distribution at which the chains start, the prior where None.
      num_temperatures: and all others: see `annealed_log_likelihood`.
      num_chains: C in each direction.
      num_leapfrog: the leapfrog steps at each temperature.
      step_size: the first step size.
      num_pilots: how many chains the step sizes are adapted to.

    Raises:
      TypeError, ValueError: what `annealed_log_likelihood` refuses.

    Source: Grosse, Ghahramani and Adams 2015, Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo.

    >>> import jax, vaejax
    >>> unit, prior = lambda z: vaejax.Normal(z, 1.0), vaejax.standard_normal.expand((3,))
    >>> options = dict(num_temperatures=50, num_chains=8, num_leapfrog=3, step_size=0.5)
    >>> bounds = bidirectional(jax.random.key(0), unit, prior, 20, **options)
    >>> bool(bounds.lower.value.mean() < bounds.upper.value.mean()), bounds.x.shape
    (True, (20, 3))
    """
    check_key(key)
    check_count("count", count)
    if encode is not None:
        check_callable("encode", encode)
    _check_options(decode, prior, None, num_temperatures, num_chains, num_leapfrog, step_size, num_pilots)
    latent_key, data_key, start_key, forward_key, backward_key = jax.random.split(key, 5)
    latents = prior.sample(latent_key, (count,))
    p = decode(latents)
    check_likelihood("annealed_log_likelihood", p)
    x = p.sample(data_key)
    base = None if encode is None else encode(x)
    path, z = _begin(start_key, x, decode, prior, base, num_pilots + num_chains)
    lower, step_sizes = _forward(forward_key, z, path, num_temperatures, step_size, num_pilots, num_leapfrog)
    z = jnp.broadcast_to(latents, (num_chains, *latents.shape))
    return Bidirectional(lower, _backward(backward_key, z, path, step_sizes, num_leapfrog), x, latents)


def _forward(
    key: Array, z: Array, path: _Path, num_temperatures: int, step_size: ArrayLike, num_pilots: int, num_leapfrog: int
) -> tuple[Annealed, Array]:
    """The chains z `[P + C, *B, *Z]` from t = 0 to 1, and the step sizes `[T - 1, *B]` that P pilots found for them."""
    ratio = jax.vmap(path.ratio)
    log_weights = _zeros(ratio, z)
    temperatures = _temperatures(num_temperatures, log_weights.dtype)
    increments = jnp.diff(temperatures)

    def visit(carry: _Four, now: _Three) -> tuple[_Four, Array]:
        z, log_weights, log_step, accepted = carry
        index, increment, temperature = now
        log_weights = log_weights + increment * ratio(z)
        moved = _move(jax.random.fold_in(key, index), z, path, temperature, jnp.exp(log_step), num_leapfrog)
        # The pilots alone: a step size that depended on the chains would bias their weights.
        off = jnp.mean(moved.acceptance[:num_pilots], axis=0) - _TARGET_ACCEPTANCE
        accepted = accepted + jnp.mean(moved.acceptance[num_pilots:], axis=0)
        return (moved.z, log_weights, log_step + _GAIN * off, accepted), jnp.exp(log_step)

    log_step = jnp.broadcast_to(jnp.log(jnp.asarray(step_size, log_weights.dtype)), log_weights.shape[1:])
    visits = jnp.arange(num_temperatures - 1), increments[:-1], temperatures[1:-1]
    carry = (z, log_weights, log_step, jnp.zeros_like(log_step))
    (z, log_weights, _, accepted), step_sizes = jax.lax.scan(visit, carry, visits)
    log_weights = log_weights + increments[-1] * ratio(z)
    return _annealed(log_weights[num_pilots:], accepted / (num_temperatures - 1)), step_sizes


def _backward(key: Array, z: Array, path: _Path, step_sizes: Array, num_leapfrog: int) -> Annealed:
    """The chains z `[C, *B, *Z]` from t = 1, where they are draws from the posterior, to 0."""
    num_temperatures = len(step_sizes) + 1
    ratio = jax.vmap(path.ratio)
    log_weights = _zeros(ratio, z)
    temperatures = _temperatures(num_temperatures, log_weights.dtype)
    increments = jnp.diff(temperatures)

    def visit(carry: _Three, now: _Four) -> tuple[_Three, None]:
        z, log_weights, accepted = carry
        index, increment, temperature, step_size = now
        log_weights = log_weights - increment * ratio(z)
        moved = _move(jax.random.fold_in(key, index), z, path, temperature, step_size, num_leapfrog)
        return (moved.z, log_weights, accepted + jnp.mean(moved.acceptance, axis=0)), None

    visits = jnp.arange(num_temperatures - 1), increments[1:], temperatures[1:-1], step_sizes
    carry = (z, log_weights, jnp.zeros_like(log_weights[0]))
    (z, log_weights, accepted), _ = jax.lax.scan(visit, carry, visits, reverse=True)
    result = _annealed(log_weights - increments[0] * ratio(z), accepted / (num_temperatures - 1))
    return result._replace(value=-result.value)


def _zeros(function: Callable[[Array], Array], z: Array) -> Array:
    """Of the shape of `function(z)`, in the precision of what it and z are mixed to."""
    value = jax.eval_shape(function, z)
    return jnp.zeros(value.shape, jnp.promote_types(value.dtype, z.dtype))


def _move(key: Array, z: Array, path: _Path, temperature: Array, step_size: Array, num_leapfrog: int) -> Moved:
    """One step of the chains z `[C, *B, *Z]` at a temperature `[]`."""
    log_density = jax.vmap(lambda z: path.start(z) + temperature * path.ratio(z))
    return hamiltonian_step(key, z, log_density, step_size, num_leapfrog=num_leapfrog)


def _annealed(log_weights: Array, acceptance: Array) -> Annealed:
    """Of the chains' log-weights `[C, *B]`."""
    sums = add_weights(no_weights(log_weights.shape[1:], log_weights.dtype), log_weights)
    return Annealed(log_mean_weight(sums), log_mean_error(sums), effective_sample_size(sums), acceptance)


def _temperatures(count: int, dtype: jnp.dtype) -> Array:
    """`t_0 = 0` to `t_T = 1`, `[T + 1]`, dense at both ends, where f_t changes fastest with t."""
    curve = jax.nn.sigmoid(_STEEPNESS * jnp.linspace(-1.0, 1.0, count + 1, dtype=dtype))
    return (curve - curve[0]) / (curve[-1] - curve[0])


def _begin(
    key: Array, x: Any, decode: Decode, prior: Distribution, base: Distribution | None, count: int
) -> tuple[_Path, Array]:
    """The path, and `count` draws `[count, *B, *Z]` at its start."""
    start, prior = (prior, prior) if base is None else (base, matched(prior, base))

    def likelihood(z: Array) -> Array:
        p = decode(z)
        check_likelihood("annealed_log_likelihood", p)
        return p.log_prob(x)

    def ratio(z: Array) -> Array:
        return likelihood(z) if base is None else likelihood(z) + prior.log_prob(z) - base.log_prob(z)

    draw = jax.eval_shape(start.sample, key)
    for name, each in (("prior", prior), ("base", start)):
        _check_continuous(name, each, draw)
    own, batch = (jax.eval_shape(function, draw).shape for function in (start.log_prob, likelihood))
    shared = len(batch) - len(own)
    if shared < 0 or batch[shared:] != own:
        raise ValueError(
            f"decode must return a distribution with one log-probability per example; got shape {batch} where the "
            f"log-density of {'the prior' if base is None else 'base'} has {own}"
        )
    # A prior over one latent is drawn from for every example.
    return _Path(start.log_prob, ratio), start.sample(key, (count, *batch[:shared]))


def _check_continuous(name: str, distribution: Any, draw: jax.ShapeDtypeStruct) -> None:
    """Raise where latents of `draw`'s shape cannot be moved freely along a gradient."""
    native = as_native(distribution)
    support, what = getattr(native, "support", None), type(native).__name__
    reason = None
    if has_trait(native, "is_discrete") or not jnp.issubdtype(draw.dtype, jnp.floating):
        reason = "is discrete"
    elif has_trait(native, "is_point"):
        reason = "is a point"
    elif callable(support) and not _is_everywhere(support, draw.shape):
        reason = "is not a density on all real numbers"
    if reason is not None:
        raise TypeError(
            f"{name} must be continuous, since the chains follow its gradient; got {what}, which {reason} (use "
            f"importance_log_likelihood)"
        )


def _is_everywhere(support: Callable[[Array], Array], shape: Shape) -> bool:
    """Whether arbitrary numbers are inside the support, where that can be known."""
    with jax.ensure_compile_time_eval():
        inside = support(jnp.resize(jnp.array([-7.3, 11.9, 2.6]), shape))
        return not is_concrete(inside) or bool(jnp.all(inside))


def _check_options(
    decode: Any,
    prior: Any,
    base: Any,
    num_temperatures: Any,
    num_chains: Any,
    num_leapfrog: Any,
    step_size: Any,
    num_pilots: Any,
) -> None:
    check_callable("decode", decode)
    check_distribution("prior must be", prior)
    if base is not None:
        check_distribution("base must be", base)
    counts = {
        "num_temperatures": num_temperatures,
        "num_chains": num_chains,
        "num_leapfrog": num_leapfrog,
        "num_pilots": num_pilots,
    }
    for name, value in counts.items():
        check_count(name, value)
    check_array("step_size", step_size)
    check_positive("step_size", step_size)
