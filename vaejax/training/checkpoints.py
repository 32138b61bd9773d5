"""The checkpoints of a run: written in the background, the newest kept and the best, the damaged passed over."""

import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import orbax.checkpoint as ocp

from vaejax.checks import check_count
from vaejax.training.checkpoint import (
    SEAL,
    STATE,
    DamagedCheckpoint,
    as_json,
    finish_save,
    load_checkpoint,
    read_about,
    start_save,
)
from vaejax.training.hosts import agree, is_first_host


class Checkpoints:
    """A folder with a checkpoint per saved step, for one writer at a time; a context, which waits at its end.

    A save goes on in the background. The next one, `poll` and the end of the context seal what has been written, and
    then remove what is older than the newest `keep`, except the best.

    Raises (from any of its methods):
      OSError: a checkpoint could not be written; those before it stay.
    """

    def __init__(self, folder: str | os.PathLike[str], *, keep: int = 2):
        check_count("keep", keep)
        self.folder, self.keep = Path(folder).absolute(), keep
        self.checkpointer = ocp.StandardCheckpointer()
        self.pending: tuple[Path, dict[str, Any]] | None = None
        if is_first_host():
            self._remove(step for step in _steps(self.folder) if not _is_sealed(self.folder, step))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except OSError:
            # What ended the run is what there is to say.
            if error is None:
                raise
        finally:
            self.checkpointer.close()

    def save(self, step: int, tree: Any, about: Mapping[str, Any] | None = None) -> None:
        """Begin to save; a step that is there already is left as it is.

        Raises:
          TypeError: `about` is nothing that JSON can say.
        """
        about = as_json(about)
        self.wait()
        path = path_of(self.folder, step)
        # All hosts say the same, whenever each of them sees the disk.
        if any(agree(int(_is_sealed(self.folder, step)))):
            return
        if is_first_host() and path.exists():
            # A save that failed.
            self._remove([step])
        start_save(self.checkpointer, path, tree)
        self.pending = path, about

    def drop_after(self, step: int) -> None:
        """Remove what is later than `step`: what a run did not resume from, and will make again."""
        if is_first_host():
            self._remove(each for each in _steps(self.folder) if each > step)

    def poll(self) -> None:
        """Seal the last save if it has been written."""
        if self.pending and (self.pending[0] / STATE).is_dir():
            self.wait()

    def wait(self) -> None:
        """Wait for the last save and seal it."""
        if self.pending is None:
            return
        path, about = self.pending
        self.pending = None
        finish_save(self.checkpointer, path, about)
        if is_first_host():
            self._prune()

    def _prune(self) -> None:
        steps = saved_steps(self.folder)
        best = best_step(self.folder)
        self._remove(step for step in steps[: -self.keep] if step != best)

    def _remove(self, steps: Any) -> None:
        for step in list(steps):
            path = path_of(self.folder, step)
            # Without its seal it is no checkpoint, whatever becomes of the rest.
            (path / SEAL).unlink(missing_ok=True)
            shutil.rmtree(path)


def saved_steps(folder: str | os.PathLike[str]) -> list[int]:
    """The steps that are saved and sealed, oldest first."""
    return [step for step in _steps(Path(folder)) if _is_sealed(Path(folder), step)]


def best_step(folder: str | os.PathLike[str]) -> int | None:
    """The step whose `about` has the lowest `"cost"`; None where none has one."""
    costs = {}
    for step in saved_steps(folder):
        try:
            cost = read_about(path_of(Path(folder), step)).get("cost")
        except DamagedCheckpoint:
            continue
        if cost is not None and math.isfinite(cost):
            costs[step] = cost
    return min(costs, key=lambda step: (costs[step], step)) if costs else None


def load_newest(
    folder: str | os.PathLike[str], like: Any, sharding_of: Callable[[Any], Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """The newest checkpoint that is whole, and what was saved with it; a damaged one is passed over with a warning.

    Raises:
      FileNotFoundError: there is none.
      DamagedCheckpoint: there are some, all damaged.
      ValueError: the newest belongs to another model.
    """
    damage: DamagedCheckpoint | None = None
    for step in reversed(saved_steps(folder)):
        path = path_of(Path(folder), step)
        try:
            return load_checkpoint(path, like, sharding_of), read_about(path)
        except DamagedCheckpoint as error:
            warnings.warn(f"{error}; going back to the checkpoint before it", stacklevel=2)
            damage = damage or error
    if damage is not None:
        raise damage
    raise FileNotFoundError(f"{folder} holds no checkpoint")


def path_of(folder: Path, step: int) -> Path:
    """The folder of a step."""
    return folder / f"{step:09d}"


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit()) if folder.is_dir() else []


def _is_sealed(folder: Path, step: int) -> bool:
    return (path_of(folder, step) / SEAL).is_file()
