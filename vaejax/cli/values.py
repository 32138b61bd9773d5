"""What may follow an option: functions for argparse, which then names the option in what it says."""

import argparse
from collections.abc import Callable

import numpy as np

MAX_NUMBERS, MAX_STEPS = 10**7, 10**6
# Keys are made of 32 bits of a seed: greater ones would repeat what smaller ones draw. Settings have the same range.
MAX_SEED = 2**31 - 1


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """A whole number of some range, both ends included.

    >>> integer(1)("3")
    3
    """

    def read(word: str) -> int:
        try:
            value = int(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number; got {word}") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}; got {word}")
        if high is not None and value > high:
            raise argparse.ArgumentTypeError(f"must be at most {high:,}; got {word}")
        return value

    return read


def numbers(what: str) -> Callable[[str], np.ndarray]:
    """Numbers and ranges such as `3,10-19`, both ends included, of examples or latents.

    >>> numbers("examples")("3,10-12").tolist()
    [3, 10, 11, 12]
    """

    def read(words: str) -> np.ndarray:
        found: list[int] = []
        for word in words.split(","):
            low, dash, high = word.strip().partition("-")
            if not (low.isdecimal() and (high.isdecimal() if dash else not high)):
                raise argparse.ArgumentTypeError(f"must be numbers and ranges such as 3,10-19; got {words}")
            first, last = int(low), int(high or low)
            if last < first:
                raise argparse.ArgumentTypeError(f"must have ranges from low to high; got {word.strip()}")
            if len(found) + last - first >= MAX_NUMBERS:
                raise argparse.ArgumentTypeError(f"must name at most {MAX_NUMBERS:,} {what}; got {words}")
            found.extend(range(first, last + 1))
        return np.array(found)

    return read


def pair(words: str) -> tuple[int, int]:
    """`3,17` as the numbers of two examples.

    >>> pair("3,17")
    (3, 17)
    """
    found = words.split(",")
    if len(found) != 2 or not all(number.strip().isdecimal() for number in found):
        raise argparse.ArgumentTypeError(f"must be two numbers of examples such as 3,17; got {words}")
    return int(found[0]), int(found[1])


def check_numbers(name: str, found: np.ndarray, total: int, of: str) -> None:
    """Raise `ValueError` where a number is none of `total` examples; `of` says which, such as "test"."""
    outside = found[found >= total]
    if outside.size:
        raise ValueError(f"{name} must be from 0 to {total - 1}, the {of} examples; got {outside[0]}")
