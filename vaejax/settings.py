"""The settings of an experiment: dataclasses, whose docstrings are the help of the command line."""

import dataclasses
import enum
import sys
import typing
from collections.abc import Mapping
from typing import Any

from vaejax.checks import check_count, check_nonnegative, check_positive, is_concrete
from vaejax.data import Dataset, count_steps

# What fits JAX's integers without sign trouble.
MAX_SEED = 2**31


class NotFinitePolicy(enum.StrEnum):
    """What becomes of a step whose loss, gradient or outcome is not finite."""

    RAISE = "raise"  # the run ends; the step can be replayed
    SKIP = "skip"  # it is left out
    ROLL_BACK = "roll_back"  # the run goes on from its last report, without that step


class Precision(enum.StrEnum):
    """In what the products of the nets are computed; parameters and densities are float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class FeedChoice(enum.StrEnum):
    """Where the examples of a run are while it trains; they and their order are the same."""

    AUTO = "auto"  # on the device where they take no more than a quarter of its memory
    RESIDENT = "resident"  # on every device
    STREAMED = "streamed"  # on the host, which reads ahead


class KlSchedule(enum.StrEnum):
    """How the weight of the KL term comes to beta."""

    CONSTANT = "constant"
    LINEAR = "linear"
    SIGMOID = "sigmoid"
    CYCLIC = "cyclic"


@dataclasses.dataclass(frozen=True)
class Training:
    """How an experiment is trained: what a run's result depends on besides the experiment's own settings."""

    optimizer: str = "adam"
    """The name of an optimizer of optax."""
    schedule: str = "constant"
    """The name of a learning rate schedule of optax, such as cosine_decay."""
    schedule_options: dict[str, float] = dataclasses.field(default_factory=dict)
    """Further arguments of the schedule, such as decay_rate 0.5."""
    warm_up: float = 0.0
    """Epochs in which the learning rate grows to its full size."""
    clip_norm: float | None = None
    """Gradients of a larger norm are scaled down to it."""
    micro_batches: int | None = None
    """Parts of a batch that are computed one after the other, to save memory; the result is that of the whole. By
    default 1; on a CPU so many that what a part's convolutions make stays in its cache."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, which is then what is evaluated."""
    precision: Precision = Precision.FLOAT32
    """In what the products of the nets are computed."""
    rematerialize: bool = False
    """Compute activations again for the backward pass, to save memory."""
    not_finite: NotFinitePolicy = NotFinitePolicy.RAISE
    """What becomes of a step that is not finite; schedules of the optimizer count the steps that were made."""
    max_not_finite: int = 10
    """Steps in a row that may be skipped, or returns to one report, before the run ends."""
    validation_size: int = 0
    """Examples to validate on, so that the best of the epochs on them is what is evaluated: the first of the data set's
    own validation split, or the last of its training examples, which are then held out."""
    patience: int = 0
    """Epochs without a better validation figure after which the run ends; 0: it does not."""
    patience_warm_up: int = 0
    """Epochs that do not count for that, such as those of a KL schedule."""

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` on a setting that cannot be."""
        if self.micro_batches is not None:
            check_count("micro_batches", self.micro_batches)
        for name in ("max_not_finite", "validation_size", "patience", "patience_warm_up"):
            check_count(name, getattr(self, name), minimum=0)
        check_nonnegative("warm_up", self.warm_up)
        if self.clip_norm is not None:
            check_nonnegative("clip_norm", self.clip_norm)
            check_positive("clip_norm", self.clip_norm)
        if is_concrete(self.ema_decay) and self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be at least 0 and below 1; got {self.ema_decay}")
        if self.patience and not self.validation_size:
            raise ValueError("patience needs a validation_size: examples to hold out and watch")


@dataclasses.dataclass(frozen=True)
class Running:
    """Where and how a run goes: its result does not depend on any of these."""

    output: str | None = None
    """Folder of the run; by default the next number in runs/EXPERIMENT. A run that is there goes on."""
    resume: bool = False
    """Go on with the newest unfinished run of the same settings, also under other versions of the packages."""
    devices: int | None = None
    """How many devices to train on; all of them by default."""
    shard_params: bool = False
    """Cut large parameters over the devices too, and not only the batch."""
    feed: FeedChoice = FeedChoice.AUTO
    """Keep all examples on every device, or stream batches from the host, each host its share."""
    reader_threads: int = 8
    """Threads of a streamed feed that read and decode."""
    checkpoint_seconds: float = 30.0
    """Save so often, and at the end and when stopped."""
    keep: int = 2
    """Newest checkpoints that are kept, besides the best."""
    coordinator: str | None = None
    """Address and port of the first of several hosts; found by itself on Slurm, Open MPI, Kubernetes and TPU pods."""
    num_hosts: int | None = None
    """How many hosts there are."""
    host_index: int | None = None
    """Which of them this one is, from 0."""
    wandb: str | None = None
    """Weights & Biases project to log to."""
    mlflow: str | None = None
    """MLflow experiment to log to."""

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` on a setting that cannot be."""
        check_count("keep", self.keep)
        check_count("reader_threads", self.reader_threads)
        if self.devices is not None:
            check_count("devices", self.devices)
        check_nonnegative("checkpoint_seconds", self.checkpoint_seconds)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that every experiment has; an experiment adds its own."""

    seed: int = 0
    """Seed of the parameters, the order of the examples and all noise."""
    epochs: int = 100
    """Passes over the training data."""
    batch_size: int = 128
    """Examples per step, of all devices together; of fewer training examples, all of them."""
    learning_rate: float = 1e-3
    """Step size of the optimizer."""
    latent_size: int = 8
    """Number of latents."""
    hidden_sizes: tuple[int, ...] = (128,)
    """Widths of the encoder's hidden layers; the decoder has them in reverse."""
    training: Training = Training()
    running: Running = Running()

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` on a setting that cannot be."""
        for name in ("epochs", "batch_size"):
            check_count(name, getattr(self, name))
        if is_concrete(self.seed):
            check_count("seed", self.seed, minimum=0)
            if self.seed >= MAX_SEED:
                raise ValueError(f"seed must be below 2**31; got {self.seed}")
        if is_concrete(self.learning_rate) and not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be positive and finite; got {self.learning_rate}")
        self.training.check()
        self.running.check()
        if self.batch_size % (self.training.micro_batches or 1):
            raise ValueError(
                f"micro_batches must divide the batch_size {self.batch_size}; got {self.training.micro_batches}"
            )

    def num_steps(self, dataset: Dataset) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch(dataset)

    def steps_per_epoch(self, dataset: Dataset) -> int:
        """Whole batches of what is not held out."""
        return count_steps(self.num_training(dataset), self.examples_per_step(dataset))

    def examples_per_step(self, dataset: Dataset) -> int:
        """The batch size, or all that is not held out where that is less."""
        return min(self.batch_size, self.num_training(dataset))

    def num_training(self, dataset: Dataset) -> int:
        """How many of the first training examples are trained on: all that are not held out."""
        size, count = self.training.validation_size, len(dataset.train.examples)
        if dataset.validation is not None:
            own = len(dataset.validation.examples)
            if size > own:
                raise ValueError(f"validation_size must be at most the {own} validation examples; got {size}")
            return count
        if size >= count:
            raise ValueError(f"validation_size must be below the {count} training examples; got {size}")
        return count - size


@dataclasses.dataclass(frozen=True)
class VaeSettings(Settings):
    """The settings of a variational autoencoder."""

    num_samples: int = 1
    """Monte-Carlo samples of the likelihood term."""
    beta: float = 1.0
    """Weight of the KL term in training; the figures reported never use it."""
    kl_schedule: KlSchedule = KlSchedule.CONSTANT
    """How the weight comes to beta: at once, or from 0 over the first kl_epochs, or again and again in each of them."""
    kl_epochs: float = 10.0
    """Epochs of the schedule, or of each of its cycles."""

    def check(self) -> None:
        """Raise `TypeError` or `ValueError` on a setting that cannot be."""
        super().check()
        check_nonnegative("beta", self.beta)
        check_nonnegative("kl_epochs", self.kl_epochs)
        check_positive("kl_epochs", self.kl_epochs)


def settings_from(kind: type, values: Mapping[str, Any]) -> Any:
    """Settings of a class from what JSON made of them.

    Raises:
      ValueError: a setting that the class does not have.
    """
    types = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(types))
    if unknown:
        file = getattr(sys.modules[kind.__module__], "__file__", kind.__module__)
        raise ValueError(f"{file} has no setting {unknown[0]}: the run was made by another version of it")
    return kind(**{name: _setting_from(types[name], value) for name, value in values.items()})


def _setting_from(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return settings_from(kind, value)  # type: ignore[arg-type]
    # A setting may also be None.
    kinds = [each for each in (kind, *typing.get_args(kind)) if isinstance(each, type) and issubclass(each, enum.Enum)]
    if kinds and value is not None:
        return kinds[0](value)
    return tuple(value) if isinstance(value, list) else value
