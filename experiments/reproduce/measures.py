"""What the rows of a table are compared by, and how it is measured of a trained seed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vaejax.assess import Wanted, bounds, representation
from vaejax.assess.subject import Subject
from vaejax.evaluation import pareto_threshold
from vaejax.experiment import Experiment
from vaejax.outcome import Measured
from vaejax.progress import step_progress
from vaejax.types import Params

from .tables import Size


class Trained(NamedTuple):
    """A trained seed."""

    seed: int
    settings: Any
    experiment: Experiment
    params: Params
    measured: Measured
    config: dict[str, Any]  # that of its run
    seconds: float  # of training
    history: Sequence[Mapping[str, float]] = ()  # its reports

    def subject(self) -> Subject:
        """As what can be assessed."""
        return Subject(self.experiment, self.params, self.measured)


class Taken(NamedTuple):
    """What was measured of it."""

    value: float  # what the table is about
    standard_error: float | None  # of it, over the test examples; None of a score of all together
    unreliable: float | None = None  # share of the estimates that their Pareto k says cannot be trusted
    scores: Mapping[str, float] = {}  # what else there is, by its name
    curve: Sequence[tuple[float, float]] = ()  # training examples seen so far, and what is compared, as it came


class Measure(NamedTuple):
    """What a table compares."""

    label: str  # the head of its column
    axis: str  # of the picture
    take: Callable[[Size, Trained], Taken]
    higher_is_better: bool = False


def likelihood(size: Size, trained: Trained) -> Taken:
    """-ln p(x) of the whole test set, nats, by importance sampling."""
    wanted = Wanted(num_samples=size.num_samples, num_examples=size.num_examples)
    wanted.check()
    _, found = bounds.likelihood(trained.subject(), wanted, step_progress)
    value, error = of_whole_test_set(
        trained.measured.figures["negative_elbo"], -found["log_likelihood"], -found["elbo"]
    )
    # A tail that could not be fitted is none to trust.
    unreliable = float(np.mean(~(found["pareto_k"] <= pareto_threshold(size.num_samples))))
    return Taken(value, error, unreliable)


def of_whole_test_set(negative_elbo: np.ndarray, estimated: np.ndarray, its_elbo: np.ndarray) -> tuple[float, float]:
    """The mean of -ln p(x) over N test examples from that of n of them, and its standard error.

    `mean_N(-ELBO) - mean_n(ln p(x) - ELBO)`. The ELBO is known of all examples and takes with it most of what differs
    between them, so that a thousand of ten thousand tell the mean to a tenth of the error that they have by themselves.
    The error is that of the second mean: the first has that of a draw of the ELBO, some hundredths of a nat.

    Args:
      negative_elbo: `[N]`, of all examples, each from a draw or a few.
      estimated: `[n]`, -ln p(x) of some of them, chosen at random; all of them: their mean is taken as it is.
      its_elbo: `[n]`, the -ELBO from the same samples.
    """
    negative_elbo, estimated, its_elbo = (each.astype(np.float64) for each in (negative_elbo, estimated, its_elbo))
    if len(estimated) == len(negative_elbo):
        return float(estimated.mean()), float(estimated.std(ddof=1) / len(estimated) ** 0.5)
    difference = estimated - its_elbo
    return float(negative_elbo.mean() + difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)


def bound(size: Size, trained: Trained) -> Taken:
    """-ELBO of the whole test set, nats, and of the validation examples on the way."""
    del size
    each = trained.measured.figures["negative_elbo"].astype(np.float64)
    examples_per_step = trained.settings.examples_per_step(trained.experiment.dataset)
    curve = [
        (float(report["step"] * examples_per_step), float(report["validation_negative_elbo"]))
        for report in trained.history
        if "validation_negative_elbo" in report
    ]
    return Taken(float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5), curve=curve)


def disentanglement(size: Size, trained: Trained) -> Taken:
    """The mutual information gap of the codes, and the other scores.

    Raises:
      ValueError: the test examples have no factors, or the gap cannot be measured of them.
    """
    del size
    section = representation.factors(trained.subject(), step_progress)
    if section is None or "mig" not in section.figures:
        raise ValueError(f"{trained.experiment.dataset.name}: the test examples have no factors to score the codes by")
    scores = {figure.label: figure.value for name, figure in section.figures.items() if name != "mig"}
    reconstruction = float(np.mean(trained.measured.figures["reconstruction"], dtype=np.float64))
    return Taken(section.figures["mig"].value, None, scores={**scores, "reconstruction, nats": reconstruction})


MEASURES = {
    "likelihood": Measure("-ln p(x)", "-ln p(x) of the test set, nats (lower is better)", likelihood),
    "bound": Measure("-ELBO", "-ELBO, nats (lower is better)", bound),
    "disentanglement": Measure("MIG", "mutual information gap (higher is better)", disentanglement, True),
}
