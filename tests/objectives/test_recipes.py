"""Every published method: equal to its formula, its hyperparameters traced, and trained on digits."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from tests.tiers import slow_but, tier_of
from vaejax import Delta, Normal, data, recipes

SIZE, DATA, LATENT = 6, 4, 2
RANDOM = np.random.default_rng(0)
X, WEIGHT, BACK, CODEBOOK = (
    RANDOM.normal(size=shape).astype(np.float32)
    for shape in [(SIZE, DATA), (DATA, LATENT), (LATENT, DATA), (5, LATENT)]
)
P0 = vaejax.standard_normal
MASK = RANDOM.random(X.shape) < 0.5
PRIOR = Normal(np.array([0.3, -0.2], np.float32), 1.5)


def encode(x):
    return Normal(jnp.tanh(x @ WEIGHT), 0.3 + 0.1 * jnp.abs(x[..., :LATENT]))


def point(x):
    return Delta(jnp.tanh(x @ WEIGHT))


def decode(z):
    return Normal(z @ BACK, 0.7)


def discriminate(z):
    return jnp.sum(z**2, axis=-1) - 1.0


def log_likelihood(z):
    return decode(z).log_prob(X)


def log_weights(terms):
    z = terms.latents
    return log_likelihood(z) + P0.log_prob(z) - encode(X).log_prob(z)


def kl(prior=P0):
    return vaejax.kl_divergence(encode(X), prior)


def drawn(regularizer, q=encode):
    """A penalty that draws noise besides z, with the key that `autoencode` gives it."""
    regularizer_key = jax.random.split(jax.random.key(0))[1]
    return lambda t: log_likelihood(t.latents) - regularizer(regularizer_key, q(X), t.latents)


def vq_penalty(t):
    inputs = jnp.tanh(X @ WEIGHT)
    return -1.25 * jnp.sum((inputs - t.latents) ** 2, axis=-1)


def nearest():
    codebook, inputs = jnp.asarray(CODEBOOK), jnp.tanh(X @ WEIGHT)
    return codebook[jnp.argmin(jnp.sum((inputs[:, None] - codebook) ** 2, axis=-1), axis=-1)]


def with_codebook(make, **options):
    """A recipe of the codebook, which becomes an array where it is used."""
    return lambda *arguments, **others: make(jnp.asarray(CODEBOOK), **options)(*arguments, **others)


def log_mean_exp(values):
    return jnp.log(jnp.mean(jnp.exp(values), axis=0))


# A recipe, the encoder it wants, and its value computed from the draws z alone.
CASES = {
    "autoencoder": (recipes.autoencoder(), point, lambda t: log_likelihood(jnp.tanh(X @ WEIGHT))),
    "vae": (recipes.vae(), encode, lambda t: log_likelihood(t.latents) - kl()),
    "beta_vae": (recipes.beta_vae(beta=4.0), encode, lambda t: log_likelihood(t.latents) - 4 * kl()),
    "capacity_vae": (
        recipes.capacity_vae(target=1.5, weight=20.0), encode,
        lambda t: log_likelihood(t.latents) - 20 * jnp.abs(jnp.mean(kl()) - 1.5),
    ),
    "free_bits_vae": (
        recipes.free_bits_vae(threshold=0.7), encode,
        lambda t: log_likelihood(t.latents)
        - jnp.sum(jnp.maximum(jnp.mean(vaejax.distributions.kl_per_axis(encode(X)), 0), 0.7)),
    ),
    "geco": (recipes.geco(multiplier=2.0), encode, lambda t: log_likelihood(t.latents) - kl() / 2),
    "beta_tc_vae": (
        recipes.beta_tc_vae(dataset_size=50, total_correlation=6.0), encode,
        lambda t: log_likelihood(t.latents)
        - vaejax.tc_decomposition(dataset_size=50)(None, encode(X), t.latents)
        - 5 * vaejax.tc_decomposition(dataset_size=50, index_code=0.0, dimension_wise=0.0)(None, encode(X), t.latents),
    ),
    "factor_vae": (
        recipes.factor_vae(discriminate=discriminate, weight=3.0), encode,
        lambda t: log_likelihood(t.latents) - kl() - 3 * discriminate(t.latents),
    ),
    "dip_vae_i": (
        recipes.dip_vae_i(off_diagonal=3.0, diagonal=2.0), encode,
        lambda t: log_likelihood(t.latents) - kl() - dip(jnp.cov(encode(X).loc.T, bias=True)),
    ),
    "dip_vae_ii": (
        recipes.dip_vae_ii(off_diagonal=3.0, diagonal=2.0), encode,
        lambda t: log_likelihood(t.latents) - kl()
        - dip(jnp.cov(encode(X).loc.T, bias=True) + jnp.diag(jnp.mean(encode(X).scale ** 2, 0))),
    ),
    "info_vae": (
        recipes.info_vae(alpha=0.3, weight=10.0), encode,
        lambda t: drawn(vaejax.add(vaejax.scale(0.7, vaejax.kl()), vaejax.scale(9.3, vaejax.mmd_to())))(t),
    ),
    "wae_mmd": (
        recipes.wae_mmd(weight=7.0), point, lambda t: drawn(vaejax.scale(7.0, vaejax.mmd_to()), point)(t),
    ),
    "adversarial_autoencoder": (
        recipes.adversarial_autoencoder(discriminate=discriminate, weight=2.0), point,
        lambda t: log_likelihood(t.latents) - 2 * discriminate(t.latents),
    ),
    "vae_gan": (
        recipes.vae_gan(features=jnp.sin, weight=0.5), encode,
        lambda t: Normal(jnp.sin(t.latents @ BACK), 1.0).log_prob(jnp.sin(X)) - 0.5 * kl(),
    ),
    "rae_l2": (
        recipes.rae_l2(beta=0.1), point,
        lambda t: log_likelihood(t.latents) - 0.1 * (0.5 * jnp.sum(t.latents**2, -1) + jnp.log(2 * jnp.pi)),
    ),
    "rae_gp": (
        recipes.rae_gp(beta=0.1, gradient_weight=0.2), point,
        lambda t: drawn(
            vaejax.add(vaejax.scale(0.1, vaejax.kl()), vaejax.scale(0.2, vaejax.jacobian_penalty(decode))), point
        )(t),
    ),
    "iwae": (recipes.iwae(num_samples=4), encode, lambda t: log_mean_exp(log_weights(t))),
    "dreg": (recipes.dreg(num_samples=4), encode, lambda t: log_mean_exp(log_weights(t))),
    "sticking_the_landing": (recipes.sticking_the_landing(num_samples=4), encode, lambda t: log_weights(t).mean(0)),
    "miwae": (
        recipes.miwae(num_samples=4, groups=2), encode,
        lambda t: (log_mean_exp(log_weights(t)[:2]) + log_mean_exp(log_weights(t)[2:])) / 2,
    ),
    "ciwae": (
        recipes.ciwae(num_samples=4, beta=0.3), encode,
        lambda t: 0.3 * log_weights(t).mean(0) + 0.7 * log_mean_exp(log_weights(t)),
    ),
    "renyi_vae": (
        recipes.renyi_vae(num_samples=4, alpha=0.5), encode, lambda t: 2 * log_mean_exp(0.5 * log_weights(t)),
    ),
    "vamp_vae": (
        recipes.vamp_vae(X[:3]), encode,
        lambda t: log_likelihood(t.latents) - encode(X).log_prob(t.latents)
        + log_mean_exp(encode(X[:3, None]).log_prob(t.latents)),
    ),
    "learned_prior_vae": (
        recipes.learned_prior_vae(PRIOR), encode,
        lambda t: log_likelihood(t.latents) - encode(X).log_prob(t.latents) + PRIOR.log_prob(t.latents),
    ),
    "flow_vae": (
        recipes.flow_vae(), lambda x: vaejax.Transformed(encode(x), vaejax.Inverse(HALF)),
        lambda t: log_likelihood(t.latents) + P0.log_prob(t.latents)
        - Normal(2 * encode(X).loc - 2, 2 * encode(X).scale).log_prob(t.latents),
    ),
    "hyperspherical_vae": (
        recipes.hyperspherical_vae(LATENT), lambda x: vaejax.PowerSpherical(x @ WEIGHT, 3.0 * jnp.ones(SIZE)),
        lambda t: log_likelihood(t.latents)
        - vaejax.kl_divergence(vaejax.PowerSpherical(X @ WEIGHT, 3.0), vaejax.SphericalUniform(LATENT)),
    ),
    "vq_vae": (
        with_codebook(recipes.vq_vae), point, lambda t: log_likelihood(nearest()) + vq_penalty(t),
    ),
    "ema_vq_vae": (
        with_codebook(recipes.ema_vq_vae), point, lambda t: log_likelihood(nearest()) + vq_penalty(t) / 5,
    ),
    "residual_vq_vae": (
        with_codebook(lambda codebook: recipes.residual_vq_vae(codebook[None])), point, lambda t: log_likelihood(nearest()) + vq_penalty(t),
    ),
    "fsq_autoencoder": (
        recipes.fsq_autoencoder((3, 5)), point,
        lambda t: log_likelihood(jnp.round(jnp.tanh(jnp.tanh(X @ WEIGHT)) * jnp.array([1.0, 2.0])) / jnp.array([1.0, 2.0])),
    ),
    "missing_data_vae": (
        recipes.missing_data_vae(MASK), encode,
        lambda t: jnp.sum(MASK * Normal(t.latents @ BACK, 0.7, 0).log_prob(X), -1) - kl(),
    ),
}  # fmt: skip

HALF = vaejax.ElementwiseAffine(np.ones(LATENT, np.float32), np.full(LATENT, -np.log(2.0), np.float32))
# Those with other arguments or results have tests of their own below or in the room they come from.
OWN_TESTS = {
    "piwae", "ladder_vae", "conditional_vae", "semi_supervised_vae", "hamiltonian_vae", "gumbel_vae",
}  # fmt: skip


def dip(covariance):
    diagonal = jnp.diag(covariance)
    return 3 * (jnp.sum(covariance**2) - jnp.sum(diagonal**2)) + 2 * jnp.sum((diagonal - 1) ** 2)


def test_every_recipe_has_its_formula_here():
    assert set(recipes.__all__) == set(CASES) | OWN_TESTS


# Draws from a sphere are long programs: as long as those of all other recipes together.
SHORT = set(CASES) - {"hyperspherical_vae"}


@cache
def values_and_formulas(names):
    """Of several cases, in one program, which compiles in half the time of one for each."""

    def both(key, objective, encoder, formula):
        terms = objective(key, X, encoder, decode)
        return terms.value, jnp.broadcast_to(formula(terms), (SIZE,))

    return jax.jit(lambda: {name: both(jax.random.key(0), *CASES[name]) for name in names})()


@pytest.mark.parametrize("name", slow_but(SHORT, CASES, "a long program"))
def test_a_recipe_is_its_formula(name):
    chex.assert_trees_all_close(*values_and_formulas(tier_of(name, CASES, SHORT))[name], rtol=2e-5, atol=2e-5)


def test_each_net_of_piwae_has_its_own_bound():
    """And a learned prior, which both bounds have, is counted once."""
    params = {"encoder": WEIGHT, "decoder": BACK, "prior": PRIOR.loc}
    by_params = lambda params, x: Normal(jnp.tanh(x @ params["encoder"]), 0.5)
    back = lambda params, z: Normal(z @ params["decoder"], 0.7)
    prior = lambda params: Normal(params["prior"], 1.0)

    def both(params):
        objective = recipes.piwae(prior(params), num_samples=4, groups=2)
        return sum(jnp.sum(terms.value) for terms in objective(params, jax.random.key(0), X, by_params, back))

    def alone(params, recipe):
        objective = recipe(prior(params), num_samples=4)
        return jnp.sum(objective(jax.random.key(0), X, partial(by_params, params), partial(back, params)).value)

    @jax.jit
    def gradients(params):
        miwae = partial(recipes.miwae, groups=2)
        return jax.grad(both)(params), *(jax.grad(alone)(params, recipe) for recipe in (recipes.iwae, miwae))

    together, iwae, miwae = gradients(params)
    chex.assert_trees_all_close(together["decoder"], iwae["decoder"], rtol=1e-5)
    chex.assert_trees_all_close(together["encoder"], miwae["encoder"], rtol=1e-4)
    chex.assert_trees_all_close(together["prior"], iwae["prior"], rtol=1e-5)


def test_weights_of_info_vae_are_refused_where_they_reward_a_discrepancy():
    with pytest.raises(ValueError, match=r"alpha . weight - 1.*must be at least 0"):
        recipes.info_vae(alpha=0.5, weight=0.2)


def test_a_conditional_vae_passes_its_condition_to_both_nets():
    condition = np.arange(6, dtype=np.float32)[:, None]
    with_condition = lambda x, c: Normal(x @ WEIGHT + c, 0.5)
    back = lambda z, c: Normal(z @ BACK - c, 0.7)

    @jax.jit
    def both(key):
        terms = recipes.conditional_vae(condition)(key, X, with_condition, back)
        q = Normal(X @ WEIGHT + condition, 0.5)
        reconstruction = Normal(terms.latents @ BACK - condition, 0.7).log_prob(X)
        return terms.value, reconstruction - vaejax.kl_divergence(q, P0)

    chex.assert_trees_all_close(*both(jax.random.key(0)), rtol=1e-5)


def test_a_gumbel_vae_has_the_divergence_of_its_logits():
    """As a penalty: the terms are not those of a bound."""
    logits = np.random.default_rng(6).normal(size=(SIZE, 3, 4)).astype(np.float32)

    @jax.jit
    def terms(key):
        relaxed = lambda x: vaejax.RelaxedCategorical(logits, 0.5)
        back = lambda z: Normal(z.reshape(SIZE, 12) @ np.ones((12, DATA)), 1.0)
        terms = recipes.gumbel_vae(3, 4)(key, X, relaxed, back)
        assert type(terms) is vaejax.types.AutoencodeTerms
        return terms.penalty, terms.latents

    found, latents = terms(jax.random.key(0))
    log_q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(found, np.sum(np.exp(log_q) * (log_q + np.log(4.0)), (1, 2)), rtol=1e-4)
    np.testing.assert_allclose(np.sum(latents, axis=-1), np.ones((SIZE, 3)), rtol=1e-5)


def test_a_hamiltonian_vae_is_the_bound_of_its_moved_draws():
    """What it returns, its posterior included, is of use outside of the compiled function."""

    @jax.jit
    def both(key):
        terms = recipes.hamiltonian_vae(step_size=0.1, num_steps=3)(key, X, encode, decode, num_samples=2)
        log_joint = lambda z: log_likelihood(z) + P0.log_prob(z)
        q = vaejax.HamiltonianPosterior(encode(X), log_joint, 0.1, 3)
        z, log_q = q.sample_and_log_prob(jax.random.split(jax.random.clone(key))[0], (2,))
        return terms, encode(X).loc, z, jnp.mean(jax.vmap(log_joint)(z) - log_q, axis=0)

    terms, loc, z, expected = both(jax.random.key(0))
    chex.assert_trees_all_close(terms.latents, z, rtol=1e-5)
    chex.assert_trees_all_close(terms.value, expected, rtol=1e-5)
    chex.assert_trees_all_close(terms.posterior.mean, loc, rtol=1e-6)
    sample = jax.eval_shape(terms.posterior.sample, jax.random.key(1))
    assert sample.shape == (SIZE, LATENT)


def test_the_ladder_is_the_bound_of_the_hierarchy():
    """test_ladder has its oracles; the recipe passes the weights on."""

    @jax.jit
    def both(key):
        one = recipes.ladder_vae([lambda above: P0], beta=0.5, free_bits=9.0)
        terms = one(key, X, lambda x: [lambda above, p: encode(x)], lambda z: decode(z[0]))
        return terms.value, log_likelihood(terms.latents[0]) - 0.5 * jnp.maximum(kl(), 9.0)

    chex.assert_trees_all_close(*both(jax.random.key(0)), rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["vae", "wae_mmd", "rae_gp", "vq_vae", "hamiltonian_vae", "missing_data_vae", "vae_gan"]
)
def test_recipes_take_the_samples_of_the_function_behind_them(name, key):
    objective, encoder, _ = CASES.get(name, (recipes.hamiltonian_vae(), encode, None))
    terms = jax.eval_shape(lambda: objective(key, X, encoder, decode, num_samples=3)._replace(posterior=None))
    assert terms.latents.shape == (3, SIZE, LATENT)
    assert terms.value.shape == (SIZE,)


TRACED = {
    "beta_vae": lambda v: recipes.beta_vae(beta=v),
    "capacity_vae": lambda v: recipes.capacity_vae(target=v, weight=v),
    "free_bits_vae": lambda v: recipes.free_bits_vae(threshold=v),
    "geco": lambda v: recipes.geco(multiplier=v),
    "beta_tc_vae": lambda v: recipes.beta_tc_vae(dataset_size=50, total_correlation=v),
    "factor_vae": lambda v: recipes.factor_vae(discriminate=discriminate, weight=v),
    "dip_vae_i": lambda v: recipes.dip_vae_i(off_diagonal=v, diagonal=v),
    "dip_vae_ii": lambda v: recipes.dip_vae_ii(off_diagonal=v, diagonal=v),
    "info_vae": lambda v: recipes.info_vae(alpha=v, weight=1 + v),
    "wae_mmd": lambda v: recipes.wae_mmd(weight=v),
    "adversarial_autoencoder": lambda v: recipes.adversarial_autoencoder(discriminate=discriminate, weight=v),
    "vae_gan": lambda v: recipes.vae_gan(features=jnp.sin, weight=v),
    "rae_l2": lambda v: recipes.rae_l2(beta=v),
    "rae_gp": lambda v: recipes.rae_gp(beta=v, gradient_weight=v),
    "ciwae": lambda v: recipes.ciwae(num_samples=4, beta=v),
    "renyi_vae": lambda v: recipes.renyi_vae(num_samples=4, alpha=v),
    "vq_vae": lambda v: with_codebook(recipes.vq_vae, commitment=v),
    "ema_vq_vae": lambda v: with_codebook(recipes.ema_vq_vae, commitment=v),
    "residual_vq_vae": lambda v: recipes.residual_vq_vae(jnp.asarray(CODEBOOK[None]), commitment=v),
    "hamiltonian_vae": lambda v: recipes.hamiltonian_vae(step_size=v, inverse_temperature=v),
}


def value_of(name, v):
    encoder = CASES[name][1] if name in CASES else encode
    return TRACED[name](v)(jax.random.key(0), X, encoder, decode).value


SWEPT = np.array([0.2, 0.7], np.float32)


@pytest.mark.parametrize("name", TRACED)
def test_hyperparameters_may_be_traced_and_swept(name):
    assert jax.eval_shape(jax.vmap(partial(value_of, name)), SWEPT).shape == (2, SIZE)


@pytest.mark.slow("compiles every recipe three times")
@pytest.mark.parametrize("name", TRACED)
def test_traced_hyperparameters_give_the_values_of_concrete_ones(name):
    each = partial(value_of, name)
    both = jax.jit(lambda swept: (jax.vmap(each)(swept), jnp.stack([each(0.2), each(0.7)])))
    chex.assert_trees_all_close(*both(SWEPT), rtol=1e-4, atol=1e-4)


# Real training. The table is that of the README.


@cache
def all_methods():
    """Built when a test runs, since that takes seconds."""
    from experiments.methods import methods

    return methods()


METHODS = [
    "AE", "VAE", "VAE, 5 samples", "beta-VAE", "capacity", "free bits", "beta-TC-VAE", "DIP-VAE I", "DIP-VAE II",
    "InfoVAE", "WAE-MMD", "RAE-L2", "RAE-GP", "GECO", "FactorVAE", "AAE, WAE-GAN", "VAE-GAN", "IWAE", "MIWAE", "CIWAE",
    "PIWAE", "Renyi", "STL", "DReG", "VampPrior", "mixture prior", "coupling prior", "MAF prior", "planar posterior",
    "radial posterior", "IAF posterior", "full covariance", "Hamiltonian", "hyperspherical", "Gumbel-softmax",
    "discretized logistic", "logistic mixture", "Poisson", "negative binomial", "VQ-VAE", "residual VQ", "EMA codebook", "FSQ", "ladder",
    "conditional", "M2", "missing pixels",
]  # fmt: skip


@pytest.mark.slow("builds all methods")
def test_every_method_is_trained_here():
    assert list(all_methods()) == METHODS


@pytest.mark.slow("trains for 200 steps")
@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_real_digits(name):
    """200 steps with a report every epoch: traced for the first alone, always finite, and better than at the start."""
    from experiments.methods import core

    method, traces, losses = all_methods()[name], [], []
    digits = data.load_digits()

    def counted(*arguments):
        traces.append(name)
        return method.loss(*arguments)

    def record(report, progress):
        losses.append((float(report.metrics["loss"]), float(report.metrics["gradient_norm"]), len(traces)))

    counting = method._replace(loss=counted)
    start = method.init(jax.random.key(0)), method.extra(jax.random.key(1))
    state = core.train(counting, digits.train, steps=200, on_report=record)
    assert losses[0][2] == losses[-1][2]
    assert np.isfinite([loss[:2] for loss in losses]).all()
    chex.assert_tree_all_finite(state.params)

    @jax.jit
    def error(params, extra):
        reconstruction = method.reconstruct(params, extra, jax.random.key(2), digits.test)
        return jnp.mean(core.squared_error(reconstruction, digits.test))

    assert error(state.params, state.extra) < 0.7 * error(*start)
