"""The copies of data sets that tensorflow-datasets keeps: found, checked, and prepared where there is none."""

import contextlib
import difflib
import importlib
import importlib.util
import os
import re
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaejax.data.cache import sweep
from vaejax.data.download import (
    LostFileError,
    builder_class,
    check_network,
    find,
    import_tfds,
    one_line,
    quiet,
    registered_files,
    tfds_folder,
)

NAME = re.compile(r"(?P<set>[a-z0-9_]+)(/(?P<config>[A-Za-z0-9_.+-]+))?(:[0-9]+\.[0-9]+\.[0-9]+)?")
FORMAT = "array_record"


def open_prepared(name: str, folder: str | os.PathLike[str] | None) -> Any:
    """The builder of a data set whose records lie on this machine, all of them; they are prepared where there are none.

    Preparing takes the files of the data set from the folder where they are there, and downloads them otherwise.

    Args:
      name: as tensorflow-datasets has it, perhaps with a config and a version: `mnist`, `emnist/letters`.
      folder: where prepared data sets lie, or the files to prepare one from, and where it is prepared. Looked for
        they are also in the folder that `VAEJAX_DATA` names and in `TFDS_DATA_DIR`, else `~/tensorflow_datasets`,
        where a set is prepared without a folder.

    Raises:
      ValueError: an unknown name, a copy that is not whole or in another format, or a file that is altered.
      FileNotFoundError: a file is needed and cannot be downloaded.
      ModuleNotFoundError: TensorFlow is needed, or tensorflow-datasets.
    """
    roots = _roots(folder)
    own = roots[0] if folder is not None else roots[-1]
    root = next((each for each in roots if _has_copy(each / name.partition(":")[0])), own)
    builder = _make_builder(name, root)
    if not Path(builder.data_dir).exists():
        _prepare(name, builder, root, roots)
        # It reads from the disk what there is.
        builder = _make_builder(name, root)
    _check_whole(name, builder, Path(builder.data_dir))
    return builder


def _roots(folder: str | os.PathLike[str] | None) -> list[Path]:
    """Where prepared copies and files may lie: the folder, `VAEJAX_DATA`, and that of tensorflow-datasets."""
    named = [folder, os.environ.get("VAEJAX_DATA"), tfds_folder()]
    return list(dict.fromkeys(Path(os.path.expanduser(each)) for each in named if each))


def _make_builder(name: str, root: Path) -> Any:
    tfds = import_tfds()
    _check_name(name, root, tfds)
    try:
        with quiet():
            return tfds.builder(name, data_dir=os.fspath(root))
    except ModuleNotFoundError as error:
        raise _needs(name, error) from error
    except Exception as error:  # of any builder
        raise ValueError(f"tensorflow-datasets has no {name!r}: {one_line(error)}") from error


def known_names(folder: str | os.PathLike[str] | None) -> list[str]:
    """The data sets of tensorflow-datasets, and those that somebody has prepared in the folder."""
    copies = [path.name for root in _roots(folder) if root.is_dir() for path in root.iterdir() if _has_copy(path)]
    return sorted({*import_tfds().list_builders(with_community_datasets=False), *copies})


def _has_copy(path: Path) -> bool:
    """Whether a folder holds a prepared copy: of a version, or of a config and a version."""
    return any(next(path.glob(f"{depth}/dataset_info.json"), None) for depth in ("*", "*/*"))


def _check_name(name: str, root: Path, tfds: Any) -> None:
    match = NAME.fullmatch(name)
    known = tfds.list_builders(with_community_datasets=False)
    # A prepared copy is enough for tensorflow-datasets, without the code that prepared it.
    if match is None or (match["set"] not in known and not (root / match["set"]).is_dir()):
        raise _unknown(name, match["set"] if match else name, known)
    if match["config"] and match["set"] in known:
        configs = list(builder_class(match["set"]).builder_configs)
        if match["config"] not in configs and not (root / match["set"] / match["config"]).is_dir():
            raise _unknown(name, match["config"], configs)


def _unknown(name: str, part: str, known: list[str]) -> ValueError:
    near = difflib.get_close_matches(part, known, 3)
    hint = f": {' or '.join(near)}?" if near else ""
    return ValueError(f"tensorflow-datasets has no data set {name!r}{hint}")


def _check_whole(name: str, builder: Any, path: Path) -> None:
    """Raise `ValueError` unless each file has the records that it should have."""
    if not (path / "dataset_info.json").is_file():
        raise ValueError(
            f"{path} is no whole copy of {name}, it has no dataset_info.json: delete it to prepare it again"
        )
    formats = {kind.value for kind in builder.info.available_file_formats()}
    if FORMAT not in formats:
        others = ", ".join(sorted(formats)) or "no format"
        raise ValueError(
            f"{path} holds {name} as {others}, and only {FORMAT} is read without TensorFlow: "
            f"delete it or name another folder, to prepare it as {FORMAT}"
        )
    if not builder.info.splits:
        raise ValueError(f"{path} holds no split of {name}: delete it to prepare it again")
    for file, count in shards(builder):
        found = count_records(file)
        if found != count:
            raise ValueError(f"{file} must hold {count} records; got {found}: delete {path} to prepare it again")


def shards(builder: Any) -> Iterator[tuple[Path, int]]:
    """Each file of records of a data set, and how many are in it."""
    for split in builder.info.splits.values():
        paths = split.filename_template.replace(filetype_suffix=FORMAT).sharded_filepaths(split.num_shards)
        yield from ((Path(path), count) for path, count in zip(paths, split.shard_lengths, strict=True) if count)


def count_records(file: Path) -> int | str:
    """How many records a file says that it has; in words where it says nothing."""
    from array_record.python import array_record_module  # noqa: PLC0415

    if not file.is_file():
        return "no file"
    try:
        reader = array_record_module.ArrayRecordReader(os.fspath(file))
        count = int(reader.num_records())
        reader.close()
    except RuntimeError:
        return "a damaged or truncated file"
    return count


def _prepare(name: str, builder: Any, root: Path, roots: list[Path]) -> None:
    if type(builder).__module__.startswith("tensorflow_datasets.") and importlib.util.find_spec("tensorflow") is None:
        raise _needs(name, None)
    folders = [path for each in roots for path in (each / builder.name, each, each / "downloads" / "manual")]
    known = registered_files(builder)
    here = [path.parent for file, each in known.items() if (path := find(file, each, folders))]
    own = (each / builder.name for each in roots)
    manual = next(iter(here), None) or next((path for path in own if path.is_dir()), None)
    print(f"preparing tfds:{name} once, in {builder.data_dir}", file=sys.stderr)
    try:
        with (
            quiet(),
            _stderr_closed(),
            _without_gpu(),
            _network_checked(f"tfds:{name}", folders),
            _new_folder(root) as unpacked,
        ):
            config = import_tfds().download.DownloadConfig(
                manual_dir=manual, extract_dir=unpacked, try_download_gcs=False
            )
            builder.download_and_prepare(download_config=config, file_format=FORMAT)
    except LostFileError:
        raise
    except Exception as error:  # of any builder
        # Another process may have been faster.
        if not Path(builder.data_dir).exists():
            raise _explain(name, error, folders) from error


def _explain(name: str, error: Exception, folders: list[Path]) -> Exception:
    text = one_line(error)
    if "No module named 'tensorflow'" in str(error):
        return _needs(name, error)
    if "Manual directory" in text:
        return LostFileError(f"tfds:{name} needs files in {folders[0]} that you download yourself: {text}")
    if isinstance(error, OSError):
        return OSError(f"tfds:{name} cannot be prepared: {text}")
    return ValueError(f"tfds:{name} cannot be prepared: {type(error).__name__}: {text}")


def _needs(name: str, error: Exception | None) -> ModuleNotFoundError:
    if error is not None and "tensorflow" not in str(error):
        return ModuleNotFoundError(f"tfds:{name} needs a package that is not installed: {one_line(error)}")
    return ModuleNotFoundError(
        f'preparing tfds:{name} needs TensorFlow once: pip install "vaejax[prepare]" (reading it later does not; in a '
        f"checkout, make prepare DATASET={name} has an environment of its own for that)"
    )


def _new_folder(root: Path) -> contextlib.AbstractContextManager[str]:
    """A folder to unpack files in, gone afterwards.

    In one for all data sets tensorflow-datasets takes a file that has been unpacked before by its name alone, so the
    images of MNIST for those of Fashion-MNIST.
    """
    root.mkdir(parents=True, exist_ok=True)
    sweep(root, ".unpacked-*")
    return tempfile.TemporaryDirectory(prefix=".unpacked-", dir=root, ignore_cleanup_errors=True)


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Keep what TensorFlow's own libraries, and the processes that it starts, write to stderr out of sight."""
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


@contextlib.contextmanager
def _without_gpu() -> Iterator[None]:
    """TensorFlow, where it is there, takes no memory of a GPU; jax would find too little."""
    if importlib.util.find_spec("tensorflow") is not None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        tensorflow = importlib.import_module("tensorflow")
        # Too late where it is in use already, and then not ours to change.
        with contextlib.suppress(RuntimeError):
            tensorflow.config.set_visible_devices([], "GPU")
    yield


@contextlib.contextmanager
def _network_checked(name: str, folders: list[Path]) -> Iterator[None]:
    """Before a file is downloaded, see that its host answers: tensorflow-datasets would try for minutes."""
    manager = importlib.import_module("tensorflow_datasets.core.download").DownloadManager
    download, answered = manager._download, set()

    def checked(self: Any, resource: Any) -> Any:
        host = urllib.parse.urlsplit(resource.url).netloc
        if host and host not in answered:
            check_network(name, {resource.url.rpartition("/")[2]: (resource.url, "")}, folders)
            answered.add(host)
        return download(self, resource)

    manager._download = checked
    try:
        yield
    finally:
        manager._download = download
