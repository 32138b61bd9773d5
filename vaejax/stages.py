"""The parts of a train step, each computed by itself, and what of each is not finite."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaejax.checks import is_array
from vaejax.experiment import Experiment
from vaejax.feed import make_plan
from vaejax.program import make_loss, micro_batches
from vaejax.settings import Settings
from vaejax.training import PerExample, TrainState
from vaejax.training.gradients import gradient_of_batch, gradient_of_examples
from vaejax.types import Array, Params

Examples = tuple[int, ...]


class Leaf(NamedTuple):
    """An array of a stage."""

    name: str  # its path in the tree, such as encoder.kernel; empty where there is no tree
    is_finite: bool
    low: float  # the least and the largest number: infinities count, NaN does not
    high: float
    examples: Examples = ()  # where it is not finite, as they are numbered in the training data


class Stage(NamedTuple):
    """What comes out of a part of a step."""

    name: str
    leaves: tuple[Leaf, ...]

    @property
    def is_finite(self) -> bool:
        """Whether all leaves are."""
        return all(leaf.is_finite for leaf in self.leaves)

    @property
    def examples(self) -> Examples:
        """The examples in which a leaf is not finite, in the order of their numbers."""
        return tuple(sorted({example for leaf in self.leaves for example in leaf.examples}))


class _Inputs(NamedTuple):
    """What a step depends on; the arrays are no constants of a program, since checks look at constants."""

    params: Params
    key: Array  # of the step
    images: Array
    scheduled: dict[str, Array]


def batch_of(experiment: Experiment, settings: Settings, step: int) -> Examples:
    """The examples of a step, as the feed of a run takes them."""
    epoch, place = divmod(step, settings.steps_per_epoch(experiment.dataset))
    return tuple(make_plan(experiment.dataset, settings)(epoch)[place].tolist())


def take_apart(experiment: Experiment, settings: Settings, state: TrainState, batch: Examples) -> Iterator[Stage]:
    """The stages of the step after a state, in the order in which they are computed.

    They are parameters, images, x, posterior, latents, likelihood, terms, loss, gradient, gradient norm, update,
    optimizer state after and parameters after. What an objective's terms do not have is left out.

    Args:
      experiment: that is trained.
      settings: of the run.
      state: before the step.
      batch: its examples, from `batch_of`.
    """
    images = jnp.asarray(experiment.dataset.train.examples[np.asarray(batch)])
    scheduled = {name: jnp.asarray(schedule(state.step)) for name, schedule in experiment.schedules.items()}
    inputs = _Inputs(state.params, jax.random.fold_in(state.key, state.step), images, scheduled)
    # The same noise each time.
    again = lambda: inputs._replace(key=jax.random.clone(inputs.key))
    yield _stage("parameters", state.params)
    yield _stage("images", _there(experiment, images), batch)
    yield from _forward(experiment, again(), batch)
    loss, gradient = jax.jit(_gradient_fn(experiment, settings))(again())
    yield _stage("loss", loss)
    found = _stage("gradient", gradient)
    yield found if found.is_finite or experiment.couples_batch else _with_examples(found, experiment, again(), batch)
    yield _stage("gradient norm", jax.jit(optax.tree.norm)(gradient))
    update, opt_state = jax.jit(experiment.optimizer.update)(gradient, state.opt_state, state.params)
    yield _stage("update", update)
    # What was not finite before is not held against the step, as the step itself does not.
    before = {leaf.name for leaf in _stage("", state.opt_state).leaves if leaf.is_finite}
    after = _stage("optimizer state after", opt_state)
    yield Stage(after.name, tuple(leaf for leaf in after.leaves if leaf.is_finite or leaf.name in before))
    yield _stage("parameters after", jax.jit(optax.apply_updates)(state.params, update))


def _forward(experiment: Experiment, inputs: _Inputs, batch: Examples) -> Iterator[Stage]:
    """What there is from x to the terms, example by example where the run has them so."""
    whole = experiment.couples_batch
    over: Any = (lambda function: function) if whole else jax.vmap
    keys = jax.jit(over(jax.random.split))(inputs.key if whole else _keys_of(inputs))
    x = jax.jit(over(experiment.prepare))(keys[..., 0], inputs.images if whole else inputs.images[:, None])
    yield _stage("x", _there(experiment, x), batch)

    def parts(inputs: _Inputs, keys: Array, x: Any) -> dict[str, dict[str, Array]]:
        return over(lambda key, x: _parts(experiment, inputs, key, x))(keys, x)

    arguments = inputs, keys[..., 1], x
    axes = _growing_axes(parts, *arguments) if whole else jax.tree.map(lambda _: 0, jax.eval_shape(parts, *arguments))
    # Reduced where they are made: parameters that all examples share would take room for each.
    looked = jax.jit(lambda *arguments: jax.tree.map(_look, parts(*arguments), axes))(*arguments)
    yield from (_as_stage(name, looked[name], batch) for name in STAGES_OF_TERMS if looked[name])


def _there(experiment: Experiment, examples: Array) -> Array:
    """Examples with 0 for what is missing, where NaN says so: it is no fault of the step."""
    return jnp.where(jnp.isnan(examples), 0, examples) if experiment.dataset.missing else examples


STAGES_OF_TERMS = ("posterior", "latents", "likelihood", "terms")


def _parts(experiment: Experiment, inputs: _Inputs, key: Array, x: Any) -> dict[str, dict[str, Array]]:
    """The arrays of an objective's terms by stage, and those of the likelihood at their latents."""
    rest: dict[str, Any] = experiment.objective(inputs.params, key, x, **inputs.scheduled)._asdict()
    posterior, latents = rest.pop("posterior", None), rest.pop("latents", None)
    try:
        likelihood = None if latents is None else experiment.model.decode(inputs.params, latents)
    # Whatever a decoder raises for latents that are not its own input, as those of a hierarchy.
    except Exception:
        likelihood = None
    return {
        name: _arrays(tree) for name, tree in zip(STAGES_OF_TERMS, (posterior, latents, likelihood, rest), strict=True)
    }


def _growing_axes(parts: Callable[..., Any], inputs: _Inputs, key: Array, x: Any) -> Any:
    """The axis of each part that is that of the batch, as a batch twice as large shows it; -1 where none is."""
    twice = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2 * leaf.shape[0], *leaf.shape[1:]), leaf.dtype), x)
    small = jax.eval_shape(parts, inputs, key, x)
    try:
        large = jax.eval_shape(parts, inputs, key, twice)
    # Whatever an objective raises that has a batch size of its own.
    except Exception:
        large = small
    grown = lambda a, b: [axis for axis in range(a.ndim) if a.shape[axis] != b.shape[axis]]
    return jax.tree.map(lambda a, b: next(iter(grown(a, b)), -1), small, large)


def _gradient_fn(experiment: Experiment, settings: Settings) -> Callable[[_Inputs], tuple[Array, Params]]:
    """The loss and its gradient, as the train step computes them."""
    loss = make_loss(experiment)

    def of_batch(params: Params, extra: Any, key: Array, images: Any, **scheduled: Array) -> Any:
        value, metrics = loss(params, key, images, **scheduled)
        return value, (metrics, extra)

    if isinstance(loss, PerExample):
        gradient_fn = gradient_of_examples(loss, None, micro_batches(loss, experiment, settings))
    else:
        gradient_fn = gradient_of_batch(of_batch)

    def loss_and_gradient(inputs: _Inputs) -> tuple[Array, Params]:
        found = gradient_fn(inputs.params, (), inputs.key, inputs.images, inputs.scheduled)
        return found.loss, found.gradient

    return loss_and_gradient


def _with_examples(stage: Stage, experiment: Experiment, inputs: _Inputs, batch: Examples) -> Stage:
    """The gradient with the examples whose own gradients are not finite."""
    loss = make_loss(experiment).loss

    def finite(inputs: _Inputs, key: Array, image: Array) -> dict[str, Array]:
        of_one = lambda params: loss(params, key[None], image[None], **inputs.scheduled)[0]
        return {name: jnp.all(jnp.isfinite(leaf)) for name, leaf in _arrays(jax.grad(of_one)(inputs.params)).items()}

    def each(inputs: _Inputs, keys: Array) -> dict[str, Array]:
        # One after the other: the gradients of all examples at once would take as many times the room.
        return jax.lax.map(lambda pair: finite(inputs, *pair), (keys, inputs.images))

    found = jax.device_get(jax.jit(each)(inputs, _keys_of(inputs)))
    leaves = (leaf._replace(examples=_numbers(~found[leaf.name], batch)) for leaf in stage.leaves)
    return Stage(stage.name, tuple(leaves))


def _keys_of(inputs: _Inputs) -> Array:
    """The key of each example, as a step whose loss is a mean over examples has them."""
    places = jnp.arange(len(inputs.images), dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.clone(inputs.key), places)


class _Look(NamedTuple):
    """What there is to know of an array."""

    low: Array
    high: Array
    is_finite: Array
    is_bad: Array  # [B], or [0] where it has no axis of examples


def _look(array: Array, axis: int) -> _Look:
    finite = jnp.isfinite(array)
    others = tuple(each for each in range(array.ndim) if each != axis)
    is_bad = jnp.zeros(0, bool) if axis < 0 else ~jnp.all(finite, axis=others)
    return _Look(jnp.nanmin(array), jnp.nanmax(array), jnp.all(finite), is_bad)


def _arrays(tree: Any) -> dict[str, Array]:
    """The arrays of numbers in a tree by their paths; what is no array, and what is empty, is left out."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat if is_array(leaf)}
    arrays = {name: jnp.asarray(leaf) for name, leaf in named.items()}
    return {name: leaf for name, leaf in arrays.items() if jnp.issubdtype(leaf.dtype, jnp.number) and leaf.size}


def _stage(name: str, tree: Any, batch: Examples = ()) -> Stage:
    """A stage of arrays; their first axis is that of the batch, where one is given."""
    look = partial(_look, axis=0 if batch else -1)
    return _as_stage(
        name, jax.jit(lambda arrays: {name: look(array) for name, array in arrays.items()})(_arrays(tree)), batch
    )


def _as_stage(name: str, looked: dict[str, _Look], batch: Examples) -> Stage:
    leaves = [
        Leaf(path, bool(look.is_finite), float(look.low), float(look.high), _numbers(look.is_bad, batch))
        for path, look in jax.device_get(looked).items()
    ]
    return Stage(name, tuple(leaves))


def _numbers(is_bad: np.ndarray, batch: Examples) -> Examples:
    """The examples of a batch that are bad, as they are numbered in the training data, in order."""
    return tuple(sorted(batch[int(place)] for place in np.flatnonzero(is_bad)))
