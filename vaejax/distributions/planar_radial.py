"""Planar and radial flows: bijectors with few parameters, to be chained."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vaejax.checks import check_event_shape
from vaejax.distributions._base import at_least_float32, distribution, parameter_shape
from vaejax.distributions.bernoulli import softplus
from vaejax.distributions.bijectors import align_parameters, check_vectors
from vaejax.distributions.bounds import bound_log_scale
from vaejax.types import Array, ArrayLike

# Weights below it count as zero: u_hat grows as 1/|w|, and its gradient, as 1/|w|^2, is still far from overflow here.
SMALLEST_WEIGHT = 1e-8
# softplus falls below these where float32 would make a flow singular; products of two stay above its least number.
LEAST_SLOPE = 1e-30
LEAST_SHIFT = 1e-15
# From the starts of `_planar_root` 24 steps reach double precision, for slopes from 1e-30 to 1e10.
NEWTON_STEPS = 32


@distribution
class Planar:
    """A planar flow: space is stretched or squeezed across one hyperplane.

    `y = z + u_hat tanh(w.z + b)`, `log_det = log(1 + w.u_hat sech^2(w.z + b))`,
    `u_hat = u + (m(w.u) - w.u) w / |w|^2`, `m(a) = -1 + softplus(a)`, so that `w.u_hat > -1`.

    At `w = 0`, where `u_hat` has no limit, it is u: a shift by `u tanh(b)`. Note that u = 0 is not the
    identity. The inverse solves one equation per point to rounding, and has exact derivatives.

    Args:
      weight: w, `[*B, D]`.
      direction: u, `[*B, D]`.
      bias: b, `[*B]`.

    Source: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows, section 4.1 and
    appendix A.1.

    >>> import jax.numpy as jnp
    >>> flow = Planar(jnp.ones((8, 2)), jnp.ones((8, 2)), jnp.zeros(8))
    >>> y, log_det = flow.forward(jnp.zeros((5, 8, 2)))
    >>> y.shape, log_det.shape
    ((5, 8, 2), (5, 8))
    """

    weight: ArrayLike
    direction: ArrayLike
    bias: ArrayLike

    def __post_init__(self) -> None:
        check_vectors("Planar", self, ("weight", "direction"), ("bias",))
        align_parameters(self)

    @property
    def parameter_ndims(self) -> Mapping[str, int]:
        """Two vectors and a number."""
        return {"weight": 1, "direction": 1, "bias": 0}

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z to `(y, log_det)`."""
        check_event_shape("Planar.forward: z", z, parameter_shape(self.weight, self.direction), 1)
        z, w, u, b = at_least_float32(z, self.weight, self.direction, self.bias)
        u_hat, slope = _constrain(w, u)
        # The larger factor first: jaxlib 0.10 compiles the sum of w * z wrongly for over 32768 vectors on a CPU.
        t = jnp.sum(z * w, axis=-1) + b
        return z + u_hat * jnp.tanh(t)[..., None], jnp.log(_planar_slope(slope, t))

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """y to `(z, log_det)`; `t = w.z + b` solves `t + w.u_hat tanh(t) = w.y + b`."""
        check_event_shape("Planar.inverse: y", y, parameter_shape(self.weight, self.direction), 1)
        y, w, u, b = at_least_float32(y, self.weight, self.direction, self.bias)
        u_hat, slope = _constrain(w, u)
        t = _planar_root(slope, jnp.sum(y * w, axis=-1) + b)
        return y - u_hat * jnp.tanh(t)[..., None], jnp.log(_planar_slope(slope, t))


def _constrain(w: Array, u: Array) -> tuple[Array, Array]:
    """`u_hat`, and `1 + w.u_hat > 0` without the rounding of that product."""
    inner = jnp.sum(w * u, axis=-1)
    is_zero = jnp.max(jnp.abs(w), axis=-1) < SMALLEST_WEIGHT
    square = jnp.where(is_zero, 1.0, jnp.sum(w**2, axis=-1))
    # m(a) - a = softplus(-a) - 1, in which nothing large cancels.
    missing = jnp.where(is_zero, 0.0, softplus(-inner) - 1.0)
    slope = jnp.where(is_zero, 1.0 + inner, jnp.maximum(softplus(inner), LEAST_SLOPE))
    return u + (missing / square)[..., None] * w, slope


def _planar_slope(slope: Array, t: Array) -> Array:
    """`1 + c sech^2(t)` for `slope = 1 + c`, as `tanh^2(t) + slope sech^2(t)`: nothing cancels."""
    decay = jnp.exp(-2.0 * jnp.abs(t))
    return jnp.tanh(t) ** 2 + slope * 4.0 * decay / (1.0 + decay) ** 2


@jax.custom_jvp
def _planar_root(slope: Array, target: Array) -> Array:
    """The t with `t + c tanh(t) = target` for `slope = 1 + c > 0`, to rounding.

    The left side is odd and, for t > 0, concave where c > 0 and convex where c < 0. So Newton's method
    approaches the root from one side, without overshooting: from below and from above.
    """
    c, goal = slope - 1.0, jnp.abs(target)
    # tanh(t) <= min(t, 1), and t - tanh(t) >= t^3 / 5 up to t = 1.
    below = jnp.maximum(goal / slope, goal - c)
    cubic = jnp.cbrt(5.0 * goal / jnp.maximum(-c, LEAST_SLOPE))
    above = jnp.minimum(jnp.minimum(goal / slope, goal - c), jnp.where(cubic < 1.0, cubic, jnp.inf))
    start = jnp.where(c > 0, below, above)
    # Rounding alone may throw a step past these, where the slope is close to 0.
    low, high = jnp.minimum(goal, start), jnp.maximum(goal, start)

    def newton(_: int, t: Array) -> Array:
        return jnp.clip(t - (t + c * jnp.tanh(t) - goal) / _planar_slope(slope, t), low, high)

    return jnp.sign(target) * jax.lax.fori_loop(0, NEWTON_STEPS, newton, start)


@_planar_root.defjvp
def _planar_root_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """By the implicit function theorem."""
    t = _planar_root(*primals)
    return t, (tangents[1] - jnp.tanh(t) * tangents[0]) / _planar_slope(primals[0], t)


@distribution
class Radial:
    """A radial flow: space is stretched or squeezed around a point.

    `y = z + beta h (z - center)`, `h = 1 / (alpha + r)`, `r = |z - center|`,
    `log_det = (D - 1) log(1 + beta h) + log(1 + beta h + beta h' r)`,
    `alpha = exp(bound_log_scale(log_alpha))`, `beta = -alpha + softplus(raw_beta)`, so that it is invertible.

    The inverse is in closed form: r solves a quadratic equation.

    Args:
      center: `[*B, D]`.
      log_alpha: `[*B]`; from -10 to 10 taken as it is, beyond that bounded.
      raw_beta: `[*B]`; `alpha = softplus(raw_beta)` is the identity.

    Source: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows, section 4.1 and
    appendix A.2.

    >>> import jax.numpy as jnp
    >>> y, log_det = Radial(jnp.zeros(2), 0.0, 3.0).forward(jnp.ones((8, 2)))
    >>> y.shape, log_det.shape
    ((8, 2), (8,))
    """

    center: ArrayLike
    log_alpha: ArrayLike
    raw_beta: ArrayLike

    def __post_init__(self) -> None:
        check_vectors("Radial", self, ("center",), ("log_alpha", "raw_beta"))
        align_parameters(self)

    @property
    def parameter_ndims(self) -> Mapping[str, int]:
        """A vector and two numbers."""
        return {"center": 1, "log_alpha": 0, "raw_beta": 0}

    def _parameters(self, value: Array) -> tuple[Array, Array, Array, Array]:
        """The value and the center in one precision, alpha and `alpha + beta`."""
        log_alpha, raw_beta = bound_log_scale(self.log_alpha), self.raw_beta
        value, center, log_alpha, raw_beta = at_least_float32(value, self.center, log_alpha, raw_beta)
        return value, center, jnp.exp(log_alpha), jnp.maximum(softplus(raw_beta), LEAST_SHIFT)

    def forward(self, z: Array) -> tuple[Array, Array]:
        """z to `(y, log_det)`."""
        check_event_shape("Radial.forward: z", z, jnp.shape(self.center), 1)
        z, center, alpha, shift = self._parameters(z)
        radius = _norm(z - center)
        # 1 + beta h = (shift + r) / (alpha + r), in which nothing cancels.
        y = center + (z - center) * ((shift + radius) / (alpha + radius))[..., None]
        return y, _radial_log_det(radius, alpha, shift, z.shape[-1])

    def inverse(self, y: Array) -> tuple[Array, Array]:
        """y to `(z, log_det)`; r solves `r^2 + (shift - |y - center|) r = alpha |y - center|`."""
        check_event_shape("Radial.inverse: y", y, jnp.shape(self.center), 1)
        y, center, alpha, shift = self._parameters(y)
        distance = _norm(y - center)
        sum_of_roots = distance - shift
        larger = jnp.abs(sum_of_roots) + jnp.sqrt(sum_of_roots**2 + 4.0 * alpha * distance)
        radius = jnp.where(sum_of_roots >= 0, larger / 2.0, distance * (2.0 * alpha / larger))
        z = center + (y - center) * ((alpha + radius) / (shift + radius))[..., None]
        return z, _radial_log_det(radius, alpha, shift, y.shape[-1])


def _norm(vectors: Array) -> Array:
    """The Euclidean norm, `[*B, D]` to `[*B]`, with gradient 0 at 0."""
    square = jnp.sum(vectors**2, axis=-1)
    is_zero = square == 0
    return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))


def _radial_log_det(radius: Array, alpha: Array, shift: Array, size: int) -> Array:
    """D - 1 axes across the radius, and `1 + beta h + beta h' r` along it: sums of positive numbers."""
    inside, outside = alpha / (alpha + radius), radius / (alpha + radius)
    along = outside * (1.0 + inside) + inside * (shift / (alpha + radius))
    return (size - 1) * jnp.log((shift + radius) / (alpha + radius)) + jnp.log(along)
