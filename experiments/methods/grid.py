"""Methods that are one objective of one net: posteriors, priors, bounds and penalties."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import vaejax
from vaejax import data, nets, recipes
from vaejax.types import Array, Params

from .core import (
    LATENTS,
    LEVELS,
    Extra,
    Method,
    Pair,
    deterministic,
    generate_by,
    levels,
    log_bound_by,
    net,
    reconstruct_by,
    simple,
    standard_prior,
    view_of,
)

posteriors, heads = nets.posteriors, nets.heads
EXAMPLES = 1437  # training digits


def penalties() -> dict[str, Method]:
    """Reconstruction minus a penalty on the posterior."""
    p0 = vaejax.standard_normal
    unit_normal = net(heads.delta(), likelihood=unit_normal_levels())
    return {
        "AE": deterministic("A(d, px, none)", "Rumelhart 1986", lambda _: recipes.autoencoder(), model=unit_normal),
        "VAE": simple("E(q, px)", "Kingma 2014", lambda _: recipes.vae()),
        "VAE, 5 samples": simple(
            "E(q, px, num_samples=5)", "Kingma 2014", lambda _: partial(recipes.vae(), num_samples=5)
        ),
        "beta-VAE": simple("E(q, px, beta=4.0)", "Higgins 2017", lambda _: recipes.beta_vae(beta=4.0)),
        "capacity": simple(
            "A(q, px, capacity(kl(p0), target=10.0, weight=1.0))", "Burgess 2018", lambda _: recipes.capacity_vae(target=10.0, weight=1.0)
        ),
        "free bits": simple(
            "A(q, px, free_bits(p0, 1.0))", "Kingma 2016", lambda _: recipes.free_bits_vae(threshold=1.0)
        ),
        "beta-TC-VAE": simple(
            "A(q, px, tc_decomposition(p0, N, total_correlation=6.0))", "Chen 2018",
            lambda _: recipes.beta_tc_vae(dataset_size=EXAMPLES),
        ),
        "DIP-VAE I": simple("A(q, px, add(kl(p0), dip_i()))", "Kumar 2018", lambda _: recipes.dip_vae_i()),
        "DIP-VAE II": simple("A(q, px, add(kl(p0), dip_ii()))", "Kumar 2018", lambda _: recipes.dip_vae_ii()),
        "InfoVAE": simple(
            "A(q, px, add(scale(0.5, kl(p0)), scale(99.5, mmd_to(p0))))", "Zhao 2019",
            lambda _: recipes.info_vae(alpha=0.5, weight=100.0),
        ),
        "WAE-MMD": deterministic(
            "A(d, px, scale(100.0, mmd_to(p0)))", "Tolstikhin 2018", lambda _: recipes.wae_mmd(weight=100.0),
            prior=standard_prior,
        ),
        "RAE-L2": deterministic("E(d, px, beta=0.1)", "Ghosh 2020", lambda _: recipes.rae_l2(p0)),
        "RAE-GP": deterministic(
            "A(d, px, add(scale(0.1, kl(p0)), scale(0.01, jacobian_penalty(px))))", "Ghosh 2020",
            lambda _: recipes.rae_gp(p0, gradient_weight=0.01),
        ),
        "GECO": geco(),
    }  # fmt: skip


def bounds() -> dict[str, Method]:
    """Bounds of several samples, and path gradients."""
    return {
        "IWAE": simple(
            "I(q, px, num_samples=8)", "Burda 2015", lambda _: recipes.iwae(num_samples=8)
        ),
        "MIWAE": simple(
            "I(q, px, num_samples=8, bound=miwae_bound(4))", "Rainforth 2018", lambda _: recipes.miwae(num_samples=8, groups=4)
        ),
        "CIWAE": simple(
            "I(q, px, num_samples=8, bound=ciwae_bound(0.5))", "Rainforth 2018", lambda _: recipes.ciwae(num_samples=8, beta=0.5)
        ),
        "PIWAE": piwae(),
        "Renyi": simple(
            "I(q, px, num_samples=8, bound=renyi_bound(0.5))", "Li 2016", lambda _: recipes.renyi_vae(num_samples=8, alpha=0.5)
        ),
        "STL": simple(
            "I(q, px, num_samples=1, bound=elbo_bound(), path_gradient=True)", "Roeder 2017",
            lambda _: recipes.sticking_the_landing(num_samples=1),
        ),
        "DReG": simple("I(q, px, num_samples=8, path_gradient=True)", "Tucker 2019", lambda _: recipes.dreg(num_samples=8)),
    }  # fmt: skip


def priors_and_posteriors() -> dict[str, Method]:
    """Richer priors, richer posteriors, other latent spaces."""
    return {
        "VampPrior": vamp(),
        "mixture prior": with_prior("Mixture(weights, normals)", "Dilokthanakul 2016", init_mixture),
        "coupling prior": with_prior(
            "Transformed(base, coupling)", "Chen 2017", init_flow(partial(vaejax.coupling_flow, size=LATENTS))
        ),
        "MAF prior": with_prior(
            "Transformed(base, maf)", "Papamakarios 2017", init_flow(partial(vaejax.masked_autoregressive_flow, size=LATENTS))
        ),
        "planar posterior": with_posterior("planar", posteriors.planar_flow(4), "Rezende 2015"),
        "radial posterior": with_posterior("radial", posteriors.radial_flow(4), "Rezende 2015"),
        "IAF posterior": with_posterior("iaf", posteriors.autoregressive_flow(), "Kingma 2016"),
        "full covariance": simple(
            "E(lambda x: MultivariateNormal(loc, scale_tril), px)", "Rezende 2014", lambda _: recipes.vae(),
            model=net(posteriors.full_normal(LATENTS)),
        ),
        "Hamiltonian": hamiltonian(),
        "hyperspherical": simple(
            "E(lambda x: PowerSpherical(loc, concentration), px, SphericalUniform(8))", "Davidson 2018, De Cao 2020",
            lambda _: recipes.hyperspherical_vae(LATENTS), model=net(posteriors.power_spherical()),
            prior=lambda _: vaejax.SphericalUniform(LATENTS),
        ),
        "Gumbel-softmax": gumbel(),
    }  # fmt: skip


def likelihoods() -> dict[str, Method]:
    """The same VAE with other likelihoods of the same levels."""
    logistic, mixture = nets.likelihoods.discretized_logistic(LEVELS), nets.likelihoods.logistic_mixture(LEVELS, 3)
    count, spread = nets.likelihoods.poisson(), nets.likelihoods.negative_binomial()
    table = {
        "discretized logistic": (logistic, "DiscretizedLogistic(centre(z), width, 17, 3)", "Kingma 2016"),
        "logistic mixture": (
            mixture, "discretized_logistic_mixture(weights(z), centres(z), widths, 17, 3)", "Salimans 2017"
        ),
        "Poisson": (count, "Poisson(log_rate(z), 3)", "Zhao 2020"),
        "negative binomial": (spread, "NegativeBinomial.from_mean(rate(z), dispersion, 3)", "Lopez 2018"),
    }  # fmt: skip
    return {
        name: simple(f"E(q, lambda z: {family})", source, lambda _: recipes.vae(), model=net(likelihood=head))
        for name, (head, family, source) in table.items()
    }


def unit_normal_levels() -> nets.Head:
    """A unit Normal around pixels with white as 1, for data in levels: its variance is that of white."""
    white = LEVELS - 1.0

    def likelihood(_: Params, raw: Array, event_ndims: int) -> vaejax.Normal:
        return vaejax.Normal(white * raw[..., 0], white, event_ndims)

    return nets.Head(1, likelihood, standardize=lambda x: jnp.asarray(x, jnp.float32) / white)


def geco() -> Method:
    """The multiplier is state; the goal is 75 nats of reconstruction for each digit."""
    model = net()
    view = view_of(model)

    def loss(params: Params, extra: Extra, key: Array, examples: data.Split) -> Any:
        objective = recipes.geco(multiplier=extra.multiplier)
        value, terms = vaejax.negative_mean(objective(key, levels(examples), *view(params, extra, levels(examples))))
        updated = vaejax.update_geco(extra, terms.log_likelihood, target=-75.0, rate=1e-3, decay=0.9)
        return value, ({"multiplier": updated.multiplier, "reconstruction": -jnp.mean(terms.log_likelihood)}, updated)

    return Method(
        "E(q, px, beta=1 / multiplier)", "Rezende 2018", model.init, loss, reconstruct_by(view),
        generate_by(view, standard_prior), log_bound_by(view, standard_prior), lambda key: vaejax.init_geco(),
        remark=lambda params, extra, test: f"multiplier {extra.multiplier:.2f}",
    )  # fmt: skip


def piwae() -> Method:
    model = net()
    view = view_of(model)

    def loss(params: Params, extra: Extra, key: Array, examples: data.Split) -> Any:
        objective = recipes.piwae(num_samples=8, groups=4)
        of_decoder, of_encoder = objective(params, key, levels(examples), model.encode, model.decode)
        return vaejax.negative_mean(of_decoder)[0] + vaejax.negative_mean(of_encoder)[0], ({}, extra)

    return Method(
        "I(frozen_q, px, num_samples=8), I(q, frozen_px, num_samples=8, bound=miwae_bound(4))", "Rainforth 2018", model.init,
        loss, reconstruct_by(view), generate_by(view, standard_prior), log_bound_by(view, standard_prior),
    )  # fmt: skip


def vamp(components: int = 50) -> Method:
    model = net()

    def prior(params: Params) -> vaejax.Mixture:
        return vaejax.vamp_prior(partial(model.encode, params), (LEVELS - 1) * jax.nn.sigmoid(params["pseudo_inputs"]))

    own = lambda key: {"pseudo_inputs": jax.random.normal(key, (components, 8, 8, 1))}
    expression = "E(q, px, vamp_prior(q, pseudo_inputs), kl=monte_carlo_kl)"
    objective = lambda params: recipes.vamp_vae((LEVELS - 1) * jax.nn.sigmoid(params["pseudo_inputs"]))
    return simple(expression, "Tomczak 2018", objective, prior=prior, own=own)


def with_prior(text: str, source: str, init: Callable[[Array], tuple[Params, Any]]) -> Method:
    """A prior whose parameters are learned along: `init(key)` gives them, and what makes the prior of them."""
    make = init(jax.random.key(0))[1]
    prior = lambda params: make(params["prior"])
    expression = f"E(q, px, {text}, kl=monte_carlo_kl)"
    objective = lambda params: recipes.learned_prior_vae(prior(params))
    return simple(expression, source, objective, prior=prior, own=lambda key: {"prior": init(key)[0]})


def init_mixture(key: Array, components: int = 10) -> tuple[Params, Any]:
    params = {
        "logits": jnp.zeros(components),
        "loc": jax.random.normal(key, (components, LATENTS)),
        "log_scale": jnp.zeros((components, LATENTS)),
    }
    make = lambda p: vaejax.Mixture(p["logits"], vaejax.Normal.from_log_scale(p["loc"], p["log_scale"]))
    return params, make


def init_flow(make_flow: Callable[[Array], Any]) -> Callable[[Array], tuple[Params, Any]]:
    """A flow is its own parameters."""
    return lambda key: (make_flow(key), lambda flow: vaejax.Transformed(standard_prior({}), flow))


def with_posterior(name: str, head: nets.Head, source: str) -> Method:
    expression = f"E(lambda x: Transformed(q(x), {name}), px, kl=monte_carlo_kl)"
    return simple(expression, source, lambda _: recipes.flow_vae(), model=net(head))


def hamiltonian() -> Method:
    """Step size and temperature are learned along, behind a softplus and a sigmoid."""
    tune = lambda params: {
        "step_size": 0.05 * jax.nn.softplus(params["step"]), "num_steps": 3,
        "inverse_temperature": jax.nn.sigmoid(params["temperature"]),
    }  # fmt: skip

    def view(params: Params, x: Array, pair: Pair) -> Pair:
        log_joint = lambda z: pair.decode(z).log_prob(x) + standard_prior(params).log_prob(z)
        return Pair(lambda x: vaejax.HamiltonianPosterior(pair.encode(x), log_joint, **tune(params)), pair.decode)

    own = lambda key: {"step": jnp.zeros(LATENTS), "temperature": jnp.full((), 2.0)}
    expression = "E(lambda x: HamiltonianPosterior(q(x), log_joint, step_size), px, kl=monte_carlo_kl)"
    objective = lambda params: recipes.hamiltonian_vae(**tune(params))
    return simple(expression, "Caterini 2018", objective, own=own, view=view)


def gumbel(variables: int = 10, categories: int = 4) -> Method:
    flat = net(heads.delta(), variables * categories)
    logits = lambda params, x: flat.encode(params, x).mean.reshape(*x.shape[:-3], variables, categories)
    model = nets.Model(
        flat.init,
        lambda params, x: vaejax.RelaxedCategorical(logits(params, x), 0.5, log_space=True),
        lambda params, z: flat.decode(params, jnp.exp(z).reshape(*z.shape[:-2], variables * categories)),
    )
    # Generated as it was trained: from relaxed one-hot vectors of the uniform prior.
    prior = lambda params: vaejax.RelaxedCategorical(jnp.zeros((variables, categories)), 0.5, log_space=True)
    expression = (
        "A(lambda x: RelaxedCategorical(logits, 0.5, log_space=True), px_relaxed, categorical_kl(Categorical(uniform)))"
    )
    objective = lambda _: recipes.gumbel_vae(variables, categories)
    return simple(expression, "Jang 2017, Maddison 2017", objective, model=model, prior=prior)
