"""The header of an array as numpy saves it, read without evaluating anything."""

import math
import re
from typing import IO, Any, Literal, NamedTuple

import numpy as np

MAX_HEADER = 2**16
MAGIC = b"\x93NUMPY"
# The three entries of a header, as numpy and Python 2 (3L) write them. None is evaluated.
TYPE = re.compile(r"""['"]descr['"]\s*:\s*['"]([<>|=]?(?:[buif]\d{1,2}|[US][1-9]\d{0,3}))['"]""")
OBJECTS = re.compile(r"""['"]\|?O8?['"]""")
ORDER = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
SHAPE = re.compile(r"""['"]shape['"]\s*:\s*\(((?:\d{1,18}L?, ?){0,31}(?:\d{1,18}L?)?)\)""")


class Header(NamedTuple):
    """What is known of an array before it is read."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    start: int  # where the numbers begin

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(where: str, file: IO[bytes], *, texts: bool = False) -> Header:
    """Read the header with which a file starts: of numbers, or also of strings of up to 9,999 signs where `texts`.

    Raises:
      ValueError: it is damaged, or one of something else than that; the message starts with `where`.
    """
    start = file.read(8)
    if len(start) < 8 or start[:6] != MAGIC:
        raise ValueError(f"{where} must be an array as numpy saves it; it starts with {start[:6].hex() or 'nothing'}")
    if start[6:] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise ValueError(f"{where} must be of the npy format 1.0, 2.0 or 3.0; got {start[6]}.{start[7]}")
    size = file.read(2 if start[6] == 1 else 4)
    length = int.from_bytes(size, "little")
    text = file.read(min(length, MAX_HEADER)).decode("latin-1")
    if len(text) != length:
        raise ValueError(f"{where} has a truncated or damaged header of {length} bytes")
    return _parse(where, text.strip(), 8 + len(size) + length, texts)


def _parse(where: str, text: str, start: int, texts: bool) -> Header:
    kind, order, shape = TYPE.search(text), ORDER.search(text), SHAPE.search(text)
    if kind is None and OBJECTS.search(text):
        remedy = " (save strings as array.astype(str))" if texts else ""
        raise ValueError(f"{where} must hold numbers; got objects, which are pickled and never loaded{remedy}")
    if kind is None or order is None or shape is None or (not texts and kind[1].lstrip("<>|=")[0] in "US"):
        raise ValueError(f"{where} must be an array of numbers; got the header {text[:200]!r}")
    try:
        dtype = np.dtype(kind[1])
    except TypeError as error:
        raise ValueError(f"{where} must hold numbers; got the type {kind[1]}") from error
    sizes = tuple(int(size) for size in re.findall(r"\d+", shape[1]))
    return Header(dtype, sizes, "F" if order[1] == "True" else "C", start)


def check_size(where: str, header: Header, size: int) -> None:
    """Raise `ValueError` unless `size` bytes are what the header and the numbers take."""
    if header.start + header.nbytes != size:
        raise ValueError(
            f"{where} must have {header.start + header.nbytes} bytes for its shape {header.shape} of {header.dtype}; "
            f"got {size}"
        )
