"""What is evaluated, on which examples, and how a figure is made of what was found of each."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.checks import check_count
from vaejax.distributions import as_native
from vaejax.distributions.interop import has_trait
from vaejax.evaluation import Estimate, estimate
from vaejax.experiment import Experiment
from vaejax.findings import Figure, Section
from vaejax.outcome import Measured, evaluation_keys, prepare_example
from vaejax.types import Array, Distribution, Params

# The noise of what is measured here; x and its fingerprint are those of the test figures.
ASSESSMENT_SEED = 0x7E5A
# Of the order in which test examples are taken, where not all are.
ORDER_SEED = 0

# A label and how much there is to do, to a context with a function that is told how much more is done.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class Wanted(NamedTuple):
    """What is measured, and how closely."""

    num_samples: int = 5000  # importance samples of each example
    num_examples: int = 1000  # of the test set, chosen at random once and for all
    num_gaps: int = 100  # of them, whose best Normal posterior is looked for; 0: none
    num_simulated: int = 16  # examples drawn from the model, to bound their ln p(x) from both sides; 0: none
    num_temperatures: int = 500  # of annealed importance sampling
    chunk_size: int = 250  # samples that are in memory together

    def check(self) -> None:
        """Raise on what cannot be."""
        # One sample has no error.
        check_count("num_samples", self.num_samples, minimum=2)
        for name in ("num_examples", "num_temperatures", "chunk_size"):
            check_count(name, getattr(self, name))
        for name in ("num_gaps", "num_simulated"):
            check_count(name, getattr(self, name), minimum=0)


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

    def x(self, number: Array, example: Array) -> Array:
        """A test example as the model sees it."""
        return prepare_example(self.experiment, evaluation_keys(), number, example)

    def numbers(self, count: int) -> np.ndarray:
        """Which test examples are taken: the first of an order that is random, and the same for every run.

        The files of a data set are often sorted, so that its own first examples are no sample of it.
        """
        return np.random.default_rng(ORDER_SEED).permutation(len(self.measured.means))[:count]

    def first_x(self) -> Array:
        """One x, for its shape."""
        return self.x(jnp.int32(0), jnp.asarray(self.experiment.dataset.test.examples[:1][0]))

    def posterior_kind(self) -> Any:
        """q(z|x) without numbers."""
        return as_native(jax.eval_shape(lambda: self.encode(self.first_x())))

    def likelihood_kind(self) -> Any:
        """p(x|z) without numbers."""
        return as_native(jax.eval_shape(lambda: self.decode(self.encode(self.first_x()).sample(jax.random.key(0)))))


def attempt(title: str, make: Callable[[], Section | None]) -> Section | None:
    """A section, or the reason why it could not be made: what one lacks does not cost the others."""
    try:
        with quiet():
            return make()
    except (ValueError, TypeError, NotImplementedError) as error:
        return Section(title, {}, [f"Not measured: {error}"])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what scikit-learn thinks of labels and factors, which is no matter of the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def figure(label: str, found: Estimate, unit: str = "nats") -> Figure:
    """An estimate as a figure."""
    return Figure(label, float(found.mean), float(found.standard_error), unit)


def mean_figure(label: str, values: Any, unit: str = "nats") -> Figure:
    """The mean over examples as a figure."""
    return figure(label, estimate(jnp.asarray(values)), unit)


def bits(subject: Subject, nats: Any) -> Figure | None:
    """A cost in nats as bits per dimension; None where the likelihood is a density, whose levels have no width."""
    p = subject.likelihood_kind()
    if has_trait(p, "is_partial") or not (has_trait(p, "is_discrete") and has_trait(p, "is_normalized")):
        return None
    return mean_figure("bits per dimension", nats / (subject.first_x().size * math.log(2)), "bits")
