"""Reconstruction minus a penalty: what is asked of the posterior, one by one or all together."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp

from vaejax.checks import check_nonnegative, check_positive
from vaejax.distributions import Normal, standard_normal
from vaejax.objectives.adversarial import Discriminate, prior_ratio, tc_from_discriminator
from vaejax.objectives.aggregate import Kernel, LogWeights, mmd_to, stratified_weights, tc_decomposition
from vaejax.objectives.autoencode import autoencode
from vaejax.objectives.elbo import elbo
from vaejax.objectives.regularizers import (
    add,
    capacity,
    dip_i,
    dip_ii,
    free_bits,
    jacobian_penalty,
    kl,
    none,
    scale,
)
from vaejax.types import Array, ArrayLike, AutoencodeTerms, Decode, Distribution, Encode, Objective


def autoencoder() -> Objective:
    """The deterministic autoencoder, its encoder a `Delta`: with a unit Normal likelihood, half the squared error.

    Source: Rumelhart, Hinton and Williams 1986, Learning internal representations by error propagation.
    """
    return partial(autoencode, regularizer=none)


def vae(prior: Distribution = standard_normal) -> Objective:
    """The variational autoencoder.

    Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes; Rezende, Mohamed and Wierstra 2014.
    """
    return partial(elbo, prior=prior)


# The divergence weighted, held or relieved.


def beta_vae(prior: Distribution = standard_normal, *, beta: ArrayLike = 4.0) -> Objective:
    """The KL weighted; annealed or cyclic by a schedule for beta.

    Source: Higgins et al. 2017, beta-VAE; Bowman et al. 2016 (annealed); Fu et al. 2019 (cyclic).
    """
    return partial(elbo, prior=prior, beta=beta)


def capacity_vae(prior: Distribution = standard_normal, *, target: ArrayLike, weight: ArrayLike = 1000.0) -> Objective:
    """The KL held at a target in nats, which a schedule raises during training.

    Source: Burgess et al. 2018, Understanding Disentangling in beta-VAE.
    """
    return partial(autoencode, regularizer=capacity(kl(prior), target, weight))


def free_bits_vae(prior: Distribution = standard_normal, *, threshold: ArrayLike = 0.5) -> Objective:
    """No reward for an axis whose KL is below a threshold in nats.

    Source: Kingma et al. 2016, Improved Variational Inference with Inverse Autoregressive Flow.
    """
    return partial(autoencode, regularizer=free_bits(prior, threshold))


def geco(prior: Distribution = standard_normal, *, multiplier: ArrayLike) -> Objective:
    """The least KL under a constraint on the reconstruction; `update_geco` makes the next multiplier.

    Departs from the paper by a factor: this is its Lagrangian divided by the multiplier, which has the same
    minimum and a gradient that does not grow with the multiplier.

    Source: Rezende and Viola 2018, Taming VAEs.
    """
    check_positive("geco: multiplier", multiplier)
    return partial(elbo, prior=prior, beta=jnp.reciprocal(jnp.asarray(multiplier, float)))


# The aggregate posterior shaped.


def beta_tc_vae(
    prior: Distribution = standard_normal,
    *,
    dataset_size: int,
    total_correlation: ArrayLike = 6.0,
    log_weights: LogWeights = stratified_weights,
) -> Objective:
    """The dependence between the latent axes weighted, and nothing else.

    Source: Chen et al. 2018, Isolating Sources of Disentanglement in VAEs.
    """
    decomposed = tc_decomposition(prior, dataset_size, total_correlation=total_correlation, log_weights=log_weights)
    return partial(autoencode, regularizer=decomposed)


def factor_vae(
    prior: Distribution = standard_normal, *, discriminate: Discriminate, weight: ArrayLike = 10.0
) -> Objective:
    """The total correlation penalised, as a discriminator estimates it.

    The discriminator learns by `discriminator_loss(discriminate, z, permute_axes(key, z))`.

    Source: Kim and Mnih 2018, Disentangling by Factorising.
    """
    return partial(autoencode, regularizer=add(kl(prior), scale(weight, tc_from_discriminator(discriminate))))


def dip_vae_i(
    prior: Distribution = standard_normal, *, off_diagonal: ArrayLike = 10.0, diagonal: ArrayLike = 100.0
) -> Objective:
    """The means of the posteriors decorrelated.

    Source: Kumar, Sattigeri and Balakrishnan 2018, Variational Inference of Disentangled Latent Concepts.
    """
    return partial(autoencode, regularizer=add(kl(prior), dip_i(off_diagonal, diagonal)))


def dip_vae_ii(
    prior: Distribution = standard_normal, *, off_diagonal: ArrayLike = 10.0, diagonal: ArrayLike = 10.0
) -> Objective:
    """The aggregate posterior decorrelated.

    Source: as `dip_vae_i`.
    """
    return partial(autoencode, regularizer=add(kl(prior), dip_ii(off_diagonal, diagonal)))


def info_vae(
    prior: Distribution = standard_normal,
    *,
    alpha: ArrayLike = 0.0,
    weight: ArrayLike = 1000.0,
    kernel: Kernel | None = None,
) -> Objective:
    """`(1 - alpha) KL + (alpha + weight - 1) MMD`: alpha near 1 keeps information about x, the MMD the prior.

    Source: Zhao, Song and Ermon 2019, InfoVAE, equation 6.
    """
    check_nonnegative("info_vae: alpha + weight - 1, the weight of the MMD,", alpha + weight - 1.0)
    penalty = add(scale(1.0 - alpha, kl(prior)), scale(alpha + weight - 1.0, mmd_to(prior, kernel)))
    return partial(autoencode, regularizer=penalty)


def wae_mmd(
    prior: Distribution = standard_normal, *, weight: ArrayLike = 10.0, kernel: Kernel | None = None
) -> Objective:
    """Deterministic codes, the encoder a `Delta`, that are distributed as the prior.

    Source: Tolstikhin et al. 2018, Wasserstein Auto-Encoders, algorithm 2.
    """
    return partial(autoencode, regularizer=scale(weight, mmd_to(prior, kernel)))


def adversarial_autoencoder(*, discriminate: Discriminate, weight: ArrayLike = 1.0) -> Objective:
    """Deterministic codes, the encoder a `Delta`, that a discriminator cannot tell from draws of the prior.

    Also the Wasserstein autoencoder of its algorithm 1 (WAE-GAN). The discriminator learns by
    `discriminator_loss(discriminate, z, prior draws)`.

    Source: Makhzani et al. 2016, Adversarial Autoencoders; Tolstikhin et al. 2018, Wasserstein Auto-Encoders.
    """
    return partial(autoencode, regularizer=scale(weight, prior_ratio(discriminate)))


def vae_gan(
    prior: Distribution = standard_normal, *, features: Callable[[Array], Array], weight: ArrayLike = 1.0
) -> Objective:
    """The likelihood of a discriminator's features of x, in place of pixels: a unit Normal around those of E[x|z].

    Of the two other players of the paper, the generator adds `fool(discriminate)` of decoded prior draws to the
    loss and the discriminator `discriminator_loss(discriminate, x, decoded)`.

    Source: Larsen et al. 2016, Autoencoding beyond pixels using a learned similarity metric.
    """

    def objective(key: Array, x: Any, encode: Encode, decode: Decode, **options: Any) -> AutoencodeTerms:
        seen = lambda z: Normal(features(decode(z).mean), 1.0)  # type: ignore[attr-defined]
        penalty = scale(weight, kl(prior))
        return autoencode(key, features(x), lambda _: encode(x), seen, penalty, **options)

    return objective


# Deterministic encoders, the code's density in place of its divergence.


def rae_l2(prior: Distribution = standard_normal, *, beta: ArrayLike = 0.1) -> Objective:
    """Half the squared norm of the code, the encoder a `Delta`; weight decay on the decoder is the optimizer's.

    Source: Ghosh et al. 2020, From Variational to Deterministic Autoencoders (RAE-L2).
    """
    return partial(elbo, prior=prior, beta=beta)


def rae_gp(
    prior: Distribution = standard_normal, *, beta: ArrayLike = 0.1, gradient_weight: ArrayLike = 0.1
) -> Objective:
    """As `rae_l2`, with a penalty on the decoder's derivative in place of weight decay.

    Source: Ghosh et al. 2020, From Variational to Deterministic Autoencoders (RAE-GP).
    """

    def objective(key: Array, x: Any, encode: Encode, decode: Decode, **options: Any) -> AutoencodeTerms:
        penalty = add(scale(beta, kl(prior)), scale(gradient_weight, jacobian_penalty(decode)))
        return autoencode(key, x, encode, decode, penalty, **options)

    return objective
