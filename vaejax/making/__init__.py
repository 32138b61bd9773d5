"""What is made with a trained model: samples, reconstructions, codes and walks, in chunks.

A chunk holds arrays of as many rows, by name, the same names every time, so that many need little memory. Row i is a
function of the key and of i, or of the example's number, alone: how many rows are made at once changes rounding and
nothing else.
"""

from vaejax.making.axes import (
    DEAD_KL,
    Codes,
    check_axes,
    check_live,
    check_range,
    dead_axes,
    live_axes,
    read_codes,
    traverse,
)
from vaejax.making.chunks import BATCH_SIZE, Chosen, Chunk, choose, given, in_chunks
from vaejax.making.codes import encode, encode_means, reconstruct
from vaejax.making.samples import MAX_CODES, MAX_COUNT, code_prior, draw_sample, generate
from vaejax.making.walks import great_circle, interpolate, straight_line

__all__ = [
    "BATCH_SIZE",
    "DEAD_KL",
    "MAX_CODES",
    "MAX_COUNT",
    "Chosen",
    "Chunk",
    "Codes",
    "check_axes",
    "check_live",
    "check_range",
    "choose",
    "code_prior",
    "dead_axes",
    "draw_sample",
    "encode",
    "encode_means",
    "generate",
    "given",
    "great_circle",
    "in_chunks",
    "interpolate",
    "live_axes",
    "read_codes",
    "reconstruct",
    "straight_line",
    "traverse",
]
