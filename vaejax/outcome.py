"""What is measured of a trained experiment, example by example, on x and noise that are the same for every run."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.data import Examples, Meaning
from vaejax.distributions import Masked, Normal, as_native, kl_per_axis
from vaejax.distributions.interop import has_trait
from vaejax.evaluation import LABELS, Collapse, Estimate, Verdict, active_units, estimate, judge_collapse, per_example
from vaejax.experiment import Experiment, Settings
from vaejax.types import Array, Params

# Test data and evaluation noise are the same for every run, whatever its seed.
EVALUATION_SEED = 0x7E57
VALIDATION_SEED = 0x7E58

# Bytes of examples that are measured at once, so that a data set of any size can be.
MEASURED_AT_ONCE = 2**27
# Examples that are computed at once.
TOGETHER = 500

# What is computed of one example: from params, its number and how it is stored.
OfExample = Callable[[Params, Array, Array], Any]


class Keys(NamedTuple):
    """The streams of what is drawn for a test set."""

    prepare: Array  # for x
    noise: Array  # for the figures
    sample: Array  # for the pictures
    mean: Array  # for the means of posteriors that have none in closed form


def evaluation_keys(seed: int = EVALUATION_SEED) -> Keys:
    """The same for every run, so that all are measured on the same x and noise."""
    return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))


def prepare_example(experiment: Experiment, keys: Keys, number: Array, example: Array) -> Array:
    """An example as the model sees it: what is drawn is a function of its number, and not of those around it."""
    return experiment.prepare(jax.random.fold_in(keys.prepare, number), example[None])[0]


class Shades(NamedTuple):
    """How the model sees black and white."""

    low: float
    high: float
    spread: float  # from black to white: what a difference of 1 is


def shades_of(experiment: Experiment) -> Shades:
    """The shades of the data as they are prepared; those of real numbers go as far below 0 as above."""
    dataset, key = experiment.dataset, evaluation_keys().prepare
    levels = [0, dataset.max_value, *([-dataset.max_value] if dataset.meaning is Meaning.REAL else [])]
    images = [np.full((1, *dataset.shape), level, dataset.dtype) for level in levels]
    black, white, *rest = (np.asarray(experiment.prepare(jax.random.clone(key), image)) for image in images)
    spread = float(np.max(np.abs(white - black)))
    if not 0 < spread < math.inf:
        # Prepared in a way that does not keep them, as images that are standardized one by one.
        return Shades(0.0, 1.0, 1.0)
    everything = np.concatenate([each.ravel() for each in (black, white, *rest)])
    return Shades(float(everything.min()), float(everything.max()), spread)


def map_numbered(
    function: Callable[[Array, Array], Any], numbers: Array, examples: Any, together: int = TOGETHER
) -> Any:
    """The function of every number and example, some at once."""
    size = min(together, len(examples))
    return jax.lax.map(lambda pair: function(*pair), (numbers, examples), batch_size=size)


def map_examples(
    function: OfExample, *, together: int = TOGETHER, advance: Callable[[int], None] | None = None
) -> Callable[..., Any]:
    """`(params, examples, numbers=None)` to what the function gives of each, `[N, ...]` on the host; a part at a time.

    Args:
      function: of one example.
      together: how many are computed at once.
      advance: is told after each part how many examples more are done; parts are then small.

    Returns:
      A function of parameters, examples and the numbers of those that are wanted, all where None. Of examples that are
      read when asked for, no more than a part is read at once.
    """
    compiled = jax.jit(lambda params, numbers, part: map_numbered(partial(function, params), numbers, part, together))

    def over(params: Params, examples: Examples, numbers: np.ndarray | None = None) -> Any:
        numbers = np.arange(len(examples)) if numbers is None else np.asarray(numbers)
        count = len(numbers)
        size = max(1, MEASURED_AT_ONCE * len(examples) // max(1, examples.nbytes))
        size = min(count, size if advance is None else min(size, together))
        parts = []
        for start in range(0, count, size):
            # The last part is filled up with its last example, for a program of one shape.
            picked = numbers[np.minimum(np.arange(start, start + size), count - 1)]
            part = compiled(params, picked, examples[picked])
            parts.append(jax.tree.map(lambda leaf, stop=count - start: np.asarray(leaf)[:stop], part))
            if advance is not None:
                advance(min(size, count - start))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return over


class Measured(NamedTuple):
    """What there is to know of the test examples, on the host."""

    figures: dict[str, np.ndarray]  # [N] each: `example_figures`
    fingerprints: np.ndarray  # [N] uint32, of each x: what differs in them was not measured on the same
    means: np.ndarray  # [N, *Z] of the posteriors
    variances: np.ndarray | None  # [N, *Z]; None where there is no closed form, or no density
    kl_per_axis: np.ndarray | None  # [N, *Z] in nats; None where it has no closed form
    relative_width: np.ndarray | None = None  # [] variance of p(x|z) by that of x; None where p(x|z) is no Normal

    def estimates(self) -> dict[str, Estimate]:
        """The mean of each figure with its standard error."""
        return {name: estimate(jnp.asarray(values)) for name, values in self.figures.items()}

    def active_units(self) -> int:
        """How many latents vary with the data."""
        return int(active_units(jnp.asarray(self.means)))

    def collapse(self, mutual_information: Any = None) -> Collapse:
        """Whether the latents have collapsed; by the mutual information where it is known, or else by its bound."""
        rows = self.finite()
        if not rows.any():
            return Collapse(Verdict.FULL, (), (), "The codes of the test examples are not finite.")
        known = (self.kl_per_axis, self.variances)
        kl, noise = (None if each is None else each[rows].mean(axis=0) for each in known)
        if mutual_information is None and kl is None and noise is None and "kl" in self.figures:
            # The divergence from the prior is never below the mutual information.
            mutual_information = self.figures["kl"].mean()
        variance = self.means[rows].var(axis=0)
        return judge_collapse(
            kl,
            variance,
            posterior_variance=noise,
            mutual_information=mutual_information,
            num_examples=int(rows.sum()),
            relative_width=None if self.relative_width is None else float(self.relative_width),
        )

    def finite(self) -> np.ndarray:
        """Which examples have a code that is finite, `[N]`."""
        return np.isfinite(self.means).reshape(len(self.means), -1).all(axis=1)

    def mean_kl_per_axis(self) -> list[float] | None:
        """The KL of each axis in nats, mean over the examples."""
        return None if self.kl_per_axis is None else self.kl_per_axis.mean(axis=0).tolist()


def measure(experiment: Experiment, params: Params) -> Measured:
    """Measure the test examples."""
    keys, white = evaluation_keys(), shades_of(experiment).spread
    figures_of, latents_of = stored_figures(experiment, white, keys), stored_latents(experiment, keys)

    def of_example(params: Params, number: Array, example: Array) -> tuple[Any, Any]:
        return figures_of(params, number, example), latents_of(params, number, example)

    figures, latents = map_examples(of_example)(params, experiment.dataset.test.examples)
    width = _relative_width(experiment, keys, latents.get("likelihood_variance"))
    return Measured(
        figures,
        latents["fingerprint"],
        latents["mean"],
        latents.get("variance"),
        latents.get("kl_per_axis"),
        width,
    )


def _relative_width(experiment: Experiment, keys: Keys, variances: np.ndarray | None) -> np.ndarray | None:
    """The variance of p(x|z) by that of x over test examples, both means over elements; None where x is constant."""
    if variances is None:
        return None
    examples = experiment.dataset.test.examples
    numbers = np.arange(min(TOGETHER, len(examples), max(2, MEASURED_AT_ONCE // max(1, 4 * examples[:1].size))))
    x = map_examples(lambda _, *example: prepare_example(experiment, keys, *example))({}, examples, numbers)
    x = np.ma.masked_invalid(np.asarray(x, np.float64))
    spread = np.mean(np.var(x, axis=0))
    return np.asarray(variances.mean() / spread) if spread > 0 else None


def stored_latents(experiment: Experiment, keys: Keys) -> OfExample:
    """`(params, number, example)` to the `mean`, `variance` and `kl_per_axis` of a posterior, where they are known.

    Besides there is the `fingerprint` of x, and of a Normal p(x|z) its `likelihood_variance`, a mean over elements.
    """

    def latents(params: Params, number: Array, example: Array) -> dict[str, Array]:
        x = prepare_example(experiment, keys, number, example)
        q = experiment.model.encode(params, x)
        # The same draws for all: means that differ do so by the examples.
        mean = posterior_mean(jax.random.clone(keys.mean), q)
        p = as_native(experiment.model.decode(params, mean))
        # The nats of a mass are not those of a density.
        kind = jnp.uint32(has_trait(p, "is_discrete"))
        known = {"variance": variance_of(q), "kl_per_axis": divergence_per_axis(experiment, params, q)}
        known["likelihood_variance"] = None if (normal := normal_of(p)) is None else jnp.mean(normal.variance)
        found = {name: each for name, each in known.items() if each is not None}
        return {"mean": mean, "fingerprint": fingerprint(x) + kind, **found}

    return latents


def normal_of(p: Any) -> Normal | None:
    """A likelihood that is a Normal, or one of what is observed; None of another."""
    native = as_native(p)
    base = native.base if isinstance(native, Masked) else native
    return base if isinstance(base, Normal) else None


def variance_of(q: Any) -> Array | None:
    """The variance of each axis; None of a point, and where it has no closed form."""
    return None if has_trait(q, "is_point") else getattr(q, "variance", None)


def divergence_per_axis(experiment: Experiment, params: Params, q: Any) -> Array | None:
    """The KL of each axis of a posterior from the prior in nats; None without a prior, a density or a closed form."""
    if experiment.prior is None or has_trait(q, "is_point"):
        return None
    try:
        return kl_per_axis(q, experiment.prior(params))
    except TypeError:
        return None


def fingerprint(x: Any) -> Array:
    """A number that differs where x differs, but for one time in four thousand million; uint32 `[]`.

    Each element is mixed with its place by the finalizer of MurmurHash3 (Appleby 2011), and all are added up.
    """
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(x):
        bits = jax.lax.bitcast_convert_type(jnp.asarray(leaf).astype(jnp.float32).ravel(), jnp.uint32)
        mixed = bits + jnp.arange(1, len(bits) + 1, dtype=jnp.uint32) * jnp.uint32(0x9E3779B1)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
        total += jnp.sum(mixed, dtype=jnp.uint32)
    return total


def stored_figures(experiment: Experiment, white: float, keys: Keys) -> OfExample:
    """`(params, number, example)` to the figures of one example as it is stored."""
    figures_of = example_figures(experiment, white)

    def figures(params: Params, number: Array, example: Array) -> dict[str, Array]:
        x = prepare_example(experiment, keys, number, example)
        return figures_of(params, jax.random.fold_in(keys.noise, number), x)

    return figures


def example_figures(experiment: Experiment, white: float) -> Callable[[Params, Array, Array], dict[str, Array]]:
    """`(params, key, x)` to the figures of one example, by name.

    To the parts of what is reported comes `squared_error`: from x to the mean of p(x|z) at the posterior
    mean, summed over what is not missing of the image, with white as 1.
    """

    def figures(params: Params, key: Array, x: Array) -> dict[str, Array]:
        report_key, mean_key = jax.random.split(key)
        # A batch of one, whose noise and value do not depend on others.
        each = per_example((experiment.report or experiment.objective)(params, report_key, x[None]))
        z = posterior_mean(mean_key, experiment.model.encode(params, x))
        error = (x - experiment.model.decode(params, z).mean) / white  # type: ignore[attr-defined]
        if experiment.dataset.missing:
            error = jnp.where(jnp.isnan(x), 0.0, error)
        return {name: values[0] for name, values in each.items()} | {"squared_error": jnp.sum(error**2)}

    return figures


def mean_of(distribution: Any) -> Array:
    """The mean of a distribution that has one."""
    return jnp.asarray(distribution.mean)


def posterior_mean(key: Array, q: Any, num_samples: int = 256) -> Array:
    """`E_q z`, in closed form where q knows it and as the mean of draws where it does not, as a flow."""
    mean = getattr(q, "mean", None)
    return jnp.mean(q.sample(key, (num_samples,)), axis=0) if mean is None else mean


def make_validation(experiment: Experiment, settings: Settings) -> Callable[[Params], dict[str, np.ndarray]] | None:
    """Params to the figures of the examples that are held out, that which is watched first; None where none are.

    The noise is the same every time, so that one set of weights differs from another by the weights alone.
    """
    size = settings.training.validation_size
    if not size:
        return None
    dataset = experiment.dataset
    if dataset.validation is None:
        held_out = dataset.train.examples[len(dataset.train.examples) - size :]
    else:
        held_out = dataset.validation.examples[:size]
    figures_of = map_examples(
        stored_figures(experiment, shades_of(experiment).spread, evaluation_keys(VALIDATION_SEED))
    )

    def validate(params: Params) -> dict[str, np.ndarray]:
        values = figures_of(params, held_out)
        return {f"validation_{name}": values[name].mean() for name in LABELS if name in values}

    return validate
