"""Discriminators, constraints and summed-out labels."""

import chex
import jax
import jax.numpy as jnp
import pytest

import vaejax
from vaejax import Delta, MultivariateNormal, Normal


def test_the_best_discriminator_is_the_log_ratio(x64):
    """Quadratic log-odds between two Normals, by Newton's method on the exact loss over a grid."""
    first, second = Normal(jnp.array([0.5]), 0.8), Normal(jnp.array([0.0]), 1.3)
    grid = jnp.linspace(-8, 8, 4001)[:, None]
    weights = [jnp.exp(p.log_prob(grid)) * (grid[1, 0] - grid[0, 0]) for p in (first, second)]
    features = jnp.concatenate([jnp.ones_like(grid), grid, grid**2], axis=1)

    def loss(theta):
        logits = features @ theta
        return jnp.sum(weights[0] * jax.nn.softplus(-logits) + weights[1] * jax.nn.softplus(logits))

    theta = jnp.zeros(3)
    for _ in range(20):
        theta = theta - jnp.linalg.solve(jax.hessian(loss)(theta), jax.grad(loss)(theta))
    exact = first.log_prob(grid) - second.log_prob(grid)
    inside = jnp.abs(grid[:, 0]) < 3
    chex.assert_trees_all_close((features @ theta)[inside], exact[inside], atol=1e-6)
    # The library's loss has its minimum there, too.
    keys = jax.random.split(jax.random.key(0))
    points = first.sample(keys[0], (200_000,)), second.sample(keys[1], (200_000,))

    def drawn(theta):
        return vaejax.discriminator_loss(lambda z: theta[0] + theta[1] * z[:, 0] + theta[2] * z[:, 0] ** 2, *points)

    assert jnp.all(jnp.abs(jax.grad(drawn)(theta)) < 0.02)
    chex.assert_trees_all_close(drawn(theta), loss(theta), atol=0.01)


def test_the_ratio_penalties_are_the_logits_and_estimate_a_divergence(key):
    q, p = Normal(jnp.array([0.7]), 0.6), vaejax.standard_normal
    ratio = lambda z: q.log_prob(z) - p.log_prob(z)
    z = q.sample(key, (50_000,))
    for make in (vaejax.prior_ratio, vaejax.tc_from_discriminator):
        penalty = make(ratio)(jax.random.key(1), Delta(z), z)
        error = jnp.std(penalty) / len(penalty) ** 0.5
        assert abs(jnp.mean(penalty) - vaejax.kl_divergence(q, p)) < 5 * error
    fooled = vaejax.fool(ratio)(jax.random.key(1), Delta(z), z)
    chex.assert_trees_all_close(fooled, -jnp.log(jax.nn.sigmoid(-ratio(z))), rtol=1e-3, atol=1e-5)


def test_permuted_axes_keep_each_axis_and_lose_their_dependence(key):
    z = MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 0.0], [0.9, 0.4]])).sample(jax.random.key(1), (5_000,))
    permuted = vaejax.permute_axes(key, z)
    chex.assert_trees_all_equal(jnp.sort(permuted, axis=0), jnp.sort(z, axis=0))
    assert abs(jnp.corrcoef(z.T)[0, 1]) > 0.9
    assert abs(jnp.corrcoef(permuted.T)[0, 1]) < 5 / 5_000**0.5


def test_each_player_has_the_gradient_of_its_own_term_alone(key):
    """One loss for both: the sum's gradient is the two terms' apart."""
    x = jax.random.normal(jax.random.key(1), (16, 3))
    params = {"model": jnp.array(0.7), "discriminator": jnp.array([0.3, -0.2])}
    logits = lambda w, z: w[0] + jnp.sum(w[1] * z**2, axis=-1)

    def terms(model, discriminator):
        objective = vaejax.recipes.adversarial_autoencoder(discriminate=lambda z: logits(discriminator, z), weight=2.0)
        return objective(jax.random.clone(key), x, lambda x: Delta(model * x), lambda z: Normal(z, 1.0))

    def game(params):
        parts = terms(params["model"], jax.lax.stop_gradient(params["discriminator"]))
        other = vaejax.discriminator_loss(lambda z: logits(params["discriminator"], z), parts.latents, x)
        return vaejax.negative_mean(parts)[0] + other

    both = jax.grad(game)(params)
    alone = jax.grad(lambda m: vaejax.negative_mean(terms(m, params["discriminator"]))[0])(params["model"])
    z = params["model"] * x
    other = jax.grad(lambda d: vaejax.discriminator_loss(lambda z: logits(d, z), z, x))(params["discriminator"])
    chex.assert_trees_all_close(both, {"model": alone, "discriminator": other}, rtol=1e-5)
    assert abs(alone) > 0.1
    assert jnp.all(jnp.abs(other) > 1e-3)


def test_a_discriminator_must_be_a_function():
    for make in (vaejax.prior_ratio, vaejax.tc_from_discriminator, vaejax.fool):
        with pytest.raises(TypeError, match=f"{make.__name__}: discriminate must be a function; got int"):
            make(3)


# The multiplier of a constraint.


def test_the_multiplier_by_hand():
    state = vaejax.init_geco(2.0)
    state = vaejax.update_geco(state, jnp.array([-90.0, -70.0]), target=-75.0, rate=0.01, decay=0.9)
    chex.assert_trees_all_close((state.multiplier, state.average), (2 * jnp.exp(0.05), 5.0), rtol=1e-5)
    state = vaejax.update_geco(state, jnp.array([-60.0, -60.0]), target=-75.0, rate=0.01, decay=0.9)
    chex.assert_trees_all_close((state.multiplier, state.average), (2 * jnp.exp(0.05 + 0.03), 3.0), rtol=1e-5)
    assert state.step == 2


def test_the_multiplier_stays_finite_and_gets_no_gradient():
    state = vaejax.init_geco()
    far = jnp.array([-1e8])
    for _ in range(100):
        state = vaejax.update_geco(state, far, target=0.0, rate=1.0)
    assert state.multiplier == 1e6
    gradient = jax.grad(lambda v: vaejax.update_geco(state, v, target=0.0).multiplier)(far)
    chex.assert_trees_all_equal(gradient, jnp.zeros(1))
    with pytest.raises(ValueError, match="multiplier must be positive"):
        vaejax.init_geco(0.0)


def test_a_constraint_is_reached(key):
    """A linear decoder's scale of noise for its latent: the KL falls until the likelihood is what was asked."""
    x = jax.random.normal(jax.random.key(1), (256, 3))
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

    start = (jnp.array([0.1, 0.0]), vaejax.init_geco())
    _, log_likelihoods = jax.lax.scan(step, start, jax.random.split(key, 3000))
    assert abs(jnp.mean(log_likelihoods[-500:]) + 4.0) < 0.1
    assert abs(log_likelihoods[0] + 4.0) > 1.0


# A label summed out.


def test_an_unknown_label_is_summed_out_exactly(x64):
    """The bound is log sum_y p(x, y) where q(y|x) is the posterior of y, and below it elsewhere."""
    values = jnp.array([[-3.0, -1.0], [-2.0, -5.0], [-4.0, -2.5]])  # [C, B]
    joint = values.T - jnp.log(3.0)
    exact = jax.nn.logsumexp(joint, axis=1)
    unknown = jnp.array([-1, -1])
    best = vaejax.marginalize_label(values, joint, unknown)
    chex.assert_trees_all_close(best.bound, exact, rtol=1e-12)
    other = vaejax.marginalize_label(values, jnp.zeros((2, 3)), unknown, weight=5.0)
    missing = vaejax.kl_divergence(vaejax.Categorical(jnp.zeros((2, 3)), 0), vaejax.Categorical(joint, 0))
    chex.assert_trees_all_close(other.bound, exact - missing, rtol=1e-12)
    chex.assert_trees_all_equal((other.log_label, other.value), (jnp.zeros(2), other.bound))


def test_a_known_label_is_taken_and_teaches_the_classifier():
    values = jnp.array([[-3.0, -1.0], [-2.0, -5.0], [-4.0, -2.5]])
    logits = jnp.array([[0.3, -0.5, 1.0], [2.0, 0.0, -1.0]])
    terms = vaejax.marginalize_label(values, logits, jnp.array([2, -1]), weight=0.7)
    chex.assert_trees_all_close(terms.bound[0], -4.0 - jnp.log(3.0), rtol=1e-6)
    chex.assert_trees_all_close(terms.log_label[0], jax.nn.log_softmax(logits[0])[2], rtol=1e-6)
    chex.assert_trees_all_close(terms.value, terms.bound + 0.7 * terms.log_label, rtol=1e-6)
    gradient = jax.grad(lambda l: vaejax.marginalize_label(values, l, jnp.array([2, 1]), weight=0.0).value.sum())(
        logits
    )
    chex.assert_trees_all_equal(gradient, jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"logits must have shape \(2, 3\).*got \(3, 2\)"):
        vaejax.marginalize_label(values, logits.T, jnp.array([2, -1]))


def test_the_semi_supervised_model_on_the_oracle(x64, key):
    """Two classes, each a linear-Gaussian model: at the exact posteriors the bound is the mixture's log p(x)."""
    oracles = [vaejax.testing.linear_gaussian(jax.random.key(seed), 3, 2) for seed in (1, 2)]
    x = oracles[0].marginal().sample(jax.random.key(3), (4,))
    joint = jnp.stack([oracle.marginal().log_prob(x) for oracle in oracles], axis=-1) - jnp.log(2.0)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *oracles)
    pick = lambda y: jax.tree.map(lambda leaf: leaf[y[0]], stacked)
    encode, decode = lambda x, y: pick(y).posterior(x), lambda z, y: pick(y).decode(z)
    options = {"classify": lambda x: joint, "kl": vaejax.monte_carlo_kl}
    for label in (jnp.full(4, -1), jnp.zeros(4, int), jnp.array([0, -1, 1, -1])):
        objective = vaejax.recipes.semi_supervised_vae(label, 2, weight=0.3)
        terms = objective(jax.random.clone(key), x, encode, decode, **options)
        known = jnp.where(label >= 0, jnp.take_along_axis(joint, jnp.maximum(label, 0)[:, None], axis=1)[:, 0], 0.0)
        exact = jnp.where(label >= 0, known, jax.nn.logsumexp(joint, axis=1))
        chex.assert_trees_all_close(terms.bound, exact, atol=1e-9, rtol=0)


def test_labels_that_cannot_be_are_refused():
    values, logits = jnp.zeros((3, 2)), jnp.zeros((2, 3))
    with pytest.raises(TypeError, match="signed integers, negative where unknown; got uint8"):
        vaejax.marginalize_label(values, logits, jnp.array([1, 255], jnp.uint8))
    with pytest.raises(ValueError, match="label must be below the 3 classes; got values from 1 to 3"):
        vaejax.marginalize_label(values, logits, jnp.array([1, 3]))
    ruled_out = vaejax.marginalize_label(values, logits.at[0, 1].set(-jnp.inf), jnp.array([-1, -1]))
    chex.assert_trees_all_close(ruled_out.bound, jnp.array([jnp.log(2 / 3), 0.0]), atol=1e-6)


def test_draws_that_cannot_be_shuffled_are_refused(key):
    with pytest.raises(ValueError, match=r"a batch axis of at least 2 and latent axes; got shape \(1, 3\)"):
        vaejax.permute_axes(key, jnp.ones((1, 3)))


def test_bad_rates_of_a_constraint_are_refused_and_bad_steps_ignored():
    state = vaejax.update_geco(vaejax.init_geco(), jnp.array([-3.0]), target=0.0)
    kept = vaejax.update_geco(state, jnp.array([jnp.nan]), target=0.0)
    chex.assert_trees_all_equal(kept, state)
    for options, message in [({"rate": -1.0}, "rate must be at least 0"), ({"decay": 2.0}, "decay must be below 1")]:
        with pytest.raises(ValueError, match=message):
            vaejax.update_geco(state, jnp.array([-3.0]), target=0.0, **options)
    for multiplier in (0.0, -1.0):
        with pytest.raises(ValueError, match="geco: multiplier must be positive"):
            vaejax.recipes.geco(multiplier=multiplier)
