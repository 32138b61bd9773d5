"""A sweep: seeds times settings, all of its members trained as one compiled program."""

import dataclasses
import itertools
import os
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vaejax.checks import check_count
from vaejax.data import Dataset, read_all
from vaejax.evaluation import estimate
from vaejax.experiment import Experiment, Settings
from vaejax.feed import describe_feed, is_resident, make_plan
from vaejax.folder import CONFIG, RESULTS, open_folder, read_json, write_json
from vaejax.outcome import evaluation_keys, map_numbered, shades_of, stored_figures
from vaejax.program import (
    Program,
    check_fit,
    check_step,
    final_params,
    initial_state,
    make_step,
    max_skipped,
)
from vaejax.run import describe, read_run, rebuild
from vaejax.settings import NotFinitePolicy
from vaejax.sweep_report import draw
from vaejax.trainer import CHECKPOINTS, Callback, Trainer
from vaejax.training import NotFinite, TrainState, data_mesh, has_failed, load_newest, resident
from vaejax.training.parallel import laid_out
from vaejax.training.step import Step
from vaejax.types import Array

Build = Callable[[Any], Experiment]
# A member's seed and settings by name, numbers or, for all members at once, arrays [M].
Values = Mapping[str, Any]


class SweepResult(NamedTuple):
    """What a sweep has to say."""

    folder: Path
    members: list[dict[str, Any]]  # of each: its values, its test figures, the step at which it diverged or None
    seconds: float  # of training
    pictures: list[Path]


def sweep(
    name: str,
    settings: Settings,
    build: Build,
    over: Mapping[str, Sequence[float]],
    *,
    num_seeds: int = 1,
    callbacks: Iterable[Callback] = (),
) -> SweepResult:
    """Train an experiment for several seeds and all combinations of some settings, as one compiled program.

    The program is the experiment's train step under `jax.vmap`, its settings traced. Member i is what `train` makes of
    its seed and settings, to rounding. The members are split over the devices. A member whose loss is not finite stops
    alone. The sweep is a run: its folder, its checkpoints and its ways to be stopped and to go on are those of one.

    Args:
      name: of the experiment, or the path of its file.
      settings: those that all members share.
      build: the experiment's; it is called with traced values too.
      over: settings to the values that are tried of each.
      num_seeds: of each combination, from `settings.seed` on.
      callbacks: as of `train`; metrics and state have a leading axis of members.

    Raises:
      ValueError, TypeError: settings that do not exist, are no real numbers, or decide what is computed.
      and what `train` raises.
    """
    if jax.process_count() > 1:
        raise ValueError("a sweep runs on one host: give each host some of the seeds or settings")
    values = member_values(settings, over, num_seeds)
    first = member_settings(settings, values, 0)
    built = build(first)
    _check_sweepable(settings, build, values, built.dataset)
    check_fit(built, first)
    for each in range(num_seeds, len(values["seed"]), num_seeds):
        member = member_settings(settings, values, each)
        member.check()
        check_step(build(member), member)
    experiment = build(settings)
    program = make_sweep_program(settings, build, experiment, values)
    config = {**describe(name, settings, experiment), "members": {name: each.tolist() for name, each in values.items()}}
    with open_folder(Path("runs") / f"{Path(name).stem}_sweep", settings.running, config) as folder:
        if not (folder / RESULTS).exists():
            with Trainer(folder, program, settings, config, callbacks=callbacks) as trainer:
                try:
                    state = trainer.train().state
                except NotFinite as error:
                    raise NotFinite(f"all members diverged: {error}", error.progress) from error
            members = measure_members(settings, build, values, state)
            seconds = sum(line["seconds"] for line in trainer.history())
            pictures = [path.name for path in draw(members, folder)]
            write_json(folder / RESULTS, {"members": members, "seconds": seconds, "pictures": pictures})
        content = read_json(folder / RESULTS)
    return SweepResult(**{**content, "folder": folder, "pictures": [folder / each for each in content["pictures"]]})


def load_member(folder: str | os.PathLike[str], index: int) -> tuple[Experiment, Settings, TrainState]:
    """A member of a sweep: its experiment, its settings and its trained state, as `run.load_run` gives those of a run.

    Raises:
      FileNotFoundError: the folder is no sweep, or has no checkpoint yet.
      IndexError: there is no such member.
      ValueError: its experiment is unknown or has become another model, or a file is damaged.
    """
    config, module, shared = read_run(folder)
    if "members" not in config:
        raise FileNotFoundError(f"{folder} is no sweep: its {CONFIG} has no members")
    values = _columns(config["members"])
    if not 0 <= index < len(values["seed"]):
        raise IndexError(f"member must be from 0 to {len(values['seed']) - 1}; got {index}")
    program = make_sweep_program(shared, module.build, rebuild(folder, module, shared), values)
    progress, _ = load_newest(Path(folder) / CHECKPOINTS, program.like())
    own = member_settings(shared, values, index)
    return module.build(own), own, jax.tree.map(lambda leaf: leaf[index], progress.state)


def member_values(settings: Settings, over: Mapping[str, Sequence[float]], num_seeds: int) -> dict[str, np.ndarray]:
    """The seed and the settings of each member, `[M]` each: the seeds of the first combination come first.

    Raises:
      ValueError, TypeError: a setting that does not exist or is no real number, or nothing to try.
    """
    check_count("seeds", num_seeds)
    for name, tried in over.items():
        _find(type(settings), name)
        if not len(tried) or len(set(tried)) < len(tried):
            raise ValueError(f"{name} must have values that differ, at least one; got {[*tried]}")
    seeds = range(settings.seed, settings.seed + num_seeds)
    rows = [(seed, *row) for row in itertools.product(*over.values()) for seed in seeds]
    return _columns(dict(zip(["seed", *over], zip(*rows, strict=True), strict=True)))


def _columns(values: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    return {name: np.array(each, np.uint32 if name == "seed" else np.float64) for name, each in values.items()}


def _find(kind: type, name: str) -> str | None:
    """The group of settings that has a real number of this name; None for the settings themselves."""
    groups = {None: kind} | {
        each.name: each.type for each in dataclasses.fields(kind) if dataclasses.is_dataclass(each.type)
    }
    swept = {
        each: group
        for group, owner in groups.items()
        for each, hint in typing.get_type_hints(owner).items()
        if hint in (float, float | None) and group != "running"
    }
    if name not in swept:
        raise ValueError(f"{name} cannot be swept: it must be one of the real numbers {', '.join(sorted(swept))}")
    return swept[name]


def with_values(settings: Any, values: Values) -> Any:
    """The settings with other values, which may be traced."""
    for name, value in values.items():
        group = None if name == "seed" else _find(type(settings), name)
        if group is None:
            settings = dataclasses.replace(settings, **{name: value})
        else:
            settings = dataclasses.replace(
                settings, **{group: dataclasses.replace(getattr(settings, group), **{name: value})}
            )
    return settings


def member_settings(settings: Any, values: Values, index: int) -> Any:
    """The settings with which `train` makes the same as a member of the sweep."""
    return with_values(settings, {name: each[index].item() for name, each in values.items()})


def _check_sweepable(settings: Any, build: Build, values: Values, dataset: Dataset) -> None:
    """Raise where an experiment decides by the value of a setting what it computes."""
    if settings.training.not_finite is NotFinitePolicy.ROLL_BACK:
        raise ValueError("not_finite must be raise or skip in a sweep: its members cannot go back one by one")
    refused = {"validation_size": settings.training.validation_size, "shard_params": settings.running.shard_params}
    for name in (name for name, value in refused.items() if value):
        raise ValueError(f"{name} is not for a sweep: its members train to the end on examples on the device")
    if not is_resident(dataset, settings.running):
        raise ValueError(
            f"a sweep keeps its examples on the device: {describe_feed(dataset, settings.running)} (feed=resident)"
        )
    for name, each in values.items():
        try:
            # Traced for its own sake; an experiment is no array.
            jax.eval_shape(lambda value, name=name: [build(with_values(settings, {name: value}))][:0], each[0])
        except (jax.errors.TracerBoolConversionError, jax.errors.ConcretizationTypeError) as error:
            reason = "this experiment decides by its value what it computes"
            raise ValueError(f"{name} cannot be swept: {reason}") from error


def make_sweep_program(settings: Any, build: Build, experiment: Experiment, values: Values) -> Program:
    """The program of all members: states, batches and metrics have a leading axis `[M]`."""
    images = read_all(experiment.dataset.train.examples)

    def plan(epoch: Array) -> Array:
        of_seed = lambda seed: make_plan(experiment.dataset, dataclasses.replace(settings, seed=seed))(epoch)
        return jax.vmap(of_seed)(jnp.asarray(values["seed"]))

    def init() -> TrainState:
        return jax.vmap(partial(member_init, settings, build))(_traced(values))

    mesh = data_mesh(_most_devices(len(values["seed"]), settings.running.devices))
    step: Step = lambda state, batch: jax.vmap(partial(member_step, settings, build))(_traced(values), state, batch)
    epoch = settings.steps_per_epoch(experiment.dataset)
    if mesh.size > 1:
        sharding_of = partial(member_shardings, mesh=mesh)
        step = laid_out(step, sharding_of, sharding_of)
        feed = resident(step, images, plan, steps_per_epoch=epoch, mesh=mesh, sharding_of=sharding_of)
    else:
        feed = resident(step, images, plan, steps_per_epoch=epoch)
    return Program(feed, init, settings.num_steps(experiment.dataset), epoch, with_snapshot=False)


def _traced(values: Values) -> dict[str, Array]:
    return {name: jnp.asarray(each) for name, each in values.items()}


def member_init(settings: Any, build: Build, values: Values) -> TrainState:
    """The first state of the member of one seed and its settings."""
    own = with_values(settings, values)
    return initial_state(build(own), own)


def member_step(settings: Any, build: Build, values: Values, state: TrainState, batch: Any) -> Any:
    """The train step of the member of one seed and its settings."""
    own = with_values(settings, values)
    return make_step(build(own), own)(state, batch)


def _most_devices(num_members: int, asked: int | None) -> int:
    """The most devices that divide the members."""
    return max(count for count in range(1, data_mesh(asked).size + 1) if num_members % count == 0)


def member_shardings(tree: Any, mesh: Mesh) -> Any:
    """Each leaf cut over the devices along its leading axis, that of the members."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec(*mesh.axis_names[: leaf.ndim])), tree)


def measure_members(settings: Any, build: Build, values: Values, state: TrainState) -> list[dict[str, Any]]:
    """The values and the test figures of each member, on the same test data and noise."""
    white = shades_of(build(settings)).spread

    def figures_of(values: Values, params: Any) -> Any:
        own = build(with_values(settings, values))
        images = read_all(own.dataset.test.examples)
        figures = map_numbered(
            partial(stored_figures(own, white, evaluation_keys()), params), jnp.arange(len(images)), images
        )
        return {name: estimate(each) for name, each in figures.items()}

    # One after the other, so that what the figures need in memory does not grow with the members.
    measured = jax.jit(partial(jax.lax.map, lambda pair: figures_of(*pair)))((_traced(values), final_params(state)))
    steps, failed = np.asarray(state.step), np.asarray(has_failed(state, max_skipped(settings)))
    members = []
    for index in range(len(steps)):
        diverged = int(steps[index]) if failed[index] else None
        test = {
            name: {"mean": float(each.mean[index]), "standard_error": float(each.standard_error[index])}
            for name, each in measured.items()
        }
        own = {name: each[index].item() for name, each in values.items()}
        members.append({"values": own, "test": None if diverged is not None else test, "diverged": diverged})
    return members
