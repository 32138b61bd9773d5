"""Likelihoods in bits per dimension, the unit in which image models are compared."""

import math

import jax.numpy as jnp

from vaejax.checks import check_count
from vaejax.distributions import as_native
from vaejax.distributions.interop import has_trait
from vaejax.evaluation.metrics import Terms, is_bound
from vaejax.types import Array, Distribution, ImportanceTerms


def bits_per_dimension(
    terms: Terms, likelihood: Distribution, num_dimensions: int, *, bin_width: float | None = None
) -> Array:
    """The cost of x in bits for each of its elements, `[*B]`: what a code built on the model would spend.

    `-bound / (D log 2)`, and for a density over dequantized levels, each of width w, `- log2(w)` more. The bound is
    the ELBO without beta or free bits, or the value of an importance bound. The uniform model of 8-bit images
    costs 8.

    Args:
      terms: of `elbo`, `importance_bound` or `ladder_elbo`.
      likelihood: p(x|z), of which the terms were made: what `decode` returns.
      num_dimensions: D, the number of elements of one x, such as 784.
      bin_width: for a density, the width of one level in the units of x: 1/256 for 8 bits in [0, 1]; the data
        must then have been dequantized by noise of that width. Not for a discrete likelihood.

    Raises:
      TypeError: terms whose value is no bound on log p(x), those of a point among them; a likelihood that is not
        normalised, or of some elements only.
      ValueError: a density without a bin width, or a discrete likelihood with one.

    Source: Theis, van den Oord and Bethge 2016, A note on the evaluation of generative models, section 3.1.

    >>> import jax, jax.numpy as jnp, vaejax
    >>> uniform = lambda z: vaejax.Categorical(jnp.zeros((8, 784, 256)))
    >>> x, encode = jnp.zeros((8, 784), jnp.uint8), lambda x: vaejax.Normal(jnp.zeros((8, 2)), 1.0)
    >>> terms = vaejax.elbo(jax.random.key(0), x, encode, uniform)
    >>> round(bits_per_dimension(terms, uniform(None), 784)[0].item(), 4)
    8.0
    """
    check_count("bits_per_dimension: num_dimensions", num_dimensions)
    bound = _bound(terms)
    name = type(as_native(likelihood)).__name__
    if has_trait(likelihood, "is_partial") or not has_trait(likelihood, "is_normalized"):
        raise TypeError(
            f"bits_per_dimension: {name} is no normalised likelihood of all of x, so its values have no bits"
        )
    discrete = has_trait(likelihood, "is_discrete")
    if discrete and bin_width is not None:
        raise ValueError(f"bits_per_dimension: {name} is discrete, so bin_width must be None; got {bin_width}")
    if not discrete and (bin_width is None or not bin_width > 0):
        raise ValueError(
            f"bits_per_dimension: {name} is a density, so bin_width must be the width of one level of x, such as "
            f"1/256; got {bin_width}"
        )
    return -bound / (num_dimensions * math.log(2)) - jnp.log2(1.0 if bin_width is None else bin_width)


def _bound(terms: Terms) -> Array:
    """The bound on log p(x) that the terms hold, without beta or free bits; raises where they hold none."""
    if is_bound(terms):
        return terms.value if isinstance(terms, ImportanceTerms) else terms.log_likelihood - terms.kl
    raise TypeError(
        "bits_per_dimension: the value of these terms is no bound on log p(x), so it has no unit to convert; use "
        "the terms of elbo, importance_bound or ladder_elbo with posteriors that have a density"
    )
