"""Arrays that are kept as files: whole, as they were made, or made again."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from vaejax.data import cache
from vaejax.data.cache import cached

ARRAYS = {"examples": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "labels": np.array([1, 0], np.int32)}


class Maker:
    def __init__(self, arrays=ARRAYS):
        self.arrays, self.calls = arrays, 0

    def __call__(self):
        self.calls += 1
        return self.arrays


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_arrays_are_made_once_and_mapped(tmp_path):
    make = Maker()
    for _ in range(3):
        arrays = cached("tfds:a/b", "v1", make, tmp_path)
        assert set(arrays) == set(ARRAYS)
        for name, array in arrays.items():
            assert isinstance(array, np.memmap)
            assert not array.flags.writeable
            np.testing.assert_array_equal(array, ARRAYS[name], strict=True)
    assert make.calls == 1
    assert [path.name for path in files(tmp_path)] == ["examples.npy", "index.json", "labels.npy"]
    assert tmp_path.joinpath(files(tmp_path)[0].parent.name).parent == tmp_path  # no path out of a name


def test_what_is_made_from_something_else_is_another_entry(tmp_path):
    old, new = Maker(), Maker({"examples": np.zeros(3)})
    cached("a", "v1", old, tmp_path)
    assert cached("a", "v2", new, tmp_path)["examples"].shape == (3,)
    assert cached("a", "v1", old, tmp_path)["examples"].shape == (2, 3, 4)
    assert (old.calls, new.calls) == (1, 1)


def test_an_entry_that_says_to_be_made_from_something_else_is_not_used(tmp_path):
    cached("a", "v1", Maker(), tmp_path)
    (index,) = tmp_path.rglob("index.json")
    index.write_text(json.dumps(json.loads(index.read_text()) | {"made_from": "0" * 64}))
    make = Maker()
    cached("a", "v1", make, tmp_path)
    assert make.calls == 1


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "other", "index", "list", "objects"])
def test_what_is_altered_is_made_again_with_a_warning(tmp_path, damage):
    cached("a", "v1", Maker(), tmp_path)
    examples, index, _ = files(tmp_path)
    {
        "flip": lambda: flip(examples),
        "truncate": lambda: examples.write_bytes(examples.read_bytes()[:-3]),
        "empty": lambda: examples.write_bytes(b""),
        "other": lambda: np.save(examples, np.zeros((2, 3, 4), np.float32)),
        "index": lambda: index.write_text("{"),
        "list": lambda: index.write_text("[]"),
        "objects": lambda: np.save(examples, np.array([None])),
    }[damage]()
    make = Maker()
    with pytest.warns(UserWarning, match=r"is damaged, so it is made again") as caught:
        arrays = cached("a", "v1", make, tmp_path)
    assert len(caught) == make.calls == 1
    assert "\n" not in str(caught[0].message)
    np.testing.assert_array_equal(arrays["examples"], ARRAYS["examples"])
    np.testing.assert_array_equal(cached("a", "v1", make, tmp_path)["examples"], ARRAYS["examples"])
    assert make.calls == 1


@pytest.mark.parametrize("part", ["examples.npy", "index.json"])
def test_what_is_missing_is_made_again(tmp_path, part):
    cached("a", "v1", Maker(), tmp_path)
    next(tmp_path.rglob(part)).unlink()
    make = Maker()
    for _ in range(2):
        np.testing.assert_array_equal(cached("a", "v1", make, tmp_path)["examples"], ARRAYS["examples"])
    assert make.calls == 1


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be kept") as caught:
        arrays = cached("a", "v1", Maker(), tmp_path / "file" / "cache")
    assert len(caught) == 1
    assert arrays is ARRAYS


def test_a_full_disk_is_a_warning_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path, array):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert cached("a", "v1", Maker(), tmp_path) is ARRAYS
    assert not files(tmp_path)


def test_an_error_while_arrays_are_made_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cached("a", "v1", lambda: 1 // 0, tmp_path)
    assert not files(tmp_path)


def test_only_old_drafts_are_swept(tmp_path):
    for name, age in [(".draft-old", 2 * cache.STALE), (".draft-new", 0)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "examples.npy").write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    cached("a", "v1", Maker(), tmp_path)
    assert [path.name for path in tmp_path.glob(".draft-*")] == [".draft-new"]


def test_several_at_once_all_get_whole_arrays(tmp_path):
    """Each makes the arrays while no entry is there, and all of them write."""
    barrier, found = threading.Barrier(4), []
    large = {"examples": np.arange(2**20)}

    def make():
        barrier.wait()
        return large

    def run():
        found.append(int(cached("a", "v1", make, tmp_path)["examples"].sum()))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [int(large["examples"].sum())] * 4
    assert [path.name for path in files(tmp_path)] == ["examples.npy", "index.json"]


@pytest.mark.slow("kills a process of its own")
def test_a_process_that_is_killed_while_it_writes_leaves_no_entry(tmp_path):
    code = """
import os, sys, numpy as np
from vaejax.data import cache
cache.write_durably = lambda path, content: os._exit(9)  # all arrays are written, the index is not
cache.cached("a", "v1", lambda: {"examples": np.arange(9)}, sys.argv[1])
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 9
    assert list(tmp_path.glob(".draft-*")) == list(tmp_path.glob("[.a]*"))
    make = Maker()
    cached("a", "v1", make, tmp_path)
    assert make.calls == 1


def test_the_folder_is_that_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("VAEJAX_CACHE", raising=False)
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "vaejax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "vaejax"
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own"
    cached("a", "v1", Maker())
    assert len(files(tmp_path / "own")) == 3
