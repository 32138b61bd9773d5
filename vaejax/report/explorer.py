"""The latent explorer: a page in which the decoder runs, with sliders and a plane to move z. It needs no network."""

import json
import math
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any, NamedTuple

import numpy as np

from vaejax.checks import check_count
from vaejax.report.browser import BrowserProgram, encode_base64, javascript
from vaejax.types import ArrayLike, Shape

# Nats. A latent that does not have more is called unused.
DEAD_KL = 0.01


class LatentAxis(NamedTuple):
    """A latent as the explorer shows it."""

    latent: int  # its place in z, flattened
    name: str
    low: float = -3.0
    high: float = 3.0
    kl: float | None = None  # nats, where it is known


def latent_axes(
    size: int, kl_per_axis: ArrayLike | None = None, codes: ArrayLike | None = None, *, limit: float | None = 3.0
) -> tuple[LatentAxis, ...]:
    """An axis for each latent, those that say most first.

    Args:
      size: the number of latents.
      kl_per_axis: `[size]` in nats; where None, the order is by the variance of the codes, if there are any.
      codes: `[n, *Z]` of examples, which are then inside of every axis' range.
      limit: a range goes at least from minus to plus this; where None, as without a prior, each goes as far as its
        codes do.

    Raises:
      ValueError: shapes that do not fit; neither codes nor a limit.

    >>> [(axis.name, axis.kl) for axis in latent_axes(2, [0.5, 1.5])]
    [('z[1]', 1.5), ('z[0]', 0.5)]
    >>> [(axis.name, axis.low, axis.high) for axis in latent_axes(2, codes=[[0.1, 20.0], [0.3, 90.0]], limit=None)]
    [('z[1]', 18.0, 92.0), ('z[0]', 0.09, 0.31)]
    """
    check_count("latent_axes: size", size)
    kls = None if kl_per_axis is None else _shaped("latent_axes: kl_per_axis", kl_per_axis, (size,))
    flat = None if codes is None or not len(np.asarray(codes)) else _rows("latent_axes: codes", codes, size)
    low, high = _own_ranges(flat) if limit is None else _even_ranges(flat, limit, size)
    weight = kls if kls is not None else np.zeros(size) if flat is None else flat.var(axis=0)
    return tuple(
        LatentAxis(i, f"z[{i}]", float(low[i]), float(high[i]), None if kls is None else float(kls[i]))
        for i in np.argsort(-weight, kind="stable").tolist()
    )


def _even_ranges(codes: np.ndarray | None, limit: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """From minus to plus the limit or the farthest code, in halves, so that ticks and steps are round."""
    farthest = np.full(size, limit) if codes is None else np.maximum(limit, np.max(np.abs(codes), axis=0))
    high = np.ceil(2 * farthest) / 2
    return -high, high


def _own_ranges(codes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """From the least code to the greatest with a little room, to two digits of what lies between."""
    if codes is None:
        raise ValueError("latent_axes: limit must be a number where there are no codes; got None")
    low, high = codes.min(axis=0), codes.max(axis=0)
    span = high - low
    # A latent that is the same in all codes is moved as far as the widest is.
    still = span <= 1e-6 * (span.max() or 1.0)
    span = np.where(still, span.max() or 1.0, span)
    room = np.where(still, span / 2, span / 50)
    units = 10.0 ** (1 - np.floor(np.log10(span)))
    return np.floor((low - room) * units) / units, np.ceil((high + room) * units) / units


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
    law: str = "the prior",
    dead: float = DEAD_KL,
    heading_level: int = 3,
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
      labels: `[n]`, integers that colour the dots, negative where there is none.
      label_names: of the labels.
      originals: `[n, *E]`, the examples as the decoder should give them; only with codes.
      mean: of the normal law from which random z are drawn, and where the explorer begins; broadcast to z.
      scale: its standard deviation.
      law: its name, as in "a draw from the prior".
      dead: a latent whose KL is known and not above this is put away as unused: nats.
      heading_level: 2 where the explorer is a part of the page itself, 3 where it lies in a section of it.
      element_id: of the section. One page may hold several; `window.vaejaxExplorer` is then the last one's.

    Raises:
      ValueError: shapes that do not fit the program, axes that are not every latent once, no id, no level.

    >>> from vaejax.report.browser import compile_for_browser
    >>> program = compile_for_browser(lambda z: z * 2, (2,))
    >>> explorer_html(program, latent_axes(2)).startswith('<section id="latent-explorer"')
    True
    """
    size, outputs = math.prod(program.input_shape), math.prod(program.output_shape)
    _check_axes(axes, size)
    _check_look(image_shape, outputs, black, white)
    _check_place(element_id, heading_level)
    everywhere = lambda array: np.broadcast_to(np.asarray(array, float), program.input_shape).ravel().tolist()
    data = {
        "program": program.document,
        "axes": [{**axis._asdict(), "dead": axis.kl is not None and axis.kl <= dead} for axis in axes],
        "dead": float(dead),
        "image": None if image_shape is None else list(image_shape),
        "black": float(black),
        "white": float(white),
        "names": list(label_names),
        "mean": everywhere(mean),
        "scale": everywhere(scale),
        **_examples(codes, labels, originals, (size, outputs)),
    }
    return _filled(data, id=element_id, heading=f"h{int(heading_level)}", law=escape(law))


def _filled(data: dict[str, Any], **words: str) -> str:
    """The explorer around its data."""
    return Template(_read("explorer.html")).substitute(
        words,
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
    bits = lambda name, array, size: encode_base64(_rows(f"explorer_html: {name}", array, size, count).astype("f4"))
    return {
        "codes": bits("codes", codes, sizes[0]),
        "labels": None if labels is None else _shaped("explorer_html: labels", labels, (count,)).astype(int).tolist(),
        "originals": None if originals is None else bits("originals", originals, sizes[1]),
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


def _check_place(element_id: str, heading_level: int) -> None:
    if not re.fullmatch(r"[A-Za-z][\w-]*", element_id):
        raise ValueError(
            f"explorer_html: element_id must be a letter and then letters, digits, - or _; got {element_id!r}"
        )
    if heading_level not in range(1, 7):
        raise ValueError(f"explorer_html: heading_level must be from 1 to 6; got {heading_level!r}")


def _rows(name: str, array: Any, size: int, count: int | None = None) -> np.ndarray:
    """An array of so many numbers per example as `[n, size]`."""
    array = np.asarray(array, float)
    return _shaped(name, array.reshape(len(array), -1), (len(array) if count is None else count, size))


def _shaped(name: str, array: Any, shape: Shape) -> np.ndarray:
    array = np.asarray(array, float)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite; got NaN or infinity")
    return array


def _read(name: str) -> str:
    return resources.files("vaejax.report").joinpath(name).read_text(encoding="utf-8")
