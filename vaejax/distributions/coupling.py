"""Affine couplings (RealNVP), and the small net in them that autoregressive layers share."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_array, check_count, check_event_shape, check_key, check_positive
from vaejax.distributions._base import at_least_float32, distribution, static
from vaejax.distributions.bijectors import Chain, align_parameters
from vaejax.types import Array, ArrayLike


@distribution
class AffineCoupling:
    """A RealNVP layer: one part of the axes stays, the other is scaled and shifted by a net of the first.

    `y_k = z_k`, `y_m = z_m exp(s(z_k)) + t(z_k)`, `log_det = sum_m s_m(z_k)`,
    `s = bound tanh(raw / bound)`

    for the kept part k and the moved part m. Both directions evaluate the net once.

    Args:
      params: the net's arrays: `weight_0` `[K, H]`, `bias_0` `[H]`, `weight_1` `[H, 2 M]`, `bias_1` `[2 M]`, for K
        kept and M moved axes; raw log-scales come before shifts. More layers go on as `weight_2`. There
        is `context` `[C, H]` where the net takes one. Stacked ones, as `jax.vmap` of `AffineCoupling.init`
        makes them, are batch axes `*B`.
      context: what the net sees besides z, `[*B, C]`, or None; `with_context` attaches it.
      swap: whether the last K axes are kept instead of the first.
      bound: how large a log-scale can become.

    Source: Dinh, Sohl-Dickstein and Bengio 2017, Density estimation using Real NVP, section 3.

    >>> import jax, jax.numpy as jnp
    >>> layer = AffineCoupling.init(jax.random.key(0), 3)
    >>> layer.forward(jnp.array([1.0, 2.0, 3.0]))[0].tolist()
    [1.0, 2.0, 3.0]
    """

    params: Mapping[str, Array]
    context: ArrayLike | None = None
    swap: bool = static(default=False)
    bound: float = static(default=5.0)

    def __post_init__(self) -> None:
        check_net("AffineCoupling", self.params)
        check_positive("AffineCoupling: bound", self.bound)
        check_context("AffineCoupling", self.params, self.context)
        align_parameters(self)

    @classmethod
    def init(
        cls, key: Array, size: int, *, hidden_size: int = 64, context_size: int = 0, swap: bool = False
    ) -> "AffineCoupling":
        """A layer for vectors of `size` axes, at least 2, that starts as the identity."""
        check_key(key, "AffineCoupling.init: key")
        check_count("AffineCoupling.init: size (a coupling keeps one part of the axes)", size, minimum=2)
        check_count("AffineCoupling.init: hidden_size", hidden_size)
        check_count("AffineCoupling.init: context_size", context_size, minimum=0)
        kept = size - size // 2 if swap else size // 2
        return cls(init_net(key, (kept, hidden_size, 2 * (size - kept)), context_size), swap=swap)

    @property
    def parameter_ndims(self) -> Mapping[str, Any]:
        """Those of the net, and a context that is a vector."""
        return net_ndims(self.params, self.context)

    def _split(self, name: str, value: Array) -> tuple[Array, Array, Array, Array]:
        """The kept part, the moved part, its log-scales and its shifts."""
        kept, moved = self.params["weight_0"].shape[-2], self.params[f"bias_{depth(self.params) - 1}"].shape[-1] // 2
        check_event_shape(f"AffineCoupling.{name}", value, (kept + moved,), 1)
        (value,) = at_least_float32(value)
        stays = value[..., moved:] if self.swap else value[..., :kept]
        moves = value[..., :moved] if self.swap else value[..., kept:]
        context = known_context("AffineCoupling", self.params, self.context)
        return stays, moves, *scale_and_shift(apply_net(self.params, stays, context=context), self.bound)

    def _join(self, stays: Array, moves: Array) -> Array:
        stays = jnp.broadcast_to(stays, moves.shape[:-1] + stays.shape[-1:])
        return jnp.concatenate([moves, stays] if self.swap else [stays, moves], axis=-1)

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z to `(y, log_det)`."""
        stays, moves, log_scale, shift = self._split("forward: z", z)
        return self._join(stays, moves * jnp.exp(log_scale) + shift), jnp.sum(log_scale, axis=-1)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """y to `(z, log_det)`."""
        stays, moves, log_scale, shift = self._split("inverse: y", y)
        return self._join(stays, (moves - shift) * jnp.exp(-log_scale)), jnp.sum(log_scale, axis=-1)


def coupling_flow(key: Array, size: int, *, num_layers: int = 4, hidden_size: int = 64, context_size: int = 0) -> Chain:
    """Affine couplings that keep the first and the last axes by turns; it starts as the identity.

    Both directions are fast: it serves as a posterior, also with path gradients, and as a prior. With a context
    size the encoder puts out a context along with the base: `Transformed(base, with_context(flow, context))`.

    Args:
      key: one typed PRNG key.
      size: D, the number of axes, at least 2.
      num_layers: how many couplings; 2 or more change every axis.
      hidden_size: width of each net's hidden layer.
      context_size: C, the length of the context, or 0 for none.

    Source: Dinh, Sohl-Dickstein and Bengio 2017, Density estimation using Real NVP, section 3.

    >>> import jax, jax.numpy as jnp
    >>> coupling_flow(jax.random.key(0), 3).forward(jnp.array([1.0, 2.0, 3.0]))[0].tolist()
    [1.0, 2.0, 3.0]
    """
    check_key(key, "coupling_flow: key")
    check_count("coupling_flow: num_layers", num_layers)
    keys = jax.random.split(key, num_layers)
    sizes = {"hidden_size": hidden_size, "context_size": context_size}
    init = lambda index: AffineCoupling.init(keys[index], size, swap=index % 2 == 1, **sizes)
    return Chain(tuple(init(index) for index in range(num_layers)))


def scale_and_shift(outputs: Array, bound: float) -> tuple[Array, Array]:
    """A net's outputs `[*B, 2 M]` as bounded log-scales and shifts, `[*B, M]` each."""
    moved = outputs.shape[-1] // 2
    return bound * jnp.tanh(outputs[..., :moved] / bound), outputs[..., moved:]


def depth(params: Mapping[str, Any]) -> int:
    """The number of layers of a net."""
    return sum(name.startswith("weight_") for name in params)


def net_ndims(params: Mapping[str, Any], context: Any = None) -> dict[str, Any]:
    """How many trailing axes of each array of a net, and of its context, are no batch axes."""
    ndims = {"params": {name: 1 if name.startswith("bias_") else 2 for name in params}}
    return ndims if context is None else {**ndims, "context": 1}


def check_context(owner: str, params: Mapping[str, Any], context: Any) -> None:
    """Raise where a context does not fit the weights for it; None is left to the use of the net."""
    if context is None:
        return
    check_array(f"{owner}: context", context)
    if "context" not in params:
        raise ValueError(f"{owner}: the flow has no weights for a context; make it with context_size=")
    expected, shape = jnp.shape(params["context"])[-2], jnp.shape(context)
    if shape[-1:] != (expected,):
        raise ValueError(f"{owner}: context must have {expected} as its last axis; got shape {shape}")


def known_context(owner: str, params: Mapping[str, Any], context: ArrayLike | None) -> Array | None:
    """The context in float32 or more; raises where the net has weights for one and there is none."""
    if context is None and "context" in params:
        size = params["context"].shape[-2]
        raise ValueError(f"{owner}: the flow needs a context of size {size}: with_context(flow, context)")
    return None if context is None else at_least_float32(context)[0]


def init_net(key: Array, sizes: Sequence[int], context_size: int = 0) -> dict[str, Array]:
    """A net with the given widths, whose outputs start at 0."""
    keys = jax.random.split(key, len(sizes))
    params = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        params[f"weight_{layer}"] = fan_in**-0.5 * jax.random.normal(keys[layer], (fan_in, fan_out))
        params[f"bias_{layer}"] = jnp.zeros(fan_out)
    # A layer starts as the identity.
    params[f"weight_{len(sizes) - 2}"] = jnp.zeros(sizes[-2:])
    if context_size:
        params["context"] = context_size**-0.5 * jax.random.normal(keys[-1], (context_size, sizes[1]))
    return params


def apply_net(
    params: Mapping[str, Array], x: Array, masks: Sequence[np.ndarray] = (), context: Array | None = None
) -> Array:
    """Dense layers with tanh between them; each weight counts where its mask is True, if there are masks."""
    for layer in range(depth(params)):
        weight = params[f"weight_{layer}"]
        weight = jnp.where(masks[layer], weight, 0.0) if masks else weight
        x = _product(x if layer == 0 else jnp.tanh(x), weight) + params[f"bias_{layer}"]
        if layer == 0 and context is not None:
            x = x + _product(context, params["context"])
    return x


def _product(x: Array, weight: Array) -> Array:
    """`x W` for W `[N, M]`, or `[*B, N, M]` with batch axes that broadcast against those of x.

    In full precision: an inverse evaluates the net again, and its rounding is the error of the inverse.
    """
    if math.prod(weight.shape[:-2]) == 1:
        return jnp.matmul(x, weight.reshape(weight.shape[-2:]), precision="highest")
    return jnp.matmul(x[..., None, :], weight, precision="highest")[..., 0, :]


def check_net(owner: str, params: Any) -> None:
    """Raise where `params` are not the arrays of a net, with shapes that fit together."""
    if not isinstance(params, Mapping):
        raise TypeError(f"{owner}: params must be a dict of arrays; got {type(params).__name__}")
    layers = range(depth(params))
    expected = {f"{kind}_{layer}" for layer in layers for kind in ("weight", "bias")}
    if len(layers) < 2 or set(params) - {"context"} != expected:
        raise ValueError(f"{owner}: params must hold weight_0, bias_0, weight_1, bias_1, ...; got {sorted(params)}")
    for name, value in params.items():
        check_array(f"{owner}: params {name}", value)
    shapes = {name: jnp.shape(value) for name, value in params.items()}
    fits = all(shapes[f"weight_{layer}"][-1:] == shapes[f"bias_{layer}"][-1:] != () for layer in layers)
    fits &= all(shapes[f"bias_{a}"][-1:] == shapes[f"weight_{b}"][-2:-1] for a, b in pairwise(layers))
    fits &= shapes.get("context", shapes["bias_0"])[-1:] == shapes["bias_0"][-1:]
    if not fits or len(shapes["weight_0"]) < 2 or shapes[f"bias_{layers[-1]}"][-1] % 2:
        raise ValueError(f"{owner}: the shapes of params must fit together, with an even last one; got {shapes}")
