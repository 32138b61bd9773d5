"""The train step as a pure function, chunks of steps as one scan, and checkpoints."""

from vaejax.training.checkpoint import load_checkpoint, save_checkpoint
from vaejax.training.loop import Chunk, fit, scan_steps
from vaejax.training.step import TrainState, init_state, make_stateful_train_step, make_train_step

__all__ = [
    "Chunk",
    "TrainState",
    "fit",
    "init_state",
    "load_checkpoint",
    "make_stateful_train_step",
    "make_train_step",
    "save_checkpoint",
    "scan_steps",
]
