"""Published files: found by their checksums, downloaded from a server on this machine, or named where they are lost."""

import hashlib
import http.server
import logging
import socket
import subprocess
import sys
import threading
import warnings

import pytest

from vaejax.data import download
from vaejax.data.download import fetch, known_files

CONTENT = b"the published bytes"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server(tmp_path):
    root = tmp_path / "served"
    root.mkdir()
    (root / "a.bin").write_bytes(CONTENT)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *args):
            requests.append(self.command)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", requests
        server.shutdown()
        thread.join()


def unused_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/a.bin"


NOWHERE = {"a.bin": ("http://127.0.0.1:9/a.bin", SHA256)}


@pytest.mark.parametrize("place", ["a.bin", "own/a.bin"])
def test_a_file_in_a_folder_is_found_without_a_network(tmp_path, place):
    path = tmp_path / "files" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert fetch("own", NOWHERE, [tmp_path / "empty", tmp_path / "files"]) == {"a.bin": path}


def test_an_altered_file_is_named(tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT + b"!")
    with pytest.raises(
        ValueError,
        match=rf"a\.bin is not the published file, but altered or of another set: its sha256 must be {SHA256}; got ",
    ):
        fetch("own", NOWHERE, [tmp_path])


def test_a_download_is_done_once_and_needs_no_tensorflow(tmp_path, server, capfd):
    address, requests = server
    files = {"a.bin": (f"{address}/a.bin", SHA256)}
    for _ in range(2):
        (path,) = fetch("own", files, [tmp_path]).values()
        assert path.read_bytes() == CONTENT
        assert path.parent == tmp_path / "tfds" / "downloads" / "own"
    assert requests.count("GET") == 1
    out, err = capfd.readouterr()
    assert "tensorflow" not in sys.modules
    assert out == ""
    assert err.splitlines() == [f"downloading a.bin of own into {tmp_path / 'tfds'}"]


def test_a_download_of_something_else_is_refused(server):
    with pytest.raises(ValueError, match="is not the published file"):
        fetch("own", {"a.bin": (f"{server[0]}/a.bin", "0" * 64)})


def test_a_file_that_the_server_does_not_have_is_named(server):
    with pytest.raises(FileNotFoundError, match=r"own needs b\.bin, in none of .*404") as caught:
        fetch("own", {"b.bin": (f"{server[0]}/b.bin", SHA256)})
    assert "\n" not in str(caught.value)


def test_without_a_network_the_file_and_the_folders_are_said_at_once(tmp_path, monkeypatch):
    """tensorflow-datasets alone tries for 204 seconds, so it is not asked."""
    download.import_tfds()
    monkeypatch.setattr("tensorflow_datasets.core.download.DownloadManager.download", pytest.fail)
    files = {"a.bin": (unused_address(), SHA256), "b.bin": ("http://127.0.0.1:9/b.bin", SHA256)}
    with pytest.raises(FileNotFoundError, match=r"own needs a\.bin and 1 more, in none of .*put it into") as caught:
        fetch("own", files, [tmp_path / "here"])
    message = str(caught.value)
    assert str(tmp_path / "here") in message
    assert str(tmp_path / "tfds" / "downloads") in message
    assert "\n" not in message


def test_a_network_that_swallows_everything_is_waited_for_briefly(monkeypatch):
    waits = []

    def swallow(request, timeout):
        waits.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr("urllib.request.urlopen", swallow)
    with pytest.raises(FileNotFoundError, match="timed out"):
        fetch("own", NOWHERE)
    assert waits == [download.PATIENCE]


def test_tables_of_files_are_those_of_tensorflow_datasets():
    for name in ("mnist", "fashion_mnist", "kmnist"):
        assert set(known_files(name)) == {
            f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
        }
    assert set(known_files("binarized_mnist")) == {
        f"binarized_mnist_{part}.amat" for part in ("train", "valid", "test")
    }
    url, sha256 = known_files("mnist")["train-images-idx3-ubyte.gz"]
    assert url == "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz"
    assert sha256 == "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"


@pytest.mark.slow("a process of its own")
def test_files_that_are_there_need_no_tensorflow_datasets(tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    code = """
import sys
sys.modules["tensorflow_datasets"] = None
from vaejax.data.download import fetch
fetch("own", {"a.bin": ("http://127.0.0.1:9/a.bin", sys.argv[2])}, [sys.argv[1]])
try:
    fetch("own", {"b.bin": ("http://127.0.0.1:9/b.bin", sys.argv[2])}, [sys.argv[1]])
except ModuleNotFoundError as error:
    assert "pip install" in str(error)
else:
    sys.exit("no error")
"""
    subprocess.run([sys.executable, "-c", code, tmp_path, SHA256], check=True)


def test_quiet_hides_what_is_said_inside_and_nothing_after(capfd, monkeypatch):
    logger = logging.getLogger("absl")
    monkeypatch.setattr(logger, "level", 17)
    with download.quiet():
        print("out")
        print("err", file=sys.stderr)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logger.error("log")
    print("after")
    assert capfd.readouterr() == ("after\n", "")
    assert logger.level == 17
