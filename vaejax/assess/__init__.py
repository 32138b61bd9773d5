"""The evaluation of a run: how likely the data are, how tight the bound is, and what the latents hold."""

from typing import NamedTuple

import numpy as np

from vaejax.assess.bounds import gaps, likelihood, refusal, simulated
from vaejax.assess.representation import factors, labels, latents
from vaejax.assess.subject import Progress, Subject, Wanted, attempt, bits, figure
from vaejax.evaluation import LABELS, unit_of
from vaejax.experiment import Experiment
from vaejax.findings import Findings, Section, section_of
from vaejax.outcome import measure
from vaejax.types import Params

__all__ = ["Assessment", "Progress", "Wanted", "assess"]


class Assessment(NamedTuple):
    """What was found."""

    findings: Findings
    per_example: dict[str, np.ndarray]  # [n] each, of the examples whose likelihood was estimated; and num_samples, []


def assess(experiment: Experiment, params: Params, wanted: Wanted, progress: Progress) -> Assessment:
    """Evaluate a trained model on the test set of its experiment; what does not apply to it says why."""
    wanted.check()
    subject = Subject(experiment, params, measure(experiment, params))
    why_not, per_example = refusal(subject), dict[str, np.ndarray]()
    found: dict[str, Section | None] = {"test": _test(subject)}
    if why_not:
        found["likelihood"] = Section("ln p(x)", {}, [why_not])
    else:
        found["likelihood"], per_example = likelihood(subject, wanted, progress)
        if wanted.num_gaps:
            found["gaps"] = attempt("Where the bound loses", lambda: gaps(subject, wanted, per_example, progress))
        if wanted.num_simulated:
            found["simulated"] = attempt("ln p(x) from both sides", lambda: simulated(subject, wanted, progress))
    found["latents"] = attempt("Latents", lambda: latents(subject))
    found["labels"] = attempt("The representation against the labels", lambda: labels(subject, progress))
    found["factors"] = attempt("Disentanglement", lambda: factors(subject, progress))
    return Assessment({name: section for name, section in found.items() if section is not None}, per_example)


def _test(subject: Subject) -> Section:
    """The parts of the bound: the rate and the distortion of Alemi et al. 2018 are its KL and its reconstruction."""
    estimates = subject.measured.estimates()
    figures = [
        (name, figure(label, estimates[name], unit_of(name))) for name, label in LABELS.items() if name in estimates
    ]
    if "negative_elbo" in estimates and (size := bits(subject, subject.measured.figures["negative_elbo"])):
        figures.append(("bits_per_dimension", size))
    return section_of(f"Test set, {len(subject.measured.means):,} examples", figures)
