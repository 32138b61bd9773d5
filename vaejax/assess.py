"""The evaluation of a run: how likely the data are, how tight the bound is, and what the latents hold."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaejax import evaluation
from vaejax.checks import check_count
from vaejax.distributions import MultivariateNormal, Normal, as_native
from vaejax.evaluation import LABELS, Estimate, estimate, unit_of
from vaejax.experiment import Experiment
from vaejax.findings import Figure, Findings, Section, section_of
from vaejax.making import choose, encode_means
from vaejax.outcome import (
    Measured,
    evaluation_keys,
    map_examples,
    measure,
    prepare_example,
)
from vaejax.types import Array, Distribution, Params

# The noise of what is measured here; x and its fingerprint are those of the test figures.
ASSESSMENT_SEED = 0x7E5A
# Codes that are probed, clustered and scored.
MAX_CODES = 10_000
# Examples whose importance samples are drawn together: as many decoder inputs as this by the samples of a chunk.
TOGETHER = 20
# Factors whose values have no order.
WITHOUT_ORDER = ("shape", "color", "colour")
# Adam's steps to the best Gaussian posterior of an example.
GAP_STEPS, GAP_RATE = 500, 0.03


class Wanted(NamedTuple):
    """What is measured, and how closely."""

    num_samples: int = 5000  # importance samples of each example
    num_examples: int = 1000  # of the test set, the first ones
    num_gaps: int = 100  # of them, whose best Gaussian posterior is looked for; 0: none
    num_simulated: int = 16  # examples drawn from the model, to bound their ln p(x) from both sides; 0: none
    num_temperatures: int = 500  # of annealed importance sampling
    chunk_size: int = 100  # samples that are in memory together

    def check(self) -> None:
        """Raise on what cannot be."""
        for name in ("num_samples", "num_examples", "num_temperatures", "chunk_size"):
            check_count(name, getattr(self, name))
        for name in ("num_gaps", "num_simulated"):
            check_count(name, getattr(self, name), minimum=0)


# A label and how much there is to do, to a context with a function that is told how much more is done.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class Subject(NamedTuple):
    """A trained model and what was measured of its test examples."""

    experiment: Experiment
    params: Params
    measured: Measured

    def encode(self, x: Any) -> Distribution:
        """q(z|x)."""
        return self.experiment.model.encode(self.params, x)

    def decode(self, z: Array) -> Distribution:
        """p(x|z)."""
        return self.experiment.model.decode(self.params, z)

    def prior(self) -> Distribution:
        """p(z); only of a model that has one."""
        assert self.experiment.prior is not None
        return self.experiment.prior(self.params)


class Assessment(NamedTuple):
    """What was found."""

    findings: Findings
    per_example: dict[str, np.ndarray]  # [n] each, of the examples whose likelihood was estimated


def assess(experiment: Experiment, params: Params, wanted: Wanted, progress: Progress) -> Assessment:
    """Evaluate a trained model on the test set of its experiment; what does not apply to it says why."""
    wanted.check()
    subject = Subject(experiment, params, measure(experiment, params))
    findings = {"test": _test(subject)}
    per_example: dict[str, np.ndarray] = {}
    refusal = _no_likelihood(subject)
    if refusal:
        findings["likelihood"] = Section("ln p(x)", {}, [refusal])
    else:
        findings["likelihood"], per_example = likelihood(subject, wanted, progress)
        if wanted.num_gaps:
            findings["gaps"] = gaps(subject, wanted, per_example["log_likelihood"], progress)
        if wanted.num_simulated:
            findings["simulated"] = simulated(subject, wanted, progress)
    with progress("latents", 3) as advance:
        for name, section in (("latents", latents), ("labels", labels), ("factors", factors)):
            found = section(subject)
            findings |= {} if found is None else {name: found}
            advance(1)
    return Assessment(findings, per_example)


def _test(subject: Subject) -> Section:
    """The parts of the bound: the rate and the distortion of Alemi et al. 2018 are its KL and its reconstruction."""
    estimates = subject.measured.estimates()
    figures = [
        (name, _figure(label, estimates[name], unit_of(name))) for name, label in LABELS.items() if name in estimates
    ]
    if "negative_elbo" in estimates and (bits := _bits(subject, subject.measured.figures["negative_elbo"])):
        figures.append(("bits_per_dimension", bits))
    return section_of(f"Test set, {len(subject.measured.means):,} examples", figures)


def _no_likelihood(subject: Subject) -> str:
    """Why the model has no ln p(x); nothing where it has."""
    if subject.experiment.prior is None:
        return "Not measured: without a prior there is no p(x)"
    posterior = as_native(jax.eval_shape(lambda: subject.encode(_first(subject))))
    if getattr(posterior, "is_point", False):
        return f"Not measured: the posterior {type(posterior).__name__} is a point, which has no density"
    return ""


def _first(subject: Subject) -> Array:
    example = subject.experiment.dataset.test.examples[:1][0]
    return prepare_example(subject.experiment, evaluation_keys(), jnp.int32(0), jnp.asarray(example))


def likelihood(subject: Subject, wanted: Wanted, progress: Progress) -> tuple[Section, dict[str, np.ndarray]]:
    """ln p(x) of the first test examples by importance sampling from their posteriors."""
    noise = evaluation_keys(ASSESSMENT_SEED).noise

    def of_example(params: Params, number: Array, example: Array) -> Any:
        model = subject._replace(params=params)
        x = prepare_example(subject.experiment, evaluation_keys(), number, example)
        sizes = {"num_samples": wanted.num_samples, "chunk_size": wanted.chunk_size}
        key = jax.random.fold_in(noise, number)
        return evaluation.importance_log_likelihood(key, x, model.encode, model.decode, model.prior(), **sizes)

    examples = _some(subject, wanted.num_examples)
    with progress("importance sampling", len(examples)) as advance:
        found = map_examples(of_example, together=TOGETHER, advance=advance)(subject.params, examples)
    per_example = {
        "fingerprint": subject.measured.fingerprints[: len(examples)],
        "log_likelihood": found.value,
        **{name: getattr(found, name) for name in ("elbo", "standard_error", "effective_sample_size", "pareto_k")},
    }
    return _likelihood_section(subject, wanted, found), per_example


def _likelihood_section(subject: Subject, wanted: Wanted, found: evaluation.LogLikelihood) -> Section:
    count, all_of_them = len(found.value), len(subject.measured.means)
    threshold = evaluation.pareto_threshold(wanted.num_samples)
    heavy = int(np.sum(found.pareto_k > threshold))
    figures = [
        ("negative_log_likelihood", _figure("-ln p(x)", _estimate(-found.value))),
        ("negative_elbo", _figure("-ELBO of the same", _estimate(-found.elbo))),
        ("bound_gap", _figure("ln p(x) - ELBO", _estimate(found.value - found.elbo))),
    ]
    if bits := _bits(subject, -found.value):
        figures.append(("bits_per_dimension", bits))
    size = Figure(
        "effective samples, median", float(np.median(found.effective_sample_size)), None, f"of {wanted.num_samples:,}"
    )
    figures += [
        ("effective_sample_size", size),
        ("pareto_k", Figure("Pareto k, greatest", float(np.nanmax(found.pareto_k, initial=-np.inf)))),
        ("share_unreliable", Figure("examples above the limit", 100 * heavy / count, None, "%")),
    ]
    # Independent draws for each example: their errors add up in squares.
    error = float(np.sqrt(np.mean(np.square(found.standard_error)) / count))
    which = "All" if count == all_of_them else f"The first {count:,} of {all_of_them:,}"
    return section_of(
        "ln p(x), importance sampling",
        figures,
        f"{which} test examples, {wanted.num_samples:,} samples of q(z|x) each; the samples add {error:.3f} nats to "
        "the error. A finite number of samples makes ln p(x) too low rather than too high.",
        f"Warning: the weights of {heavy} examples have Pareto k above {threshold:.2f}, so their figures are "
        "unreliable, and most likely too low: take more samples, or trust the figures for simulated data."
        if heavy
        else "",
    )


def gaps(subject: Subject, wanted: Wanted, log_likelihood: np.ndarray, progress: Progress) -> Section:
    """What of ln p(x) - ELBO is the family of posteriors, and what the encoder that has to serve all examples."""
    title = "Where the bound loses"
    count = min(wanted.num_gaps, len(log_likelihood))
    noise = evaluation_keys(ASSESSMENT_SEED).mean
    optimizer = optax.adam(optax.cosine_decay_schedule(GAP_RATE, GAP_STEPS))

    def of_example(params: Params, number: Array, example: Array) -> Any:
        model = subject._replace(params=params)
        x = prepare_example(subject.experiment, evaluation_keys(), number, example)
        return evaluation.inference_gaps(
            jax.random.fold_in(noise, number),
            x,
            model.encode,
            model.decode,
            model.prior(),
            log_likelihood=jnp.asarray(log_likelihood)[number],
            optimizer=optimizer,
            num_steps=GAP_STEPS,
            chunk_size=wanted.chunk_size,
        )

    try:
        with progress("best posteriors", count) as advance:
            run = map_examples(of_example, together=min(count, 2 * TOGETHER), advance=advance)
            found = run(subject.params, _some(subject, count))
    except TypeError as error:
        return Section(title, {}, [f"Not measured: {error}"])
    figures = [
        ("approximation", _figure("approximation gap", _estimate(found.approximation))),
        ("amortization", _figure("amortization gap", _estimate(found.amortization))),
    ]
    return section_of(
        title,
        figures,
        f"{count} test examples. The first is what the best Normal with independent axes cannot do, found for each "
        "example by itself; the second what the encoder, which serves all, loses to it.",
    )


def simulated(subject: Subject, wanted: Wanted, progress: Progress) -> Section:
    """ln p(x) from below and above on data that the model itself has drawn."""
    title = "ln p(x) from both sides"
    noise, other = (evaluation_keys(ASSESSMENT_SEED + which).sample for which in (0, 1))

    def of_one(params: Params, number: Array) -> Any:
        model = subject._replace(params=params)
        found = evaluation.bidirectional(
            jax.random.fold_in(noise, number),
            model.decode,
            model.prior(),
            1,
            encode=model.encode,
            num_temperatures=wanted.num_temperatures,
        )
        sampled = evaluation.importance_log_likelihood(
            jax.random.fold_in(other, number),
            found.x,
            model.encode,
            model.decode,
            model.prior(),
            num_samples=wanted.num_samples,
            chunk_size=wanted.chunk_size,
        )
        return found.lower.value[0], found.upper.value[0], sampled.value[0]

    count = wanted.num_simulated
    compiled = jax.jit(jax.vmap(of_one, (None, 0)))
    at_once = min(count, 4)
    parts = []
    try:
        with progress("annealed importance sampling", count) as advance:
            for start in range(0, count, at_once):
                numbers = np.minimum(np.arange(start, start + at_once), count - 1)
                parts.append(
                    np.stack([np.asarray(each)[: count - start] for each in compiled(subject.params, numbers)])
                )
                advance(min(at_once, count - start))
    except TypeError as error:
        return Section(title, {}, [f"Not measured: {error}"])
    lower, upper, sampled = np.concatenate(parts, axis=1)
    figures = [
        ("lower", _figure("-ln p(x), annealed, at most", _estimate(-lower))),
        ("upper", _figure("-ln p(x), backwards, at least", _estimate(-upper))),
        ("width", _figure("between the two", _estimate(upper - lower))),
        ("importance_shortfall", _figure("importance sampling below the upper", _estimate(upper - sampled))),
    ]
    return section_of(
        title,
        figures,
        f"{count} examples that the model has drawn, of whose latents one is known: only of these is there a bound "
        f"from above (BDMC; {wanted.num_temperatures} temperatures, 16 chains). The last figure bounds from above what "
        "importance sampling misses on such data.",
    )


def latents(subject: Subject) -> Section | None:
    """What the latents say of x."""
    measured = subject.measured
    if measured.means.ndim != 2:
        return None
    figures = [("active_units", Figure("active units", measured.active_units(), None, f"of {measured.means.shape[1]}"))]
    mutual_information, remarks = None, []
    q = _posteriors(subject) if subject.experiment.prior is not None else None
    if q is not None:
        found = jax.jit(evaluation.information)(
            evaluation_keys(ASSESSMENT_SEED).prepare,
            q,
            subject.experiment.prior(subject.params),  # type: ignore[misc]
        )
        mutual_information = found.mutual_information.mean
        figures += [
            ("rate", _figure("rate, KL(q(z|x) || p(z))", found.rate)),
            ("mutual_information", _figure("mutual information of x and z", found.mutual_information)),
            ("aggregate_kl", _figure("aggregate posterior from prior", found.aggregate_kl)),
        ]
        if found.is_saturated:
            remarks.append(
                f"The mutual information is near its limit, {float(found.limit):.2f}, the log of the number of "
                "examples: of more it would be more, and the divergence of the aggregate posterior less."
            )
        moments = evaluation.aggregate_moments(q)
        remarks.append(
            f"The axes of the aggregate posterior have means from {moments.mean.min():.2f} to "
            f"{moments.mean.max():.2f} and standard deviations from {moments.standard_deviation.min():.2f} to "
            f"{moments.standard_deviation.max():.2f}."
        )
    return section_of("Latents", figures, measured.collapse(mutual_information).text, *remarks)


def _posteriors(subject: Subject) -> Distribution | None:
    """The posteriors of the test examples as one, where they are Normals."""

    def parameters(params: Params, number: Array, example: Array) -> Any:
        x = prepare_example(subject.experiment, evaluation_keys(), number, example)
        q = as_native(subject._replace(params=params).encode(x))
        if isinstance(q, MultivariateNormal):
            return q.loc, q.scale_tril
        return (q.mean, jnp.sqrt(q.variance)) if isinstance(q, Normal) else ()

    found = map_examples(parameters)(subject.params, _some(subject, MAX_CODES))
    if not found:
        return None
    loc, spread = map(jnp.asarray, found)
    return MultivariateNormal(loc, spread) if spread.ndim > loc.ndim else Normal(loc, spread)


def labels(subject: Subject) -> Section | None:
    """How well the codes tell labels apart; None without labels."""
    train, test = subject.experiment.dataset.train, subject.experiment.dataset.test
    if train.labels is None or test.labels is None or len(np.unique(train.labels)) < 2:
        return None
    first = choose(subject.experiment.dataset, "train", range(min(MAX_CODES, len(train.examples))))
    codes, held_out = encode_means(subject.experiment, subject.params, first), subject.measured.means[:MAX_CODES]
    probe = evaluation.linear_probe(codes, train.labels[: len(codes)], held_out, test.labels[: len(held_out)])
    clusters = evaluation.clustering(held_out, test.labels[: len(held_out)])
    figures = [
        ("linear_probe", Figure("linear probe, test", 100 * probe.accuracy, 100 * probe.standard_error, "% right")),
        ("linear_probe_baseline", Figure("always the commonest", 100 * probe.baseline, None, "% right")),
        ("cluster_accuracy", Figure("k-means, best matching", 100 * clusters.accuracy, None, "% right")),
        ("cluster_nmi", Figure("its mutual information, normalized", clusters.normalized_mutual_information)),
        ("cluster_ari", Figure("its adjusted Rand index", clusters.adjusted_rand_index)),
    ]
    return section_of(
        "The representation against the labels",
        figures,
        f"A probe of {len(codes):,} training codes, the means of q(z|x).",
    )


def factors(subject: Subject) -> Section | None:
    """How well single latents serve single factors; None without factors."""
    dataset, test = subject.experiment.dataset, subject.experiment.dataset.test
    if test.factors is None:
        return None
    codes = subject.measured.means[:MAX_CODES].reshape(len(subject.measured.means[:MAX_CODES]), -1)
    known = np.asarray(test.factors[: len(codes)])
    varied = [column for column in range(known.shape[1]) if len(np.unique(known[:, column])) > 1]
    known = known[:, varied]
    names = dataset.factor_names or [""] * (max(varied) + 1)
    categorical = [place for place, column in enumerate(varied) if names[column] in WITHOUT_ORDER]
    dci = evaluation.dci(codes, known)
    scores = {
        "mig": ("MIG", evaluation.mutual_information_gap(codes, known).score),
        "sap": ("SAP", evaluation.sap(codes, known, categorical=categorical).score),
        "dci_disentanglement": ("DCI disentanglement", dci.disentanglement),
        "dci_completeness": ("DCI completeness", dci.completeness),
        "dci_informativeness": ("DCI informativeness", dci.informativeness),
        "factor_vae": ("FactorVAE score", evaluation.factor_vae_score(codes, known).accuracy),
        "beta_vae": ("beta-VAE score", evaluation.beta_vae_score(codes, known).accuracy),
    }
    figures = [(name, Figure(label, float(score))) for name, (label, score) in scores.items()]
    return section_of(
        "Disentanglement, from 0 to 1", figures, f"{len(codes):,} test examples, {known.shape[1]} factors."
    )


def _some(subject: Subject, count: int) -> Any:
    """The first test examples."""
    test = subject.experiment.dataset.test.examples
    return test[: min(count, len(test))]


def _bits(subject: Subject, nats: Any) -> Figure | None:
    """A cost in nats as bits per dimension; None where the likelihood is a density, whose levels have no width."""
    p = as_native(jax.eval_shape(lambda: subject.decode(subject.encode(_first(subject)).sample(jax.random.key(0)))))
    if not (getattr(p, "is_discrete", False) and getattr(p, "is_normalized", True)):
        return None
    size = math.prod(subject.experiment.dataset.shape)
    return _figure("bits per dimension", _estimate(nats / (size * math.log(2))), "bits")


def _estimate(values: Any) -> Estimate:
    return estimate(jnp.asarray(values))


def _figure(label: str, found: Estimate, unit: str = "nats") -> Figure:
    return Figure(label, float(found.mean), float(found.standard_error), unit)
