"""New data from a model, and the prior of one that has none."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from vaejax.checks import check_array, check_count, check_distribution, check_key, check_positive
from vaejax.distributions import Mixture
from vaejax.experiment import Experiment
from vaejax.generation import fit_gaussian_mixture, tempered
from vaejax.making.chunks import BATCH_SIZE, Chunk, choose, in_chunks
from vaejax.making.codes import encode_means
from vaejax.types import Array, Distribution, Params

# Samples that have numbers of their own; one more number is left, for what is fitted with the same key.
MAX_COUNT = 2**32 - 1
# Codes that a prior is fitted to; more would only be slower.
MAX_CODES = 50_000


def generate(
    key: Array,
    experiment: Experiment,
    params: Params,
    count: int,
    *,
    draw: bool,
    temperature: float = 1.0,
    prior: Distribution | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Chunk]:
    """New data as the model says they come about, `z ~ p(z)`, then p(x|z): chunks of `x` `[B, *E]` and `z` `[B, *Z]`.

    Args:
      key: one typed PRNG key.
      experiment: that was trained.
      params: to decode with.
      count: how many in all, below 2**32.
      draw: whether x is a draw from p(x|z), as data are, or its mean, which mostly is what pictures show.
      temperature: below 1, latents closer to the mean of the prior; see `generation.tempered`.
      prior: p(z) over one latent in place of the experiment's own.
      batch_size: rows of a chunk, at most.

    Raises:
      TypeError, ValueError: at once, and not with the first chunk; such as an experiment without a prior.
    """
    check_key(key)
    check_count("count", count)
    if count > MAX_COUNT:
        raise ValueError(
            f"count must be at most {MAX_COUNT:,}, since samples after it would repeat the first; got {count}"
        )
    _check_temperature(temperature)
    if prior is None and experiment.prior is None:
        raise ValueError(
            "the experiment has no prior p(z) to draw latents from: fit one to the codes of its training examples, "
            "with making.code_prior, and pass it as prior"
        )

    def row(params: Params, number: Array) -> dict[str, Array]:
        z, p, x_key = draw_sample(key, experiment, params, number, prior=prior, temperature=temperature)
        return {"x": p.sample(x_key) if draw else p.mean, "z": z}

    return in_chunks(row, params, range(count), batch_size)


def draw_sample(
    key: Array, experiment: Experiment, params: Params, number: Array, *, prior: Any = None, temperature: float = 1.0
) -> tuple[Array, Any, Array]:
    """`z ~ p(z)` and p(x|z) of one sample, and the key of its x: functions of the key and its number."""
    row_key = jax.random.fold_in(key, number)
    # Where the number of rows is a symbol, as in an export, JAX takes both halves of a split for one key.
    z_key, x_key = (jax.random.fold_in(row_key, stream) for stream in range(2))
    if prior is None and experiment.prior is not None:
        prior = experiment.prior(params)
    check_distribution("prior must be", prior)
    # A distribution of any kind is itself at temperature 1.
    z = (prior if temperature == 1 else tempered(prior, temperature)).sample(z_key)
    return z, experiment.model.decode(params, z), x_key


def code_prior(key: Array, experiment: Experiment, params: Params, num_components: int) -> Mixture:
    """A prior for an experiment that has none: a mixture of Normals fitted to the codes of training examples.

    Of more than 50,000 training examples, as many are chosen at random.

    Raises:
      ValueError: no more examples than components, or latents that are no vectors.

    Source: Ghosh et al. 2020, From Variational to Deterministic Autoencoders, section 4.
    """
    check_key(key)
    check_count("num_components", num_components)
    choice_key, seed_key = jax.random.split(key)
    count = len(experiment.dataset.train.examples)
    numbers = jax.random.choice(choice_key, count, (min(count, MAX_CODES),), replace=False)
    codes = encode_means(experiment, params, choose(experiment.dataset, "train", np.sort(np.asarray(numbers))))
    return fit_gaussian_mixture(codes, num_components, seed=int(jax.random.bits(seed_key)))


def _check_temperature(temperature: Any) -> None:
    check_array("temperature", temperature)
    if np.ndim(temperature) or not np.isfinite(temperature):
        raise ValueError(f"temperature must be one finite number; got {temperature}")
    check_positive("temperature", temperature)
