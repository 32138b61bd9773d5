"""Data sets as uint8 arrays in memory, and pure functions from them to batches."""

from vaejax.data.batches import batches_from, count_steps, epoch_indices
from vaejax.data.binarized_mnist import load_binarized_mnist
from vaejax.data.dataset import Dataset, Split, binarize, to_unit
from vaejax.data.digits import load_digits
from vaejax.data.idx import load_mnist, read_idx

__all__ = [
    "Dataset",
    "Split",
    "batches_from",
    "binarize",
    "count_steps",
    "epoch_indices",
    "load_binarized_mnist",
    "load_digits",
    "load_mnist",
    "read_idx",
    "to_unit",
]
