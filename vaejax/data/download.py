"""The files that data sets are published as: found on disk by their checksums, or downloaded once."""

import contextlib
import hashlib
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Seconds to wait for an answer before it is said that there is no network.
PATIENCE = 5.0

QUIET = threading.RLock()

# A file's name to its address and its sha256.
Files = Mapping[str, tuple[str, str]]


class LostFileError(FileNotFoundError):
    """A file is needed that is nowhere and cannot be downloaded."""


def tfds_folder() -> Path:
    """Where tensorflow-datasets keeps its data: `TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"))


def known_files(name: str) -> Files:
    """The files that tensorflow-datasets downloads for a data set, as its table of checksums has them.

    Raises:
      ModuleNotFoundError: tensorflow-datasets is not installed.

    >>> known_files("mnist")["t10k-labels-idx1-ubyte.gz"][1][:8]
    'f7ae60f9'
    """
    return registered_files(builder_class(name))


def builder_class(name: str) -> Any:
    """The class of tensorflow-datasets that prepares a data set, imported but not used."""
    import_tfds()
    from tensorflow_datasets.core.load import builder_cls  # noqa: PLC0415

    with quiet():
        return builder_cls(name)


def registered_files(builder: Any) -> dict[str, tuple[str, str]]:
    """Those of a builder of tensorflow-datasets, or of its class."""
    infos = builder.url_infos or {}
    return {info.filename or url.rpartition("/")[2]: (url, info.checksum) for url, info in infos.items()}


def fetch(name: str, files: Files, folders: Iterable[str | os.PathLike[str]] = ()) -> dict[str, Path]:
    """The paths of files: in the folders, or where tensorflow-datasets has downloaded them, or downloaded now.

    What is found is compared with its checksum first. Downloads go through tensorflow-datasets, into its folder; they
    need no TensorFlow.

    Args:
      name: of the data set; a file may also be in a folder of this name in one of the folders.
      files: those that are wanted, as `known_files` returns them.
      folders: where to look first.

    Raises:
      FileNotFoundError: a file is nowhere, and cannot be downloaded.
      ValueError: a file is there whose checksum is another.
      ModuleNotFoundError: tensorflow-datasets is needed for a download and is not installed.
    """
    places = [path for folder in folders for path in (Path(folder), Path(folder) / name)]
    paths = {file: find(file, known, places) or _find_download(name, known) for file, known in files.items()}
    missing = {file: files[file] for file, path in paths.items() if path is None}
    if missing:
        paths |= _download(name, missing, places)
    return {file: path for file, path in paths.items() if path is not None}


def find(file: str, known: tuple[str, str], folders: Iterable[Path]) -> Path | None:
    """Where a file is in the folders, if anywhere; its checksum is compared.

    Raises:
      ValueError: the file is another than the known one.
    """
    return next((_checked(parent / file, known[1]) for parent in folders if (parent / file).is_file()), None)


def _find_download(name: str, known: tuple[str, str]) -> Path | None:
    """Where tensorflow-datasets has put a file that it has downloaded, now or formerly."""
    url, sha256 = known
    root = tfds_folder() / "downloads"
    try:
        import_tfds()
    except ModuleNotFoundError:
        return None
    from tensorflow_datasets.core.download import resource  # noqa: PLC0415

    # By its content where tensorflow-datasets knows the checksum, else by its address.
    names = [resource.get_dl_fname(url, sha256), resource.get_dl_fname(url)]
    paths = [parent / file for parent in (root / name, root) for file in names]
    return next((_checked(path, sha256) for path in paths if path.is_file()), None)


def _checked(path: Path, sha256: str) -> Path:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} is not the published file, but altered or of another set: its sha256 must be {sha256}; got {found}"
        )
    return path


def _download(name: str, files: Files, folders: list[Path]) -> dict[str, Path | None]:
    import_tfds()
    from tensorflow_datasets.core.download import download_manager  # noqa: PLC0415

    check_network(name, files, folders)
    print(f"downloading {', '.join(files)} of {name} into {tfds_folder()}", file=sys.stderr)
    try:
        with quiet():
            manager = download_manager.DownloadManager(download_dir=tfds_folder() / "downloads", dataset_name=name)
            found = manager.download({file: url for file, (url, _) in files.items()})
    except download_manager.NonMatchingChecksumError as error:
        raise ValueError(f"what was downloaded is not the published file: {one_line(error)}") from error
    except Exception as error:  # of many packages
        raise _lost(name, files, folders, one_line(error)) from error
    return {file: _checked(Path(found[file]), files[file][1]) for file in files}


def check_network(name: str, files: Files, folders: Iterable[Path]) -> None:
    """Raise `LostFileError` where the address of the first file gives no answer soon.

    tensorflow-datasets would try for minutes.
    """
    # They take a while to load, and mostly the files are there.
    import http.client  # noqa: PLC0415
    import urllib.error  # noqa: PLC0415
    import urllib.request  # noqa: PLC0415

    url, _ = next(iter(files.values()))
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE):
            return
    except urllib.error.HTTPError:
        return  # an answer, if not one to HEAD
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _lost(name, files, folders, f"cannot be downloaded ({one_line(error)})") from error


def _lost(name: str, files: Files, folders: Iterable[Path], reason: str) -> LostFileError:
    file, (url, _) = next(iter(files.items()))
    others = f" and {len(files) - 1} more" if len(files) > 1 else ""
    looked = ", ".join(str(folder) for folder in [*folders, tfds_folder() / "downloads"])
    return LostFileError(
        f"{name} needs {file}{others}, in none of {looked}, and {url} {reason}: put it into one of these folders"
    )


def import_tfds() -> Any:
    """The package tensorflow_datasets.

    Raises:
      ModuleNotFoundError: it is not installed, or not whole.
    """
    if "tensorflow_datasets" in sys.modules and hasattr(sys.modules["tensorflow_datasets"], "builder"):
        return sys.modules["tensorflow_datasets"]
    try:
        with quiet():
            import tensorflow_datasets  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'this needs tensorflow-datasets: pip install "vaejax[data]" ({error})') from error
    # It logs what went wrong, and goes on without its functions.
    if not hasattr(tensorflow_datasets, "builder"):
        raise ModuleNotFoundError(
            "tensorflow-datasets is installed, but its import fails: see import tensorflow_datasets"
        )
    return tensorflow_datasets


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what tensorflow-datasets prints, logs, warns and draws out of sight, one thread at a time: all see it."""
    with QUIET:
        yield from _quiet()


def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3", "tensorflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sink = io.StringIO()
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks and at most 300 characters long.

    >>> one_line(ValueError("first\\n  second"))
    'first second'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
