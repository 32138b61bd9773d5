"""Data sets as uint8 arrays in memory, and pure functions from them to batches."""

from vaejax.data.batches import batch_indices, count_steps
from vaejax.data.binarized_mnist import load_binarized_mnist
from vaejax.data.dataset import Dataset, Split, binarize, to_unit
from vaejax.data.digits import load_digits
from vaejax.data.idx import load_mnist, read_idx

__all__ = [
    "Dataset",
    "Split",
    "batch_indices",
    "binarize",
    "count_steps",
    "load_binarized_mnist",
    "load_digits",
    "load_mnist",
    "read_idx",
    "to_unit",
]
