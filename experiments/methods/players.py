"""Methods with a discriminator: two or three players, one loss, one step, an optimizer each."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

import vaejax
from vaejax import data, nets, recipes
from vaejax.types import Array, Objective, Params

from .core import (
    LATENTS,
    LEVELS,
    Extra,
    Method,
    Pair,
    View,
    generate_by,
    levels,
    log_bound_by,
    net,
    reconstruct_by,
    standard_prior,
)


def players() -> dict[str, Method]:
    """Total correlation, the prior and the data themselves, each seen by a discriminator."""
    return {
        "FactorVAE": with_discriminator(
            "A(q, px, add(kl(p0), scale(5.0, tc_from_discriminator(D))))", "Kim 2018",
            lambda discriminate: recipes.factor_vae(discriminate=discriminate, weight=5.0), vaejax.permute_axes,
        ),
        "AAE, WAE-GAN": with_discriminator(
            "A(d, px, scale(5.0, prior_ratio(D)))", "Makhzani 2016, Tolstikhin 2018",
            lambda discriminate: recipes.adversarial_autoencoder(discriminate=discriminate, weight=5.0),
            lambda key, z: standard_prior({}).sample(key, z.shape[:1]), posterior=nets.heads.delta(),
        ),
        "VAE-GAN": vae_gan(),
    }  # fmt: skip


def init_perceptron(key: Array, sizes: Sequence[int]) -> Params:
    shapes = list(pairwise(sizes))
    keys = jax.random.split(key, len(shapes))
    return [
        {"w": jax.random.normal(k, s) / s[0] ** 0.5, "b": jnp.zeros(s[1])} for k, s in zip(keys, shapes, strict=True)
    ]


def features(params: Params, x: Array) -> Array:
    """The last hidden layer, `[B, H]`."""
    x = x.reshape(len(x), -1)
    for layer in params[:-1]:
        x = jax.nn.leaky_relu(x @ layer["w"] + layer["b"], 0.2)
    return x


def logits(params: Params, x: Array) -> Array:
    return (features(params, x) @ params[-1]["w"] + params[-1]["b"])[:, 0]


def init_players(model: nets.Model, sizes: Sequence[int]) -> Callable[[Array], Params]:
    def init(key: Array) -> Params:
        model_key, discriminator_key = jax.random.split(key)
        return {"model": model.init(model_key), "discriminator": init_perceptron(discriminator_key, sizes)}

    return init


def with_discriminator(
    expression: str,
    source: str,
    objective: Callable[[Callable[[Array], Array]], Objective],
    other: Callable[[Array, Array], Array],
    posterior: nets.Head | None = None,
) -> Method:
    """A discriminator of latents: it tells draws of q(z) from what `other(key, z)` draws."""
    model = net(posterior)
    view: View = lambda params, extra, x: Pair(
        partial(model.encode, params["model"]), partial(model.decode, params["model"])
    )

    def loss(params: Params, extra: Extra, key: Array, examples: data.Split) -> Any:
        terms_key, other_key = jax.random.split(key)
        x, frozen = levels(examples), jax.lax.stop_gradient(params["discriminator"])
        terms = objective(partial(logits, frozen))(terms_key, x, *view(params, extra, x))
        of_model, _ = vaejax.negative_mean(terms)
        discriminate = partial(logits, params["discriminator"])
        of_discriminator = vaejax.discriminator_loss(discriminate, terms.latents, other(other_key, terms.latents))
        return of_model + of_discriminator, ({"model": of_model, "discriminator": of_discriminator}, extra)

    bound = None if posterior else log_bound_by(view, standard_prior)
    init = init_players(model, (LATENTS, 64, 64, 1))
    return Method(expression, source, init, loss, reconstruct_by(view), generate_by(view, standard_prior), bound)


def vae_gan() -> Method:
    """Likelihood in the features of a discriminator of images, and a generator that it judges."""
    white = LEVELS - 1
    model = net(likelihood=nets.heads.normal())
    scaled = lambda x: data.to_unit(x, white)
    # Shown in levels, as the data are.
    view: View = lambda params, extra, x: Pair(
        lambda x: model.encode(params["model"], scaled(x)),
        lambda z: vaejax.Normal(white * model.decode(params["model"], z).mean, 1.0, 3),
    )

    def loss(params: Params, extra: Extra, key: Array, examples: data.Split) -> Any:
        terms_key, prior_key, fool_key = jax.random.split(key, 3)
        x, frozen = scaled(examples.examples), jax.lax.stop_gradient(params["discriminator"])
        encode, decode = partial(model.encode, params["model"]), partial(model.decode, params["model"])
        objective = recipes.vae_gan(features=partial(features, frozen), weight=0.1)
        of_model, _ = vaejax.negative_mean(objective(terms_key, x, encode, decode))
        prior = standard_prior(params)
        fakes = decode(prior.sample(prior_key, (len(x),))).mean
        # The discriminator's first kind are data; what fools it are images it takes for them.
        of_generator = jnp.mean(vaejax.fool(lambda x: -logits(frozen, x))(fool_key, prior, fakes))
        of_discriminator = vaejax.discriminator_loss(partial(logits, params["discriminator"]), x, fakes)
        metrics = {"model": of_model, "generator": of_generator, "discriminator": of_discriminator}
        return of_model + of_generator + of_discriminator, (metrics, extra)

    return Method(
        "autoencode(key, features(x), lambda _: q(x), lambda z: Normal(features(px(z).mean), 1.0), scale(0.1, kl(p0)))", "Larsen 2016",
        init_players(model, (64, 128, 64, 1)), loss, reconstruct_by(view), generate_by(view, standard_prior),
    )  # fmt: skip
