"""What the methods `kl_divergence(other)` share: how they refuse a partner."""

from typing import Any

from vaejax.checks import check_event_shape
from vaejax.types import Array


def no_closed_form(q: Any, p: Any) -> TypeError:
    """The error to raise for a pair without a closed form; it names what estimates the divergence."""
    return TypeError(
        f"kl_divergence: no closed form for {type(q).__name__} to {type(p).__name__}; "
        f"estimate it with monte_carlo_kl (in elbo: kl=vaejax.monte_carlo_kl)"
    )


def check_same_event(q: Any, p: Any, value_q: Array, value_p: Array) -> None:
    """Raise where the events of q and p differ; the values are any two points of theirs, the means say."""
    if q.event_ndims != p.event_ndims:
        raise ValueError(
            f"kl_divergence: q and p must have the same number of event axes; got {q.event_ndims} and {p.event_ndims}"
        )
    check_event_shape("kl_divergence: q", value_q, value_p.shape, q.event_ndims)
