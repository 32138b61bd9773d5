"""What the latents are used for, as a number and in words."""

import enum
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_array
from vaejax.types import Array, ArrayLike

# Burda et al. 2015.
ACTIVE_VARIANCE = 0.01
# Nats. An axis of a smaller divergence from the prior is the prior, but for noise.
USED_KL = 0.01
# Nats. With less in all, not even two halves of the data are told apart.
ONE_BIT = math.log(2)
# Of the divergence, which offsets may be without a word of collapse.
OFFSET_SHARE = 0.1
# Below it the variance of the codes, from which all is judged, is uncertain by more than a third: sqrt(2 / (N - 1)).
LEAST_EXAMPLES = 20
# A Normal likelihood of more than twice the variance of the data: one that is learned ends at the data's own at most.
WIDE = 2.0
# Without a prior the axes have no scale of their own: variances by that of the widest axis, and the least one of it.
RELATIVE_VARIANCE = 1e-4
LEAST_VARIANCE = 1e-8


class Verdict(enum.StrEnum):
    """Whether the latents have collapsed."""

    NONE = "none"  # they carry information; spare axes may be unused
    PARTIAL = "partial"  # little information in all, or axes that are away from the prior for nothing
    FULL = "full"  # they carry none
    UNKNOWN = "unknown"  # too few examples to say


class Collapse(NamedTuple):
    """The verdict, with the axes behind it."""

    status: Verdict
    dead: tuple[int, ...]  # axes that carry no information
    offset: tuple[int, ...]  # those of them that differ from the prior all the same
    text: str  # the verdict in one or two sentences


def active_units(means: Array, threshold: float = ACTIVE_VARIANCE) -> Array:
    """How many latents vary with the data: axes with `Var_x(E_q[z_i]) > threshold`, `[]` int32.

    Args:
      means: posterior means of many examples, `[N, *Z]`.
      threshold: the customary 0.01.

    Source: Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders, section 5.2.

    >>> import jax.numpy as jnp
    >>> active_units(jnp.array([[0.0, 5.0], [0.0, -5.0]])).item()
    1
    """
    return jnp.sum(jnp.var(means, axis=0) > threshold)


def judge_collapse(
    kl_per_axis: ArrayLike | None,
    active_variance: ArrayLike,
    *,
    posterior_variance: ArrayLike | None = None,
    mutual_information: ArrayLike | None = None,
    num_examples: int | None = None,
    relative_width: float | None = None,
) -> Collapse:
    """Whether the latents carry information about the examples, in words.

    An axis carries information where its mean varies over the examples, compared with how unsure each posterior is:
    `1/2 ln(1 + Var_x(E_q[z_i]) / E_x[Var_q(z_i)]) > 0.01` nats, that of a Gaussian channel, whatever the scale of the
    axis. Where the posterior variances are not known, its divergence from the prior must be above 0.01 nats and the
    variance of its means above 0.01, for which the prior should have a variance near 1. Another axis is unused where
    its divergence is lower: of spare axes that is pruning, of all it is collapse. Where it is higher it is an offset:
    it differs from the prior, but tells no examples apart. The information in all is the mutual information, or without
    it what bounds it, the divergence of the axes that are no offset; below ln 2 nats, one bit, the collapse is at least
    partial, as it is where offsets make up a tenth of the divergence.

    Args:
      kl_per_axis: the divergence from the prior, a mean over examples, `[*Z]` in nats; None where it is not known.
      active_variance: `Var_x(E_q[z_i])`, the variance of the means over the examples, `[*Z]`.
      posterior_variance: `E_x[Var_q(z_i)]`, `[*Z]`; None where it is not known. With `kl_per_axis` None and no mutual
        information either, it is taken for a deterministic autoencoder, whose axes are judged by their variance
        alone: one is dead below 0.0001 of the widest.
      mutual_information: of `information`, in nats; it overrules what the axes seem to carry. Give the upper end of
        what it may be, since it is from that that collapse follows.
      num_examples: over which the means and variances were taken; of fewer than 20 there is no verdict.
      relative_width: of a Normal likelihood, its variance by that of the data. Where it is above 2, reconstructions
        are worth less than the codes cost, and the advice is to learn the scale.

    Returns:
      `Collapse`; axes of latents of several axes are numbered row by row.

    Raises:
      ValueError: no axes, shapes that differ, or numbers that are not finite.

    >>> import jax.numpy as jnp
    >>> judge_collapse(jnp.array([2.0, 0.0, 1.5]), jnp.array([0.9, 0.0, 0.8])).text
    '2 of 3 latents carry information (above 0.01 nats); 1 is unused, which is pruning and not collapse.'
    """
    variance = _numbers("active_variance", active_variance)
    kl, noise = (
        None if given is None else _like(name, given, variance)
        for name, given in (("kl_per_axis", kl_per_axis), ("posterior_variance", posterior_variance))
    )
    if num_examples is not None and num_examples < LEAST_EXAMPLES:
        text = f"Too few examples ({num_examples}) to judge the latents by; a verdict takes {LEAST_EXAMPLES}."
        return Collapse(Verdict.UNKNOWN, (), (), text)
    if kl is None and noise is None and mutual_information is None:
        return _judge_by_variance(variance)
    used = _used_axes(kl, variance, noise)
    offset = np.zeros_like(used) if kl is None else (kl > USED_KL) & ~used
    whole = None if mutual_information is None else float(_numbers("mutual_information", mutual_information).sum())
    total = _bound(kl, variance, noise, offset) if whole is None else whole
    status, text = _judge(used, offset, kl, total, whole is None, _too_wide(relative_width))
    if status is Verdict.FULL:
        used = np.zeros_like(used)
    elif status is Verdict.NONE and kl is None and noise is None:
        # Which axis carries what is not known, only that all vary.
        text = f"The latents vary with the examples and carry up to {whole:.2g} nats about them: no collapse seen."
    return Collapse(status, _axes(~used), _axes(offset), text)


def _used_axes(kl: Any, variance: Any, noise: Any) -> Any:
    """Which axes carry information; of which nothing but the variance is known, all that vary."""
    if noise is not None:
        return _channel(variance, noise) > USED_KL
    return variance > LEAST_VARIANCE if kl is None else (kl > USED_KL) & (variance > ACTIVE_VARIANCE)


def _channel(variance: Any, noise: Any) -> Any:
    """What each axis can tell, in nats: Gaussian means of a variance seen through noise of another."""
    return 0.5 * np.log1p(variance / np.maximum(noise, np.finfo(np.float64).tiny))


def _bound(kl: Any, variance: Any, noise: Any, offset: Any) -> float:
    """What the information in all is at most, where it was not measured."""
    return float(_channel(variance, noise).sum() if kl is None else kl[~offset].sum())


def _too_wide(relative_width: float | None) -> str:
    """What is to be done about a likelihood that is wider than the data; nothing where it is not."""
    if relative_width is None or not relative_width > WIDE:
        return ""
    return (
        f" p(x|z) is wider than the data, by {float(relative_width):.2g} in variance, so that a code is hardly worth "
        "its nats: learn the scale (nets.heads.learned_normal)."
    )


def _judge(used: Any, offset: Any, kl: Any, total: float, is_bound: bool, wide: str) -> tuple[Verdict, str]:
    away = f" {_offsets(offset, kl)}" if offset.any() else ""
    at_most = "at most " if is_bound else ""
    if total <= USED_KL or (total < ONE_BIT and not used.any()):
        why = f"no latent tells examples apart ({_count(used.size)}, {at_most}{max(0.0, total):.2g} nats in all)"
        advice = wide or " Warm-up of beta, free bits or a weaker decoder help."
        return Verdict.FULL, f"Posterior collapse: {why}, so the decoder ignores them.{away}{advice}"
    if total < ONE_BIT:
        why = f"{_carry(used)}, but {at_most}{total:.2g} nats in all"
        return (
            Verdict.PARTIAL,
            f"Nearly collapsed: {why}, less than the one bit (0.69) that tells two halves apart.{away}{wide}",
        )
    if not used.any():
        why = f"no single one of {_count(used.size)} carries information that counts (above 0.01 nats)"
        return Verdict.PARTIAL, f"Spread thin: {why}, though they carry {at_most}{total:.2g} nats in all.{away}"
    wasted = offset.any() and kl[offset].sum() > OFFSET_SHARE * kl.sum()
    return (Verdict.PARTIAL if wasted else Verdict.NONE), f"{_used(used, offset)}.{away}"


def _used(used: Any, offset: Any) -> str:
    unused = int(used.size - used.sum() - offset.sum())
    if used.all():
        return f"{_carry(used)} (above 0.01 nats): no collapse"
    verb = "is" if unused == 1 else "are"
    spare = f"; {unused} {verb} unused, which is pruning and not collapse" if unused else ""
    return f"{_carry(used)} (above 0.01 nats){spare}"


def _carry(used: Any) -> str:
    return f"{used.sum()} of {_count(used.size)} {'carries' if used.sum() == 1 else 'carry'} information"


def _offsets(offset: Any, kl: Any) -> str:
    one = offset.sum() == 1
    return (
        f"{offset.sum()} {'differs' if one else 'differ'} from the prior in the same way for every example: "
        f"{kl[offset].sum():.2g} nats of offset, not information, and draws from the prior miss it."
    )


def _judge_by_variance(variance: Any) -> Collapse:
    widest = variance.max()
    used = (variance > RELATIVE_VARIANCE * widest) & (widest > LEAST_VARIANCE)
    size, dead = _count(used.size), int((~used).sum())
    if dead == used.size:
        text = f"Collapse: no latent varies with the examples ({size}), so nothing about them reaches the decoder."
        return Collapse(Verdict.FULL, _axes(~used), (), text)
    vary = f"{used.sum()} of {size} {'varies' if used.sum() == 1 else 'vary'} with the examples"
    rest = f"; {dead} {'is' if dead == 1 else 'are'} constant, which is pruning and not collapse" if dead else ""
    return Collapse(Verdict.NONE, _axes(~used), (), f"{vary}{rest or ': no collapse'}.")


def _like(name: str, value: Any, variance: Any) -> Any:
    numbers = _numbers(name, value)
    if numbers.shape != variance.shape:
        raise ValueError(
            f"judge_collapse: {name} and active_variance must have one shape; got {numbers.shape} and {variance.shape}"
        )
    return numbers


def _numbers(name: str, value: Any) -> Any:
    check_array(f"judge_collapse: {name}", value)
    numbers = np.asarray(value, np.float64).ravel()
    if numbers.size == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"judge_collapse: {name} must be finite and not empty; got shape {numbers.shape}")
    return numbers


def _axes(mask: Any) -> tuple[int, ...]:
    return tuple(int(axis) for axis in np.flatnonzero(mask))


def _count(size: int) -> str:
    return f"{size} latent" if size == 1 else f"{size} latents"
