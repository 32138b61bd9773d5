"""What a data set is, in words and as a contact sheet."""

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from vaejax.data import Dataset, Lazy, Meaning, Split
from vaejax.report import figures

# Of a lazy split, the examples that are looked at.
LOOKED_AT = 4096
COLUMNS = 16
MAX_ROWS = 20


def describe(dataset: Dataset) -> str:
    """Shapes, range, splits, labels, factors, origin and checksum, one line each."""
    shape = " x ".join(str(size) for size in dataset.shape)
    what = {
        Meaning.BINARY: "0 and 1",
        Meaning.INTENSITY: f"intensities, white is {dataset.max_value:g}",
        Meaning.COUNTS: f"counts up to {dataset.max_value:g}",
        Meaning.REAL: f"real numbers up to {dataset.max_value:g} in magnitude",
    }[dataset.meaning]
    lines = [f"{dataset.name}: {shape} {dataset.dtype}, {what}"]
    lines += [f"  {name:<11}{_describe_split(split)}" for name, split in dataset.splits.items()]
    if dataset.train.labels is not None:
        counts = np.bincount(dataset.train.labels)
        labels = ", ".join(dataset.label_names[:MAX_ROWS]) + ("..." if len(dataset.label_names) > MAX_ROWS else "")
        each = f"{counts.min():,} to {counts.max():,} training examples each"
        lines.append(f"  labels     {len(counts)}{f' ({labels})' if labels else ''}, {each}")
    if dataset.train.factors is not None:
        values = [split.factors.max(axis=0) for split in dataset.splits.values() if split.factors is not None]
        sizes = 1 + np.max(values, axis=0)
        names = dataset.factor_names or [f"factor {column}" for column in range(len(sizes))]
        lines.append(f"  factors    {', '.join(f'{name} {size}' for name, size in zip(names, sizes, strict=True))}")
    if dataset.origin:
        lines.append(f"  origin     {dataset.origin}")
    lines.append(f"  sha256     {dataset.sha256}")
    return "\n".join(lines)


def _describe_split(split: Split) -> str:
    count, nbytes = len(split.examples), split.examples.nbytes
    lazy = isinstance(split.examples, Lazy)
    seen = split.examples[: LOOKED_AT if lazy else count]
    which = f"the first {len(seen):,}" if len(seen) < count else "all"
    spread = f"{which} from {seen.min():g} to {seen.max():g}, mean {seen.mean():.4g}"
    where = "read when asked for" if lazy else "in memory or mapped"
    return f"{count:>9,} examples, {nbytes / 2**20:,.1f} MiB {where}; {spread}"


def contact_sheet(dataset: Dataset) -> Figure | None:
    """Images of a data set: a row of each label, or of each factor as it changes alone, or some; None for no images."""
    if len(dataset.shape) != 3 or dataset.shape[-1] not in (1, 3):
        return None
    rows = dict(_rows(dataset))
    return figures.contact_sheet(rows, dataset.max_value, f"{dataset.name}: {dataset.meaning}")


def _rows(dataset: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    train = dataset.train
    if dataset.factor_names and all(split.factors is not None for split in dataset.splits.values()):
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
        name = dataset.label_names[label] if dataset.label_names else str(label)
        yield name, train.examples[picked]


def _traversals(dataset: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Each factor from its first value to its last, the others in their middle, as far as the splits have them."""
    splits = list(dataset.splits.values())
    factors = np.concatenate([split.factors for split in splits])
    owners = np.repeat(np.arange(len(splits)), [len(split.examples) for split in splits])
    places = np.concatenate([np.arange(len(split.examples)) for split in splits])
    middle = factors.max(axis=0) // 2
    for axis, name in enumerate(dataset.factor_names):
        others = np.delete(np.arange(len(middle)), axis)
        found = np.flatnonzero(np.all(factors[:, others] == middle[others], axis=1))
        found = found[np.argsort(factors[found, axis])]
        found = found[np.linspace(0, len(found) - 1, min(len(found), COLUMNS)).astype(int)]
        yield name, np.stack([splits[owners[each]].examples[places[each]] for each in found])
