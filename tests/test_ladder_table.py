"""The two posteriors of the ladder's table, each against its densities written out."""

from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats

from tests.parameters import random_params
from vaejax import data, experiment

ROOT = Path(__file__).parent.parent
ladder = experiment.load_experiment(str(ROOT / "experiments" / "mnist_ladder.py"))
SMALL = {"latent_size": 3, "upper_sizes": (2, 2), "hidden_sizes": (8, 6, 5), "batch_size": 10}


@pytest.fixture
def x(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8)
    dataset = data.Dataset("mnist", data.Split(images[:40]), data.Split(images[40:]), 255, data.Meaning.INTENSITY)
    monkeypatch.setattr(data, "load", lambda name, folder=None: dataset)
    return (images[0] > 127).astype(np.float32)


def leaky(net, x):
    for layer in net["hidden"].values():
        x = x @ layer["kernel"] + layer["bias"]
        x = np.where(x > 0, x, 0.01 * x)
    for layer in net["last"].values() if "last" in net else ():
        x = x @ layer["kernel"] + layer["bias"]
    return x


def normal(raw):
    """Mean and scale of what a net gives, which has a mean and a raw variance side by side for each latent."""
    pairs = raw.reshape(*raw.shape[:-1], -1, 2)
    return pairs[..., 0], np.sqrt(np.logaddexp(0.0, pairs[..., 1]) + 1e-6)


def head(params, level, seen):
    return normal(seen @ params["heads"][level]["kernel"] + params["heads"][level]["bias"])


def log_prob(z, mean_and_scale):
    return stats.norm.logpdf(z, *mean_and_scale).sum(-1)


def log_weights(params, x, z, is_ladder):
    """`ln p(x|z1) p(z1|z2) p(z2|z3) p(z3) - ln q(z|x)`, z = [z1, z2, z3]."""
    z_1, z_2, z_3 = z[..., :3], z[..., 3:5], z[..., 5:]
    encoder, down = (
        params["encoder"],
        [normal(leaky(params["prior"][level], each)) for level, each in enumerate((z_2, z_3))],
    )
    if is_ladder:
        seen_1 = leaky(encoder["ups"][0], x)
        seen_2 = leaky(encoder["ups"][1], seen_1)
        merged = []
        for level, seen in enumerate((seen_1, seen_2)):
            (mean_q, scale_q), (mean_p, scale_p) = head(encoder, level, seen), down[level]
            precision = scale_q**-2 + scale_p**-2
            merged.append(((mean_q / scale_q**2 + mean_p / scale_p**2) / precision, precision**-0.5))
        top = head(encoder, 2, leaky(encoder["ups"][2], seen_2))
        posterior = log_prob(z_1, merged[0]) + log_prob(z_2, merged[1]) + log_prob(z_3, top)
    else:
        posterior = sum(
            log_prob(z, head(encoder, level, leaky(encoder["ups"][level], below)))
            for level, (below, z) in enumerate(((x, z_1), (z_1, z_2), (z_2, z_3)))
        )
    logits = leaky(params["decoder"], z_1)
    prior = log_prob(z_1, down[0]) + log_prob(z_2, down[1]) + log_prob(z_3, (0.0, 1.0))
    return (x * logits - np.logaddexp(0, logits)).sum(-1) + prior - posterior


@pytest.mark.parametrize("posterior", ladder.Posterior)
def test_the_bound_is_that_of_its_densities(x, key, posterior):
    built = ladder.build(ladder.Settings(posterior=posterior, num_samples=4, **SMALL))
    params = random_params(built.model, 0.4)

    @jax.jit
    def compute(params, betas):
        terms = jax.vmap(lambda beta: built.objective(params, jax.random.clone(key), x, beta=beta))(betas)
        terms, halved = (jax.tree.map(lambda leaf, number=number: leaf[number], terms) for number in (0, 1))
        z = terms.latents
        densities = built.model.decode(params, z).log_prob(x), built.prior(params).log_prob(z)
        return terms, halved.value, sum(densities) - built.model.encode(params, x).log_prob(z)

    terms, halved, weights = jax.tree.map(np.asarray, compute(params, np.array([1.0, 0.5], np.float32)))
    assert terms.latents.shape == (4, 7)
    values = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    is_ladder = posterior == "ladder"
    expected = log_weights(values, x.astype(np.float64).ravel(), terms.latents.astype(np.float64), is_ladder)
    np.testing.assert_allclose(terms.value, expected.mean(), rtol=1e-4)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    np.testing.assert_allclose(halved, (terms.value + terms.log_likelihood) / 2, rtol=1e-4)


@pytest.mark.slow("compiles the gradient of a bound that is tested without it")
@pytest.mark.parametrize("posterior", ladder.Posterior)
def test_every_parameter_has_a_gradient(x, key, posterior):
    built = ladder.build(ladder.Settings(posterior=posterior, num_samples=4, **SMALL))
    gradient = jax.jit(jax.grad(lambda params: built.objective(params, key, x, beta=1.0).value))(
        random_params(built.model, 0.4)
    )
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_the_weight_rises_over_its_epochs(x):
    built = ladder.build(ladder.Settings(kl_epochs=2.0, **SMALL))
    weights = jax.jit(jax.vmap(built.schedules["beta"]))(np.array([0, 4, 8, 100]))
    np.testing.assert_allclose(weights, [0.0, 0.5, 1.0, 1.0])


def test_a_width_for_each_layer_is_asked_for(x):
    with pytest.raises(ValueError, match="hidden_sizes must be 3"):
        ladder.build(ladder.Settings(**{**SMALL, "hidden_sizes": (8, 6)}))
