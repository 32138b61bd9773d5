"""Train the methods, write the table and draw what each generates."""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from vaejax import data, evaluation, training
from vaejax.report import figures

from . import methods
from .core import LEVELS, Method, distance_to, squared_error, train

HERE = Path(__file__).parent
COLUMNS = 16


class Result(NamedTuple):
    """What the table and the picture say of a method."""

    squared_error: float  # of test digits and what the model makes of them, white = 1
    log_bound: evaluation.Estimate | None  # on ln p(x) of test digits, nats
    distance: float  # of generated images to the nearest training digit
    images: np.ndarray  # [COLUMNS, 8, 8, 1] generated
    seconds: float
    remark: str


def measure(method: Method, state: training.TrainState, digits: data.Dataset, seconds: float) -> Result:
    """The test figures of a trained method; their keys are the same for all."""
    keys = jax.random.split(jax.random.key(1), 3)
    made = jax.jit(method.reconstruct)(state.params, state.extra, keys[0], digits.test)
    images = method.generate(state.params, state.extra, keys[1], method.examples(digits.train), 200)
    bound = None
    if method.log_bound is not None:
        values = np.asarray(jax.jit(method.log_bound)(state.params, state.extra, keys[2], digits.test))
        bound = evaluation.Estimate(values.mean(), values.std(ddof=1) / len(values) ** 0.5)
    return Result(
        float(jnp.mean(squared_error(made, digits.test))), bound,
        float(jnp.mean(distance_to(images, digits.train))), np.asarray(images[:COLUMNS]), seconds,
        method.remark(state.params, state.extra, digits.test),
    )  # fmt: skip


def row(name: str, method: Method, result: Result) -> str:
    bound = "" if result.log_bound is None else f"{-result.log_bound.mean:.1f} ± {result.log_bound.standard_error:.1f}"
    cells = [
        name,
        f"`{method.expression}`",
        method.source,
        bound,
        f"{result.squared_error:.2f}",
        f"{result.distance:.2f}",
    ]
    return "| " + " | ".join([*cells, result.remark]) + " |"


def table(chosen: Mapping[str, Method], results: Mapping[str, Result]) -> str:
    header = "| method | expression | paper | -ln p(x) ≤ | squared error | distance | |\n|---|---|---|---|---|---|---|"
    return "\n".join([header, *(row(name, chosen[name], results[name]) for name in results)]) + "\n"


def picture(results: Mapping[str, Result]) -> Figure:
    """A strip of generated digits for each method, in two columns."""
    rows = -(-len(results) // 2)
    figure = Figure(figsize=(12, 0.36 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).T.ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, result) in zip(axes, results.items(), strict=False):
        axis.set_axis_on()
        figures.draw_images(axis, result.images, COLUMNS, LEVELS - 1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.methods", description="Train every method on the digits."
    )
    known = methods()
    parser.add_argument("--only", nargs="+", metavar="METHOD", choices=known, help=f"of {', '.join(known)}")
    parser.add_argument("--steps", type=int, default=3000, help="of training for each (default: 3000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md", help="the table that is written")
    parser.add_argument("--picture", type=Path, default=HERE.parent / "pictures" / "methods.png")
    options = parser.parse_args(arguments)
    chosen = {name: known[name] for name in options.only or known}

    digits = data.load_digits()
    results: dict[str, Any] = {}
    for name, method in chosen.items():
        start = time.perf_counter()
        state = train(method, digits.train, steps=options.steps, seed=options.seed)
        results[name] = measure(method, state, digits, time.perf_counter() - start)
        print(f"{row(name, method, results[name])} {results[name].seconds:.0f} s", flush=True)
    command = f"`python -m experiments.methods --steps {options.steps} --seed {options.seed}`"
    versions = f"jax {jax.__version__}, data sha256 {digits.sha256[:12]}"
    total = sum(result.seconds for result in results.values())
    note = f"{command}, {versions}, {jax.devices()[0].device_kind}; {total / 60:.0f} minutes of training.\n\n"
    options.results.write_text("# Every method on the digits\n\n" + note + table(chosen, results))
    picture(results).savefig(options.picture)


if __name__ == "__main__":
    main()
