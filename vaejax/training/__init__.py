"""The train step as a pure function, the loop around it, devices and hosts, and checkpoints."""

from vaejax.training.checkpoint import DamagedCheckpoint, load_checkpoint, read_about, save_checkpoint
from vaejax.training.checkpoints import Checkpoints, best_step, load_newest, path_of, saved_steps
from vaejax.training.gradients import PerExample, per_example
from vaejax.training.hosts import agree, is_first_host, join_cluster
from vaejax.training.interrupts import Interrupted, Interrupts
from vaejax.training.loop import Feed, NotFinite, Progress, Report, begin, fit, progress_like
from vaejax.training.optimistic import optimistic
from vaejax.training.optimizers import learning_rate_schedule, make_optimizer
from vaejax.training.parallel import data_mesh, data_parallel, on_mesh, place, state_shardings, to_host
from vaejax.training.resident import place_examples, resident
from vaejax.training.schedules import constant, cyclic, linear, sigmoid
from vaejax.training.step import (
    Skipped,
    TrainState,
    has_failed,
    init_state,
    make_stateful_train_step,
    make_train_step,
)
from vaejax.training.stopping import Stopping, init_stopping, should_stop, update_stopping
from vaejax.training.stream import streamed

__all__ = [
    "Checkpoints",
    "DamagedCheckpoint",
    "Feed",
    "Interrupted",
    "Interrupts",
    "NotFinite",
    "PerExample",
    "Progress",
    "Report",
    "Skipped",
    "Stopping",
    "TrainState",
    "agree",
    "begin",
    "best_step",
    "constant",
    "cyclic",
    "data_mesh",
    "data_parallel",
    "fit",
    "has_failed",
    "init_state",
    "init_stopping",
    "is_first_host",
    "join_cluster",
    "learning_rate_schedule",
    "linear",
    "load_checkpoint",
    "load_newest",
    "make_optimizer",
    "make_stateful_train_step",
    "make_train_step",
    "on_mesh",
    "optimistic",
    "path_of",
    "per_example",
    "place",
    "place_examples",
    "progress_like",
    "read_about",
    "resident",
    "save_checkpoint",
    "saved_steps",
    "should_stop",
    "sigmoid",
    "state_shardings",
    "streamed",
    "to_host",
    "update_stopping",
]
