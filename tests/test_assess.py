"""The evaluation of a run, on a model in which every figure is known, and on models that lack parts of it."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vaejax
from vaejax import assess, experiment, nets
from vaejax.data import Dataset, Meaning, Split
from vaejax.testing import linear_gaussian

N, X, Z = 40, 6, 2
QUICK = assess.Wanted(num_samples=200, num_examples=N, num_gaps=10, num_simulated=6, num_temperatures=60)


@contextlib.contextmanager
def silent(label, total):
    """Counts, so that what is announced is what comes."""
    done = []
    yield done.append
    assert sum(done) == total, label


def model_of(decode, encode):
    return nets.Model(lambda key: {}, lambda params, x: encode(x), lambda params, z: decode(z))


def experiment_of(encode, decode, examples, prior=True, **of_dataset):
    split = Split(np.asarray(examples), of_dataset.pop("labels", None), of_dataset.pop("factors", None))
    dataset = Dataset("exact", split, split, 10.0, Meaning.REAL, **of_dataset)
    model = model_of(decode, encode)
    objective = lambda params, key, x: vaejax.elbo(key, x, encode, decode)
    law = (lambda params: vaejax.standard_normal.expand((Z,))) if prior else None
    return experiment.Experiment(dataset, model, lambda key, x: jnp.asarray(x), objective, optax.sgd(0.1), law)


@pytest.fixture(scope="module")
def exact():
    oracle = linear_gaussian(jax.random.key(1), X, Z)
    return oracle, oracle.marginal().sample(jax.random.key(2), (N,))


@pytest.fixture(scope="module")
def wrong(exact):
    """An encoder that is off by half a unit and too narrow, with everything that is found of it."""
    oracle, x = exact
    encode = lambda x: vaejax.Normal(oracle.posterior(x).mean + 0.5, 0.2)
    built = experiment_of(encode, oracle.decode, x)
    return encode, built, assess.assess(built, {}, QUICK, silent)


def test_the_likelihood_is_below_the_exact_one_and_above_the_bound(exact, wrong):
    oracle, x = exact
    encode, _, found = wrong
    figures = found.findings["likelihood"].figures
    truth = -oracle.marginal().log_prob(x)
    elbo = -oracle.elbo(x, encode(x))
    estimated = -found.per_example["log_likelihood"]
    assert figures["negative_log_likelihood"].value == pytest.approx(estimated.mean(), rel=1e-5)
    assert truth.mean() - 0.02 < figures["negative_log_likelihood"].value < elbo.mean() - 0.3
    assert figures["negative_elbo"].value == pytest.approx(float(elbo.mean()), abs=0.3)
    assert figures["bound_gap"].value == pytest.approx(
        np.mean(found.per_example["log_likelihood"] - found.per_example["elbo"]), rel=1e-4
    )
    # A proposal that is too narrow has weights with a heavy tail, and says so.
    assert figures["share_unreliable"].value > 50
    assert any(remark.startswith("Warning: the weights of") for remark in found.findings["likelihood"].remarks)
    assert "bits_per_dimension" not in figures


def test_each_example_has_its_own_noise_and_keeps_it_in_a_smaller_set(wrong):
    _, built, found = wrong
    quick = QUICK._replace(num_examples=7, num_gaps=0, num_simulated=0)
    fewer = assess.assess(built, {}, quick, silent)
    np.testing.assert_allclose(fewer.per_example["log_likelihood"], found.per_example["log_likelihood"][:7], rtol=1e-5)
    assert "The first 7 of 40" in fewer.findings["likelihood"].remarks[0]
    assert {"gaps", "simulated"} & set(fewer.findings) == set()


def test_the_encoder_is_what_loses_and_both_sides_enclose(exact, wrong):
    oracle, x = exact
    encode, _, found = wrong
    gaps = found.findings["gaps"].figures
    # The best Normal with independent axes has the precisions of the posterior on its diagonal.
    precision = jnp.linalg.inv(oracle.posterior(x[0]).scale_tril @ oracle.posterior(x[0]).scale_tril.T)
    best = vaejax.Normal(oracle.posterior(x[:10]).mean, 1 / jnp.sqrt(jnp.diag(precision)))
    lost = oracle.elbo(x[:10], best) - oracle.elbo(x[:10], encode(x[:10]))
    assert gaps["amortization"].value == pytest.approx(float(lost.mean()), rel=0.05)
    sides = found.findings["simulated"].figures
    assert sides["lower"].value > sides["upper"].value - 5 * sides["width"].standard_error
    assert abs(sides["width"].value) < 0.5


def test_with_the_exact_posterior_there_is_nothing_to_lose(exact):
    oracle, x = exact
    built = experiment_of(oracle.posterior, oracle.decode, x)
    found = assess.assess(built, {}, QUICK._replace(num_simulated=0), silent).findings
    figures = found["likelihood"].figures
    assert figures["negative_log_likelihood"].value == pytest.approx(
        -float(oracle.marginal().log_prob(x).mean()), rel=1e-4
    )
    assert figures["bound_gap"].value == pytest.approx(0.0, abs=1e-3)
    assert figures["effective_sample_size"].value == pytest.approx(200, rel=1e-3)
    assert figures["share_unreliable"].value == 0
    assert not any("Warning" in remark for remark in found["likelihood"].remarks)
    assert found["gaps"].figures == {}
    assert "Not measured" in found["gaps"].remarks[0]
    latents = found["latents"].figures
    assert latents["rate"].value == pytest.approx(
        latents["mutual_information"].value + latents["aggregate_kl"].value, rel=1e-3
    )


def test_what_a_model_lacks_is_said(exact):
    oracle, x = exact
    point = experiment_of(lambda x: vaejax.Delta(oracle.posterior(x).mean), oracle.decode, x, prior=False)
    found = assess.assess(point, {}, QUICK, silent).findings
    assert found["likelihood"].remarks == ["Not measured: without a prior there is no p(x)"]
    assert set(found) == {"test", "likelihood", "latents"}
    assert "rate" not in found["latents"].figures
    with_prior = point._replace(prior=lambda params: vaejax.standard_normal.expand((Z,)))
    found = assess.assess(with_prior, {}, QUICK, silent).findings
    assert found["likelihood"].remarks == ["Not measured: the posterior Delta is a point, which has no density"]


def test_labels_and_factors_are_scored_where_there_are_any():
    """Codes that are the factors: each score is 1, and a probe is always right."""
    values = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2).repeat(6, 0)
    examples = np.concatenate([values - 3.5, np.zeros((len(values), X - 2))], axis=1).astype(np.float32)
    encode = lambda x: vaejax.Normal(x[..., :2], 0.1)
    decode = lambda z: vaejax.Normal(jnp.concatenate([z, jnp.zeros((*z.shape[:-1], X - 2))], -1), 1.0)
    constant = np.concatenate([values, np.zeros((len(values), 1), int)], axis=1)
    labels = (values[:, 0] > 3).astype(np.int64)
    built = experiment_of(encode, decode, examples, factors=constant, labels=labels, factor_names=("a", "b", "c"))
    quick = QUICK._replace(num_samples=2, num_examples=2, num_gaps=0, num_simulated=0)
    found = assess.assess(built, {}, quick, silent).findings
    scores = {name: figure.value for name, figure in found["factors"].figures.items()}
    for name in (
        "mig",
        "sap",
        "dci_disentanglement",
        "dci_completeness",
        "dci_informativeness",
        "factor_vae",
        "beta_vae",
    ):
        assert scores[name] > 0.9, name
    assert "2 factors" in found["factors"].remarks[0]
    assert found["labels"].figures["linear_probe"].value > 95
    assert found["labels"].figures["linear_probe_baseline"].value == 50


def test_bits_are_those_of_the_whole_example():
    uniform = lambda z: vaejax.Categorical(jnp.zeros((*z.shape[:-1], 4, 4, 1, 256)), event_ndims=3)
    encode = lambda x: vaejax.Normal(jnp.zeros((*x.shape[:-3], Z)), 1.0)
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1)).astype(np.uint8)
    split = Split(images)
    built = experiment_of(encode, uniform, np.zeros((8, X), np.float32))._replace(
        dataset=Dataset("u", split, split, 255)
    )
    quick = QUICK._replace(num_gaps=0, num_simulated=0)
    found = assess.assess(built._replace(model=model_of(uniform, encode)), {}, quick, silent).findings
    assert found["test"].figures["bits_per_dimension"].value == pytest.approx(8.0)
    assert found["likelihood"].figures["bits_per_dimension"].value == pytest.approx(8.0)
    # Nothing is said of x.
    assert "collapse" in found["latents"].remarks[0]


@pytest.mark.parametrize(
    ("name", "value"), [("num_samples", 0), ("num_examples", -1), ("num_gaps", -1), ("chunk_size", 0)]
)
def test_nonsense_is_refused_before_anything_is_computed(exact, name, value):
    _, x = exact
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        assess.assess(experiment_of(None, None, x), {}, QUICK._replace(**{name: value}), silent)
