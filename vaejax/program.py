"""An experiment as a program: its loss, its step, its feed and its first state."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vaejax.checks import check_support
from vaejax.data import Dataset, Lazy, Meaning
from vaejax.evaluation import batch_metrics
from vaejax.evaluation.latents import ACTIVE_VARIANCE
from vaejax.experiment import Experiment, Settings
from vaejax.feed import make_feed, seed_streams
from vaejax.memory import largest_array
from vaejax.objectives import negative_mean
from vaejax.outcome import example_figures, normal_of, shades_of
from vaejax.settings import NotFinitePolicy
from vaejax.training import (
    Feed,
    PerExample,
    Progress,
    TrainState,
    begin,
    data_mesh,
    fit,
    init_state,
    make_train_step,
    on_mesh,
    progress_like,
    state_shardings,
)
from vaejax.training.gradients import Metrics
from vaejax.training.step import Step
from vaejax.types import Array, Distribution, Params

# The bytes of an array that a core of a CPU still has at hand when it reads it again.
CACHED = 2**20
# What makes larger arrays than it returns.
CONVOLUTIONS = {"convolve", "convolve_transposed", "conv_general_dilated"}
# Examples whose values are looked at before training.
MAX_CHECKED, CHECKED_AT_ONCE = 2**17, 2**12
# Of examples that are read for it, and the numbers of all that are looked at together.
MAX_READ, NUMBERS_AT_ONCE = 512, 2**24
# How many times the variance of a likelihood the squared error may be before training, or the other way round.
MISFIT = 1e4


class Program(NamedTuple):
    """What `fit` needs of an experiment."""

    feed: Feed
    init: Callable[[], TrainState]
    num_steps: int
    steps_per_epoch: int
    with_snapshot: bool

    def begin(self) -> Progress:
        """The progress before the first step."""
        return begin(self.feed, jax.jit(self.init)(), with_snapshot=self.with_snapshot)

    def like(self) -> Any:
        """The shapes of its progress."""
        return progress_like(self.feed, jax.eval_shape(self.init), with_snapshot=self.with_snapshot)


def optimize(experiment: Experiment, settings: Settings) -> TrainState:
    """Train an experiment in memory, with no folder and no stops."""
    program = make_program(experiment, settings)
    every = program.steps_per_epoch
    return fit(program.feed, program.begin(), num_steps=program.num_steps, report_every=every).state


def make_program(experiment: Experiment, settings: Settings) -> Program:
    """The program of an experiment on the devices that its settings ask for."""
    running, dataset = settings.running, experiment.dataset
    mesh = data_mesh(running.devices)
    make = _step_maker(experiment, settings)
    steps = [make(max_skipped(settings))]
    if settings.training.not_finite is NotFinitePolicy.RAISE:
        # A run that goes to its end or not at all needs no guard until something is not finite.
        steps.append(make(None))
    steps_per_epoch = settings.steps_per_epoch(dataset)
    placement: dict[str, Any] = {}
    if mesh.size > 1:
        _check_batch(settings.examples_per_step(dataset), mesh)
        steps = [on_mesh(step, mesh, shard_params=running.shard_params) for step in steps]
        shardings = partial(state_shardings, mesh=mesh, shard_params=running.shard_params)
        placement = {"mesh": mesh, "sharding_of": shardings}
    feed = make_feed(steps[0], dataset, settings, unguarded=next(iter(steps[1:]), None), **placement)
    return Program(
        feed,
        partial(initial_state, experiment, settings),
        settings.num_steps(dataset),
        steps_per_epoch,
        settings.training.not_finite is NotFinitePolicy.ROLL_BACK,
    )


def make_step(experiment: Experiment, settings: Settings) -> Step:
    """The train step of an experiment."""
    return _step_maker(experiment, settings)(max_skipped(settings))


def _step_maker(experiment: Experiment, settings: Settings) -> Callable[[int | None], Step]:
    """How many steps in a row may be skipped, or None for no guard, to the train step."""
    loss = make_loss(experiment)
    parts = micro_batches(loss, experiment, settings)
    return lambda skipped: make_train_step(
        loss,
        experiment.optimizer,
        num_micro_batches=parts,
        schedules=experiment.schedules,
        ema_decay=settings.training.ema_decay,
        max_skipped=skipped,
    )


def micro_batches(loss: Any, experiment: Experiment, settings: Settings) -> int:
    """In how many parts a batch is computed: as many as are asked for.

    Where that is not said, in one; on a CPU in so many that what the convolutions of a part make stays in its cache.
    """
    if settings.training.micro_batches is not None:
        return settings.training.micro_batches
    elsewhere = jax.default_backend() != "cpu" or data_mesh(settings.running.devices).size > 1
    if elsewhere or not isinstance(loss, PerExample):
        return 1
    key = jax.eval_shape(lambda: jax.random.key(0))
    size = settings.examples_per_step(experiment.dataset)
    batch = jax.ShapeDtypeStruct((size, *experiment.dataset.shape), experiment.dataset.dtype)
    x = jax.eval_shape(experiment.prepare, key, batch)
    params = jax.eval_shape(experiment.model.init, key)
    wanted = largest_array(CONVOLUTIONS, partial(_reconstruct, experiment), params, key, x) / CACHED
    counts = (count for count in range(1, size) if size % count == 0 and count >= wanted)
    return next(counts, size)


def max_skipped(settings: Settings) -> int:
    """How many steps in a row may be skipped."""
    return settings.training.max_not_finite if settings.training.not_finite is NotFinitePolicy.SKIP else 0


def make_loss(experiment: Experiment) -> Any:
    """The experiment as the loss of a train step, for which each example draws by itself where that is possible."""

    def terms_of(params: Params, key: Array, images: Any, **scheduled: Array) -> Any:
        prepare_key, objective_key = jax.random.split(key)
        x = experiment.prepare(prepare_key, images)
        loss, terms = negative_mean(experiment.objective(params, objective_key, x, **scheduled))
        metrics = batch_metrics(terms, experiment.prior(params) if experiment.prior else None)
        return loss, metrics, getattr(getattr(terms, "posterior", None), "mean", None)

    def of_batch(params: Params, key: Array, images: Any, **scheduled: Array) -> Any:
        return terms_of(params, key, images, **scheduled)[:2]

    def of_examples(params: Params, keys: Array, images: Any, **scheduled: Array) -> Any:
        one = lambda key, image: terms_of(params, key, image[None], **scheduled)
        losses, metrics, latents = jax.vmap(one)(keys, images)
        if latents is not None:
            metrics |= {"active_units": latents[:, 0], SQUARES: latents[:, 0] ** 2}
        return jnp.mean(losses), {name: jnp.mean(values, axis=0) for name, values in metrics.items()}

    return of_batch if experiment.couples_batch else PerExample(of_examples, _count_active)


SQUARES = "squared_latents"


def _count_active(means: Metrics) -> Metrics:
    """The metrics with the active units of the batch, a count that no example has, from the means of its latents."""
    if SQUARES not in means:
        return means
    variance = means[SQUARES] - means["active_units"] ** 2
    rest = {name: value for name, value in means.items() if name != SQUARES}
    return {**rest, "active_units": jnp.sum(variance > ACTIVE_VARIANCE)}


def initial_state(experiment: Experiment, settings: Settings) -> TrainState:
    """The state before the first step."""
    params_key, noise_key, _ = seed_streams(settings)
    with_ema = settings.training.ema_decay is not None
    return init_state(noise_key, experiment.model.init(params_key), experiment.optimizer, with_ema=with_ema)


def final_params(state: TrainState) -> Params:
    """What is measured: the moving average of the weights, or the weights where there is none."""
    return state.ema if jax.tree.leaves(state.ema) else state.params


def check_fit(experiment: Experiment, settings: Settings) -> None:
    """Raise where settings, data, model and likelihood do not fit each other; nothing is trained yet.

    Warns where real numbers are far from the scale at which their likelihood begins.
    """
    settings.check()
    settings.steps_per_epoch(experiment.dataset)
    # An abstract key: only the preparation of the data computes anything here.
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(experiment.model.init, key)
    for number, split in enumerate(experiment.dataset.splits.values()):
        # A part at a time, and no more than the first of very many: they need not fit on the device.
        reads = isinstance(split.examples, Lazy)
        looked_at = min(len(split.examples), MAX_READ if reads else MAX_CHECKED)
        at_once = max(1, min(CHECKED_AT_ONCE, looked_at, NUMBERS_AT_ONCE // math.prod(experiment.dataset.shape)))
        for start in range(0, looked_at, at_once):
            # Some are looked at twice, so that all parts have one shape, for which programs are compiled once.
            first = min(start, looked_at - at_once)
            x = _prepare(experiment, jax.random.key(number), split.examples[first : first + at_once])
            if not start:
                likelihood = jax.eval_shape(partial(_reconstruct, experiment), params, key, x)
            _check_values(experiment.dataset, likelihood, x)
    _check_scale(experiment, settings, x[:MAX_READ])
    check_step(experiment, settings)
    # What could go wrong with it at the end goes wrong now.
    shades_of(experiment)
    try:
        jax.eval_shape(example_figures(experiment, 1.0), params, key, x[0])
    except ValueError as error:
        hint = "give the experiment a report of its own"
        raise ValueError(f"the figures of a single test example: {error}; {hint}") from error


def _prepare(experiment: Experiment, key: Array, examples: Any) -> Array:
    try:
        return experiment.prepare(key, examples)
    except ValueError as error:
        if not experiment.dataset.missing:
            raise
        raise ValueError(f"the data set {experiment.dataset.name}: {error}; {_remedies(experiment.dataset)}") from error


def _reconstruct(experiment: Experiment, params: Params, key: Array, x: Array) -> Distribution:
    """p(x|z) of a draw of z."""
    return experiment.model.decode(params, experiment.model.encode(params, x).sample(key))


def _check_values(dataset: Dataset, likelihood: Any, x: Array) -> None:
    """Raise where x is outside the support of the likelihood, with what can be done about it."""
    if callable(getattr(likelihood, "support", None)):
        expected = f"in the support of the likelihood {type(likelihood).__name__}"
        try:
            check_support(f"the data set {dataset.name}", x, likelihood.support, expected)
        except ValueError as error:
            raise ValueError(f"{error}; {_remedies(dataset)}") from error


def _check_scale(experiment: Experiment, settings: Settings, x: Array) -> None:
    """Warn where real numbers would begin a hundred standard deviations away, or fill a hundredth of one."""
    if experiment.dataset.meaning is not Meaning.REAL:
        return

    def compare(key: Array, x: Array) -> tuple[Array, Array, Array] | None:
        params_key, draw_key = jax.random.split(key)
        p = normal_of(_reconstruct(experiment, experiment.model.init(params_key), draw_key, x))
        return None if p is None else (jnp.nanmean(x**2), jnp.nanmean((x - p.mean) ** 2), jnp.mean(p.variance))

    compared = jax.jit(compare)(jax.random.key(settings.seed), x)
    if compared is None:
        return
    square, error, variance = map(float, compared)
    # Also where either is NaN or infinite.
    if not (variance / MISFIT < square and error < variance * MISFIT):
        warnings.warn(
            f"the data set {experiment.dataset.name} is far from the scale of its likelihood: its mean square is "
            f"{square:.3g}, and before training the squared error is {error:.3g} on average and the variance "
            f"{variance:.3g}; standardize it (data.standardize, or nets.heads.standardized to keep its units)",
            stacklevel=3,
        )


def _remedies(dataset: Dataset) -> str:
    """What fits data of a meaning."""
    if dataset.missing:
        return "NaN is missing: give the likelihood p as vaejax.Masked(p), as the experiment vae does, or fill it in"
    levels = int(dataset.max_value) + 1
    match dataset.meaning:
        case Meaning.BINARY:
            return "these are 0 and 1: pass them as they are, to nets.heads.bernoulli()"
        case Meaning.INTENSITY:
            whole = jnp.issubdtype(dataset.dtype, jnp.integer)
            as_levels = (
                f", or one of levels (as they are stored, for nets.heads.categorical({levels}) or "
                f"nets.likelihoods.discretized_logistic({levels}))"
            )
            return (
                f"for intensities from 0 to {dataset.max_value:g}, either draw them as 0 and 1 (data.binarize, for a "
                "Bernoulli), or take a likelihood of [0, 1] (data.to_unit, for nets.heads.continuous_bernoulli() or "
                f"learned_normal()){as_levels if whole else ''}"
            )
        case Meaning.COUNTS:
            return "for counts take nets.likelihoods.poisson() or negative_binomial()"
        case Meaning.REAL:
            return "for real numbers take nets.heads.learned_normal(), on data that are standardized (data.standardize)"


def check_step(experiment: Experiment, settings: Settings) -> None:
    """Trace a train step; where it fails for single examples alone, say how an experiment has the whole batch."""
    state = jax.eval_shape(partial(initial_state, experiment, settings))
    batch = experiment.dataset.train.examples[: settings.examples_per_step(experiment.dataset)]
    try:
        jax.eval_shape(make_step(experiment, settings), state, batch)
    except ValueError as error:
        coupled = experiment._replace(couples_batch=True)
        alone = dataclasses.replace(settings, training=dataclasses.replace(settings.training, micro_batches=1))
        try:
            jax.eval_shape(make_step(coupled, alone), state, batch)
        except ValueError:
            raise error from None
        raise ValueError(
            f"{error}; an objective of the whole batch says couples_batch=True in its Experiment"
        ) from error


def _check_batch(batch_size: int, mesh: Mesh) -> None:
    if batch_size % mesh.size:
        raise ValueError(f"batch_size must be a multiple of the {mesh.size} devices; got {batch_size} (or --devices 1)")
