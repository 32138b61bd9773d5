"""The methods of the dSprites table: each objective, Factor VAE's two players, and the scores."""

from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reproduce import measures
from tests.parameters import random_params
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
    return parts[0].examples[:10]


def build(method, **settings):
    return dsprites.build(dsprites.Settings(method=method, **{**SMALL, **settings}))


def compute(built, key, x, *others, **scheduled):
    """The terms of the objective, and what other functions of (params, noise key, terms) give, as one program."""

    @jax.jit
    def program(params):
        terms = built.objective(params, jax.random.clone(key), x, **scheduled)
        return terms, *(other(params, jax.random.clone(key), terms) for other in others)

    return program(random_params(built.model, 0.4))


OTHER = pytest.mark.slow("another method of the table")


@pytest.mark.parametrize("method", [pytest.param("vae", marks=OTHER), "beta_vae"])
def test_the_bound_with_its_weight(images, key, method):
    built = build(method)
    assert not built.couples_batch
    (terms,) = compute(built, key, images)
    weight = 1.0 if method == "vae" else 2.5
    chex.assert_trees_all_close(terms.value, terms.log_likelihood - weight * terms.kl, rtol=1e-5)


@OTHER
def test_the_annealed_one_is_held_at_its_target(images, key):
    built = build("annealed_vae")
    # 9 steps an epoch, 27 in all: 9 to the whole weight.
    targets = jax.jit(jax.vmap(built.schedules["target"]))(np.array([0, 3, 9, 26]))
    np.testing.assert_allclose(targets, [0.0, 2.5 / 3, 2.5, 2.5], rtol=1e-5)
    kl = lambda params, noise_key, terms: built.report(params, noise_key, images).kl
    terms, plain = compute(built, key, images, kl, target=0.5)
    np.testing.assert_allclose(terms.penalty, np.broadcast_to(1000 * np.abs(np.mean(plain) - 0.5), (10,)), rtol=1e-4)


@OTHER
def test_of_weight_one_the_total_correlation_is_the_plain_bound(images, key):
    built, other = build("beta_tc_vae", weight=1.0), build("beta_tc_vae", weight=6.0)
    assert built.couples_batch

    def monte_carlo_kl(params, noise_key, terms):
        return terms.posterior.log_prob(terms.latents) - built.prior(params).log_prob(terms.latents)

    penalty_of_other = lambda params, noise_key, terms: other.objective(params, noise_key, images).penalty
    terms, divergence, penalty = compute(built, key, images, monte_carlo_kl, penalty_of_other)
    np.testing.assert_allclose(terms.penalty[None], divergence, rtol=1e-3, atol=1e-3)
    assert not np.allclose(penalty, terms.penalty, rtol=1e-3)


@OTHER
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

    def value_of_the_recipe(params, noise_key, terms):
        encode, decode = partial(built.model.encode, params), partial(built.model.decode, params)
        return recipe(noise_key, images, encode, decode, num_samples=1).value

    terms, expected = compute(built, key, images, value_of_the_recipe)
    chex.assert_trees_all_close(terms.value, expected, rtol=1e-5)


def test_whatever_is_trained_the_elbo_is_reported(images, key):
    built = {str(method): build(method) for method in dsprites.Method}

    @jax.jit
    def report(params):
        return {name: each.report(params, jax.random.clone(key), images) for name, each in built.items()}

    # The report leaves out the discriminator, which one method alone has.
    for name, terms in report(random_params(built["factor_vae"].model, 0.4)).items():
        np.testing.assert_allclose(terms.value, terms.log_likelihood - terms.kl, rtol=1e-5, err_msg=name)


def discriminate(params, z):
    """Six and five units that leak, written out."""
    for index in (0, 1):
        z = z @ params["layers"][index]["kernel"] + params["layers"][index]["bias"]
        z = jnp.where(z > 0, z, 0.2 * z)
    return (z @ params["layers"][2]["kernel"] + params["layers"][2]["bias"])[..., 0]


@OTHER
def test_each_player_of_factor_vae_has_the_gradient_of_its_own_loss(images, key):
    built = build("factor_vae")

    @jax.jit
    def compute(params):
        own_key, shuffle_key = jax.random.split(jax.random.clone(key))

        def of_model(params):
            frozen = jax.lax.stop_gradient(params["discriminator"])
            recipe = recipes.factor_vae(discriminate=partial(discriminate, frozen), weight=2.5)
            encode, decode = partial(built.model.encode, params), partial(built.model.decode, params)
            terms = recipe(jax.random.clone(own_key), images, encode, decode, num_samples=1)
            return -jnp.mean(terms.value), terms

        def loss(params):
            value = built.objective(params, jax.random.clone(key), images).value
            return -jnp.mean(value), value

        gradient, value = jax.grad(loss, has_aux=True)(params)
        expected, terms = jax.grad(of_model, has_aux=True)(params)
        codes = terms.latents[0]
        shuffled = permute_axes(shuffle_key, codes)
        of_discriminator = jax.grad(lambda own: discriminator_loss(partial(discriminate, own), codes, shuffled))
        return value, terms.value, gradient, expected, of_discriminator(params["discriminator"])

    value, expected_value, gradient, expected, of_discriminator = compute(random_params(built.model, 0.4))
    np.testing.assert_allclose(value, expected_value, rtol=1e-4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(expected["discriminator"]))
    expected["discriminator"] = of_discriminator
    chex.assert_trees_all_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert np.any(gradient["discriminator"]["layers"][0]["kernel"])


def test_each_player_of_factor_vae_has_its_own_rate(key):
    built = build("factor_vae", learning_rate=1e-3, discriminator_rate=1e-2)
    shapes = jax.eval_shape(built.model.init, key)
    zeros, ones = (
        jax.tree.map(lambda leaf, fill=fill: np.full(leaf.shape, fill, leaf.dtype), shapes) for fill in (0, 1)
    )
    first_step = jax.jit(lambda params: built.optimizer.update(ones, built.optimizer.init(params), params)[0])
    # Adam's first step is its rate.
    for name, part in first_step(zeros).items():
        for leaf in jax.tree.leaves(part):
            np.testing.assert_allclose(leaf, -1e-2 if name == "discriminator" else -1e-3, rtol=1e-3)


@pytest.mark.slow("scores that tests/evaluation proves")
def test_the_scores_are_those_of_the_codes():
    built = build("beta_vae")
    params = random_params(built.model, 0.4)
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
    with pytest.raises(ValueError, match=r"dsprites.*no factors"):
        measures.MEASURES["disentanglement"].take(None, trained._replace(experiment=plain))


def test_a_weight_that_is_not_its_own_is_refused():
    with pytest.raises(ValueError, match=r"beta.*must be 1"):
        build("beta_vae", beta=2.0)
