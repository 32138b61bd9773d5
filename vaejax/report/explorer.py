"""The latent explorer: a page in which the decoder runs, with sliders and a plane to move z. It needs no network."""

import base64
import json
import math
import re
from collections.abc import Sequence
from importlib import resources
from string import Template
from typing import Any, NamedTuple

import numpy as np

from vaejax.checks import check_count
from vaejax.report.browser import BrowserProgram, javascript
from vaejax.types import ArrayLike, Shape

# Below it a latent is called unused: nats.
DEAD_KL = 0.01


class LatentAxis(NamedTuple):
    """A latent as the explorer shows it."""

    latent: int  # its place in z, flattened
    name: str
    low: float = -3.0
    high: float = 3.0
    kl: float | None = None  # nats, where it is known


def latent_axes(
    size: int, kl_per_axis: ArrayLike | None = None, codes: ArrayLike | None = None, *, limit: float = 3.0
) -> tuple[LatentAxis, ...]:
    """An axis for each latent, those of the largest KL first.

    Args:
      size: the number of latents.
      kl_per_axis: `[size]` in nats; in their own order where None.
      codes: `[n, size]` of examples, which are then inside of every axis' range.
      limit: a range goes at least from minus to plus this.

    Raises:
      ValueError: shapes that do not fit.

    >>> [(axis.name, axis.kl) for axis in latent_axes(2, [0.5, 1.5])]
    [('z[1]', 1.5), ('z[0]', 0.5)]
    """
    check_count("latent_axes: size", size)
    kls = None if kl_per_axis is None else _shaped("latent_axes: kl_per_axis", kl_per_axis, (size,))
    farthest = np.full(size, limit)
    if codes is not None and len(np.asarray(codes)):
        farthest = np.maximum(limit, np.max(np.abs(np.asarray(codes, float).reshape(-1, size)), axis=0))
    # Halves, so that ticks and steps are round.
    farthest = np.ceil(2 * farthest) / 2
    order = range(size) if kls is None else np.argsort(-kls, kind="stable").tolist()
    return tuple(
        LatentAxis(i, f"z[{i}]", -float(farthest[i]), float(farthest[i]), None if kls is None else float(kls[i]))
        for i in order
    )


def explorer_html(
    program: BrowserProgram,
    axes: Sequence[LatentAxis],
    *,
    image_shape: Shape | None = None,
    black: float = 0.0,
    white: float = 1.0,
    codes: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    label_names: Sequence[str] = (),
    originals: ArrayLike | None = None,
    mean: ArrayLike = 0.0,
    scale: ArrayLike = 1.0,
    element_id: str = "latent-explorer",
) -> str:
    """The explorer as a `<section>` to put into a page, with all that it needs inside.

    Args:
      program: z to the mean of p(x|z), of `compile_for_browser`.
      axes: every latent once, in the order in which to show them; the plane begins with the first two.
      image_shape: height, width and channels (1 or 3) of what is decoded; a chart where None.
      black: what is shown as black, or the lower end of the chart at first.
      white: what is shown as white, or the upper end.
      codes: `[n, *Z]`, z of some test examples, the dots of the plane.
      labels: `[n]`, integers that colour the dots.
      label_names: of the labels.
      originals: `[n, *E]`, the examples as the decoder should give them; only with codes.
      mean: of the law from which random z are drawn, and where the explorer begins; broadcast to z.
      scale: its standard deviation.
      element_id: of the section. One page may hold several; `window.vaejaxExplorer` is then the last one's.

    Raises:
      ValueError: shapes that do not fit the program, axes that are not every latent once, an id that is none.

    >>> from vaejax.report.browser import compile_for_browser
    >>> program = compile_for_browser(lambda z: z * 2, (2,))
    >>> explorer_html(program, latent_axes(2)).startswith('<section id="latent-explorer"')
    True
    """
    size, outputs = math.prod(program.input_shape), math.prod(program.output_shape)
    _check_axes(axes, size)
    _check_look(image_shape, outputs, black, white)
    if not re.fullmatch(r"[A-Za-z][\w-]*", element_id):
        raise ValueError(
            f"explorer_html: element_id must be a letter and then letters, digits, - or _; got {element_id!r}"
        )
    examples = _examples(codes, labels, originals, (size, outputs))
    shown = [{**axis._asdict(), "dead": axis.kl is not None and axis.kl < DEAD_KL} for axis in axes]
    data = {
        "program": program.document,
        "axes": shown,
        "dead": DEAD_KL,
        "image": None if image_shape is None else list(image_shape),
        "black": float(black),
        "white": float(white),
        "names": list(label_names),
        "mean": np.broadcast_to(np.asarray(mean, float), program.input_shape).ravel().tolist(),
        "scale": np.broadcast_to(np.asarray(scale, float), program.input_shape).ravel().tolist(),
        **examples,
    }
    return Template(_read("explorer.html")).substitute(
        id=element_id,
        style=_read("explorer.css"),
        # A name in the data must not end the script.
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        script=javascript() + _read("plane.js") + _read("explorer.js"),
    )


def _examples(codes: Any, labels: Any, originals: Any, sizes: tuple[int, int]) -> dict[str, Any]:
    if codes is None:
        if labels is not None or originals is not None:
            raise ValueError("explorer_html: labels and originals must come with codes; got none")
        return {"codes": None, "labels": None, "originals": None}
    count = len(np.asarray(codes))
    rows = lambda name, array, size: _shaped(
        f"explorer_html: {name}", np.reshape(array, (len(array), -1)), (count, size)
    )
    return {
        "codes": _base64(rows("codes", np.asarray(codes), sizes[0])),
        "labels": None if labels is None else _shaped("explorer_html: labels", labels, (count,)).astype(int).tolist(),
        "originals": None if originals is None else _base64(rows("originals", np.asarray(originals), sizes[1])),
    }


def _check_axes(axes: Sequence[LatentAxis], size: int) -> None:
    if sorted(axis.latent for axis in axes) != list(range(size)):
        found = ", ".join(str(axis.latent) for axis in axes)
        raise ValueError(f"explorer_html: axes must have each latent from 0 to {size - 1} once; got {found or 'none'}")
    for axis in axes:
        if not -math.inf < axis.low < axis.high < math.inf:
            raise ValueError(f"explorer_html: axes must go from low to high; got {axis.name} {axis.low} to {axis.high}")


def _check_look(image_shape: Shape | None, outputs: int, black: float, white: float) -> None:
    if image_shape is not None and (
        len(image_shape) != 3 or image_shape[-1] not in {1, 3} or math.prod(image_shape) != outputs
    ):
        raise ValueError(
            f"explorer_html: image_shape must be height, width and 1 or 3 channels, {outputs} in all; got {image_shape}"
        )
    if not (math.isfinite(black) and math.isfinite(white) and black != white):
        raise ValueError(f"explorer_html: black and white must be two finite numbers; got {black} and {white}")


def _shaped(name: str, array: Any, shape: Shape) -> np.ndarray:
    array = np.asarray(array, float)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite; got NaN or infinity")
    return array


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")


def _read(name: str) -> str:
    return resources.files("vaejax.report").joinpath(name).read_text(encoding="utf-8")
