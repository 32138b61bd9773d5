"""Training in JAX with nothing but the arithmetic: no library, no metrics, no checks, one compiled loop."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .timing import Advance

Layers = list[tuple[jax.Array, jax.Array]]
# (params, key, images [B, H, W, C] as they are stored) to a number.
Loss = Callable[[Any, jax.Array, jax.Array], jax.Array]


class Way(NamedTuple):
    """How steps are taken."""

    begin: Callable[[Any], Any]  # params to the state before the first step, whose first part counts steps
    step: Callable[[Loss, Any, jax.Array], Any]


def training(loss: Loss, params: Any, images: np.ndarray, batch: int, way: Way) -> Advance:
    """Steps of Adam on a loss, over the examples in an order of their own at each call, as one compiled loop."""
    state, stored = [way.begin(params)], jax.device_put(images)

    def run(state: Any, images: jax.Array, steps: jax.Array) -> Any:
        order = jax.random.permutation(jax.random.fold_in(jax.random.key(2), state[0]), len(images))

        def step(number: jax.Array, state: Any) -> Any:
            rows = jax.lax.dynamic_slice_in_dim(order, number % (len(images) // batch) * batch, batch)
            return way.step(loss, state, images[rows])

        return jax.lax.fori_loop(0, steps, step, state)

    compiled = jax.jit(run, donate_argnums=0)

    def advance(steps: int) -> None:
        state[0] = jax.block_until_ready(compiled(state[0], stored, np.int32(steps)))

    return advance


def training_by_steps(loss: Loss, params: Any, images: np.ndarray, batch: int, way: Way) -> Advance:
    """The same with a compiled step in a Python loop, over batches in order."""
    state, compiled = [way.begin(params)], jax.jit(partial(way.step, loss), donate_argnums=0)

    def advance(steps: int) -> None:
        for number in range(steps):
            start = number % (len(images) // batch) * batch
            state[0] = compiled(state[0], images[start : start + batch])
        jax.block_until_ready(state[0])

    return advance


def _with_optax() -> Way:
    """Adam of optax on a loss that is summed up: what everyone who trains has to compute."""
    optimizer = optax.adam(1e-3)

    def begin(params: Any) -> Any:
        return jnp.zeros((), jnp.int32), params, optimizer.init(params), jnp.zeros(())

    def step(loss: Loss, state: Any, images: jax.Array) -> Any:
        number, params, moments, total = state
        value, gradient = jax.value_and_grad(loss)(params, noise_key(number), images)
        updates, moments = optimizer.update(gradient, moments)
        return number + 1, optax.apply_updates(params, updates), moments, total + value

    return Way(begin, step)


def noise_key(number: jax.Array) -> jax.Array:
    """Of a step."""
    return jax.random.fold_in(jax.random.key(1), number)


def initial_state(params: Any) -> Any:
    """`(t, params, m, v)` before the first step of Adam."""
    first, second = jax.tree.map(jnp.zeros_like, (params, params))
    return jnp.zeros((), jnp.int32), params, first, second


def gradient_step(loss: Loss, state: Any, images: jax.Array) -> Any:
    """A step without the value of the loss."""
    return adam(state, jax.grad(loss)(state[1], noise_key(state[0]), images))


def adam(state: Any, gradient: Any) -> Any:
    """A step of Adam at the usual rates: `(t, params, m, v)` to the next."""
    t, params, m, v = state
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
    rate = 1e-3 * jnp.sqrt(1 - 0.999 ** (t + 1)) / (1 - 0.9 ** (t + 1))
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, m, v)
    return t + 1, params, m, v


BARE = _with_optax()
# The least that can be computed: nobody learns the loss, and Adam divides only once for each number.
BY_HAND = Way(initial_state, gradient_step)


def dense(key: jax.Array, sizes: Sequence[int]) -> Layers:
    """Weights and offsets of dense layers."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(key, (fan_in, fan_out)) / fan_in**0.5, jnp.zeros(fan_out))
        for key, (fan_in, fan_out) in zip(keys, pairwise(sizes), strict=True)
    ]


def perceptron(layers: Layers, x: jax.Array, activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Dense layers with an activation between them."""
    for weights, offset in layers[:-1]:
        x = activation(x @ weights + offset)
    return x @ layers[-1][0] + layers[-1][1]


def binarized(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each pixel as 0 or 1, with its intensity as the probability."""
    return (jax.random.uniform(key, images.shape) < images.astype(jnp.float32) / 255).astype(jnp.float32)


def bernoulli_cost(x: jax.Array, logits: jax.Array) -> jax.Array:
    """`-ln p(x)` of pixels that lie on the last axis."""
    # log(1 + exp(l)) in the form that is fastest here.
    softplus = jnp.maximum(logits, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.sum(softplus - x * logits, axis=-1)


def kl_to_standard(mean: jax.Array, log_scale: jax.Array) -> jax.Array:
    """`KL(N(mean, scale) || N(0, I))` per example."""
    return 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_scale) - 1 - 2 * log_scale, axis=-1)
