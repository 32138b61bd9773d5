"""The folder of a run: found or made, locked, and its config compared with what is asked for now."""

import errno
import fcntl
import json
import os
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vaejax.durable import write_durably
from vaejax.settings import Running
from vaejax.strict_json import dump_json
from vaejax.training.hosts import agree, from_first_host, is_first_host

CONFIG, LOCK, RESULTS = "config.json", "lock", "results.json"
# What a config says, each with what it is.
CONFIG_PARTS = {"experiment": str, "settings": dict, "data": dict, "versions": dict, "devices": list}
# Parts of a config that a run may differ in when it is resumed on purpose.
SOFT = ("versions", "source")
# Parts that say where and how, and not what.
IGNORED = ("devices", "settings.running")
# What a disk says when it takes no more; the system then names no file.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}

Config = Mapping[str, Any]


@contextmanager
def open_folder(parent: Path, running: Running, config: Config) -> Iterator[Path]:
    """The folder of a run for as long as it is trained: a new one, or one that goes on.

    `running.output` names it. Where it does not, the newest run in `parent` that is unfinished, of the same config and
    not under way goes on; where there is none, the next number is made. A lock keeps a second run out of the folder;
    the system gives it back however the process ends.

    Args:
      parent: of the numbered folders.
      running: `output` and `resume`.
      config: all that the result depends on, which goes to `config.json`.

    Raises:
      FileExistsError: `output` exists and is no run folder.
      ValueError: `output` is a run of another config; the first difference is named.
      BlockingIOError: another process runs in the folder.
      FileNotFoundError: `resume` and there is nothing to go on with.
    """
    lock, failure = None, None
    path = Path()
    if is_first_host():
        try:
            with _named(running.output or parent):
                path, lock = _find_or_make(parent, running, config)
        except (OSError, ValueError) as error:
            failure = error
    # The other hosts wait to hear where, and of what, or that there is no run.
    told = from_first_host(json.dumps([str(path), None if failure is None else str(failure), config]))
    if failure is not None:
        raise failure
    name, reason, first = json.loads(told)
    if reason is not None:
        raise OSError(reason)
    different = differences(first, config, with_soft=True)
    if agree(len(different))[0]:
        said = different[0] if different else "another host differs from the first"
        raise ValueError(f"all hosts must be given the same: {said}")
    try:
        with _named(name):
            yield Path(name)
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _find_or_make(parent: Path, running: Running, config: Config) -> tuple[Path, int]:
    if running.output is not None:
        return _open_named(Path(running.output), running.resume, config)
    for path in reversed(numbered(parent)):
        try:
            stored = read_config(path)
        except ValueError as error:
            warnings.warn(f"{error}; passing over that run", stacklevel=4)
            continue
        if stored is None or (path / RESULTS).exists() or differences(stored, config, with_soft=False):
            continue
        if not running.resume and (different := differences(stored, config, with_soft=True)):
            warnings.warn(f"{path} is unfinished, but {different[0]}: --resume goes on with it", stacklevel=4)
            continue
        lock = _lock(path, wait=False)
        if lock is None:
            continue
        _warn(stored, config)
        return path, lock
    if running.resume:
        raise FileNotFoundError(f"resume: {parent} has no unfinished run of these settings")
    return _make_numbered(parent, config)


def _open_named(path: Path, resume: bool, config: Config) -> tuple[Path, int]:
    stored = read_config(path)
    # An empty folder, or one with no more than the lock, is that of a run that was killed as it began.
    if stored is None and path.is_dir() and not all(map(_is_begun, path.iterdir())):
        raise FileExistsError(f"output {path} exists and is no run folder: name a new folder for the run")
    if stored is None and path.exists() and not path.is_dir():
        raise FileExistsError(f"output {path} exists and is a file: name a new folder for the run")
    if stored is None and resume:
        raise FileNotFoundError(f"resume: {path} is no run folder")
    if stored is not None and (different := differences(stored, config, with_soft=not resume)):
        hint = (
            "--resume goes on in spite of it"
            if _is_in(different[0].split()[0], SOFT)
            else "name a new folder for the run"
        )
        raise ValueError(f"output {path} is another run: {different[0]} ({hint})")
    path.mkdir(parents=True, exist_ok=True)
    lock = _lock(path)
    assert lock is not None
    if stored is None:
        _write_config(path, config, lock)
    else:
        _warn(stored, config)
    return path, lock


def _is_begun(path: Path) -> bool:
    return path.name == LOCK or path.match(f".{CONFIG}.*draft")


def _make_numbered(parent: Path, config: Config) -> tuple[Path, int]:
    parent.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.name) for path in parent.iterdir() if path.name.isdigit()), default=0)
    while True:
        path = parent / f"{number:03d}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1  # another run took it in between
            continue
        lock = _lock(path)
        assert lock is not None
        _write_config(path, config, lock)
        return path, lock


def _write_config(path: Path, config: Config, lock: int) -> None:
    try:
        write_json(path / CONFIG, config)
    except OSError:
        os.close(lock)
        raise


def _lock(path: Path, *, wait: bool = True) -> int | None:
    """The descriptor that holds the lock; None where another process has it and `wait` is false."""
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(descriptor, 200).decode(errors="replace").strip()
        os.close(descriptor)
        if not wait:
            return None
        raise BlockingIOError(
            f"{path} is in use by {holder or 'another run'}: wait for it, or name a new folder"
        ) from error
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def numbered(parent: Path) -> list[Path]:
    """The numbered run folders in a folder, oldest first."""
    if not parent.is_dir():
        return []
    return sorted((path for path in parent.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def read_config(path: Path) -> dict[str, Any] | None:
    """The config of a run; None where the folder has none.

    Raises:
      ValueError: it is damaged, or does not say all that a config says.
    """
    file = path / CONFIG
    if not file.is_file():
        return None
    content: dict[str, Any] = read_json(file)
    lacking = [name for name, kind in CONFIG_PARTS.items() if not isinstance(content.get(name), kind)]
    if lacking:
        raise ValueError(f"{file} is damaged: it does not say {lacking[0]}")
    return content


def read_json(path: Path) -> Any:
    """A file of `write_json`, which holds an object.

    Raises:
      ValueError: it is damaged.
    """
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def differences(stored: Config, config: Config, *, with_soft: bool) -> list[str]:
    """What two configs differ in, in words, the settings first."""
    there, here = _flat(stored), _flat(json.loads(dump_json(config)))
    ignored = IGNORED if with_soft else (*IGNORED, *SOFT)
    names = [name for name in {**here, **there} if not _is_in(name, ignored) and there.get(name) != here.get(name)]
    names.sort(key=lambda name: (_is_in(name, SOFT), not _is_in(name, ("settings",))))
    pairs = [
        (name.removeprefix("settings."), *(each.get(name, "not said") for each in (there, here))) for name in names
    ]
    return [f"{name} is {old} there and {new} here" for name, old, new in pairs]


def settings_of(config: Config) -> dict[str, Any]:
    """The settings of a run by their dotted names, without where and how it went."""
    flat = _flat(config["settings"])
    return {name: value for name, value in flat.items() if not _is_in(f"settings.{name}", IGNORED)}


def _is_in(name: str, parts: tuple[str, ...]) -> bool:
    return f"{name}.".startswith(tuple(f"{part}." for part in parts))


def _warn(stored: Config, config: Config) -> None:
    for difference in differences(stored, config, with_soft=True):
        warnings.warn(f"going on in spite of a difference: {difference}", stacklevel=4)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    items = (_flat(value, f"{prefix}.{name}" if prefix else name) for name, value in tree.items())
    return {name: value for each in items for name, value in each.items()}


def write_json(path: Path, content: Any) -> None:
    """Write JSON that is there whole or not at all; see `dump_json`."""
    write_durably(path, (dump_json(content, indent=2) + "\n").encode())
