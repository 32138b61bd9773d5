"""What a method is to the trainer, and the methods that are one objective of one net."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import vaejax
from vaejax import data, generation, nets, recipes, training
from vaejax.types import Array, Decode, Distribution, Encode, Objective, Params

LATENTS, LEVELS = 8, 17
# What no gradient trains: a moving-average codebook, a multiplier.
Extra = Any
# (params, extra, key, examples) to the loss and (metrics, next extra).
Loss = Callable[[Params, Extra, Array, data.Split], tuple[Array, tuple[dict[str, Array], Extra]]]


class Method(NamedTuple):
    """A method as the trainer sees it; images are means in levels, `[N, 8, 8, 1]`."""

    expression: str  # as the table has it
    source: str
    init: Callable[[Array], Params]
    loss: Loss
    # (params, extra, key, examples) to the images that the model makes of the examples
    reconstruct: Callable[[Params, Extra, Array, data.Split], Array]
    # (params, extra, key, training examples, count) to new images
    generate: Callable[[Params, Extra, Array, data.Split, int], Array]
    # (params, extra, key, examples) to a bound on log p(x), [N]; None: the model has none
    log_bound: Callable[[Params, Extra, Array, data.Split], Array] | None = None
    extra: Callable[[Array], Extra] = lambda key: ()
    # what it sees of the training examples
    examples: Callable[[data.Split], data.Split] = lambda examples: examples
    # (params, extra, test examples) to what else there is to say
    remark: Callable[[Params, Extra, data.Split], str] = lambda params, extra, examples: ""


class Pair(NamedTuple):
    """A trained encoder and decoder."""

    encode: Encode
    decode: Decode


# (params, extra, images) to the encoder and the decoder that the objective really has.
View = Callable[[Params, Extra, Array], Pair]


def levels(examples: data.Split) -> Array:
    return jnp.asarray(examples.examples)


def standard_prior(params: Params) -> Distribution:
    return vaejax.standard_normal.expand((LATENTS,))


def net(
    posterior: nets.Head | None = None, latent_size: int = LATENTS, likelihood: nets.Head | None = None
) -> nets.Model:
    """The net of all methods: digits as levels 0 to 16, one hidden layer of 128 on each side."""
    likelihood = likelihood or nets.heads.categorical(LEVELS)
    return nets.mlp((8, 8, 1), latent_size, hidden_sizes=(128,), posterior=posterior, likelihood=likelihood)


def view_of(model: nets.Model) -> View:
    """The net's own encoder and decoder."""
    return lambda params, extra, x: Pair(partial(model.encode, params), partial(model.decode, params))


def with_own(model: nets.Model, own: Callable[[Array], Params]) -> Callable[[Array], Params]:
    """The parameters of a net and those that a method has besides, in one dict."""

    def init(key: Array) -> Params:
        model_key, own_key = jax.random.split(key)
        return {**model.init(model_key), **own(own_key)}

    return init


def representative(key: Array, q: Any) -> Array:
    """The latent that stands for a posterior: its mean, or a draw where it has none."""
    mean = getattr(q, "mean", None)
    return q.sample(key) if mean is None else mean


def reconstruct_by(view: View) -> Callable[..., Array]:
    def reconstruct(params: Params, extra: Extra, key: Array, examples: data.Split) -> Array:
        pair = view(params, extra, levels(examples))
        return pair.decode(representative(key, pair.encode(levels(examples)))).mean

    return reconstruct


def generate_by(view: View, prior: Callable[[Params], Distribution] | None) -> Callable[..., Array]:
    """By ancestral sampling; without a prior, from a mixture of Normals fitted to the codes of the training data."""

    def generate(params: Params, extra: Extra, key: Array, train: data.Split, count: int) -> Array:
        code_key, draw_key = jax.random.split(key)
        pair = view(params, extra, levels(train))
        if prior is not None:
            return generation.ancestral(draw_key, pair.decode, prior(params), count).likelihood.mean
        codes = representative(code_key, pair.encode(levels(train)))
        fitted = generation.fit_gaussian_mixture(codes.reshape(len(codes), -1), 20)
        z = fitted.sample(draw_key, (count,)).reshape(count, *codes.shape[1:])
        return pair.decode(z).mean

    return generate


def log_bound_by(view: View, prior: Callable[[Params], Distribution]) -> Callable[..., Array]:
    """The importance-weighted bound with 200 samples, whatever the method was trained with."""

    def log_bound(params: Params, extra: Extra, key: Array, examples: data.Split) -> Array:
        bound = recipes.iwae(prior(params), num_samples=200)
        return bound(key, levels(examples), *view(params, extra, levels(examples))).value

    return log_bound


def simple(
    expression: str,
    source: str,
    objective: Callable[[Params], Objective],
    *,
    model: nets.Model | None = None,
    prior: Callable[[Params], Distribution] | None = standard_prior,
    own: Callable[[Array], Params] = lambda key: {},
    view: Callable[[Params, Array, Pair], Pair] = lambda params, x, pair: pair,
    bounded: bool = True,
) -> Method:
    """A method that is one objective of one net: params to the objective.

    Args:
      prior: params to p(z) over one latent; None: there is none.
      own: parameters besides those of the net.
      view: `(params, x, pair)` to the pair that the objective really has, where it changes the net's encoder.
      bounded: whether the posterior has a density, so that log p(x) has a bound.
    """
    model = model or net()

    def loss(params: Params, extra: Extra, key: Array, examples: data.Split) -> Any:
        encode, decode = partial(model.encode, params), partial(model.decode, params)
        value, _ = vaejax.negative_mean(objective(params)(key, levels(examples), encode, decode))
        return value, ({}, extra)

    def seen(params: Params, extra: Extra, x: Array) -> Pair:
        return view(params, x, view_of(model)(params, extra, x))

    return Method(
        expression, source, with_own(model, own), loss, reconstruct_by(seen), generate_by(seen, prior),
        log_bound_by(seen, prior) if bounded and prior is not None else None,
    )  # fmt: skip


def deterministic(expression: str, source: str, objective: Callable[[Params], Objective], **options: Any) -> Method:
    """A method whose encoder is a point: it generates from what is fitted to its codes afterwards."""
    options = {"model": net(nets.heads.delta()), "prior": None, "bounded": False} | options
    return simple(expression, source, objective, **options)


def optimizer(params: Params, learning_rate: float = 1e-3) -> optax.GradientTransformation:
    """Adam; a player named `discriminator` has one of its own, with the momentum that games want."""
    if "discriminator" not in params:
        return optax.adam(learning_rate)
    label = {name: "discriminator" if name == "discriminator" else "model" for name in params}
    players = {"model": optax.adam(learning_rate), "discriminator": optax.adam(learning_rate, b1=0.5)}
    return optax.partition(
        players, lambda tree: {name: jax.tree.map(lambda _, n=name: label[n], tree[name]) for name in tree}
    )


def train(
    method: Method, train_set: data.Split, *, steps: int, seed: int = 0, batch_size: int = 128,
    on_report: Callable[[training.Report, training.Progress], None] = lambda report, progress: None,
) -> training.TrainState:  # fmt: skip
    """The method trained from scratch, with a report after each epoch."""
    params_key, noise_key, order_key, extra_key = jax.random.split(jax.random.key(seed), 4)
    params = method.init(params_key)
    adam = optimizer(params)
    size = {"num_examples": len(train_set.examples), "batch_size": batch_size}
    epoch, plan = data.count_steps(**size), partial(data.epoch_indices, order_key, **size)
    step = training.make_stateful_train_step(method.loss, adam, max_skipped=0)
    feed = training.resident(step, method.examples(train_set), plan, steps_per_epoch=epoch)
    progress = training.begin(feed, training.init_state(noise_key, params, adam, method.extra(extra_key)))
    return training.fit(feed, progress, num_steps=steps, report_every=epoch, on_report=on_report).state


def squared_error(images: Array, examples: data.Split) -> Array:
    """Between images, summed over the pixels with white as 1, `[N]`."""
    error = (images - levels(examples)) / (LEVELS - 1)
    return jnp.sum(error**2, axis=(1, 2, 3))


def distance_to(images: Array, train_set: data.Split) -> Array:
    """The squared distance of each image to the nearest training digit, with white as 1, `[N]`."""
    error = (images[:, None] - levels(train_set)[None]) / (LEVELS - 1)
    return jnp.min(jnp.sum(error**2, axis=(2, 3, 4)), axis=1)


def split_keys(key: Array, names: Sequence[str]) -> dict[str, Array]:
    """A key for each name."""
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))
