"""The evaluation of a run, on a model in which every figure is known, and on models that lack parts of it."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vaejax
from vaejax import assess, experiment, nets, outcome
from vaejax.assess import bounds, representation
from vaejax.assess.subject import Subject
from vaejax.data import Dataset, Meaning, Split
from vaejax.testing import linear_gaussian

N, X, Z = 40, 6, 2
QUICK = assess.Wanted(num_samples=200, num_examples=N, num_gaps=10, num_simulated=0, num_temperatures=60)


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


def subject_of(built, means=None):
    """What a section is made of, where it takes no more of what was measured than the codes."""
    means = np.zeros((len(built.dataset.test.examples), Z), np.float32) if means is None else means
    return Subject(built, {}, outcome.Measured({}, np.arange(len(means), dtype=np.uint32), means, None, None))


@pytest.fixture(scope="module")
def exact():
    @jax.jit
    def drawn():
        oracle = linear_gaussian(jax.random.key(1), X, Z)
        return oracle, oracle.marginal().sample(jax.random.key(2), (N,))

    return drawn()


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
    truth, elbo = jax.jit(lambda x: (-oracle.marginal().log_prob(x), -oracle.elbo(x, encode(x))))(x)
    estimated = -found.per_example["log_likelihood"]
    assert figures["negative_log_likelihood"].value == pytest.approx(estimated.mean(), rel=1e-5)
    error = estimated.std(ddof=1) / N**0.5
    assert figures["negative_log_likelihood"].standard_error == pytest.approx(error, rel=1e-4)
    assert truth.mean() - 0.02 < figures["negative_log_likelihood"].value < elbo.mean() - 0.3
    assert figures["negative_elbo"].value == pytest.approx(float(elbo.mean()), abs=0.3)
    assert figures["bound_gap"].value == pytest.approx(
        np.mean(found.per_example["log_likelihood"] - found.per_example["elbo"]), rel=1e-4
    )
    assert [figures[name].label for name in ("negative_log_likelihood", "bound_gap")] == [
        "-ln p(x), at most", "ln p(x) - ELBO, at least",
    ]  # fmt: skip
    # A proposal that is too narrow has weights with a heavy tail, and says so.
    assert figures["share_unreliable"].value > 50
    assert re.search(r"Warning: \d+ examples have weights", found.findings["likelihood"].remarks[-1])
    assert "bits_per_dimension" not in figures


def test_each_example_has_its_own_noise_and_keeps_it_in_a_smaller_set(wrong):
    _, built, found = wrong
    section, fewer = bounds.likelihood(subject_of(built), QUICK._replace(num_examples=7), silent)
    np.testing.assert_allclose(fewer["log_likelihood"], found.per_example["log_likelihood"][:7], rtol=1e-5)
    np.testing.assert_array_equal(fewer["number"], found.per_example["number"][:7])
    assert sorted(found.per_example["number"]) == list(range(N)) != list(found.per_example["number"])
    assert "7 of 40 test examples" in section.remarks[0]


def test_the_encoder_is_what_loses(exact, wrong):
    oracle, x = exact
    encode, _, found = wrong
    gaps = found.findings["gaps"].figures

    @jax.jit
    def exact_gaps(x):
        p = oracle.posterior(x)
        # The best Normal with independent axes has the precisions of the posterior on its diagonal.
        precision = jnp.linalg.inv(p.scale_tril[0] @ p.scale_tril[0].T)
        best = vaejax.Normal(p.mean, 1 / jnp.sqrt(jnp.diag(precision)))
        best_elbo = oracle.elbo(x, best)
        return best_elbo - oracle.elbo(x, encode(x)), oracle.marginal().log_prob(x) - best_elbo

    amortization, approximation = map(np.asarray, exact_gaps(x))
    assert gaps["amortization"].value == pytest.approx(amortization[:10].mean(), rel=0.05)
    # The encoder's own samples miss what those of the best posterior find.
    assert gaps["importance_shortfall"].value > 0.2
    assert gaps["approximation"].value == pytest.approx(approximation.mean(), abs=0.05)


def test_the_two_sides_are_those_of_their_examples(wrong, monkeypatch):
    """Five examples, in parts of four, with bounds on ln p(x) that are known: x_0 and x_0 + 1, and x_0 - 2 if sampled."""
    _, built, _ = wrong

    def bidirectional(key, decode, prior, count, *, encode, num_temperatures):
        assert (count, num_temperatures) == (1, 60)
        x = jax.random.normal(key, (1, X))
        one, nothing = x[:, 0], jnp.zeros(1)
        lower, upper = (vaejax.evaluation.Annealed(each, *[nothing] * 3) for each in (one, one + 1))
        return vaejax.evaluation.Bidirectional(lower, upper, x, jnp.zeros((1, Z)))

    def sampled(key, x, encode, decode, prior, **options):
        return vaejax.evaluation.LogLikelihood(x[:, 0] - 2, *[jnp.zeros(1)] * 4)

    monkeypatch.setattr(vaejax.evaluation, "bidirectional", bidirectional)
    monkeypatch.setattr(vaejax.evaluation, "importance_log_likelihood", sampled)
    sides = bounds.simulated(subject_of(built), QUICK._replace(num_simulated=5), silent).figures
    assert sides["width"].value == pytest.approx(1.0, abs=1e-5)
    assert sides["importance_shortfall"].value == pytest.approx(3.0, abs=1e-5)
    assert sides["lower"].value == pytest.approx(sides["upper"].value + 1, abs=1e-5)
    # Five values that differ.
    assert sides["lower"].standard_error > 0.1


@pytest.mark.slow("compiles a chain for what tests/evaluation proves of it")
def test_both_sides_enclose(wrong):
    _, built, _ = wrong
    sides = bounds.simulated(subject_of(built), QUICK._replace(num_simulated=6), silent).figures
    assert sides["width"].value == pytest.approx(sides["lower"].value - sides["upper"].value, abs=1e-4)
    assert sides["importance_shortfall"].value > sides["width"].value
    assert sides["lower"].value > sides["upper"].value - 5 * sides["width"].standard_error
    assert abs(sides["width"].value) < 0.5


def information(encode, x):
    return jax.jit(lambda key: vaejax.evaluation.information(key, encode(x), num_samples=500))(jax.random.key(5))


@pytest.mark.slow("all sections of what the test of x proves of the likelihood")
def test_with_the_exact_posterior_there_is_nothing_to_lose(exact):
    oracle, x = exact
    built = experiment_of(oracle.posterior, oracle.decode, x)
    found = assess.assess(built, {}, QUICK, silent).findings
    figures = found["likelihood"].figures
    truth = jax.jit(lambda x: oracle.marginal().log_prob(x))(x)
    assert figures["negative_log_likelihood"].value == pytest.approx(-float(np.mean(truth)), rel=1e-4)
    assert figures["bound_gap"].value == pytest.approx(0.0, abs=1e-3)
    assert figures["effective_sample_size"].value == pytest.approx(200, rel=1e-3)
    assert figures["share_unreliable"].value == 0
    assert found["likelihood"].remarks[-1] == "Of the error of the mean, 0.000 nats come from the samples."
    assert found["gaps"].figures == {}
    assert "Not measured" in found["gaps"].remarks[0]
    latents = found["latents"].figures
    # Of full covariances, and not of their diagonals.
    told = information(oracle.posterior, x)
    assert latents["mutual_information"].value == pytest.approx(float(told.mutual_information.mean), abs=0.03)
    assert latents["rate"].value == pytest.approx(
        latents["mutual_information"].value + latents["aggregate_kl"].value, rel=1e-3
    )


def test_normal_posteriors_are_taken_with_their_scales(exact, wrong):
    _, x = exact
    encode, _, found = wrong
    told = information(encode, x)
    latents = found.findings["latents"]
    assert latents.figures["mutual_information"].value == pytest.approx(float(told.mutual_information.mean), abs=0.03)
    assert latents.status == "none"


def test_x_is_that_of_the_test_figures(exact):
    """Prepared with noise that is drawn; the exact posterior knows what each x then is."""
    oracle, x = exact
    noisy = lambda key, examples: jnp.asarray(examples) + jax.random.normal(key, jnp.shape(examples))
    built = experiment_of(oracle.posterior, oracle.decode, x)._replace(prepare=noisy)
    section, found = bounds.likelihood(subject_of(built), QUICK, silent)
    prepare = outcome.evaluation_keys().prepare
    seen = lambda number: noisy(jax.random.fold_in(prepare, number), x[number][None])[0]
    truth = jax.jit(lambda numbers: oracle.marginal().log_prob(jax.vmap(seen)(numbers)))(found["number"])
    np.testing.assert_allclose(found["log_likelihood"], truth, rtol=1e-4)
    assert found["num_samples"] == 200
    # With the exact posterior there is nothing to lose.
    assert section.figures["bound_gap"].value == pytest.approx(0.0, abs=1e-3)
    assert section.figures["effective_sample_size"].value == pytest.approx(200, rel=1e-3)
    assert section.figures["share_unreliable"].value == 0
    assert section.remarks[-1] == "Of the error of the mean, 0.000 nats come from the samples."


def test_the_error_that_the_samples_add_is_that_of_independent_examples(exact):
    oracle, x = exact
    wide = lambda x: vaejax.MultivariateNormal(oracle.posterior(x).loc, 1.4 * oracle.posterior(x).scale_tril)
    section, found = bounds.likelihood(subject_of(experiment_of(wide, oracle.decode, x)), QUICK, silent)
    error = np.sqrt(np.sum(found["standard_error"] ** 2)) / N
    assert f"{error:.3f} nats" in section.remarks[-1]
    assert error > 0.001


def test_few_samples_say_that_they_do_not_tell(exact):
    oracle, x = exact
    subject, of_each = subject_of(experiment_of(oracle.posterior, oracle.decode, x)), np.full(N, -7.0, np.float32)
    found = vaejax.evaluation.LogLikelihood(*[of_each] * len(vaejax.evaluation.LogLikelihood._fields))
    section = bounds._likelihood_section(subject, QUICK._replace(num_samples=2), found)
    assert section.remarks[-1].startswith("So few samples")
    assert "share_unreliable" not in section.figures


def test_one_section_that_cannot_be_made_does_not_cost_the_others(exact, monkeypatch):
    oracle, x = exact
    labels, constant = np.zeros(1, np.int64), np.zeros((1, 2), np.int64)
    built = experiment_of(oracle.posterior, oracle.decode, x[:1], labels=labels, factors=constant)
    # Of the standard normal without a size nothing can be drawn.
    built = built._replace(prior=lambda params: vaejax.standard_normal)
    likelihood = assess.section_of("ln p(x)", [("x", assess.figure("x", vaejax.evaluation.estimate(jnp.ones(2))))])
    per_example = {"number": np.zeros(1, int), "log_likelihood": np.zeros(1)}
    monkeypatch.setattr(assess, "likelihood", lambda *_: (likelihood, per_example))
    found = assess.assess(built, {}, QUICK._replace(num_simulated=6), silent).findings
    assert set(found) == {"test", "likelihood", "gaps", "simulated", "latents", "labels", "factors"}
    for name in ("gaps", "simulated", "labels", "factors"):
        assert found[name].figures == {}
        assert any(remark.startswith("Not measured: ") for remark in found[name].remarks), name
    assert found["likelihood"].figures
    assert found["test"].figures


def test_a_likelihood_that_is_none_is_refused(exact):
    oracle, x = exact
    optimal = lambda z: vaejax.OptimalNormal(oracle.decode(z).mean)
    refusal = bounds.refusal(subject_of(experiment_of(oracle.posterior, optimal, x)))
    assert refusal == "Not measured: OptimalNormal is no normalised likelihood"


@pytest.mark.slow("another shape of the latents")
def test_latents_of_several_axes_are_judged_too(exact):
    oracle, x = exact
    deep = lambda x: vaejax.Normal(oracle.posterior(x).mean[..., None, :], 0.3, 2)
    decode = lambda z: oracle.decode(z[..., 0, :])
    built = experiment_of(deep, decode, x)
    law = vaejax.Normal(jnp.zeros((1, Z)), 1.0, 2)
    objective = lambda params, key, x: vaejax.elbo(key, x, deep, decode, law)
    built = built._replace(prior=lambda params: law, objective=objective)
    found = representation.latents(Subject(built, {}, outcome.measure(built, {})))
    assert found.status == "none"
    assert found.figures["mutual_information"].value > 1


OTHER = pytest.mark.slow("another posterior or prior")


@pytest.mark.parametrize("kind", [pytest.param("normal", marks=OTHER), pytest.param("vamp", marks=OTHER), "flow"])
def test_a_collapse_is_seen_whatever_the_posterior_and_the_prior(exact, kind):
    oracle, x = exact
    same = vaejax.Normal(jnp.zeros(Z), 1.0)
    flow = vaejax.ElementwiseAffine(jnp.ones(Z), jnp.zeros(Z))
    encode = {
        "normal": lambda x: vaejax.Normal(1e-3 * x[..., :Z], 1.0),
        "vamp": lambda x: vaejax.Normal(1e-3 * x[..., :Z], 1.0),
        "flow": lambda x: vaejax.Transformed(vaejax.Normal(jnp.zeros((*x.shape[:-1], Z)), 1.0), flow),
    }[kind]
    law = {
        "normal": same,
        "vamp": vaejax.Mixture(jnp.zeros(2), vaejax.Normal(jnp.zeros((2, Z)), 1.0)),
        "flow": vaejax.Transformed(same, flow),
    }[kind]
    objective = lambda params, key, x: vaejax.elbo(
        key, x, encode, oracle.decode, law, kl=vaejax.monte_carlo_kl, num_samples=200
    )
    built = experiment_of(encode, oracle.decode, x)._replace(prior=lambda params: law, objective=objective)
    found = representation.latents(Subject(built, {}, outcome.measure(built, {})))
    assert found.status == "full", found
    assert found.figures["active_units"].value == 0


def test_codes_and_labels_are_of_the_same_examples(monkeypatch):
    """More examples than are taken, training and test in different orders: a probe is right only where both fit."""
    monkeypatch.setattr("vaejax.assess.representation.MAX_CODES", 60)
    rng = np.random.default_rng(0)
    values = {name: rng.permutation(np.arange(100) % 2) for name in ("train", "test")}
    examples = {
        name: np.stack([each * 4.0 - 2.0, *[0 * each] * (X - 1)], 1).astype(np.float32) for name, each in values.items()
    }
    encode = lambda x: vaejax.Normal(x[..., :2], 0.1)
    decode = lambda z: vaejax.Normal(jnp.concatenate([z, jnp.zeros((*z.shape[:-1], X - 2))], -1), 1.0)
    seen = []
    nothing = vaejax.evaluation.Gap(0.0, np.zeros(2), np.zeros((2, 2)))
    monkeypatch.setattr(vaejax.evaluation, "sap", lambda codes, known, categorical: seen.append(categorical) or nothing)
    factors = np.stack([np.zeros(100), rng.integers(0, 3, 100), values["test"]], 1).astype(np.int64)
    built = experiment_of(encode, decode, examples["test"], factor_names=("fixed", "size", "object_shape"))
    dataset = built.dataset._replace(
        train=Split(examples["train"], values["train"]), test=Split(examples["test"], values["test"], factors)
    )
    subject = subject_of(built._replace(dataset=dataset), examples["test"][:, :2])
    found = representation.labels(subject, silent)
    assert found.figures["linear_probe"].value == 100
    assert found.figures["cluster_accuracy"].value == 100
    assert "60 training codes" in found.remarks[0]
    representation.factors(subject, silent)
    # By their place among those that vary.
    assert seen == [[1]]


def test_examples_without_a_label_are_not_scored():
    """Codes that tell two labels apart, but lie anywhere where there is none."""
    labels = np.resize([0, 1, -1], 90)
    examples = np.zeros((90, X), np.float32)
    examples[:, 0] = np.where(labels < 0, np.linspace(-9, 9, 90), 4.0 * labels - 2)
    encode = lambda x: vaejax.Normal(x[..., :2], 0.1)
    decode = lambda z: vaejax.Normal(jnp.concatenate([z, jnp.zeros((*z.shape[:-1], X - 2))], -1), 1.0)
    built = experiment_of(encode, decode, examples, labels=labels)
    found = representation.labels(subject_of(built, examples[:, :2]), silent)
    assert found.figures["linear_probe"].value == found.figures["cluster_accuracy"].value == 100
    assert "60 training codes" in found.remarks[0]
    nothing = experiment_of(encode, decode, examples, labels=np.full(90, -1))
    assert representation.labels(subject_of(nothing, examples[:, :2]), silent) is None


def test_what_a_model_lacks_is_said(exact):
    oracle, x = exact
    point = experiment_of(lambda x: vaejax.Delta(oracle.posterior(x).mean), oracle.decode, x, prior=False)
    found = assess.assess(point, {}, QUICK, silent).findings
    assert found["likelihood"].remarks == ["Not measured: without a prior there is no p(x)"]
    assert set(found) == {"test", "likelihood", "latents"}
    assert "rate" not in found["latents"].figures
    with_prior = point._replace(prior=lambda params: vaejax.standard_normal.expand((Z,)))
    assert bounds.refusal(subject_of(with_prior)) == (
        "Not measured: the posterior Delta is a point, which has no density"
    )


def test_labels_and_factors_are_scored_where_there_are_any():
    """Codes that are the factors: each score is 1, and a probe is always right."""
    values = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 2).repeat(6, 0)
    examples = np.concatenate([values - 3.5, np.zeros((len(values), X - 2))], axis=1).astype(np.float32)
    encode = lambda x: vaejax.Normal(x[..., :2], 0.1)
    decode = lambda z: vaejax.Normal(jnp.concatenate([z, jnp.zeros((*z.shape[:-1], X - 2))], -1), 1.0)
    constant = np.concatenate([values, np.zeros((len(values), 1), int)], axis=1)
    labels = (values[:, 0] > 3).astype(np.int64)
    built = experiment_of(encode, decode, examples, factors=constant, labels=labels, factor_names=("a", "b", "c"))
    subject = subject_of(built, examples[:, :2])
    found, of_labels = representation.factors(subject, silent), representation.labels(subject, silent)
    scores = {name: figure.value for name, figure in found.figures.items()}
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
    assert "2 factors" in found.remarks[0]
    assert of_labels.figures["linear_probe"].value > 95
    assert of_labels.figures["linear_probe_baseline"].value == 50


@pytest.fixture(scope="module")
def of_levels():
    """A model of images for which all levels are alike."""
    uniform = lambda z: vaejax.Categorical(jnp.zeros((*z.shape[:-1], 4, 4, 1, 256)), event_ndims=3)
    encode = lambda x: vaejax.Normal(jnp.zeros((*x.shape[:-3], Z)), 1.0)
    images = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 1)).astype(np.uint8)
    split = Split(images)
    built = experiment_of(encode, uniform, np.zeros((24, X), np.float32))._replace(
        dataset=Dataset("u", split, split, 255)
    )
    return built._replace(model=model_of(uniform, encode))


def test_bits_are_those_of_the_whole_example(of_levels):
    nats = np.full(24, 16 * np.log(256), np.float32)
    subject = subject_of(of_levels)._replace(measured=outcome.Measured({"negative_elbo": nats}, *[nats] * 4))
    assert assess._test(subject).figures["bits_per_dimension"].value == pytest.approx(8.0)
    found = bounds._likelihood_section(subject, QUICK, vaejax.evaluation.LogLikelihood(*[-nats] * 5))
    assert found.figures["bits_per_dimension"].value == pytest.approx(8.0)


@pytest.mark.slow("estimates what is proved of the numbers")
def test_levels_that_are_all_alike_take_eight_bits(of_levels):
    found = assess.assess(of_levels, {}, QUICK._replace(num_gaps=0), silent).findings
    assert {"gaps", "simulated"} & set(found) == set()
    assert found["test"].figures["bits_per_dimension"].value == pytest.approx(8.0)
    assert found["latents"].status == "full"
    assert found["likelihood"].figures["bits_per_dimension"].value == pytest.approx(8.0)
    # Nothing is said of x.
    assert "collapse" in found["latents"].remarks[0]


@pytest.mark.parametrize(
    ("name", "value"), [("num_samples", 1), ("num_examples", -1), ("num_gaps", -1), ("chunk_size", 0)]
)
def test_nonsense_is_refused_before_anything_is_computed(exact, name, value):
    _, x = exact
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        assess.assess(experiment_of(None, None, x), {}, QUICK._replace(**{name: value}), silent)
