"""Discrete codes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from vaejax.distributions import Delta
from vaejax.objectives.autoencode import autoencode
from vaejax.objectives.finite_scalar import finite_scalar_quantize
from vaejax.objectives.quantization import residual_quantize, vector_quantize
from vaejax.objectives.quantization_losses import codebook_loss, commitment_loss
from vaejax.objectives.regularizers import none
from vaejax.types import Array, ArrayLike, AutoencodeTerms, Decode, Distribution, Encode, Objective, Regularizer


def vq_vae(codebook: Array, *, commitment: ArrayLike = 0.25) -> Objective:
    """The codes the nearest of a learned codebook `[C, D]`; the encoder is a `Delta`.

    Source: van den Oord, Vinyals and Kavukcuoglu 2017, Neural Discrete Representation Learning.
    """
    return _quantized(lambda q: vector_quantize(codebook, q.mean, q.event_ndims), codebook_loss(commitment))


def ema_vq_vae(codebook: Array, *, commitment: ArrayLike = 0.25) -> Objective:
    """As `vq_vae`, the codebook a moving average that `update_codebook` makes from `terms.posterior`.

    Source: as `vq_vae`, appendix A.1.
    """
    frozen = jax.lax.stop_gradient(codebook)
    return _quantized(lambda q: vector_quantize(frozen, q.mean, q.event_ndims), commitment_loss(commitment))


def residual_vq_vae(codebooks: Array, *, commitment: ArrayLike = 0.25) -> Objective:
    """Several codebooks `[R, C, D]`, each for what those before it left over.

    Source: Zeghidour et al. 2021, SoundStream.
    """
    return _quantized(lambda q: residual_quantize(codebooks, q.mean, q.event_ndims), codebook_loss(commitment))


def fsq_autoencoder(levels: Sequence[int]) -> Objective:
    """Each axis of the code rounded to one of a few levels: no codebook, nothing to collapse.

    Source: Mentzer et al. 2023, Finite Scalar Quantization.
    """
    return _quantized(lambda q: Delta(finite_scalar_quantize(q.mean, tuple(levels)), q.event_ndims), none)


def _quantized(quantize: Callable[[Any], Distribution], penalty: Regularizer) -> Objective:
    def objective(key: Array, x: Any, encode: Encode, decode: Decode, **options: Any) -> AutoencodeTerms:
        return autoencode(key, x, lambda x: quantize(encode(x)), decode, penalty, **options)

    return objective
