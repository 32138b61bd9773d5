"""Discrete codes: four places, each with the nearest of 32 vectors of four numbers."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import vaejax
from vaejax import data, nets, recipes
from vaejax.types import Array, Params

from .core import Extra, Method, Pair, deterministic, generate_by, levels, net, reconstruct_by

PLACES, SIZE, CODES = 4, 4, 32
LEVELS_OF_A_PLACE = (5,) * (PLACES * SIZE)


def codes() -> dict[str, Method]:
    """Codebooks learned by gradient, as a moving average, in residual stages, and none at all."""
    return {
        "VQ-VAE": by_gradient(
            "vector_quantize(codebook, d(x).mean)", "van den Oord 2017", vaejax.vector_quantize, recipes.vq_vae, 1
        ),
        "residual VQ": by_gradient(
            "residual_quantize(codebooks, d(x).mean)", "Zeghidour 2021", vaejax.residual_quantize, recipes.residual_vq_vae, 2
        ),
        "EMA codebook": moving_average(),
        "FSQ": deterministic(
            "A(lambda x: Delta(finite_scalar_quantize(d(x).mean, levels)), px, none)", "Mentzer 2023",
            lambda _: recipes.fsq_autoencoder(LEVELS_OF_A_PLACE), model=net(nets.heads.delta(), PLACES * SIZE),
            view=lambda params, x, pair: quantized(finite_scalar, pair),
        ),
    }  # fmt: skip


def finite_scalar(z: Array) -> vaejax.Delta:
    return vaejax.Delta(vaejax.finite_scalar_quantize(z, LEVELS_OF_A_PLACE))


def quantized(quantize: Any, pair: Pair) -> Pair:
    """What decodes to an image is always quantized first, also a latent that was fitted or drawn."""
    return Pair(lambda x: quantize(pair.encode(x).mean), lambda z: pair.decode(quantize(z).mean))


def places() -> nets.Model:
    """The net with a code of vectors, `[*B, PLACES, SIZE]`."""
    flat = net(nets.heads.delta(), PLACES * SIZE)
    return nets.Model(
        flat.init,
        lambda params, x: vaejax.Delta(flat.encode(params, x).mean.reshape(*x.shape[:-3], PLACES, SIZE), 2),
        lambda params, z: flat.decode(params, z.reshape(*z.shape[:-2], PLACES * SIZE)),
    )


def by_gradient(expression: str, source: str, quantize: Any, recipe: Any, stages: int) -> Method:
    """Codebooks that are parameters: one, or a stack of stages."""

    def own(key: Array) -> Params:
        books = [vaejax.init_codebook(k, CODES, SIZE).codebook for k in jax.random.split(key, stages)]
        return {"codebook": jnp.stack(books) if stages > 1 else books[0]}

    return deterministic(
        f"A(lambda x: {expression}, px, codebook_loss(0.25))", source,
        lambda params: recipe(params["codebook"]), model=places(), own=own,
        view=lambda params, x, pair: quantized(lambda z: quantize(params["codebook"], z, 2), pair),
    )  # fmt: skip


def moving_average() -> Method:
    """The codebook is state and no parameter; codes that nothing uses begin anew."""
    model = places()

    def view(params: Params, extra: Extra, x: Array) -> Pair:
        pair = Pair(partial(model.encode, params), partial(model.decode, params))
        return quantized(lambda z: vaejax.vector_quantize(extra.codebook, z, 2), pair)

    def loss(params: Params, extra: Extra, key: Array, examples: data.Split) -> Any:
        terms_key, revive_key = jax.random.split(key)
        objective = recipes.ema_vq_vae(extra.codebook)
        pair = partial(model.encode, params), partial(model.decode, params)
        value, terms = vaejax.negative_mean(objective(terms_key, levels(examples), *pair))
        q = jax.lax.stop_gradient(terms.posterior)
        updated = vaejax.update_codebook(extra, q.inputs, q.indices, decay=0.95)
        revived = vaejax.revive_dead_codes(revive_key, updated, q.inputs, threshold=0.5)
        usage = vaejax.codebook_usage(q.indices, CODES)
        return value, ({"perplexity": usage.perplexity, "used": usage.used_fraction}, revived)

    def remark(params: Params, extra: Extra, test: data.Split) -> str:
        q = vaejax.vector_quantize(extra.codebook, model.encode(params, levels(test)).mean, 2)
        usage = vaejax.codebook_usage(q.indices, CODES)
        return f"{100 * usage.used_fraction:.0f}% of the codes used, perplexity {usage.perplexity:.1f} of {CODES}"

    return Method(
        "A(lambda x: vector_quantize(average, d(x).mean), px, commitment_loss(0.25))", "van den Oord 2017",
        model.init, loss, reconstruct_by(view), generate_by(view, None),
        extra=lambda key: vaejax.init_codebook(key, CODES, SIZE), remark=remark,
    )  # fmt: skip
