"""Data sets as arrays or readers of them, what their numbers mean, and pure functions from them to batches."""

from vaejax.data.arrays import from_arrays
from vaejax.data.batches import batches_from, count_steps, epoch_indices
from vaejax.data.binarized_mnist import load_binarized_mnist
from vaejax.data.dataset import Dataset, Examples, Meaning, Split, hold_out
from vaejax.data.digits import load_digits
from vaejax.data.dsprites import load_dsprites
from vaejax.data.files import load_npy, load_npz, npz_keys, read_npy, read_npz
from vaejax.data.idx import load_idx, read_idx
from vaejax.data.image_folder import load_image_folder
from vaejax.data.lazy import Lazy, read_all
from vaejax.data.load import load, names
from vaejax.data.once import once
from vaejax.data.sprites import make_sprites, render_sprites
from vaejax.data.standardizer import Standardizer, standardize
from vaejax.data.tfds import load_tfds
from vaejax.data.transforms import (
    binarize,
    center_crop,
    dequantize,
    pad,
    random_crop,
    random_flip,
    resize,
    threshold,
    to_unit,
)

__all__ = [
    "Dataset",
    "Examples",
    "Lazy",
    "Meaning",
    "Split",
    "Standardizer",
    "batches_from",
    "binarize",
    "center_crop",
    "count_steps",
    "dequantize",
    "epoch_indices",
    "from_arrays",
    "hold_out",
    "load",
    "load_binarized_mnist",
    "load_digits",
    "load_dsprites",
    "load_idx",
    "load_image_folder",
    "load_npy",
    "load_npz",
    "load_tfds",
    "make_sprites",
    "names",
    "npz_keys",
    "once",
    "pad",
    "random_crop",
    "random_flip",
    "read_all",
    "read_idx",
    "read_npy",
    "read_npz",
    "render_sprites",
    "resize",
    "standardize",
    "threshold",
    "to_unit",
]
