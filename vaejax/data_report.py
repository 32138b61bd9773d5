"""What a data set is, in words and as a contact sheet."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from vaejax.checks import is_image
from vaejax.data import Dataset, Lazy, Meaning, Split
from vaejax.data.axes import understood
from vaejax.report import figures

# Of examples that have to be read, so many numbers are looked at; of all, so many together.
NUMBERS_READ, NUMBERS_AT_ONCE = 2**24, 2**24
# Larger images are shown by some of their pixels.
MAX_PIXELS = 128
COLUMNS = 16
MAX_ROWS = 20


def describe(dataset: Dataset) -> str:
    """Shapes, range, splits, labels, factors, origin and checksum, one line each."""
    what = {
        Meaning.BINARY: "0 and 1",
        Meaning.INTENSITY: f"intensities, white is {dataset.max_value:g}",
        Meaning.COUNTS: f"counts up to {dataset.max_value:g}",
        Meaning.REAL: f"real numbers up to {dataset.max_value:g} in magnitude",
    }[dataset.meaning]
    lines = [f"{dataset.name}: {understood(dataset)} for training, {dataset.dtype}, {what}"]
    lines += [f"  {name:<11}{_describe_split(split)}" for name, split in dataset.splits.items()]
    if dataset.train.labels is not None:
        lines.append(f"  labels     {_describe_labels(dataset.train.labels, dataset.label_names)}")
    if dataset.train.factors is not None:
        values = [split.factors.max(axis=0) for split in dataset.splits.values() if split.factors is not None]
        sizes = 1 + np.max(values, axis=0)
        names = dataset.factor_names or [f"factor {column}" for column in range(len(sizes))]
        lines.append(f"  factors    {', '.join(f'{name} {size}' for name, size in zip(names, sizes, strict=True))}")
    if dataset.origin:
        lines.append(f"  origin     {dataset.origin}")
    lines.append(f"  sha256     {dataset.sha256}")
    return "\n".join(lines)


def _describe_labels(labels: np.ndarray, label_names: Sequence[str]) -> str:
    known = labels[labels >= 0]
    found, counts = np.unique(known, return_counts=True)
    names = ", ".join(label_names[:MAX_ROWS]) + ("..." if len(label_names) > MAX_ROWS else "")
    each = f", {counts.min():,} to {counts.max():,} training examples each" if len(known) else ""
    without = f"; {len(labels) - len(known):,} training examples have none" if len(known) < len(labels) else ""
    return f"{len(found)}{f' ({names})' if names else ''}{each}{without}"


def _describe_split(split: Split) -> str:
    examples, count = split.examples, len(split.examples)
    reads = isinstance(examples, Lazy)
    size = math.prod(examples.shape[1:])
    looked_at = min(count, max(1, NUMBERS_READ // size)) if reads else count
    step = max(1, NUMBERS_AT_ONCE // size)
    chunks = (examples[start : min(start + step, looked_at)] for start in range(0, looked_at, step))
    spreads = np.array([_spread(each) for each in chunks])
    low, high, present = spreads[:, 0].min(), spreads[:, 1].max(), spreads[:, 3].sum()
    which = f"the first {looked_at:,}" if looked_at < count else "all"
    where = "read when asked for" if reads else "in memory or mapped"
    absent = 1 - present / (looked_at * size)
    return (
        f"{count:>9,} examples, {examples.nbytes / 2**20:,.1f} MiB {where}; {which} from {low:g} to {high:g}, "
        f"mean {spreads[:, 2].sum() / present:.4g}{f', {100 * absent:.3g} % missing' if absent else ''}"
    )


def _spread(examples: np.ndarray) -> tuple[float, float, float, int]:
    """The least, the greatest, the sum and the count of the numbers that are not missing."""
    there = examples[~np.isnan(examples)] if examples.dtype.kind == "f" else examples
    return there.min(), there.max(), there.sum(dtype=np.float64), there.size


def contact_sheet(dataset: Dataset) -> Figure | None:
    """Images of a data set: a row of each label, or of each factor as it changes alone, or some; None for no images."""
    if not is_image(dataset.shape):
        return None
    step = -(-max(dataset.shape[:2]) // MAX_PIXELS)
    black = -dataset.max_value if dataset.meaning is Meaning.REAL else 0.0
    # What is missing is black: NaN would be the colour between images.
    rows = [(name, np.nan_to_num(images[:, ::step, ::step], nan=black)) for name, images in _rows(dataset)]
    return figures.contact_sheet(rows, dataset.max_value, f"{dataset.name}: {dataset.meaning}", black)


def _rows(dataset: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    train = dataset.train
    if all(split.factors is not None for split in dataset.splits.values()):
        yield from _traversals(dataset)
        return
    labels = None if train.labels is None else np.unique(train.labels)
    if labels is None or len(labels) > MAX_ROWS:
        picked = np.linspace(0, len(train.examples) - 1, min(len(train.examples), 8 * COLUMNS)).astype(int)
        for start in range(0, len(picked), COLUMNS):
            row = picked[start : start + COLUMNS]
            yield f"from {row[0]}", train.examples[row]
        return
    for label in labels:
        picked = np.flatnonzero(train.labels == label)[:COLUMNS]
        yield _label_name(dataset, label), train.examples[picked]


def _label_name(dataset: Dataset, label: int) -> str:
    if label < 0:
        return "no label"
    return dataset.label_names[label] if dataset.label_names else str(label)


def _traversals(dataset: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Each factor from its first value to its last, the others in their middle, as far as the splits have them."""
    splits = list(dataset.splits.values())
    factors = np.concatenate([split.factors for split in splits])
    owners = np.repeat(np.arange(len(splits)), [len(split.examples) for split in splits])
    places = np.concatenate([np.arange(len(split.examples)) for split in splits])
    # The example that has most factors in the middle of their values; it has neighbours, or is a row by itself.
    centre = factors[np.argmin(np.abs(factors - np.median(factors, axis=0)).sum(axis=1))]
    names = dataset.factor_names or [f"factor {column}" for column in range(len(centre))]
    for axis, name in enumerate(names):
        others = np.delete(np.arange(len(centre)), axis)
        found = np.flatnonzero(np.all(factors[:, others] == centre[others], axis=1))
        found = found[np.argsort(factors[found, axis], kind="stable")]
        found = found[np.linspace(0, len(found) - 1, min(len(found), COLUMNS)).astype(int)]
        yield name, np.stack([splits[owners[each]].examples[places[each]] for each in found])
