"""The published methods, each one expression of the building blocks.

A recipe takes what the method lets one choose, which may be traced (`beta=schedule(step)`), and returns an objective: a
function `(key, x, encode, decode)` to the terms whose `value` is maximised, which also takes the `num_samples` and
`map_samples` of the generic function behind it. It is what the paper's method is called, and no more: whoever wants
another combination writes that expression.

>>> import jax, jax.numpy as jnp, vaejax
>>> x = jnp.ones((8, 3))
>>> objective = vaejax.recipes.beta_tc_vae(dataset_size=100)
>>> terms = objective(jax.random.key(0), x, lambda x: vaejax.Normal(x, 0.5), lambda z: vaejax.Normal(z, 1.0))
>>> loss, terms = vaejax.negative_mean(terms)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.checks import check_nonnegative, check_positive
from vaejax.distributions import (
    Categorical,
    Delta,
    HamiltonianPosterior,
    Masked,
    Normal,
    SphericalUniform,
    standard_normal,
    vamp_prior,
)
from vaejax.objectives.adversarial import Discriminate, prior_ratio, tc_from_discriminator
from vaejax.objectives.aggregate import Kernel, LogWeights, mmd_to, stratified_weights, tc_decomposition
from vaejax.objectives.autoencode import autoencode
from vaejax.objectives.bounds import ciwae_bound, elbo_bound, iwae_bound, miwae_bound, renyi_bound
from vaejax.objectives.elbo import elbo
from vaejax.objectives.finite_scalar import finite_scalar_quantize
from vaejax.objectives.importance import importance_bound
from vaejax.objectives.ladder import LayerPrior, ladder_elbo
from vaejax.objectives.marginal import marginalize_label
from vaejax.objectives.quantization import residual_quantize, vector_quantize
from vaejax.objectives.quantization_losses import codebook_loss, commitment_loss
from vaejax.objectives.regularizers import (
    add,
    capacity,
    dip_i,
    dip_ii,
    free_bits,
    jacobian_penalty,
    kl,
    monte_carlo_kl,
    none,
    scale,
)
from vaejax.types import Array, ArrayLike, AutoencodeTerms, Decode, Distribution, Encode, Params, Regularizer

# (key, x, encode, decode, ...) to terms.
Objective = Callable[..., Any]


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


# Bounds of several samples.


def iwae(prior: Distribution = standard_normal, *, num_samples: int, path_gradient: bool = False) -> Objective:
    """The importance-weighted autoencoder.

    Source: Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders.
    """
    return partial(
        importance_bound, prior=prior, num_samples=num_samples, bound=iwae_bound(), path_gradient=path_gradient
    )


def dreg(prior: Distribution = standard_normal, *, num_samples: int) -> Objective:
    """The importance-weighted autoencoder with the doubly reparameterized gradient.

    Source: Tucker et al. 2019, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives.
    """
    return iwae(prior, num_samples=num_samples, path_gradient=True)


def sticking_the_landing(prior: Distribution = standard_normal, *, num_samples: int = 1) -> Objective:
    """The evidence lower bound with the path gradient, whose noise vanishes where q is the posterior.

    Source: Roeder, Wu and Duvenaud 2017, Sticking the Landing.
    """
    return partial(importance_bound, prior=prior, num_samples=num_samples, bound=elbo_bound(), path_gradient=True)


def miwae(prior: Distribution = standard_normal, *, num_samples: int, groups: int) -> Objective:
    """The mean of several importance-weighted bounds.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better.
    """
    return partial(importance_bound, prior=prior, num_samples=num_samples, bound=miwae_bound(groups))


def ciwae(prior: Distribution = standard_normal, *, num_samples: int, beta: ArrayLike = 0.5) -> Objective:
    """The evidence lower bound and the importance-weighted one, mixed.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better.
    """
    return partial(importance_bound, prior=prior, num_samples=num_samples, bound=ciwae_bound(beta))


def piwae(prior: Distribution = standard_normal, *, num_samples: int, groups: int) -> Callable[..., tuple[Any, Any]]:
    """Each net its own bound: the decoder learns by the importance-weighted one, the encoder by `groups` of them.

    Returns:
      `(params, key, x, encode, decode)` to two terms, whose values are both maximised: the first has no gradient
      to the encoder, the second none to the decoder or the prior. encode and decode take params first, as those
      of `vaejax.nets` do, because a decoder can only be frozen where its parameters are seen. Both share their draws.

    Source: Rainforth et al. 2018, Tighter Variational Bounds are Not Necessarily Better.
    """

    def objective(params: Params, key: Array, x: Any, encode: Any, decode: Any, **options: Any) -> tuple[Any, Any]:
        frozen, frozen_prior = jax.lax.stop_gradient((params, prior))
        of_decoder = iwae(prior, num_samples=num_samples)
        of_encoder = miwae(frozen_prior, num_samples=num_samples, groups=groups)
        return (
            of_decoder(key, x, partial(encode, frozen), partial(decode, params), **options),
            of_encoder(jax.random.clone(key), x, partial(encode, params), partial(decode, frozen), **options),
        )

    return objective


def renyi_vae(prior: Distribution = standard_normal, *, num_samples: int, alpha: ArrayLike = 0.5) -> Objective:
    """The variational Renyi bound.

    Source: Li and Turner 2016, Renyi Divergence Variational Inference.
    """
    return partial(importance_bound, prior=prior, num_samples=num_samples, bound=renyi_bound(alpha))


# Richer priors and posteriors.


def vamp_vae(pseudo_inputs: Array) -> Objective:
    """The prior a mixture of the encoder's own posteriors at inputs `[C, *E]` that are learned.

    Source: Tomczak and Welling 2018, VAE with a VampPrior.
    """

    def objective(key: Array, x: Any, encode: Encode, decode: Decode, **options: Any) -> Any:
        return learned_prior_vae(vamp_prior(encode, pseudo_inputs))(key, x, encode, decode, **options)

    return objective


def learned_prior_vae(prior: Distribution) -> Objective:
    """Any prior, its parameters learned along: a `Mixture`, a flow (`Transformed`), an autoregressive one.

    Source: Chen et al. 2017, Variational Lossy Autoencoder (flow priors); Dilokthanakul et al. 2016 (mixtures).
    """
    return partial(elbo, prior=prior, kl=monte_carlo_kl)


def flow_vae(prior: Distribution = standard_normal) -> Objective:
    """A posterior without a closed-form divergence; the encoder returns a `Transformed`.

    Source: Rezende and Mohamed 2015, Variational Inference with Normalizing Flows; Kingma et al. 2016 (IAF).
    """
    return partial(elbo, prior=prior, kl=monte_carlo_kl)


def hamiltonian_vae(
    prior: Distribution = standard_normal,
    *,
    step_size: ArrayLike = 0.1,
    num_steps: int = 5,
    inverse_temperature: ArrayLike = 1.0,
) -> Objective:
    """The encoder's draws moved along the gradient of `log p(x, z)` before they are used.

    `terms.posterior` is the encoder's, from which they start.

    Source: Caterini, Doucet and Sejdinovic 2018, Hamiltonian Variational Auto-Encoder.
    """

    def objective(key: Array, x: Any, encode: Encode, decode: Decode, **options: Any) -> Any:
        log_joint = lambda z: decode(z).log_prob(x) + prior.log_prob(z)
        moved = lambda x: HamiltonianPosterior(encode(x), log_joint, step_size, num_steps, inverse_temperature)
        terms = elbo(key, x, moved, decode, prior, kl=monte_carlo_kl, **options)
        # The moved posterior holds the decoder as it is traced here, and could not be used outside.
        return terms._replace(posterior=terms.posterior.base)  # type: ignore[attr-defined]

    return objective


def hyperspherical_vae(latent_size: int) -> Objective:
    """Latents on the unit sphere; the encoder returns a `PowerSpherical`.

    Source: Davidson et al. 2018, Hyperspherical Variational Auto-Encoders; De Cao and Aziz 2020 for the family.
    """
    return partial(elbo, prior=SphericalUniform(latent_size))


def gumbel_vae(num_variables: int, num_levels: int) -> Objective:
    """Categorical latents, relaxed; the encoder returns a `RelaxedCategorical` over `[N, L]`, the KL is on its logits.

    Source: Jang, Gu and Poole 2017; Maddison, Mnih and Teh 2017.
    """
    return partial(elbo, prior=Categorical(jnp.zeros((num_variables, num_levels))))


# Discrete codes.


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


# Hierarchies, labels and missing data.


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
