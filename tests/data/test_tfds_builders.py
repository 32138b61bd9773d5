"""The real builders of tensorflow-datasets, prepared from the published files without a network; needs TensorFlow."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vaejax.data import idx
from vaejax.data.tfds import load_tfds

pytestmark = [
    pytest.mark.slow("prepares data sets with TensorFlow"),
    pytest.mark.data,
    pytest.mark.skipif("VAEJAX_DATA" not in os.environ, reason="VAEJAX_DATA names no folder of data sets"),
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="preparing needs TensorFlow"),
]

# As on a machine that has no TensorFlow. None in sys.modules would not do: tensorflow-datasets takes that for it.
READ = """
import importlib.util, sys, time
start = time.perf_counter()

class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent)
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "tensorflow" else find(name, *rest)
from vaejax.data.tfds import load_tfds
imported = time.perf_counter()
dataset = load_tfds(sys.argv[1], sys.argv[2])
assert "tensorflow" not in sys.modules
print(dataset.sha256)
print(f"import {imported - start:.2f} s, load {time.perf_counter() - imported:.2f} s")
"""


def read_elsewhere(name, folder):
    said = subprocess.run([sys.executable, "-c", READ, name, folder], check=False, capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")
    checksum, times = said.stdout.splitlines()
    print(name, times)
    return checksum


def by_bytes(images, labels):
    rows = np.concatenate([np.asarray(images).reshape(len(images), -1), np.asarray(labels, np.uint8)[:, None]], 1)
    return sorted(row.tobytes() for row in rows)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One folder for both sets, whose files have the same names."""
    return tmp_path_factory.mktemp("shared")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_prepared_from_the_published_files_it_is_those_files(shared, tmp_path, monkeypatch, capfd, name):
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "cache"))
    source = Path(os.environ["VAEJAX_DATA"]) / name
    (shared / "data" / name).mkdir(parents=True)
    for file in source.iterdir():
        (shared / "data" / name / file.name).symlink_to(file)
    start = time.perf_counter()
    dataset = load_tfds(name, shared / "data", cache=False)
    prepared = time.perf_counter() - start
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith(f"preparing tfds:{name} once")
    for split, prefix in [(dataset.train, "train"), (dataset.test, "t10k")]:
        images = idx.read_idx(source / f"{prefix}-images-idx3-ubyte.gz")
        labels = idx.read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        assert by_bytes(split.examples, split.labels) == by_bytes(images, labels)
    print(f"{name} prepared and read in {prepared:.1f} s")
    assert {path.name for path in (shared / "data").iterdir()} <= {"mnist", "fashion_mnist", "downloads"}
    # Read from the records, then from the cache.
    for _ in range(2):
        assert read_elsewhere(name, shared / "data") == dataset.sha256
