"""A trained model as an export."""

import importlib.metadata
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.export
import numpy as np

from vaejax.checks import check_array
from vaejax.drafts import draft_of, named
from vaejax.durable import to_disk
from vaejax.export.layout import ABOUT, FORMAT, PLATFORMS, PRNG, WEIGHTS, checksum, is_export, require
from vaejax.strict_json import dump_json
from vaejax.types import Array, Params

if TYPE_CHECKING:
    # What is exported is loaded without the nets and the optimizers that an experiment brings.
    from vaejax.experiment import Experiment


def export_run(
    experiment: "Experiment",
    params: Params,
    folder: str | os.PathLike[str],
    *,
    about: Mapping[str, Any],
    overwrite: bool = False,
) -> Path:
    """Write a model to a new folder, from which it is loaded without its code.

    The functions take any number of rows, on a CPU, a GPU of NVIDIA or a TPU. Sample i of a key is that of
    `making.generate`. What there is not is left out, and export.json says why, as `generate` without a prior.

    Args:
      experiment: that was trained.
      params: its weights.
      folder: the new folder.
      about: what else to say of it in export.json, as JSON can.
      overwrite: whether an export that is there is replaced.

    Returns:
      The folder.

    Raises:
      FileExistsError: something is in the way.
      TypeError: `about` is nothing that JSON can say, or a weight is no array.
      OSError: it cannot be written.
    """
    said = _as_json(about)
    target = Path(folder)
    with draft_of(target, overwrite=overwrite, is_replaceable=is_export) as draft:
        weights = flatten_params(params)
        artifacts = _make_artifacts(experiment, params, weights)
        contents = {f"{name}.jax": bytes(each.serialize()) for name, each in artifacts.functions.items()}
        contents[WEIGHTS] = require("safetensors.numpy").save(weights)
        described = _describe(artifacts, experiment.dataset)
        sums = {name: {"sha256": checksum(each), "bytes": len(each)} for name, each in contents.items()}
        text = dump_json({"format": FORMAT, "about": said, **described, "files": sums}, indent=2)
        with named(target):
            draft.mkdir()
            for name, content in {**contents, ABOUT: text.encode()}.items():
                (draft / name).write_bytes(content)
                to_disk(draft / name)
    return target


def flatten_params(params: Params) -> dict[str, np.ndarray]:
    """The weights by dotted names, such as `decoder.layers.0.kernel`.

    >>> {name: each.shape for name, each in flatten_params({"a": {"b": [np.ones(2), np.ones(3)]}}).items()}
    {'a.b.0': (2,), 'a.b.1': (3,)}
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    flat = {}
    for path, leaf in leaves:
        check_array(f"params: {_dotted(path)}", leaf)
        # In C order, since safetensors copies memory as it lies.
        flat[_dotted(path)] = np.asarray(leaf, order="C")
    if len(flat) < len(leaves):
        raise ValueError("params must have names that differ when they are joined by dots")
    return flat


def _dotted(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


class _Artifacts(NamedTuple):
    functions: dict[str, Any]  # as jax.export has them
    left_out: dict[str, str]  # why
    x: jax.ShapeDtypeStruct  # one example as prepared
    z: jax.ShapeDtypeStruct  # one latent


def _make_artifacts(experiment: "Experiment", params: Params, weights: dict[str, np.ndarray]) -> _Artifacts:
    # It needs the nets, which an export is loaded without.
    from vaejax.outcome import evaluation_keys  # noqa: PLC0415

    stored = jax.ShapeDtypeStruct((1, *experiment.dataset.shape), experiment.dataset.dtype)
    x = _without_rows(jax.eval_shape(lambda each: experiment.prepare(evaluation_keys().prepare, each), stored))
    functions = {"encode": _export(_encode(experiment, params), weights, x)}
    z = jax.ShapeDtypeStruct(**_results(functions["encode"])["mean"])
    functions["decode"] = _export(_decode(experiment, params), weights, z)
    if experiment.prior is None:
        return _Artifacts(functions, {"generate": "the experiment has no prior p(z)"}, x, z)
    number = jax.ShapeDtypeStruct((), np.uint32)
    key_data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=PRNG)))
    functions["generate"] = _export(_generate(experiment, params), weights, number, key_data)
    is_drawn = "draw" in _results(functions["generate"])
    return _Artifacts(functions, {} if is_drawn else {"generate: draw": "p(x|z) cannot be drawn from"}, x, z)


def _describe(artifacts: _Artifacts, dataset: Any) -> dict[str, Any]:
    """What export.json says."""
    stored = f"{dataset.name} stores {dataset.meaning} from 0 to {dataset.max_value:g} as {dataset.dtype}"
    return {
        "versions": {name: importlib.metadata.version(name) for name in ("vaejax", "jax", "jaxlib", "numpy")},
        "platforms": PLATFORMS,
        "prng": PRNG,
        "x": {**_said(artifacts.x), "what": f"one example as experiment.prepare makes it; {stored}"},
        "z": _said(artifacts.z),
        "functions": {name: _results(each) for name, each in artifacts.functions.items()},
        "left_out": artifacts.left_out,
    }


def _encode(experiment: "Experiment", params: Params) -> Callable[..., dict[str, Array]]:
    from vaejax.outcome import evaluation_keys, posterior_mean  # noqa: PLC0415

    def row(weights: Any, x: Array) -> dict[str, Array]:
        q: Any = experiment.model.encode(_restore(params, weights), x)
        variance = getattr(q, "variance", None)
        mean = posterior_mean(evaluation_keys().mean, q)
        return {"mean": mean} | ({} if variance is None else {"variance": variance})

    return row


def _decode(experiment: "Experiment", params: Params) -> Callable[..., dict[str, Array]]:
    def row(weights: Any, z: Array) -> dict[str, Array]:
        return {"mean": experiment.model.decode(_restore(params, weights), z).mean}  # type: ignore[attr-defined]

    return row


def _generate(experiment: "Experiment", params: Params) -> Callable[..., dict[str, Array]]:
    from vaejax.making import draw_sample  # noqa: PLC0415

    def row(weights: Any, key_data: Array, number: Array) -> dict[str, Array]:
        key = jax.random.wrap_key_data(key_data, impl=PRNG)
        z, p, x_key = draw_sample(key, experiment, _restore(params, weights), number)
        try:
            return {"z": z, "mean": p.mean, "draw": p.sample(x_key)}
        except TypeError:
            # One that cannot be drawn from, as OptimalNormal.
            return {"z": z, "mean": p.mean}

    return row


def _restore(params: Params, weights: Mapping[str, Array]) -> Params:
    """The weights in the tree of `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: weights[_dotted(path)], params)


def _export(row: Callable[..., Any], weights: Any, one: Any, *others: Any) -> Any:
    """A function of one row, `row(weights, *others, one)`, as one of any number of rows."""
    # Mapped, so that no model ever sees a number of rows that is a symbol.
    function = jax.vmap(row, in_axes=(None, *[None] * len(others), 0))
    (rows,) = jax.export.symbolic_shape("rows")
    shapes = jax.tree.map(lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype), (weights, *others))
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(
        *shapes, jax.ShapeDtypeStruct((rows, *one.shape), one.dtype)
    )


def _without_rows(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape[1:], array.dtype)


def _said(array: Any) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


def _results(artifact: Any) -> dict[str, Any]:
    """Shape and dtype of one row of each result."""
    results = jax.tree.unflatten(artifact.out_tree, artifact.out_avals)
    return {name: _said(_without_rows(each)) for name, each in results.items()}


def _as_json(about: Mapping[str, Any]) -> Any:
    try:
        return json.loads(dump_json(dict(about)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"about must be a dict that JSON can say; {error}") from error
