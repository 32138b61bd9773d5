"""How likely the test examples are, and how much of it the bound misses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaejax import evaluation
from vaejax.assess.subject import ASSESSMENT_SEED, Progress, Subject, Wanted, bits, mean_figure
from vaejax.distributions.interop import has_trait
from vaejax.evaluation.pareto import MIN_TAIL, tail_length
from vaejax.findings import Figure, Section, section_of
from vaejax.outcome import evaluation_keys, map_examples
from vaejax.types import Array, Params

# Examples that are worked on together.
TOGETHER = 20
# Of those whose importance samples are drawn there are as many decoder inputs as this by the samples of a chunk.
SAMPLED_TOGETHER = 4
# Adam's steps to the best Gaussian posterior of an example.
GAP_STEPS, GAP_RATE = 500, 0.03
# Percent of examples with uneven weights, above which the error of the others says little.
MANY_UNRELIABLE = 5.0


def refusal(subject: Subject) -> str:
    """Why the model has no ln p(x); nothing where it has."""
    if subject.experiment.prior is None:
        return "Not measured: without a prior there is no p(x)"
    posterior, p = subject.posterior_kind(), subject.likelihood_kind()
    if has_trait(posterior, "is_point"):
        return f"Not measured: the posterior {type(posterior).__name__} is a point, which has no density"
    if not has_trait(p, "is_normalized"):
        return f"Not measured: {type(p).__name__} is no normalised likelihood"
    return ""


def likelihood(subject: Subject, wanted: Wanted, progress: Progress) -> tuple[Section, dict[str, np.ndarray]]:
    """ln p(x) of test examples by importance sampling from their posteriors, and what was found of each."""
    noise = evaluation_keys(ASSESSMENT_SEED).noise

    def of_example(params: Params, number: Array, example: Array) -> Any:
        model = subject._replace(params=params)
        return evaluation.importance_log_likelihood(
            jax.random.fold_in(noise, number),
            model.x(number, example),
            model.encode,
            model.decode,
            model.prior(),
            num_samples=wanted.num_samples,
            chunk_size=wanted.chunk_size,
        )

    numbers = subject.numbers(wanted.num_examples)
    with progress("importance sampling", len(numbers)) as advance:
        run = map_examples(of_example, together=SAMPLED_TOGETHER, advance=advance)
        found = run(subject.params, subject.experiment.dataset.test.examples, numbers)
    per_example = {
        "number": numbers,
        "fingerprint": subject.measured.fingerprints[numbers],
        "num_samples": np.array(wanted.num_samples),
        "log_likelihood": found.value,
        **{name: getattr(found, name) for name in ("elbo", "standard_error", "effective_sample_size", "pareto_k")},
    }
    return _likelihood_section(subject, wanted, found), per_example


def _likelihood_section(subject: Subject, wanted: Wanted, found: evaluation.LogLikelihood) -> Section:
    figures = [
        ("negative_log_likelihood", mean_figure("-ln p(x), at most", -found.value)),
        ("negative_elbo", mean_figure("-ELBO of the same", -found.elbo)),
        ("bound_gap", mean_figure("ln p(x) - ELBO, at least", found.value - found.elbo)),
    ]
    if size := bits(subject, -found.value):
        figures.append(("bits_per_dimension", size))
    median = float(np.median(found.effective_sample_size))
    figures.append(
        ("effective_sample_size", Figure("effective samples, median", median, None, f"of {wanted.num_samples:,}"))
    )
    all_of_them, count = len(subject.measured.means), len(found.value)
    chosen = "All" if count == all_of_them else f"{count:,} of"
    how = "" if count == all_of_them else ", chosen at random once and for all"
    remarks = [f"{chosen} {all_of_them:,} test examples{how}, with {wanted.num_samples:,} samples of q(z|x) each."]
    if tail_length(wanted.num_samples) < MIN_TAIL:
        remarks.append("So few samples do not show whether their weights can be trusted.")
        return section_of("ln p(x), importance sampling", figures, *remarks)
    share, heaviest, remark = _reliability(wanted, found)
    figures += [("pareto_k", heaviest), ("share_unreliable", share)]
    return section_of("ln p(x), importance sampling", figures, *remarks, remark)


def _reliability(wanted: Wanted, found: evaluation.LogLikelihood) -> tuple[Figure, Figure, str]:
    """How many estimates cannot be trusted, the worst tail, and what follows for the mean."""
    threshold = evaluation.pareto_threshold(wanted.num_samples)
    # A tail that could not be fitted is none to trust.
    heavy = ~(found.pareto_k <= threshold)
    share = Figure("examples above the limit", 100 * float(np.mean(heavy)), None, "%")
    finite = found.pareto_k[np.isfinite(found.pareto_k)]
    heaviest = Figure("Pareto k, greatest", float(finite.max()) if len(finite) else float("nan"))
    # Independent draws for each example: their errors add up in squares.
    error = float(np.sqrt(np.mean(np.square(found.standard_error)) / len(found.value)))
    if share.value <= MANY_UNRELIABLE:
        return share, heaviest, f"Of the error of the mean, {error:.3f} nats come from the samples."
    return (
        share,
        heaviest,
        f"Warning: {int(heavy.sum()):,} examples have weights of Pareto k above {threshold:.2f}: the posterior misses "
        "a part of where x comes from, ln p(x) is too low by an amount that the error does not show, and more samples "
        "would hardly help. Posteriors fitted to single examples do better: see where the bound loses.",
    )


def gaps(subject: Subject, wanted: Wanted, per_example: dict[str, np.ndarray], progress: Progress) -> Section:
    """What of ln p(x) - ELBO is the family of posteriors, and what the encoder that has to serve all examples.

    ln p(x) is the greater of two lower bounds: from the encoder's posterior, and from the best one, widened.
    """
    count = min(wanted.num_gaps, len(per_example["number"]))
    noise = evaluation_keys(ASSESSMENT_SEED).mean
    optimizer = optax.adam(optax.cosine_decay_schedule(GAP_RATE, GAP_STEPS))

    def of_example(params: Params, number: Array, example: Array) -> Any:
        model = subject._replace(params=params)
        return evaluation.inference_gaps(
            jax.random.fold_in(noise, number),
            model.x(number, example),
            model.encode,
            model.decode,
            model.prior(),
            optimizer=optimizer,
            num_steps=GAP_STEPS,
            num_evaluation_samples=wanted.num_samples,
            chunk_size=wanted.chunk_size,
        )

    with progress("best posteriors", count) as advance:
        run = map_examples(of_example, together=min(count, 2 * TOGETHER), advance=advance)
        found = run(subject.params, subject.experiment.dataset.test.examples, per_example["number"][:count])
    encoder = per_example["log_likelihood"][:count]
    known = np.maximum(encoder, found.log_likelihood)
    figures = [
        ("negative_log_likelihood", mean_figure("-ln p(x) of these", -known)),
        ("approximation", mean_figure("approximation gap", known - found.best_elbo)),
        ("amortization", mean_figure("amortization gap", found.amortization)),
        ("importance_shortfall", mean_figure("importance sampling above misses", known - encoder)),
    ]
    return section_of(
        "Where the bound loses",
        figures,
        f"{count} of these test examples, for each of which the best Normal posterior with independent axes was found "
        "by itself. The approximation gap is what even it cannot do, the amortization gap what the encoder, which "
        "serves all, loses to it. Here ln p(x) is estimated from the better of the two posteriors.",
    )


def simulated(subject: Subject, wanted: Wanted, progress: Progress) -> Section:
    """ln p(x) from below and above on data that the model itself has drawn."""
    noise, other = (evaluation_keys(ASSESSMENT_SEED + which).sample for which in (0, 1))

    def of_one(params: Params, number: Array) -> Any:
        model = subject._replace(params=params)
        key, temperatures = jax.random.fold_in(noise, number), wanted.num_temperatures
        found = evaluation.bidirectional(
            key, model.decode, model.prior(), 1, encode=model.encode, num_temperatures=temperatures
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
    with progress("annealed importance sampling", count) as advance:
        for start in range(0, count, at_once):
            numbers = jnp.minimum(jnp.arange(start, start + at_once), count - 1)
            found = compiled(subject.params, numbers)
            parts.append(np.stack([np.asarray(each)[: count - start] for each in found]))
            advance(min(at_once, count - start))
    lower, upper, sampled = np.concatenate(parts, axis=1)
    figures = [
        ("lower", mean_figure("-ln p(x), annealed, at most", -lower)),
        ("upper", mean_figure("-ln p(x), backwards, at least", -upper)),
        ("width", mean_figure("between the two", upper - lower)),
        ("importance_shortfall", mean_figure("importance sampling misses, at most", upper - sampled)),
    ]
    return section_of(
        "ln p(x) from both sides",
        figures,
        f"{count} examples that the model has drawn itself, so that their latents are known: only of these is there a "
        f"bound from above (BDMC, {wanted.num_temperatures} temperatures, 16 chains). They may be easier or harder "
        "than the test examples. The bounds hold on average over examples, so a difference may come out below 0 "
        "by its error.",
    )
