"""Hierarchies, labels and missing pixels: compositions of the same two functions, and no new class."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vaejax
from vaejax import data, nets, recipes
from vaejax.types import Array, Params

from .core import (
    LATENTS,
    Extra,
    Method,
    generate_by,
    levels,
    net,
    reconstruct_by,
    split_keys,
    standard_prior,
    view_of,
)

DIGITS = 10
UNKNOWN = np.uint8(255)
TOP, LOW = 4, 8


def structured() -> dict[str, Method]:
    """More than one latent, or more than an image."""
    return {"ladder": ladder(), "conditional": conditional(), "M2": semi_supervised(), "missing pixels": missing()}


def one_hot(labels: Array) -> Array:
    return jax.nn.one_hot(labels, DIGITS)


def ladder() -> Method:
    """Two layers; the posterior of each is what the bottom-up pass says of it, times its prior."""
    up = net(nets.heads.delta(), 2 * (TOP + LOW))
    between = nets.mlp((TOP,), LOW, hidden_sizes=(32,), likelihood=nets.heads.normal())
    down = net(latent_size=TOP + LOW)
    parts = slice(0, TOP), slice(TOP, TOP + LOW)

    def init(key: Array) -> Params:
        keys = split_keys(key, ("up", "between", "down"))
        return {"up": up.init(keys["up"]), "between": between.init(keys["between"]), "down": down.init(keys["down"])}

    def priors(params: Params) -> list[Any]:
        top = lambda above: vaejax.standard_normal.expand((TOP,))
        return [top, lambda above: between.encode(params["between"], above[0])]

    def encode(params: Params, x: Array) -> list[Any]:
        locs, log_scales = jnp.split(up.encode(params["up"], x).mean, 2, axis=-1)
        says = [vaejax.Normal.from_log_scale(locs[..., part], log_scales[..., part]) for part in parts]
        return [lambda above, p, q=q: vaejax.precision_weighted(q, p) for q in says]

    def decode(params: Params, z: tuple[Array, ...]) -> Any:
        return down.decode(params["down"], jnp.concatenate(z, axis=-1))

    def terms(params: Params, key: Array, examples: data.Split, **options: Any) -> Any:
        objective = recipes.ladder_vae(priors(params), **options)
        return objective(key, levels(examples), partial(encode, params), partial(decode, params))

    def loss(params: Params, extra: Extra, key: Array, examples: data.Split) -> Any:
        value, parts = vaejax.negative_mean(terms(params, key, examples, free_bits=0.5))
        return value, ({"kl_per_layer": jnp.mean(parts.kl_per_layer, axis=1)}, extra)

    def reconstruct(params: Params, extra: Extra, key: Array, examples: data.Split) -> Array:
        # The means, from the top down.
        above: tuple[Array, ...] = ()
        for layer, prior in zip(encode(params, levels(examples)), priors(params), strict=True):
            above = (*above, layer(above, prior(above)).mean)
        return decode(params, above).mean

    def generate(params: Params, extra: Extra, key: Array, train: data.Split, count: int) -> Array:
        return decode(params, vaejax.ladder_sample(key, priors(params), [(TOP,), (LOW,)], count)).mean

    def log_bound(params: Params, extra: Extra, key: Array, examples: data.Split) -> Array:
        keys = jax.random.split(key, 20)
        return jnp.mean(jax.vmap(lambda key: terms(params, key, examples).value)(keys), axis=0)

    expression = "ladder_elbo(key, x, q_layers, px_layers, priors, free_bits=0.5)"
    return Method(expression, "Sonderby 2016", init, loss, reconstruct, generate, log_bound)


def labelled_pair(params: Params) -> tuple[Any, Any]:
    """An encoder `(x, y)` and a decoder `(z, y)`, y one-hot: the label is added to what each net sees."""
    return (
        lambda x, y: ENCODER.encode(params["encoder"], jnp.concatenate([flat(x), y], axis=-1)),
        lambda z, y: DECODER.decode(params["decoder"], jnp.concatenate([z, y], axis=-1)),
    )


def flat(x: Array) -> Array:
    return x.reshape(*x.shape[:-3], 64) / 16.0


ENCODER = nets.mlp((64 + DIGITS,), LATENTS, hidden_sizes=(128,), likelihood=nets.heads.normal())
DECODER = net(latent_size=LATENTS + DIGITS)
CLASSIFIER = nets.mlp((64,), DIGITS, hidden_sizes=(128,), posterior=nets.heads.delta(), likelihood=nets.heads.normal())


def init_labelled(key: Array) -> Params:
    keys = split_keys(key, ("encoder", "decoder", "classifier"))
    made = {"encoder": ENCODER, "decoder": DECODER, "classifier": CLASSIFIER}
    return {name: model.init(keys[name]) for name, model in made.items()}


def generate_labelled(params: Params, extra: Extra, key: Array, train: data.Split, count: int) -> Array:
    """The digits in order: 0, 1, 2, ..."""
    _, decode = labelled_pair(params)
    z = standard_prior(params).sample(key, (count,))
    return decode(z, one_hot(jnp.arange(count) % DIGITS)).mean


def reconstruct_labelled(params: Params, extra: Extra, key: Array, examples: data.Split) -> Array:
    encode, decode = labelled_pair(params)
    label = one_hot(jnp.asarray(examples.labels))
    return decode(encode(levels(examples), label).mean, label).mean


def conditional() -> Method:
    """p(x|y): its bound is on ln p(x|y), which is no ln p(x), so none is reported."""

    def loss(params: Params, extra: Extra, key: Array, examples: data.Split) -> Any:
        objective = recipes.conditional_vae(one_hot(jnp.asarray(examples.labels)))
        value, _ = vaejax.negative_mean(objective(key, levels(examples), *labelled_pair(params)))
        return value, ({}, extra)

    expression = "E(lambda x: q_of(x, y), lambda z: px_of(z, y))"
    return Method(expression, "Sohn 2015", init_labelled, loss, reconstruct_labelled, generate_labelled)


def classify(params: Params, x: Array) -> Array:
    """Logits of q(y|x)."""
    return CLASSIFIER.encode(params["classifier"], flat(x)).mean


def semi_supervised() -> Method:
    """M2: a tenth of the digits has labels, and the others are summed over all ten."""

    def objective(params: Params, key: Array, examples: data.Split, label: Array) -> Any:
        encode, decode = labelled_pair(params)
        by_label = lambda f: lambda v, y: f(v, one_hot(y))
        m2 = recipes.semi_supervised_vae(label, DIGITS, weight=50.0)
        return m2(key, levels(examples), by_label(encode), by_label(decode), classify=partial(classify, params))

    def loss(params: Params, extra: Extra, key: Array, examples: data.Split) -> Any:
        labels = jnp.asarray(examples.labels, jnp.int32)
        terms = objective(params, key, examples, jnp.where(labels == UNKNOWN, -1, labels))
        value, _ = vaejax.negative_mean(terms)
        return value, ({}, extra)

    def examples(split: data.Split) -> data.Split:
        return split._replace(labels=np.where(np.arange(len(split.labels)) % 10 == 0, split.labels, UNKNOWN))

    def remark(params: Params, extra: Extra, test: data.Split) -> str:
        right = jnp.mean(jnp.argmax(classify(params, levels(test)), axis=-1) == jnp.asarray(test.labels))
        return f"test accuracy {right:.2f} from 144 labels"

    def log_bound(params: Params, extra: Extra, key: Array, examples: data.Split) -> Array:
        return objective(params, key, examples, jnp.full(len(examples.labels), -1)).bound

    return Method(
        "marginalize_label(vmap(lambda y: E(lambda x: q_of(x, y), lambda z: px_of(z, y)).value)(all_labels), classify(x), y)", "Kingma 2014 (M2)", init_labelled,
        loss, reconstruct_labelled, generate_labelled, log_bound, examples=examples, remark=remark,
    )  # fmt: skip


def missing() -> Method:
    """Half of the pixels of every training digit are never seen; whole digits are reconstructed and generated."""
    model = net()
    view = view_of(model)

    def examples(split: data.Split) -> data.Split:
        seen = np.random.default_rng(0).random(split.examples.shape) < 0.5
        return split._replace(examples=np.where(seen, split.examples, UNKNOWN))

    def loss(params: Params, extra: Extra, key: Array, examples: data.Split) -> Any:
        observed = levels(examples) != UNKNOWN
        x = jnp.where(observed, levels(examples), 0)
        value, _ = vaejax.negative_mean(recipes.missing_data_vae(observed)(key, x, *view(params, extra, x)))
        return value, ({}, extra)

    return Method(
        "E(q, lambda z: Masked(px(z), observed))", "Nazabal 2020", model.init, loss, reconstruct_by(view),
        generate_by(view, standard_prior), examples=examples,
    )  # fmt: skip
