"""Discriminators, constraints and summed-out labels."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import vaejax
from vaejax import Delta, Normal


def test_the_best_discriminator_is_the_log_ratio():
    """Quadratic log-odds between two Normals: the loss is the exact one, and its gradient there is zero."""
    first, second = scipy.stats.norm(0.5, 0.8), scipy.stats.norm(0.0, 1.3)
    # log p_first - log p_second as a polynomial.
    theta = np.array(
        [np.log(1.3 / 0.8) - 0.5 * (0.5 / 0.8) ** 2, 0.5 / 0.8**2, 0.5 / 1.3**2 - 0.5 / 0.8**2], np.float32
    )
    grid = np.linspace(-8, 8, 4001)
    odds = theta[0] + theta[1] * grid + theta[2] * grid**2
    np.testing.assert_allclose(odds, first.logpdf(grid) - second.logpdf(grid), atol=1e-4)
    cross_entropy = first.pdf(grid) * np.logaddexp(0, -odds) + second.pdf(grid) * np.logaddexp(0, odds)

    @jax.jit
    def loss(theta, points):
        quadratic = lambda theta: lambda z: theta[0] + theta[1] * z[:, 0] + theta[2] * z[:, 0] ** 2
        return jax.value_and_grad(lambda theta: vaejax.discriminator_loss(quadratic(theta), *points))(theta)

    random = np.random.default_rng(0)
    points = [p.rvs((200_000, 1), random).astype(np.float32) for p in (first, second)]
    value, gradient = loss(theta, points)
    assert np.all(np.abs(gradient) < 0.02)
    np.testing.assert_allclose(value, np.trapezoid(cross_entropy, grid), atol=0.01)
    # Elsewhere it is larger, and its gradient points away.
    for change in np.float32(0.3 * np.eye(3)):
        moved, slope = loss(theta + change, points)
        assert moved > value
        assert slope @ change > 0.01


def test_the_ratio_penalties_are_the_logits_and_estimate_a_divergence():
    q, p = scipy.stats.norm(0.7, 0.6), scipy.stats.norm()
    z = q.rvs((50_000, 1), np.random.default_rng(0)).astype(np.float32)
    exact = 0.5 * (0.7**2 + 0.6**2 - 1) - np.log(0.6)

    @jax.jit
    def penalties(z):
        ratio = lambda z: Normal(jnp.array([0.7]), 0.6).log_prob(z) - vaejax.standard_normal.log_prob(z)
        makers = (vaejax.prior_ratio, vaejax.tc_from_discriminator, vaejax.fool)
        return [make(ratio)(jax.random.key(1), Delta(z), z) for make in makers]

    *ratios, fooled = penalties(z)
    log_ratio = (q.logpdf(z) - p.logpdf(z))[:, 0]
    for penalty in ratios:
        np.testing.assert_allclose(penalty, log_ratio, rtol=1e-3, atol=1e-5)
        assert abs(np.mean(penalty) - exact) < 5 * np.std(penalty) / len(penalty) ** 0.5
    np.testing.assert_allclose(fooled, -scipy.special.log_expit(-log_ratio), rtol=1e-3, atol=1e-5)


def test_large_logits_have_finite_losses_and_gradients():
    logits = np.float32([0, 1, 50, 88, 104, 1e4])
    logits = np.concatenate([logits, -logits])

    @jax.jit
    def losses(logits):
        fool = lambda logit: vaejax.fool(lambda z: z)(None, None, logit)
        loss = lambda first, second: vaejax.discriminator_loss(lambda z: first * z[0] + second * z[1], *np.eye(2))
        return jax.vmap(jax.value_and_grad(fool))(logits), jax.vmap(jax.value_and_grad(loss, argnums=(0, 1)))(
            logits, logits
        )

    (value, slope), (both, slopes) = losses(logits)
    exact, sigmoid = np.logaddexp(0, logits.astype(float)), scipy.special.expit(logits.astype(float))
    np.testing.assert_allclose(value, exact, rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(slope, sigmoid, rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(both, exact + np.logaddexp(0, -logits.astype(float)), rtol=1e-5)
    np.testing.assert_allclose(slopes, (-scipy.special.expit(-logits.astype(float)), sigmoid), rtol=1e-5, atol=1e-30)


def test_permuted_axes_keep_each_axis_and_lose_their_dependence(key):
    z = np.random.default_rng(0).normal(size=(5_000, 2)).astype(np.float32) @ np.float32([[1.0, 0.9], [0.0, 0.4]])
    permuted = np.asarray(jax.jit(vaejax.permute_axes)(key, z))
    np.testing.assert_array_equal(np.sort(permuted, axis=0), np.sort(z, axis=0))
    assert abs(np.corrcoef(z.T)[0, 1]) > 0.9
    assert abs(np.corrcoef(permuted.T)[0, 1]) < 5 / 5_000**0.5


def test_each_player_has_the_gradient_of_its_own_term_alone():
    """One loss for both: the sum's gradient is the two terms' apart."""
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    params = {"model": np.float32(0.7), "discriminator": np.array([0.3, -0.2], np.float32)}
    logits = lambda w, z: w[0] + jnp.sum(w[1] * z**2, axis=-1)

    def terms(model, discriminator):
        objective = vaejax.recipes.adversarial_autoencoder(discriminate=lambda z: logits(discriminator, z), weight=2.0)
        return objective(jax.random.key(0), x, lambda x: Delta(model * x), lambda z: Normal(z, 1.0))

    def game(params):
        parts = terms(params["model"], jax.lax.stop_gradient(params["discriminator"]))
        other = vaejax.discriminator_loss(lambda z: logits(params["discriminator"], z), parts.latents, x)
        return vaejax.negative_mean(parts)[0] + other

    @jax.jit
    def gradients(params):
        z, both = params["model"] * x, jax.grad(game)(params)
        alone = jax.grad(lambda m: vaejax.negative_mean(terms(m, params["discriminator"]))[0])(params["model"])
        other = jax.grad(lambda d: vaejax.discriminator_loss(lambda z: logits(d, z), z, x))(params["discriminator"])
        return both, {"model": alone, "discriminator": other}

    both, apart = gradients(params)
    chex.assert_trees_all_close(both, apart, rtol=1e-5)
    assert abs(apart["model"]) > 0.1
    assert np.all(np.abs(apart["discriminator"]) > 1e-3)


def test_a_discriminator_must_be_a_function():
    for make in (vaejax.prior_ratio, vaejax.tc_from_discriminator, vaejax.fool):
        with pytest.raises(TypeError, match=f"{make.__name__}: discriminate must be a function; got int"):
            make(3)


# The multiplier of a constraint.


def test_the_multiplier_by_hand():
    update = jax.jit(lambda state, values: vaejax.update_geco(state, values, target=-75.0, rate=0.01, decay=0.9))
    state = update(vaejax.init_geco(2.0), np.array([-90.0, -70.0], np.float32))
    np.testing.assert_allclose((state.multiplier, state.average), (2 * np.exp(0.05), 5.0), rtol=1e-5)
    state = update(state, np.array([-60.0, -60.0], np.float32))
    np.testing.assert_allclose((state.multiplier, state.average), (2 * np.exp(0.05 + 0.03), 3.0), rtol=1e-5)
    assert state.step == 2


def test_the_multiplier_keeps_its_dtype_in_a_loop(x64):
    """The state keeps its dtype, whatever the inputs have; likelihoods in half precision are averaged in single."""
    values = np.array([256.0, 257.0], jnp.bfloat16)
    options = {"target": np.float64(300.0), "rate": np.float64(0.01), "decay": np.float64(0.9)}
    update = lambda state, _: (vaejax.update_geco(state, values, **options), None)
    start = vaejax.init_geco()
    state, _ = jax.lax.scan(update, start, length=2)
    chex.assert_trees_all_equal_dtypes(state, start)
    assert state.average == 300.0 - np.mean(values.astype(float))


def test_the_multiplier_stays_finite_and_gets_no_gradient():
    update = lambda state, values: vaejax.update_geco(state, values, target=0.0, rate=1.0)

    @jax.jit
    def figures(far):
        state = vaejax.init_geco()
        gradient = jax.grad(lambda values: update(state, values).multiplier)(far)
        return jax.lax.fori_loop(0, 100, lambda _, state: update(state, far), state).multiplier, gradient

    multiplier, gradient = figures(np.array([-1e8], np.float32))
    assert multiplier == 1e6
    np.testing.assert_array_equal(gradient, np.zeros(1))
    with pytest.raises(ValueError, match="multiplier must be positive"):
        vaejax.init_geco(0.0)


@pytest.mark.slow("trains for 3000 steps; the multiplier is computed by hand above")
def test_a_constraint_is_reached(key):
    """A linear decoder's scale of noise for its latent: the KL falls until the likelihood is what was asked."""
    x = np.random.default_rng(0).normal(size=(256, 3)).astype(np.float32)
    decode = lambda z: Normal(z, 0.5)

    def step(carry, key):
        params, state = carry

        def loss(params):
            encode = lambda x: Normal.from_log_scale(params[0] * x, params[1])
            objective = vaejax.recipes.geco(multiplier=state.multiplier)
            return vaejax.negative_mean(objective(key, x, encode, decode))

        gradient, terms = jax.grad(loss, has_aux=True)(params)
        state = vaejax.update_geco(state, terms.log_likelihood, target=-4.0, rate=0.02, decay=0.9)
        return (params - 0.02 * gradient, state), jnp.mean(terms.log_likelihood)

    start = (np.array([0.1, 0.0], np.float32), vaejax.init_geco())
    _, log_likelihoods = jax.jit(lambda start, keys: jax.lax.scan(step, start, keys))(
        start, jax.random.split(key, 3000)
    )
    assert abs(np.mean(log_likelihoods[-500:]) + 4.0) < 0.1
    assert abs(log_likelihoods[0] + 4.0) > 1.0


# A label summed out.

VALUES = np.array([[-3.0, -1.0], [-2.0, -5.0], [-4.0, -2.5]])  # [C, B]


def test_an_unknown_label_is_summed_out_exactly(x64):
    """The bound is log sum_y p(x, y) where q(y|x) is the posterior of y, and below it elsewhere."""
    joint = VALUES.T - np.log(3.0)
    marginalize = jax.jit(
        lambda logits, weight: vaejax.marginalize_label(VALUES, logits, np.array([-1, -1]), weight=weight)
    )
    exact = scipy.special.logsumexp(joint, axis=1)
    np.testing.assert_allclose(marginalize(joint, 1.0).bound, exact, rtol=1e-12)
    other = marginalize(np.zeros((2, 3)), 5.0)
    # The divergence of the uniform q from the posterior.
    missing = -np.log(3.0) - np.mean(scipy.special.log_softmax(joint, axis=1), axis=1)
    np.testing.assert_allclose(other.bound, exact - missing, rtol=1e-12)
    chex.assert_trees_all_equal((other.log_label, other.value), (np.zeros(2), other.bound))


def test_a_known_label_is_taken_and_teaches_the_classifier():
    values, logits = np.float32(VALUES), np.array([[0.3, -0.5, 1.0], [2.0, 0.0, -1.0]], np.float32)

    @jax.jit
    def figures(logits):
        terms = vaejax.marginalize_label(values, logits, np.array([2, -1]), weight=0.7)
        untaught = lambda logits: vaejax.marginalize_label(values, logits, np.array([2, 1]), weight=0.0).value.sum()
        return terms, jax.grad(untaught)(logits)

    terms, gradient = figures(logits)
    np.testing.assert_allclose(terms.bound[0], -4.0 - np.log(3.0), rtol=1e-6)
    np.testing.assert_allclose(terms.log_label[0], scipy.special.log_softmax(logits[0])[2], rtol=1e-6)
    np.testing.assert_allclose(terms.value, terms.bound + np.float32(0.7) * terms.log_label, rtol=1e-6)
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"logits must have shape \(2, 3\).*got \(3, 2\)"):
        vaejax.marginalize_label(values, logits.T, np.array([2, -1]))


def test_the_semi_supervised_model_on_the_oracle(x64):
    """Two classes, each a linear-Gaussian model: at the exact posteriors the bound is the mixture's log p(x)."""
    random = np.random.default_rng(0)
    weights, biases, x = (random.normal(size=shape) for shape in [(2, 3, 2), (2, 3), (4, 3)])
    stacked = vaejax.testing.LinearGaussian(weights, biases, np.full(2, 0.5))
    evidence = [
        scipy.stats.multivariate_normal(bias, weight @ weight.T + 0.25 * np.eye(3)).logpdf(x)
        for weight, bias in zip(weights, biases, strict=True)
    ]
    joint = np.stack(evidence, axis=-1) - np.log(2.0)
    pick = lambda y: jax.tree.map(lambda leaf: jnp.asarray(leaf)[y[0]], stacked)
    encode, decode = lambda x, y: pick(y).posterior(x), lambda z, y: pick(y).decode(z)

    @jax.jit
    def bound(label):
        objective = vaejax.recipes.semi_supervised_vae(label, 2, weight=0.3)
        options = {"classify": lambda x: joint, "kl": vaejax.monte_carlo_kl}
        return objective(jax.random.key(0), x, encode, decode, **options).bound

    for label in (np.full(4, -1), np.zeros(4, int), np.array([0, -1, 1, -1])):
        known = np.take_along_axis(joint, np.maximum(label, 0)[:, None], axis=1)[:, 0]
        exact = np.where(label >= 0, known, scipy.special.logsumexp(joint, axis=1))
        np.testing.assert_allclose(bound(label), exact, atol=1e-9, rtol=0)


def test_labels_that_cannot_be_are_refused():
    values, logits = np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match=r"signed integers.*got uint8"):
        vaejax.marginalize_label(values, logits, np.array([1, 255], np.uint8))
    with pytest.raises(ValueError, match="label must be below the 3 classes; got 3 among values from 1 to 3"):
        vaejax.marginalize_label(values, logits, np.array([1, 3]))
    logits[0, 1] = -np.inf
    ruled_out = jax.jit(lambda logits: vaejax.marginalize_label(values, logits, np.array([-1, -1])).bound)(logits)
    np.testing.assert_allclose(ruled_out, [np.log(2 / 3), 0.0], atol=1e-6)


def test_a_class_of_no_probability_costs_nothing_whatever_its_value():
    """Ruled out for certain, or so improbable that its probability underflows."""
    values, logits = np.float32([[-np.inf], [1.0], [2.0]]), np.float32([[[-np.inf, 0.0, 1.0]], [[-200.0, 0.0, 1.0]]])
    bound = lambda values, logits: vaejax.marginalize_label(values, logits, np.array([-1])).bound[0]
    found, slopes = jax.jit(jax.vmap(jax.value_and_grad(bound, (0, 1)), (None, 0)))(values, logits)
    q = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    np.testing.assert_allclose(found, q @ (np.array([1.0, 2.0]) - np.log(3) - np.log(q)), rtol=1e-6)
    np.testing.assert_allclose(slopes[0][..., 0], np.tile([0.0, *q], (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(slopes[1], 0.0, atol=1e-6)


def test_draws_that_cannot_be_shuffled_are_refused(key):
    with pytest.raises(ValueError, match=r"batch axis of at least 2.*got shape \(1, 3\)"):
        vaejax.permute_axes(key, np.ones((1, 3)))


def test_bad_rates_of_a_constraint_are_refused_and_bad_steps_ignored():
    update = jax.jit(lambda state, values: vaejax.update_geco(state, values, target=0.0))
    state = update(vaejax.init_geco(), np.array([-3.0], np.float32))
    chex.assert_trees_all_equal(update(state, np.array([np.nan], np.float32)), state)
    for options, message in [({"rate": -1.0}, "rate must be at least 0"), ({"decay": 2.0}, "decay must be below 1")]:
        with pytest.raises(ValueError, match=message):
            vaejax.update_geco(state, np.array([-3.0]), target=0.0, **options)
    for multiplier in (0.0, -1.0):
        with pytest.raises(ValueError, match="multiplier must be positive"):
            vaejax.recipes.geco(multiplier=multiplier)
