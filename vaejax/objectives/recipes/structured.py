"""Hierarchies, labels and missing data."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.distributions import Masked, standard_normal
from vaejax.objectives.elbo import elbo
from vaejax.objectives.ladder import LayerPrior, ladder_elbo
from vaejax.objectives.marginal import marginalize_label
from vaejax.types import Array, ArrayLike, Decode, Distribution, Encode, Objective


def ladder_vae(priors: Sequence[LayerPrior], *, beta: ArrayLike = 1.0, free_bits: ArrayLike = 0.0) -> Objective:
    """A hierarchy of latents; encode and decode as `ladder_elbo` takes them.

    Source: Sonderby et al. 2016, Ladder Variational Autoencoders.
    """
    return partial(ladder_elbo, priors=priors, beta=beta, free_bits=free_bits)


def conditional_vae(condition: Any, prior: Distribution = standard_normal) -> Objective:
    """p(x|c): encode takes `(x, c)` and decode `(z, c)`; the prior may depend on the condition too.

    Source: Sohn, Lee and Yan 2015, Learning Structured Output Representation using Deep Conditional Generative Models.
    """

    def objective(key: Array, x: Any, encode: Any, decode: Any, **options: Any) -> Any:
        return elbo(key, x, lambda x: encode(x, condition), lambda z: decode(z, condition), prior, **options)

    return objective


def semi_supervised_vae(
    label: Array, num_labels: int, prior: Distribution = standard_normal, *, weight: ArrayLike
) -> Objective:
    """The model M2: a class y and a latent z; where the label is missing, its marginal bound.

    Args:
      label: `[*B]` integers, negative where it is not known.
      num_labels: how many classes, all alike under p(y).
      prior: p(z).
      weight: of the classifier's own log-likelihood `log q(y|x)` on each labelled example: 0.1 N / N_labelled is
        the paper's, for N examples of which N_labelled have a label.

    Returns:
      An objective over `encode(x, y)`, `decode(z, y)`, y `[*B]` integers, and by keyword `classify(x)` to
      logits `[*B, num_labels]`; it returns `MarginalTerms`.

    Source: Kingma et al. 2014, Semi-Supervised Learning with Deep Generative Models, equations 6 to 9.
    """

    def objective(
        key: Array, x: Any, encode: Any, decode: Any, *, classify: Callable[[Any], Array], **options: Any
    ) -> Any:
        def given(y: Array) -> Any:
            # The same noise for every label, so that they differ by the label alone.
            same = jax.random.clone(key)
            return conditional_vae(jnp.broadcast_to(y, label.shape), prior)(same, x, encode, decode, **options).value

        values = jax.vmap(given)(jnp.arange(num_labels))
        return marginalize_label(values, classify(x), label, weight=weight)

    return objective


def missing_data_vae(observed: Array, prior: Distribution = standard_normal) -> Objective:
    """The likelihood of the observed elements of x alone, `observed` `[*B, *E]` true where there is one.

    The encoder sees x as it is: fill what is missing with something (zero, say) first, and `decode(z).mean` imputes it.

    Source: Nazabal et al. 2020, Handling Incomplete Heterogeneous Data using VAEs; Mattei and Frellsen 2019.
    """

    def objective(key: Array, x: Any, encode: Encode, decode: Decode, **options: Any) -> Any:
        return elbo(key, x, encode, lambda z: Masked(decode(z), observed), prior, **options)

    return objective
