"""Invertible maps of vectors that know how they change volume, and how they are put together."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_array, check_event_shape
from vaejax.distributions._base import at_least_float32, broadcast_shapes, distribution, parameter_shape, static
from vaejax.distributions.bounds import bound_log_scale
from vaejax.types import Array, ArrayLike

T = TypeVar("T")

# From so many alike on, a chain is a loop over one of them: what there is to compile does not grow with their number.
LOOP_FROM = 8


class Bijector(Protocol):
    """An invertible, differentiable map of vectors `[*S, *B, D]`, which is the pytree of its parameters.

    Both directions return a point and `log |det d forward / dz|`, `[*S, *B]`: always the forward map's, at
    the pair of points, so that the two agree wherever `y, _ = forward(z)`.

    Optional, used where present: `parameter_ndims`, by the names of the fields, how many trailing axes
    of each parameter are no batch axes; `Transformed` then works out of `jax.vmap`.
    """

    def forward(self, z: Array, /) -> tuple[Array, Array]:
        """z to `(y, log_det)`."""

    def inverse(self, y: Array, /) -> tuple[Array, Array]:
        """y to `(z, log_det)`, `log_det` that of `forward` at z."""


@distribution
class Chain:
    """Bijectors one after the other, the first applied first.

    `y = f_L(...f_1(z))`, `log_det = sum_l log |det f_l'|`

    Eight and more of one kind and shape, such as planar flows, are compiled as one in a loop.

    Args:
      bijectors: a tuple of at least one.

    Raises:
      TypeError: not a tuple of bijectors.
      ValueError: an empty one.

    >>> import jax.numpy as jnp
    >>> flow = Chain((ElementwiseAffine(jnp.ones(2), jnp.zeros(2)), Reverse()))
    >>> flow.forward(jnp.array([1.0, 2.0]))[0].tolist()
    [3.0, 2.0]
    """

    bijectors: tuple[Bijector, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.bijectors, tuple):
            raise TypeError(f"Chain: bijectors must be a tuple; got {type(self.bijectors).__name__}")
        if not self.bijectors:
            raise ValueError("Chain: bijectors must have at least one; got ()")
        for index, bijector in enumerate(self.bijectors):
            check_bijector(f"Chain: bijectors[{index}] must be", bijector)

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z to `(y, log_det)`, from the first bijector to the last."""
        return _one_after_the_other(lambda bijector, value: bijector.forward(value), self.bijectors, z)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """y to `(z, log_det)`, from the last bijector to the first."""
        return _one_after_the_other(lambda bijector, value: bijector.inverse(value), self.bijectors[::-1], y)


def _one_after_the_other(
    move: Callable[[Bijector, Array], tuple[Array, Array]], bijectors: Sequence[Bijector], value: Array
) -> tuple[Array, Array]:
    # The first by itself: what comes of it has the axes and the type that the value keeps from there on.
    value, log_det = move(bijectors[0], value)
    total, rest = jnp.asarray(log_det), bijectors[1:]
    if len(bijectors) >= LOOP_FROM and _are_alike(bijectors):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rest)
        value, log_dets = jax.lax.scan(lambda value, each: move(each, value), value, stacked)
        return value, total + jnp.sum(log_dets, axis=0)
    for each in rest:
        value, log_det = move(each, value)
        total = total + log_det
    return value, total


def _are_alike(bijectors: Sequence[Bijector]) -> bool:
    """Whether they differ in the values of arrays and numbers alone, so that these can be stacked."""
    leaves, structures = zip(*map(jax.tree.flatten, bijectors), strict=True)
    if any(structure != structures[0] for structure in structures):
        return False
    if not all(isinstance(leaf, (jax.Array, np.ndarray, float, int)) for own in leaves for leaf in own):
        return False
    signatures = [[(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in own] for own in leaves]
    return all(signature == signatures[0] for signature in signatures)


@distribution
class Inverse:
    """A bijector with its directions swapped.

    `y = f^-1(z)`, `log_det = -log |det f'(y)|`

    Args:
      bijector: f.

    >>> import jax.numpy as jnp
    >>> Inverse(ElementwiseAffine(jnp.ones(2), jnp.zeros(2))).forward(jnp.zeros(2))[0].tolist()
    [-1.0, -1.0]
    """

    bijector: Bijector

    def __post_init__(self) -> None:
        check_bijector("Inverse: bijector must be", self.bijector)

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z to `(y, log_det)` by the inverse of the bijector."""
        y, log_det = self.bijector.inverse(z)
        return y, -log_det

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """y to `(z, log_det)` by the bijector itself."""
        z, log_det = self.bijector.forward(y)
        return z, -log_det


@distribution
class Permutation:
    """The axes in another order: `y_i = z_order[i]`, `log_det = 0`.

    Args:
      order: a tuple that has each of 0, ..., D - 1 once.

    >>> import jax.numpy as jnp
    >>> Permutation((2, 0, 1)).forward(jnp.array([1.0, 2.0, 3.0]))[0].tolist()
    [3.0, 1.0, 2.0]
    """

    order: tuple[int, ...] = static(default=())

    def __post_init__(self) -> None:
        if not self.order or sorted(self.order) != list(range(len(self.order))):
            raise ValueError(f"Permutation: order must have each of 0, ..., D - 1 once; got {self.order}")
        object.__setattr__(self, "order", tuple(int(axis) for axis in self.order))

    def _reorder(self, name: str, value: Array, order: Any) -> tuple[Array, Array]:
        check_event_shape(f"Permutation.{name}", value, (len(self.order),), 1)
        (value,) = at_least_float32(value)
        return value[..., np.asarray(order)], jnp.zeros(value.shape[:-1], value.dtype)

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z to `(y, 0)`."""
        return self._reorder("forward: z", z, self.order)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """y to `(z, 0)`."""
        return self._reorder("inverse: y", y, np.argsort(self.order))


@distribution
class Reverse:
    """The axes from the last to the first, for vectors of any length; `log_det = 0`.

    >>> import jax.numpy as jnp
    >>> Reverse().forward(jnp.array([1.0, 2.0, 3.0]))[0].tolist()
    [3.0, 2.0, 1.0]
    """

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z to `(y, 0)`."""
        (z,) = at_least_float32(z)
        return jnp.flip(z, axis=-1), jnp.zeros(z.shape[:-1], z.dtype)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """y to `(z, 0)`."""
        return self.forward(y)


@distribution
class ElementwiseAffine:
    """A scale and a shift of each axis.

    `y_i = shift_i + exp(s_i) z_i`, `log_det = sum_i s_i`, `s = bound_log_scale(log_scale)`

    Args:
      shift: `[*B, D]`.
      log_scale: `[*B, D]`; from -10 to 10 taken as it is, beyond that bounded as a posterior's.

    >>> import jax.numpy as jnp
    >>> ElementwiseAffine(jnp.ones(2), jnp.zeros(2)).forward(jnp.array([1.0, 2.0]))[0].tolist()
    [2.0, 3.0]
    """

    shift: ArrayLike
    log_scale: ArrayLike

    def __post_init__(self) -> None:
        check_vectors("ElementwiseAffine", self, ("shift", "log_scale"))
        align_parameters(self)

    @property
    def parameter_ndims(self) -> Mapping[str, int]:
        """Both are vectors."""
        return {"shift": 1, "log_scale": 1}

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z to `(y, log_det)`."""
        check_event_shape("ElementwiseAffine.forward: z", z, parameter_shape(self.shift, self.log_scale), 1)
        z, shift, log_scale = at_least_float32(z, self.shift, bound_log_scale(self.log_scale))
        y = shift + jnp.exp(log_scale) * z
        return y, jnp.sum(jnp.broadcast_to(log_scale, y.shape), axis=-1)

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """y to `(z, log_det)`."""
        check_event_shape("ElementwiseAffine.inverse: y", y, parameter_shape(self.shift, self.log_scale), 1)
        y, shift, log_scale = at_least_float32(y, self.shift, bound_log_scale(self.log_scale))
        z = (y - shift) * jnp.exp(-log_scale)
        return z, jnp.sum(jnp.broadcast_to(log_scale, z.shape), axis=-1)


def check_bijector(claim: str, value: Any) -> None:
    """Raise `TypeError` where `value` has no `forward` and `inverse`; `claim` begins "Inverse: bijector must be"."""
    if not (callable(getattr(value, "forward", None)) and callable(getattr(value, "inverse", None))):
        raise TypeError(f"{claim} a bijector with forward and inverse; got {type(value).__name__}")


def check_vectors(owner: str, self: Any, vectors: tuple[str, ...], numbers: tuple[str, ...] = ()) -> None:
    """Raise unless the named parameters are vectors `[*B, D]` of one length, and numbers `[*B]`."""
    shapes = {}
    for name in (*vectors, *numbers):
        check_array(f"{owner}: {name}", getattr(self, name))
        shapes[name] = jnp.shape(getattr(self, name))
    found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if len({shapes[name][-1:] for name in vectors} | {()}) != 2:
        raise ValueError(f"{owner}: {' and '.join(vectors)} must be vectors of one length; got {found}")
    broadcast_shapes(owner, **{name: shape[:-1] if name in vectors else shape for name, shape in shapes.items()})


def align_parameters(self: Any, batch_ndims: int = 0) -> None:
    """Give all parameters of a bijector one number of batch axes, by leading axes of size 1.

    As `align_ranks` does it for distributions: it is for `jax.vmap` of functions that return bijectors.
    """
    own = dict(self.parameter_ndims)
    values = {name: getattr(self, name) for name in own}
    ranks = jax.tree.map(lambda ndims, leaf: jnp.ndim(leaf) - ndims, own, values)
    highest = max(batch_ndims, *jax.tree.leaves(ranks))
    lift = lambda rank, leaf: jnp.reshape(leaf, (1,) * (highest - rank) + jnp.shape(leaf)) if rank < highest else leaf
    for name, value in values.items():
        object.__setattr__(self, name, jax.tree.map(lift, ranks[name], value))


def with_batch_ndims(bijector: T, batch_ndims: int) -> T:
    """The bijector with `batch_ndims` or more batch axes in each parameter that `parameter_ndims` knows."""
    is_known = lambda node: hasattr(node, "parameter_ndims")

    def lift(node: Any) -> Any:
        node = copy.copy(node)
        align_parameters(node, batch_ndims)
        return node

    return jax.tree.map(lambda node: lift(node) if is_known(node) else node, bijector, is_leaf=is_known)
