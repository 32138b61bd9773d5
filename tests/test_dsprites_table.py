"""The methods of the dSprites table: each objective, Factor VAE's two players, and the scores."""

import importlib
import sys
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaejax import data, evaluation, experiment, outcome, recipes
from vaejax.objectives import discriminator_loss, permute_axes

ROOT = Path(__file__).parent.parent
dsprites = experiment.load_experiment(str(ROOT / "experiments" / "dsprites_vae.py"))
SMALL = {
    "hidden_sizes": (8,), "latent_size": 3, "batch_size": 10, "epochs": 3, "weight": 2.5, "discriminator_sizes": (6, 5),
}  # fmt: skip


@pytest.fixture(autouse=True)
def images(monkeypatch):
    """Bright or dark images at one of three places: two factors."""
    random = np.random.default_rng(0)
    factors = np.stack([random.integers(0, 3, 200), random.integers(0, 2, 200)], axis=1)
    pixels = random.random((200, 4, 4, 1)) < 0.2 + 0.6 * factors[:, 1, None, None, None]
    for number, place in enumerate(factors[:, 0]):
        pixels[number, place] = True
    whole = data.Split(pixels.astype(np.uint8), factors=factors)
    parts = [data.Split(whole.examples[part], factors=factors[part]) for part in (slice(0, 90), slice(90, None))]
    dataset = data.Dataset("dsprites", *parts, 1, data.Meaning.BINARY, factor_names=("place", "light"))
    monkeypatch.setattr(data, "load", lambda name, folder=None: dataset)
    return jnp.asarray(parts[0].examples[:10])


def build(method, **settings):
    return dsprites.build(dsprites.Settings(method=method, **{**SMALL, **settings}))


def terms_of(built, key, x, **scheduled):
    init_key, noise_key = jax.random.split(key)
    params = built.model.init(init_key)
    return params, built.objective(params, noise_key, x, **scheduled)


def monte_carlo_kl(built, params, terms):
    return terms.posterior.log_prob(terms.latents) - built.prior(params).log_prob(terms.latents)


@pytest.mark.parametrize("method", ["vae", "beta_vae"])
def test_the_bound_with_its_weight(images, key, method):
    built = build(method)
    assert not built.couples_batch
    _, terms = terms_of(built, key, images)
    weight = 1.0 if method == "vae" else 2.5
    chex.assert_trees_all_close(terms.value, terms.log_likelihood - weight * terms.kl, rtol=1e-5)


def test_the_annealed_one_is_held_at_its_target(images, key):
    built = build("annealed_vae")
    # 9 steps an epoch, 27 in all: 9 to the whole weight.
    targets = [float(built.schedules["target"](jnp.asarray(step))) for step in (0, 3, 9, 26)]
    np.testing.assert_allclose(targets, [0.0, 2.5 / 3, 2.5, 2.5], rtol=1e-5)
    params, terms = terms_of(built, key, images, target=jnp.asarray(0.5))
    plain = built.report(params, jax.random.key(0), images)
    chex.assert_trees_all_close(terms.penalty, 1000 * jnp.abs(jnp.mean(plain.kl) - 0.5), rtol=1e-4)


def test_of_weight_one_the_total_correlation_is_the_plain_bound(images, key):
    built = build("beta_tc_vae", weight=1.0)
    assert built.couples_batch
    params, terms = terms_of(built, key, images)
    chex.assert_trees_all_close(terms.penalty[None], monte_carlo_kl(built, params, terms), rtol=1e-3, atol=1e-3)
    other = build("beta_tc_vae", weight=6.0)
    assert not np.allclose(terms_of(other, jax.random.clone(key), images)[1].penalty, terms.penalty, rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        ("beta_tc_vae", recipes.beta_tc_vae(dataset_size=90, total_correlation=2.5)),
        ("dip_vae_i", recipes.dip_vae_i(off_diagonal=2.5, diagonal=25.0)),
        ("dip_vae_ii", recipes.dip_vae_ii(off_diagonal=2.5, diagonal=2.5)),
    ],
)
def test_the_weights_are_those_of_the_study(images, key, method, recipe):
    built = build(method)
    params, terms = terms_of(built, key, images)
    _, noise_key = jax.random.split(jax.random.clone(key))
    encode, decode = partial(built.model.encode, params), partial(built.model.decode, params)
    expected = recipe(noise_key, images, encode, decode, num_samples=1)
    chex.assert_trees_all_close(terms.value, expected.value, rtol=1e-5)


@pytest.mark.parametrize("method", dsprites.Method)
def test_whatever_is_trained_the_elbo_is_reported(images, key, method):
    built = build(method)
    init_key, noise_key = jax.random.split(key)
    params = built.model.init(init_key)
    terms = built.report(params, noise_key, images)
    chex.assert_trees_all_close(terms.value, terms.log_likelihood - terms.kl, rtol=1e-5)


def discriminate(params, z):
    """Six and five units that leak, written out."""
    for index in (0, 1):
        z = z @ params["layers"][index]["kernel"] + params["layers"][index]["bias"]
        z = jnp.where(z > 0, z, 0.2 * z)
    return (z @ params["layers"][2]["kernel"] + params["layers"][2]["bias"])[..., 0]


def test_each_player_of_factor_vae_has_the_gradient_of_its_own_loss(images, key):
    built = build("factor_vae")
    init_key, noise_key = jax.random.split(key)
    params = built.model.init(init_key)
    own_key, shuffle_key = jax.random.split(jax.random.clone(noise_key))

    def of_model(params):
        frozen = jax.lax.stop_gradient(params["discriminator"])
        recipe = recipes.factor_vae(discriminate=partial(discriminate, frozen), weight=2.5)
        encode, decode = partial(built.model.encode, params), partial(built.model.decode, params)
        return recipe(jax.random.clone(own_key), images, encode, decode, num_samples=1)

    codes = of_model(params).latents[0]
    shuffled = permute_axes(shuffle_key, codes)
    found = built.objective(params, noise_key, images)
    chex.assert_trees_all_close(found.value, of_model(params).value, rtol=1e-4)
    loss = lambda params: -jnp.mean(built.objective(params, jax.random.clone(noise_key), images).value)
    gradient = jax.grad(loss)(params)
    expected = jax.grad(lambda params: -jnp.mean(of_model(params).value))(params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(expected["discriminator"]))
    expected["discriminator"] = jax.grad(lambda own: discriminator_loss(partial(discriminate, own), codes, shuffled))(
        params["discriminator"]
    )
    chex.assert_trees_all_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert np.any(gradient["discriminator"]["layers"][0]["kernel"])


def test_each_player_of_factor_vae_has_its_own_rate(key):
    built = build("factor_vae", learning_rate=1e-3, discriminator_rate=1e-2)
    params = built.model.init(key)
    updates, _ = built.optimizer.update(jax.tree.map(jnp.ones_like, params), built.optimizer.init(params), params)
    moved = optax.apply_updates(jax.tree.map(jnp.zeros_like, params), updates)
    # Adam's first step is its rate.
    for name, part in moved.items():
        for leaf in jax.tree.leaves(part):
            np.testing.assert_allclose(leaf, -1e-2 if name == "discriminator" else -1e-3, rtol=1e-3)


def test_the_scores_are_those_of_the_codes(key):
    sys.path.insert(0, str(ROOT))
    try:
        measures = importlib.import_module("experiments.reproduce.measures")
    finally:
        sys.path.remove(str(ROOT))
    built = build("beta_vae")
    params = built.model.init(key)
    measured = outcome.measure(built, params)
    trained = measures.Trained(0, None, built, params, measured, {}, 0.0)
    taken = measures.MEASURES["disentanglement"].take(None, trained)
    test = built.dataset.test
    expected = evaluation.mutual_information_gap(measured.means, test.factors).score
    # The codes are taken in another order.
    assert taken.value == pytest.approx(expected, abs=1e-6)
    assert taken.standard_error is None
    assert {"SAP", "FactorVAE score", "reconstruction, nats"} <= set(taken.scores)
    assert taken.scores["reconstruction, nats"] == pytest.approx(np.mean(measured.figures["reconstruction"]), rel=1e-5)
    plain = built._replace(dataset=built.dataset._replace(test=data.Split(test.examples)))
    with pytest.raises(ValueError, match="have no factors to score the codes by"):
        measures.MEASURES["disentanglement"].take(None, trained._replace(experiment=plain))


def test_a_weight_that_is_not_its_own_is_refused():
    with pytest.raises(ValueError, match="beta and kl_schedule must be 1 and constant"):
        build("beta_vae", beta=2.0)
