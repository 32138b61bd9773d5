"""Every published method: equal to its formula, its hyperparameters traced, and trained on digits."""

from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax
from vaejax import Delta, Normal, data, recipes

ROOT = Path(__file__).parent.parent.parent
SIZE, DATA, LATENT = 6, 4, 2
KEYS = [jax.random.key(seed) for seed in range(10)]
X = jax.random.normal(KEYS[0], (SIZE, DATA))
WEIGHT = jax.random.normal(KEYS[1], (DATA, LATENT))
BACK = jax.random.normal(KEYS[2], (LATENT, DATA))
CODEBOOK = jax.random.normal(KEYS[3], (5, LATENT))
P0 = vaejax.standard_normal
MASK = jax.random.bernoulli(KEYS[4], 0.5, X.shape)
LABEL = jnp.array([0, 1, -1, 2, -1, 0])
PRIOR = Normal(jnp.array([0.3, -0.2]), 1.5)


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
    each = [log_likelihood(z) + P0.log_prob(z) - encode(X).log_prob(z) for z in terms.latents]
    return np.asarray(jnp.stack(each), np.float64)


def kl(prior=P0):
    return vaejax.kl_divergence(encode(X), prior)


def drawn(regularizer, q=encode):
    """A penalty that draws noise besides z, with the key that `autoencode` gives it."""
    regularizer_key = jax.random.split(jax.random.key(0))[1]
    return lambda t: log_likelihood(t.latents) - regularizer(regularizer_key, q(X), t.latents)


def vq_penalty(t):
    inputs = jnp.tanh(X @ WEIGHT)
    return -1.25 * jnp.sum((inputs - t.latents) ** 2, axis=-1)


def nearest(codebook):
    inputs = jnp.tanh(X @ WEIGHT)
    return codebook[jnp.argmin(jnp.sum((inputs[:, None] - codebook) ** 2, axis=-1), axis=-1)]


def log_mean_exp(values, axis=0):
    return np.log(np.mean(np.exp(values), axis=axis))


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
        - vaejax.tc_decomposition(dataset_size=50)(KEYS[5], encode(X), t.latents)
        - 5 * vaejax.tc_decomposition(dataset_size=50, index_code=0.0, dimension_wise=0.0)(KEYS[5], encode(X), t.latents),
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
        + log_mean_exp(np.stack([encode(X[i]).log_prob(t.latents) for i in range(3)])),
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
        recipes.vq_vae(CODEBOOK), point, lambda t: log_likelihood(nearest(CODEBOOK)) + vq_penalty(t),
    ),
    "ema_vq_vae": (
        recipes.ema_vq_vae(CODEBOOK), point, lambda t: log_likelihood(nearest(CODEBOOK)) + vq_penalty(t) / 5,
    ),
    "residual_vq_vae": (
        recipes.residual_vq_vae(CODEBOOK[None]), point, lambda t: log_likelihood(nearest(CODEBOOK)) + vq_penalty(t),
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

HALF = vaejax.ElementwiseAffine(jnp.ones(LATENT), jnp.full(LATENT, -jnp.log(2.0)))
# Those with other arguments or results have tests of their own below or in the room they come from.
OWN_TESTS = {
    "piwae", "ladder_vae", "conditional_vae", "semi_supervised_vae", "hamiltonian_vae", "gumbel_vae",
}  # fmt: skip


def dip(covariance):
    diagonal = jnp.diag(covariance)
    return 3 * (jnp.sum(covariance**2) - jnp.sum(diagonal**2)) + 2 * jnp.sum((diagonal - 1) ** 2)


def test_every_recipe_has_its_formula_here():
    assert set(recipes.__all__) == set(CASES) | OWN_TESTS


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_is_its_formula(name):
    objective, encoder, formula = CASES[name]
    terms = objective(jax.random.key(0), X, encoder, decode)
    expected = jnp.asarray(formula(terms), jnp.float32)
    chex.assert_trees_all_close(terms.value, jnp.broadcast_to(expected, (SIZE,)), rtol=2e-5, atol=2e-5)


def test_each_net_of_piwae_has_its_own_bound():
    params = {"encoder": WEIGHT, "decoder": BACK}
    by_params = lambda params, x: Normal(jnp.tanh(x @ params["encoder"]), 0.5)
    back = lambda params, z: Normal(z @ params["decoder"], 0.7)
    objective = recipes.piwae(num_samples=4, groups=2)

    def both(params):
        return sum(jnp.sum(terms.value) for terms in objective(params, jax.random.key(0), X, by_params, back))

    def alone(params, recipe):
        return jnp.sum(recipe(jax.random.key(0), X, partial(by_params, params), partial(back, params)).value)

    gradient = jax.grad(both)(params)
    iwae, miwae = recipes.iwae(num_samples=4), recipes.miwae(num_samples=4, groups=2)
    chex.assert_trees_all_close(gradient["decoder"], jax.grad(alone)(params, iwae)["decoder"], rtol=1e-5)
    chex.assert_trees_all_close(gradient["encoder"], jax.grad(alone)(params, miwae)["encoder"], rtol=1e-4)


def test_a_learned_prior_of_piwae_is_counted_once():
    by_params = lambda params, x: Normal(jnp.tanh(x @ WEIGHT), 0.5)
    back = lambda params, z: Normal(z @ BACK, 0.7)

    def both(loc):
        objective = recipes.piwae(Normal(loc, 1.0), num_samples=4, groups=2)
        return sum(jnp.sum(terms.value) for terms in objective({}, jax.random.key(0), X, by_params, back))

    def alone(loc):
        objective = recipes.iwae(Normal(loc, 1.0), num_samples=4)
        return jnp.sum(objective(jax.random.key(0), X, partial(by_params, {}), partial(back, {})).value)

    chex.assert_trees_all_close(jax.grad(both)(PRIOR.loc), jax.grad(alone)(PRIOR.loc), rtol=1e-5)


def test_what_a_hamiltonian_vae_returns_is_of_use_outside(key):
    terms = jax.jit(lambda k: recipes.hamiltonian_vae()(k, X, encode, decode))(jax.random.key(0))
    chex.assert_trees_all_close(terms.posterior.mean, encode(X).loc, rtol=1e-6)
    assert terms.posterior.sample(key).shape == (SIZE, LATENT)


def test_weights_of_info_vae_are_refused_where_they_reward_a_discrepancy():
    with pytest.raises(ValueError, match=r"alpha . weight - 1, the weight of the MMD, must be at least 0"):
        recipes.info_vae(alpha=0.5, weight=0.2)


def test_a_conditional_vae_passes_its_condition_to_both_nets():
    condition = jnp.arange(6.0)[:, None]
    with_condition = lambda x, c: Normal(x @ WEIGHT + c, 0.5)
    back = lambda z, c: Normal(z @ BACK - c, 0.7)
    terms = recipes.conditional_vae(condition)(jax.random.key(0), X, with_condition, back)
    q = Normal(X @ WEIGHT + condition, 0.5)
    expected = Normal(terms.latents @ BACK - condition, 0.7).log_prob(X) - vaejax.kl_divergence(q, P0)
    chex.assert_trees_all_close(terms.value, expected, rtol=1e-5)


def test_a_gumbel_vae_has_the_divergence_of_its_logits():
    logits = jax.random.normal(KEYS[6], (SIZE, 3, 4))
    relaxed = lambda x: vaejax.RelaxedCategorical(logits, 0.5)
    back = lambda z: Normal(z.reshape(SIZE, 12) @ jnp.ones((12, DATA)), 1.0)
    terms = recipes.gumbel_vae(3, 4)(jax.random.key(0), X, relaxed, back)
    log_q = jax.nn.log_softmax(logits)
    chex.assert_trees_all_close(terms.kl, jnp.sum(jnp.exp(log_q) * (log_q + jnp.log(4.0)), (1, 2)), rtol=1e-4)
    chex.assert_trees_all_close(terms.latents.sum(-1), jnp.ones((SIZE, 3)), rtol=1e-5)


def test_a_hamiltonian_vae_is_the_bound_of_its_moved_draws():
    objective = recipes.hamiltonian_vae(step_size=0.1, num_steps=3)
    terms = objective(jax.random.key(0), X, encode, decode, num_samples=2)
    log_joint = lambda z: log_likelihood(z) + P0.log_prob(z)
    q = vaejax.HamiltonianPosterior(encode(X), log_joint, 0.1, 3)
    z, log_q = q.sample_and_log_prob(jax.random.split(jax.random.key(0))[0], (2,))
    chex.assert_trees_all_close(terms.latents, z, rtol=1e-5)
    expected = jnp.mean(jax.vmap(log_joint)(z) - log_q, axis=0)
    chex.assert_trees_all_close(terms.value, expected, rtol=1e-5)


def test_the_ladder_is_the_bound_of_the_hierarchy():
    """test_ladder has its oracles; the recipe passes the weights on."""
    priors = [lambda above: P0]
    one = recipes.ladder_vae(priors, beta=0.5, free_bits=9.0)
    terms = one(jax.random.key(0), X, lambda x: [lambda above, p: encode(x)], lambda z: decode(z[0]))
    chex.assert_trees_all_close(terms.value, log_likelihood(terms.latents[0]) - 0.5 * jnp.maximum(kl(), 9.0), rtol=1e-5)


def test_recipes_take_the_samples_of_the_function_behind_them():
    for name in ("vae", "wae_mmd", "rae_gp", "vq_vae", "hamiltonian_vae", "missing_data_vae", "vae_gan"):
        objective, encoder, _ = CASES.get(name, (recipes.hamiltonian_vae(), encode, None))
        terms = objective(jax.random.key(0), X, encoder, decode, num_samples=3)
        assert terms.latents.shape == (3, SIZE, LATENT)


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
    "vq_vae": lambda v: recipes.vq_vae(CODEBOOK, commitment=v),
    "ema_vq_vae": lambda v: recipes.ema_vq_vae(CODEBOOK, commitment=v),
    "residual_vq_vae": lambda v: recipes.residual_vq_vae(CODEBOOK[None], commitment=v),
    "hamiltonian_vae": lambda v: recipes.hamiltonian_vae(step_size=v, inverse_temperature=v),
}


@pytest.mark.parametrize("name", TRACED)
def test_hyperparameters_may_be_traced_and_swept(name):
    encoder = CASES[name][1] if name in CASES else encode

    def value(v):
        return TRACED[name](v)(jax.random.key(0), X, encoder, decode).value

    swept = jax.jit(jax.vmap(value))(jnp.array([0.2, 0.7]))
    chex.assert_trees_all_close(swept, jnp.stack([value(0.2), value(0.7)]), rtol=1e-4, atol=1e-4)


# Real training. The table is that of the README.


@pytest.fixture(scope="module")
def digits():
    return data.load_digits()


def load_methods():
    import importlib
    import sys

    sys.path.insert(0, str(ROOT))
    try:
        return importlib.import_module("experiments.methods")
    finally:
        sys.path.remove(str(ROOT))


METHODS = load_methods().methods()
# One of each kind; all of them take minutes and are run by make test-slow.
QUICK = {"AE", "EMA codebook"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_a_method_learns_real_digits(name, digits):
    """200 steps with a report every epoch: traced for the first alone, always finite, and better than at the start."""
    from experiments.methods import core

    method, traces, losses = METHODS[name], [], []

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
    error = lambda params, extra: jnp.mean(
        core.squared_error(method.reconstruct(params, extra, jax.random.key(2), digits.test), digits.test)
    )
    assert error(state.params, state.extra) < 0.7 * error(*start)
