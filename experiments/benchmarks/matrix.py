"""The matrix products of a step with all else left out: how fast the machine is at these very shapes."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .timing import Advance, Contest, times_faster

# Who makes the products and nothing else, and the figure that says how near a contestant comes to it.
PRODUCTS, SHARE = "matrix products alone", "% of matrix rate"


class Perceptrons(NamedTuple):
    """The dense layers of an encoder and a decoder, and on how many rows they work."""

    encoder: tuple[int, ...]  # sizes from the data to mean and log-scale
    decoder: tuple[int, ...]  # sizes from the latents to the data
    batch: int  # rows of the encoder
    samples: int = 1  # times as many rows has the decoder

    def flops(self) -> int:
        """Multiplications and additions of a step: forward, weight gradients, and input gradients but of the data.

        >>> Perceptrons((3, 2), (1, 3), batch=5).flops()
        210
        """
        up = [a * b for a, b in pairwise(self.encoder)]
        down = [a * b for a, b in pairwise(self.decoder)]
        return 2 * self.batch * (3 * sum(up) - up[0] + 3 * self.samples * sum(down))


def share_of(contest: Contest, name: str) -> dict[str, float]:
    """The share of the machine's matrix rate that a contestant reaches; nothing where that was not measured."""
    alone = contest.timings.get(PRODUCTS)
    return {} if alone is None else {SHARE: 100 * times_faster(contest.timings[name], alone)}


def products(nets: Perceptrons) -> Advance:
    """A compiled loop over the products of a step, chained as a step chains them.

    Each result but the last ones is an operand of the next product, the last ones are carried out of the loop, and
    one pixel of the data is set to a number made of them: so no product is unused, and none is the same in the next
    turn and could be taken out of the loop. All three cost next to nothing.
    """
    weights = [_weights(nets.encoder, 0), _weights(nets.decoder, 1)]
    x = jnp.asarray(np.random.default_rng(2).random((nets.batch, nets.encoder[0]), np.float32))
    carry = [(x, [[jnp.zeros_like(w) for w in each] for each in weights])]

    def run(carry: Any, weights: Any, steps: jax.Array) -> Any:
        def turn(_: Any, carry: Any) -> Any:
            x, _ = carry
            gradients = _step(x, weights[0], weights[1], nets.samples)
            mark = sum(each[0, 0] for part in gradients for each in part)
            return x.at[0, 0].set(jnp.sin(mark)), gradients

        return jax.lax.fori_loop(0, steps, turn, carry)

    compiled = jax.jit(run, donate_argnums=0)

    def advance(steps: int) -> None:
        carry[0] = jax.block_until_ready(compiled(carry[0], weights, np.int32(steps)))

    return advance


def passes(sizes: Sequence[int], rows: int, at_once: int) -> Advance:
    """A compiled loop over the products of dense layers, for `rows` rows in a step, `at_once` of them at a time.

    Chained as in `products`, so that none can be left out.
    """
    weights = _weights(sizes, 0)
    x = jnp.asarray(np.random.default_rng(1).random((at_once, sizes[0]), np.float32))
    carry = [(x, jnp.zeros((at_once, sizes[-1])))]

    def run(carry: Any, weights: Any, turns: jax.Array) -> Any:
        def turn(_: Any, carry: Any) -> Any:
            x, _ = carry
            made = _forward(x, weights)[-1]
            return x.at[0, 0].set(jnp.sin(made[0, 0])), made

        return jax.lax.fori_loop(0, turns, turn, carry)

    compiled = jax.jit(run, donate_argnums=0)

    def advance(steps: int) -> None:
        carry[0] = jax.block_until_ready(compiled(carry[0], weights, np.int32(steps * rows // at_once)))

    return advance


def _weights(sizes: Sequence[int], seed: int) -> list[jax.Array]:
    random = np.random.default_rng(seed)
    return [jnp.asarray(random.normal(size=(a, b)).astype(np.float32) / a**0.5) for a, b in pairwise(sizes)]


def _step(x: jax.Array, encoder: Any, decoder: Any, samples: int) -> Any:
    """The weight gradients of a linear autoencoder that has its own output as the gradient there."""
    latents = len(decoder[0])
    seen = _forward(x, encoder)
    made = _forward(jnp.tile(seen[-1][:, :latents], (samples, 1)), decoder)
    of_decoder, cotangent = _backward(made[:-1], decoder, made[-1])
    cotangent = jnp.sum(cotangent.reshape(samples, len(x), latents), axis=0)
    of_encoder, _ = _backward(seen[:-1], encoder, jnp.tile(cotangent, 2))
    return [of_encoder, of_decoder]


def _forward(x: jax.Array, weights: Any) -> list[jax.Array]:
    passed = [x]
    for each in weights:
        passed.append(passed[-1] @ each)
    return passed


def _backward(inputs: Any, weights: Any, cotangent: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """The gradients of the weights and of the first input, which is not computed where nobody uses it."""
    gradients: list[jax.Array] = []
    for x, each in reversed([*zip(inputs, weights, strict=True)]):
        gradients.insert(0, x.T @ cotangent)
        cotangent = cotangent @ each.T
    return gradients, cotangent
