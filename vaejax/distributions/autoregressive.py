"""Inverse autoregressive flows (IAF) and masked autoregressive flows (MAF): each axis follows those before it."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_count, check_event_shape, check_key, check_positive
from vaejax.distributions._base import at_least_float32, distribution, static
from vaejax.distributions.bijectors import Bijector, Chain, Inverse, Reverse, align_parameters
from vaejax.distributions.coupling import (
    AffineCoupling,
    apply_net,
    check_context,
    check_net,
    depth,
    init_net,
    known_context,
    net_ndims,
    scale_and_shift,
)
from vaejax.types import Array, ArrayLike

T = TypeVar("T")


@distribution
class Autoregressive:
    """One layer of an inverse autoregressive flow, by a masked net (MADE).

    `y_i = z_i exp(s_i(z_<i)) + m_i(z_<i)`, `log_det = sum_i s_i(z_<i)`, `s = bound tanh(raw / bound)`

    The Jacobian is lower triangular. `forward` evaluates the net once, `inverse` once for each axis: so
    drawing is fast, and so is the density of a draw (`Transformed.sample_and_log_prob`). For fast
    densities of given points use `Inverse(Autoregressive(...))`, the masked autoregressive flow. Departs
    from Kingma et al. in the scale, which there is a sigmoid.

    Args:
      params: the net's arrays: `weight_0` `[D, H]`, `bias_0` `[H]`, ..., of which the last end in 2 D (raw
        log-scales before shifts), and `context` `[C, H]` where the net takes one. What the masks exclude is
        not read. Stacked ones, as `jax.vmap` of `Autoregressive.init` makes them, are batch axes `*B`.
      context: what the net sees besides z, `[*B, C]`, or None; `with_context` attaches it.
      bound: how large a log-scale can become.

    Raises:
      ValueError: a context of another size than the weights', or none where there are weights for one.

    Source: Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow,
    algorithm 1; for the masks Germain et al. 2015, MADE: Masked Autoencoder for Distribution Estimation.

    >>> import jax, jax.numpy as jnp
    >>> layer = Autoregressive.init(jax.random.key(0), 3)
    >>> layer.forward(jnp.array([1.0, 2.0, 3.0]))[0].tolist()
    [1.0, 2.0, 3.0]
    """

    params: Mapping[str, Array]
    context: ArrayLike | None = None
    bound: float = static(default=5.0)

    def __post_init__(self) -> None:
        check_net("Autoregressive", self.params)
        check_positive("Autoregressive: bound", self.bound)
        outputs = jnp.shape(self.params[f"bias_{depth(self.params) - 1}"])[-1]
        if outputs != 2 * self.size:
            raise ValueError(f"Autoregressive: params must end in 2 D = {2 * self.size} outputs; got {outputs}")
        check_context("Autoregressive", self.params, self.context)
        align_parameters(self)

    @classmethod
    def init(
        cls, key: Array, size: int, *, hidden_sizes: Sequence[int] = (64,), context_size: int = 0
    ) -> "Autoregressive":
        """A layer for vectors of `size` axes that starts as the identity."""
        check_key(key, "Autoregressive.init: key")
        check_count("Autoregressive.init: size", size)
        check_count("Autoregressive.init: context_size", context_size, minimum=0)
        check_count("Autoregressive.init: number of hidden layers", len(hidden_sizes))
        for width in hidden_sizes:
            check_count("Autoregressive.init: hidden size", width)
        return cls(init_net(key, (size, *hidden_sizes, 2 * size), context_size))

    @property
    def size(self) -> int:
        """D, the number of axes."""
        return jnp.shape(self.params["weight_0"])[-2]

    @property
    def parameter_ndims(self) -> Mapping[str, Any]:
        """Those of the net, and a context that is a vector."""
        return net_ndims(self.params, self.context)

    def _scale_and_shift(self, z: Array) -> tuple[Array, Array]:
        """Log-scales and shifts, `[*S, *B, D]` each: those of axis i depend on z_<i alone."""
        context = known_context("Autoregressive", self.params, self.context)
        widths = [self.params[f"bias_{layer}"].shape[-1] for layer in range(depth(self.params) - 1)]
        masks = autoregressive_masks(self.size, widths, context is not None)
        return scale_and_shift(apply_net(self.params, z, masks, context), self.bound)

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z to `(y, log_det)`, all axes at once."""
        check_event_shape("Autoregressive.forward: z", z, (self.size,), 1)
        (z,) = at_least_float32(z)
        log_scale, shift = self._scale_and_shift(z)
        return z * jnp.exp(log_scale) + shift, jnp.sum(log_scale, axis=-1)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """y to `(z, log_det)`, axis by axis."""
        check_event_shape("Autoregressive.inverse: y", y, (self.size,), 1)
        (y,) = at_least_float32(y)

        def solve(z: Array, axis: Array) -> tuple[Array, Array]:
            log_scale, shift = self._scale_and_shift(z)
            is_axis = jnp.arange(self.size) == axis
            z = jnp.where(is_axis, (y - shift) * jnp.exp(-log_scale), z)
            return z, jnp.sum(jnp.where(is_axis, log_scale, 0.0), axis=-1)

        start = jax.eval_shape(self.forward, y)[0]
        z, log_scales = jax.lax.scan(solve, jnp.zeros(start.shape, start.dtype), jnp.arange(self.size))
        return z, jnp.sum(log_scales, axis=0)


def autoregressive_masks(size: int, widths: Sequence[int], has_context: bool) -> list[np.ndarray]:
    """Masks of the weights of a net from D axes to `[2 D]` outputs, of which i and D + i see the axes below i.

    A hidden unit of degree k sees the first k axes. With a context there are units of degree 0, that see
    only it; without one they would be constants.
    """
    lowest = 0 if has_context or size == 1 else 1
    degrees = [np.arange(1, size + 1), *(lowest + np.arange(width) * (size - lowest) // width for width in widths)]
    masks = [below[:, None] <= above for below, above in pairwise(degrees)]
    return [*masks, degrees[-1][:, None] < np.tile(np.arange(1, size + 1), 2)]


def inverse_autoregressive_flow(
    key: Array, size: int, *, num_layers: int = 2, hidden_size: int = 64, context_size: int = 0
) -> Chain:
    """`Autoregressive` layers with reversed order in between; it starts as the identity. For posteriors.

    Drawing is fast, the density of a given point slow. With a context size the encoder puts out a context
    along with the base: `Transformed(base, with_context(flow, context))`.

    Args:
      key: one typed PRNG key.
      size: D, the number of axes; with 1 each layer is affine.
      num_layers: how many autoregressive layers.
      hidden_size: width of each net's hidden layer.
      context_size: C, the length of the context, or 0 for none.

    Source: Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow.

    >>> import jax, jax.numpy as jnp
    >>> flow = inverse_autoregressive_flow(jax.random.key(0), 2, context_size=5)
    >>> with_context(flow, jnp.ones((8, 5))).forward(jnp.zeros((3, 8, 2)))[0].shape
    (3, 8, 2)
    """
    check_key(key, "inverse_autoregressive_flow: key")
    check_count("inverse_autoregressive_flow: num_layers", num_layers)
    init = lambda each: Autoregressive.init(each, size, hidden_sizes=(hidden_size,), context_size=context_size)
    return _with_reversals([init(each) for each in jax.random.split(key, num_layers)])


def masked_autoregressive_flow(
    key: Array, size: int, *, num_layers: int = 2, hidden_size: int = 64, context_size: int = 0
) -> Chain:
    """`Inverse(Autoregressive)` layers with reversed order in between; it starts as the identity. For priors.

    The density of a given point is fast, drawing slow. With a context size, a condition say, it is attached by
    `with_context(flow, context)`.

    Args:
      key: one typed PRNG key.
      size: D, the number of axes; with 1 each layer is affine.
      num_layers: how many autoregressive layers.
      hidden_size: width of each net's hidden layer.
      context_size: C, the length of the context, or 0 for none.

    Source: Papamakarios, Pavlakou and Murray 2017, Masked Autoregressive Flow for Density Estimation.

    >>> import jax, jax.numpy as jnp
    >>> masked_autoregressive_flow(jax.random.key(0), 2).inverse(jnp.array([1.0, 2.0]))[0].tolist()
    [1.0, 2.0]
    """
    check_key(key, "masked_autoregressive_flow: key")
    check_count("masked_autoregressive_flow: num_layers", num_layers)
    layer = lambda each: Autoregressive.init(each, size, hidden_sizes=(hidden_size,), context_size=context_size)
    init = lambda each: Inverse(layer(each))
    return _with_reversals([init(each) for each in jax.random.split(key, num_layers)])


def _with_reversals(layers: Sequence[Bijector]) -> Chain:
    """The layers with the axes reversed in between, and at the end where that restores the order."""
    alternating = [step for layer in layers for step in (layer, Reverse())]
    return Chain(tuple(alternating if len(layers) % 2 == 0 else alternating[:-1]))


def with_context(flow: T, context: ArrayLike) -> T:
    """The flow with `context` in every layer that has weights for one.

    Args:
      flow: a bijector, usually a chain, whose `Autoregressive` and `AffineCoupling` layers are found at any depth.
      context: `[*B, C]`.

    Raises:
      ValueError: no layer takes a context, or the context has another size than the weights.

    >>> import jax, jax.numpy as jnp
    >>> flow = inverse_autoregressive_flow(jax.random.key(0), 2, num_layers=1, context_size=5)
    >>> with_context(flow, jnp.ones((8, 5))).bijectors[0].context.shape
    (8, 5)
    """
    is_layer = lambda node: isinstance(node, Autoregressive | AffineCoupling)
    takes_context = lambda node: is_layer(node) and "context" in node.params
    if not any(takes_context(node) for node in jax.tree.leaves(flow, is_leaf=is_layer)):
        raise ValueError("with_context: no layer of the flow takes a context; make it with context_size=")
    attach = lambda node: dataclasses.replace(node, context=context) if takes_context(node) else node
    return jax.tree.map(attach, flow, is_leaf=is_layer)
