"""The nets, the prior and the recipe of Tomczak and Welling's table, with one level of latents and with two."""

import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.parameters import random_params
from vaejax import cli, data, experiment, run
from vaejax.findings import read_findings

ROOT = Path(__file__).parent.parent
two_levels = experiment.load_experiment(str(ROOT / "experiments" / "static_mnist_vampprior_two_levels.py"))
one_level = two_levels.one_level
IDS = ["one level", "two levels"]
MODULES = pytest.mark.parametrize("module", [one_level, two_levels], ids=IDS)
# The fast tests are of one level.
TWO_LEVELS = pytest.param(two_levels, marks=pytest.mark.slow("the same with more layers"))
ONE_LEVEL_FIRST = pytest.mark.parametrize("module", [one_level, TWO_LEVELS], ids=IDS)
SMALL = {"hidden_sizes": (8, 6), "latent_size": 3, "pseudo_inputs": 5, "batch_size": 10}


@pytest.fixture
def images(monkeypatch):
    """Small binary images in the place of MNIST, a third of their pixels white."""
    pixels = np.random.default_rng(0).binomial(1, 1 / 3, (150, 4, 4, 1)).astype(np.uint8)
    splits = {"train": data.Split(pixels[:100]), "test": data.Split(pixels[100:120])}
    dataset = data.Dataset("binarized_mnist", max_value=1, validation=data.Split(pixels[120:]), **splits)
    monkeypatch.setattr(data, "load", lambda name, folder=None: dataset)
    return pixels[:7].astype(np.float32)


def affine(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def gated(layer, x):
    """The paper's formula for a layer."""
    return affine(layer["linear"], x) * (1 / (1 + jnp.exp(-affine(layer["gate"], x))))


def normal_log_prob(outputs, hidden, z):
    """The density of z under a Normal whose log-variance is within -6 and 2."""
    mean, log_variance = affine(outputs[0], hidden), jnp.clip(affine(outputs[1], hidden), -6.0, 2.0)
    return -0.5 * jnp.sum(log_variance + (z - mean) ** 2 / jnp.exp(log_variance) + math.log(2 * math.pi), axis=-1)


def pixels_log_prob(logits, x):
    return jnp.sum(x * logits - jnp.log1p(jnp.exp(logits)), axis=-1)


def upper_log_prob(net, x, z):
    """q(z|x) of the encoder of one level, and of the upper one of two."""
    return normal_log_prob(net["outputs"], gated(net["second"], gated(net["first"][0], x)), z)


def top_log_prob(params, net, z):
    """The prior of the upper level: standard normal, or the mean of the posteriors at the pseudo-inputs."""
    if "pseudo_inputs" not in params:
        return -0.5 * jnp.sum(z**2 + math.log(2 * math.pi), axis=-1)
    pseudo = jnp.clip(params["pseudo_inputs"], 0.0, 1.0).reshape(-1, 16)
    each = jnp.stack([upper_log_prob(net, row, z) for row in pseudo])
    return jax.nn.logsumexp(each, axis=0) - math.log(len(pseudo))


def one_level_log_weight(params, x, z):
    """`ln p(x|z) + ln p(z) - ln q(z|x)`."""
    net = params["decoder"]
    logits = affine(net["outputs"][0], gated(net["second"], gated(net["first"][0], z)))
    posterior = upper_log_prob(params["encoder"], x, z)
    return pixels_log_prob(logits, x) + top_log_prob(params, params["encoder"], z) - posterior


def two_level_log_weight(params, x, z):
    """`ln p(x|z1, z2) + ln p(z1|z2) + ln p(z2) - ln q(z2|x) - ln q(z1|x, z2)`, z = [z2, z1]."""
    z_2, z_1 = z[..., :3], z[..., 3:]
    upper, image, lower = (params["encoder"][name] for name in ("upper", "image", "lower"))
    of_x = jnp.broadcast_to(gated(image, x), (*z.shape[:-1], 8))
    seen = jnp.concatenate([of_x, gated(lower["first"][0], z_2)], axis=-1)
    posterior = upper_log_prob(upper, x, z_2) + normal_log_prob(lower["outputs"], gated(lower["second"], seen), z_1)
    down = params["prior"]
    prior = top_log_prob(params, upper, z_2)
    prior += normal_log_prob(down["outputs"], gated(down["second"], gated(down["first"][0], z_2)), z_1)
    net = params["decoder"]
    joined = jnp.concatenate([gated(net["first"][0], z_2), gated(net["first"][1], z_1)], axis=-1)
    return pixels_log_prob(affine(net["outputs"][0], gated(net["second"], joined)), x) + prior - posterior


LOG_WEIGHTS = {one_level: one_level_log_weight, two_levels: two_level_log_weight}


def build(module, **settings):
    extra = {"lower_size": 4} if module is two_levels else {}
    named = {"prior": one_level.Prior, "recipe": one_level.Recipe}
    settings = {name: named[name](value) if name in named else value for name, value in settings.items()}
    wanted = module.Settings(**{**SMALL, **extra, **settings})
    return wanted, module.build(wanted)


@ONE_LEVEL_FIRST
@pytest.mark.parametrize("prior", one_level.Prior)
def test_the_objective_is_that_of_the_paper_written_out(images, key, module, prior):
    _, built = build(module, prior=prior, recipe="paper", num_samples=3)
    x = images[0]

    @jax.jit
    def compute(params, betas):
        found = jax.vmap(lambda beta: built.objective(params, jax.random.clone(key), x, beta=beta))(betas)
        z = found.latents[0]
        densities = built.model.decode(params, z).log_prob(x), built.prior(params).log_prob(z)
        weights = sum(densities) - built.model.encode(params, x).log_prob(z)
        return found.value, z, weights, LOG_WEIGHTS[module](params, x.ravel(), z)

    # At a scale of 0.7 some variances are out of bounds.
    values, z, weights, expected = compute(random_params(built.model, 0.7), np.array([1.0, 0.25, 0.0], np.float32))
    assert z.shape == (3, 7 if module is two_levels else 3)
    np.testing.assert_allclose(values[0], np.mean(expected), rtol=1e-4)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    # The weight is that of the KL term.
    whole, quarter, without = np.asarray(values, np.float64)
    assert abs(whole - without) > 1e-2
    assert quarter - without == pytest.approx(0.25 * (whole - without), abs=1e-4)


@pytest.mark.slow("a table's recipe")
@MODULES
def test_the_nets_begin_as_those_of_the_authors(images, key, module):
    _, built = build(module, hidden_sizes=(80, 60), recipe="paper", pseudo_inputs=50)
    params = jax.jit(built.model.init)(key)
    pseudo = np.asarray(params.pop("pseudo_inputs"))
    assert pseudo.shape == (50, 4, 4, 1)
    assert abs(pseudo.mean() - 0.05) < 0.002
    assert 0.009 < pseudo.std() < 0.011
    drawn = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        drawn.setdefault(jax.tree_util.keystr(path[:-1]), {})[path[-1].key] = np.asarray(leaf)
    assert len(drawn) == {one_level: 4 + 2 + 4 + 1, two_levels: (4 + 2) + 2 + (4 + 2) + (4 + 2) + (6 + 1)}[module]
    scaled = []
    for layer in drawn.values():
        fan_in = len(layer["kernel"])
        scaled.append((layer["kernel"] / math.sqrt(2 / fan_in)).ravel())
        assert np.abs(layer["bias"]).max() <= fan_in**-0.5
        assert np.abs(layer["bias"]).max() > 0.5 * fan_in**-0.5 or layer["bias"].size < 5
    scaled = np.concatenate(scaled)
    assert abs(scaled.std() - 1) < 5 / math.sqrt(2 * scaled.size)
    # Not cut off at two, as weights of this kind mostly are.
    assert np.abs(scaled).max() > 3
    assert len({row[:8].tobytes() for row in (layer["kernel"].ravel() for layer in drawn.values())}) == len(drawn)


@pytest.mark.slow("a table's recipe")
@MODULES
def test_modern_pseudo_inputs_begin_at_images_off_the_flat_ends(images, key, module):
    _, built = build(module)
    pseudo = np.asarray(jax.jit(lambda key: built.model.init(key)["pseudo_inputs"])(key))
    binary = (pseudo - 0.1) / 0.8
    train = built.dataset.train.examples.reshape(100, -1)
    assert all((train == np.round(row.ravel())).all(axis=1).any() for row in binary)
    np.testing.assert_allclose(binary, np.round(binary), atol=1e-6)
    _, plain = build(module, prior="standard")
    assert "pseudo_inputs" not in jax.eval_shape(plain.model.init, key)


def test_the_optimizer_of_the_paper_is_adam_on_tensors_of_norm_one():
    """Against the update of the authors, written down number by number."""
    rate, optimizer = 5e-4, optax.chain(one_level.divided_by_norms(), optax.adam(5e-4))
    theirs = {"a": np.array([[0.5, -1.0], [2.0, 1.0]]), "b": np.array([3.0])}
    ours = {name: value.astype(np.float32) for name, value in theirs.items()}
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in theirs.items()}
    state, random = jax.jit(optimizer.init)(ours), np.random.default_rng(0)

    @jax.jit
    def after(ours, state, gradient):
        updates, state = optimizer.update(gradient, state, ours)
        return optax.apply_updates(ours, updates), state

    for step in range(1, 6):
        size = 10.0 ** (step - 3)
        gradient = {name: size * random.normal(size=value.shape).astype(np.float32) for name, value in ours.items()}
        ours, state = after(ours, state, gradient)
        for name, raw in gradient.items():
            g = np.asarray(raw, np.float64)
            g = g / (np.sqrt(np.sum(g**2)) + 1e-7)
            m, v = moments[name]
            moments[name] = m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            alpha = rate * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            theirs[name] = theirs[name] - alpha * m / (np.sqrt(v) + 1e-8)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)


@ONE_LEVEL_FIRST
def test_the_paper_s_recipe_weighs_the_kl_by_the_epoch(images, module):
    wanted, built = build(module, recipe="paper", kl_epochs=4)
    steps = wanted.steps_per_epoch(built.dataset)
    weights = jax.jit(jax.vmap(built.schedules["beta"]))(np.arange(6 * steps))
    np.testing.assert_allclose(weights, np.repeat([0.25, 0.5, 0.75, 1.0, 1.0, 1.0], steps))
    with pytest.raises(ValueError, match=r"kl_schedule must be constant.*linear"):
        build(module, recipe="paper", kl_schedule="linear")


@pytest.mark.slow("trains each recipe")
@pytest.mark.parametrize(
    ("recipe", "prior", "levels"),
    [*itertools.product(one_level.Recipe, one_level.Prior, ("one", "two"))],
)
def test_a_few_steps_of_each_recipe_raise_the_bound(images, key, recipe, prior, levels):
    _, built = build(one_level if levels == "one" else two_levels, recipe=recipe, prior=prior, learning_rate=1e-2)

    @jax.jit
    def compute(params):
        def loss(params):
            keys = jax.random.split(jax.random.clone(key), len(images))
            of_one = lambda key, x: -built.objective(params, key, x, beta=1.0).value
            return jnp.mean(jax.vmap(of_one)(keys, images))

        def step(carry, _):
            params, state = carry
            cost, gradient = jax.value_and_grad(loss)(params)
            updates, state = built.optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), (cost, params)

        # The cost of each step is that before it.
        return jax.lax.scan(step, (params, built.optimizer.init(params)), length=21)[1]

    costs, params = compute(random_params(built.model, 0.4))
    assert costs[20] < costs[0]
    if prior == "vamp":
        assert not np.array_equal(params["pseudo_inputs"][20], params["pseudo_inputs"][0])


@ONE_LEVEL_FIRST
def test_widths_are_two(images, module):
    with pytest.raises(ValueError, match=r"hidden_sizes must be two.*\(8,\)"):
        build(module, hidden_sizes=(8,))


@pytest.mark.slow("trains and evaluates a run")
@MODULES
def test_it_trains_by_the_paper_s_recipe_and_is_measured(images, tmp_path, module):
    words = ["--hidden-sizes", "8", "6", "--latent-size", "3", "--pseudo-inputs", "5", "--batch-size", "10"]
    words += ["--recipe", "paper", "--epochs", "6", "--kl-epochs", "2", "--validation-size", "20"]
    words += ["--patience", "2", "--patience-warm-up", "2", "--report-samples", "20"]
    assert cli.main(["train", module.__file__, *words, "--output", str(tmp_path / "run")]) == 0
    opened = run.open_run(tmp_path / "run")
    size = 43 if module is two_levels else 3
    assert opened.experiment.prior(opened.params).sample(jax.random.key(0), (5,)).shape == (5, size)
    words = ["--samples", "100", "--examples", "20", "--gaps", "2", "--simulated", "2", "--temperatures", "20"]
    assert cli.main(["evaluate", str(tmp_path / "run"), *words]) == 0
    found = read_findings(tmp_path / "run")
    assert {"negative_log_likelihood", "pareto_k"} <= set(found["likelihood"].figures)
