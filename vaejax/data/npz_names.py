"""What the arrays of an archive are called in practice: which are examples, which labels, and of which split."""

import itertools
import os
from collections.abc import Sequence

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
EXAMPLES = ("x", "images", "image", "imgs", "data")
LABELS = ("y", "labels", "label", "targets", "target")
# What is called like this is not left out in silence.
TELLING = ("test", "val", "label", "target")
UNDERSTOOD = (
    "understood are train, valid and test; x_train or train_x, also with images, imgs or data for x, "
    "and for labels with y, labels or targets; all of these also without train"
)


def choose_arrays(path: str | os.PathLike[str], keys: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """The keys of the examples and of the labels of each split, as far as there are any.

    Raises:
      ValueError: there are no examples to train on, two arrays may be one thing, or one that is by its name of a test
        or validation split or holds labels is none of those that are understood.

    >>> choose_arrays("some.npz", ["X_train", "y_train", "testImages", "more"])
    {'train': ('X_train', 'y_train'), 'test': ('testImages', None)}
    """
    examples = {split: _find(path, keys, f"array of {split} examples", _examples(split)) for split in SPLITS}
    labels = {split: _find(path, keys, f"array of {split} labels", _names(split, LABELS)) for split in SPLITS}
    taken = {*examples.values(), *labels.values()}
    if len(keys) == 1 and keys[0] not in taken and not _is_telling(keys[0]):
        return {"train": (keys[0], None)}
    left = next((key for key in keys if key not in taken and _is_telling(key)), None)
    if left is not None:
        raise ValueError(f"{path} must hold arrays of known names; got {left} ({UNDERSTOOD}; read_npz reads any)")
    for split, key in examples.items():
        if key is None and (split == "train" or labels[split] is not None):
            raise ValueError(f"{path} must hold an array of {split} examples; got {list_keys(keys)} ({UNDERSTOOD})")
    return {split: (key, labels[split]) for split, key in examples.items() if key is not None}


def list_keys(keys: Sequence[str]) -> str:
    """The names of arrays, or the first of many."""
    return ", ".join(keys[:20]) + (f" and {len(keys) - 20} more" if len(keys) > 20 else "") or "no array"


def _examples(split: str) -> set[str]:
    return _names(split, EXAMPLES) | set(SPLITS[split])


def _names(split: str, roles: Sequence[str]) -> set[str]:
    pairs = itertools.product(SPLITS[split], roles)
    alone = roles if split == "train" else ()
    return {*alone, *(name for word, role in pairs for name in (word + role, role + word))}


def _find(path: str | os.PathLike[str], keys: Sequence[str], what: str, names: set[str]) -> str | None:
    found = [key for key in keys if _plain(key) in names]
    if len(found) > 1:
        raise ValueError(f"{path} must hold one {what}; got {list_keys(found)} (read_npz reads any)")
    return found[0] if found else None


def _is_telling(key: str) -> bool:
    return any(word in _plain(key) for word in TELLING)


def _plain(key: str) -> str:
    return key.casefold().replace("_", "").replace("-", "")
