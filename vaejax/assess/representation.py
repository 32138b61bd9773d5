"""What the latents hold: information, labels, factors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import evaluation
from vaejax.assess.subject import ASSESSMENT_SEED, Progress, Subject, figure, quiet
from vaejax.distributions import MultivariateNormal, Normal, as_native
from vaejax.findings import Figure, Section, section_of
from vaejax.making import choose, encode_means
from vaejax.outcome import evaluation_keys, map_examples
from vaejax.types import Array, Distribution, Params

# Codes that are probed, clustered and scored.
MAX_CODES = 10_000
# Draws from all posteriors together, for the mutual information.
DRAWS = 10_000
# Nats: with fewer examples than four the mutual information cannot tell collapse from a lack of examples.
LEAST_LIMIT = 2 * np.log(2)
# Factors whose values have no order.
WITHOUT_ORDER = ("shape", "color", "colour", "hue")


def latents(subject: Subject) -> Section:
    """What the latents say of x, and whether they have collapsed."""
    measured = subject.measured
    count = int(np.prod(measured.means.shape[1:]))
    figures = [("active_units", Figure("active units", measured.active_units(), None, f"of {count}"))]
    most, remarks = None, []
    q = _posteriors(subject) if subject.experiment.prior is not None and len(measured.means) > 1 else None
    if q is not None:
        found, of = _information(subject, q), min(len(measured.means), MAX_CODES)
        figures += [
            ("rate", figure("rate, KL(q(z|x) || p(z))", found.rate)),
            ("mutual_information", figure("mutual information, at least", found.mutual_information)),
            ("aggregate_kl", figure("aggregate posterior from prior, at most", found.aggregate_kl)),
        ]
        if found.limit >= LEAST_LIMIT:
            most = float(found.mutual_information.mean + 2 * found.mutual_information.standard_error)
        if found.is_saturated:
            remarks.append(
                f"The mutual information is near {float(found.limit):.2f}, the log of the number of examples ({of:,}), "
                "which it cannot exceed: of more examples it would be more, and the divergence of the aggregate less."
            )
        moments = evaluation.aggregate_moments(q)
        mean, deviation = np.asarray(moments.mean), np.asarray(moments.standard_deviation)
        remarks.append(
            f"The axes of the aggregate posterior have means from {mean.min():.2f} to {mean.max():.2f} and standard "
            f"deviations from {deviation.min():.2f} to {deviation.max():.2f}."
        )
    verdict = measured.collapse(most)
    return section_of("Latents", figures, verdict.text, *remarks, status=str(verdict.status))


def _information(subject: Subject, q: Any) -> evaluation.Information:
    draws = max(1, DRAWS // len(subject.measured.means))
    key = evaluation_keys(ASSESSMENT_SEED).prepare
    return jax.jit(evaluation.information, static_argnames="num_samples")(key, q, subject.prior(), num_samples=draws)


def _posteriors(subject: Subject) -> Distribution | None:
    """The posteriors of test examples as one, where they are Normals."""
    kind, measured = subject.posterior_kind(), subject.measured
    ndims = measured.means.ndim - 1
    if isinstance(kind, Normal) and measured.variances is not None:
        loc, variance = (jnp.asarray(each[:MAX_CODES]) for each in (measured.means, measured.variances))
        return Normal(loc, jnp.sqrt(jnp.broadcast_to(variance, loc.shape)), ndims)
    if not isinstance(kind, MultivariateNormal):
        return None

    def parameters(params: Params, number: Array, example: Array) -> Any:
        q: Any = as_native(subject._replace(params=params).encode(subject.x(number, example)))
        return q.loc, q.scale_tril

    numbers = np.arange(min(MAX_CODES, len(measured.means)))
    found = map_examples(parameters)(subject.params, subject.experiment.dataset.test.examples, numbers)
    return MultivariateNormal(*map(jnp.asarray, found))


def labels(subject: Subject, progress: Progress) -> Section | None:
    """How well the codes tell labels apart; None without labels, and examples that have none are left out."""
    dataset = subject.experiment.dataset
    told, asked = dataset.train.labels, dataset.test.labels
    if told is None or asked is None:
        return None
    # At random: the files of a set are often sorted by label.
    order = np.random.default_rng(0).permutation(len(dataset.train.examples))
    first = order[told[order] >= 0][:MAX_CODES]
    held_out = subject.numbers(MAX_CODES)
    if not (len(first) and (asked[held_out] >= 0).any()):
        return None
    with progress("labels", 3) as advance:
        codes = encode_means(subject.experiment, subject.params, choose(dataset, "train", first))
        advance(1)
        scores = {
            "linear_probe": lambda: evaluation.linear_probe(
                codes, told[first], subject.measured.means[held_out], asked[held_out]
            ),
            "clusters": lambda: evaluation.clustering(subject.measured.means[held_out], asked[held_out]),
        }
        found, remarks = _each(scores, advance)
    figures = []
    if probe := found.get("linear_probe"):
        figures += [
            ("linear_probe", Figure("linear probe, test", 100 * probe.accuracy, 100 * probe.standard_error, "% right")),
            ("linear_probe_baseline", Figure("always the commonest", 100 * probe.baseline, None, "% right")),
        ]
        remarks.append(f"A probe of {len(codes):,} training codes, the means of q(z|x).")
    if clusters := found.get("clusters"):
        figures += [
            ("cluster_accuracy", Figure("k-means, best matching", 100 * clusters.accuracy, None, "% right")),
            ("cluster_nmi", Figure("its mutual information, normalized", clusters.normalized_mutual_information)),
            ("cluster_ari", Figure("its adjusted Rand index", clusters.adjusted_rand_index)),
        ]
    return section_of("The representation against the labels", figures, *remarks)


def factors(subject: Subject, progress: Progress) -> Section | None:
    """How well single latents serve single factors; None without factors."""
    dataset, test = subject.experiment.dataset, subject.experiment.dataset.test
    if test.factors is None:
        return None
    picked = subject.numbers(MAX_CODES)
    codes, known = subject.measured.means[picked].reshape(len(picked), -1), np.asarray(test.factors)[picked]
    varied = [column for column in range(known.shape[1]) if len(np.unique(known[:, column])) > 1]
    known = known[:, varied]
    categorical = [
        place
        for place, column in enumerate(varied)
        if dataset.factor_names and any(word in dataset.factor_names[column] for word in WITHOUT_ORDER)
    ]
    scores: dict[str, Callable[[], Any]] = {
        "MIG": lambda: evaluation.mutual_information_gap(codes, known).score,
        "SAP": lambda: evaluation.sap(codes, known, categorical=categorical).score,
        "FactorVAE score": lambda: evaluation.factor_vae_score(codes, known).accuracy,
        "beta-VAE score": lambda: evaluation.beta_vae_score(codes, known).accuracy,
        "DCI": lambda: evaluation.dci(codes, known),
    }
    with progress("factors", len(scores)) as advance:
        found, remarks = _each(scores, advance)
    if dci := found.pop("DCI", None):
        parts = ("disentanglement", "completeness", "informativeness")
        found |= {f"DCI {part}": getattr(dci, part) for part in parts}
    figures = [(_name(label), Figure(label, float(score))) for label, score in found.items()]
    said = f"{len(codes):,} test examples, {known.shape[1]} factors that vary."
    return section_of("Disentanglement, from 0 to 1", figures, said, *remarks)


def _each(scores: dict[str, Callable[[], Any]], advance: Callable[[int], None]) -> tuple[dict[str, Any], list[str]]:
    """What could be scored, and why the rest could not."""
    found, remarks = {}, []
    for name, score in scores.items():
        try:
            with quiet():
                found[name] = score()
        except (ValueError, TypeError) as error:
            remarks.append(f"Not measured: {error}")
        advance(1)
    return found, remarks


def _name(label: str) -> str:
    """A label as the name of a figure."""
    return label.lower().removesuffix(" score").replace("factorvae", "factor_vae").replace("-", "_").replace(" ", "_")
