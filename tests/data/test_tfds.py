"""Data sets of tensorflow-datasets: prepared by builders of our own, read without TensorFlow, and refused by name."""

import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import types
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vaejax import data
from vaejax.data import cache, prepared, records
from vaejax.data import tfds as module
from vaejax.data.tfds import load_tfds

COUNTS = {"train": 40, "test": 10}
CLASSES = ("cat", "dog", "eel")
FILE = b"a file that is needed"
URL = "http://127.0.0.1:9/needed.bin"
# What a builder does once it is preparing; a test may set it.
hooks = {}


def picture(row, kind):
    """An image that is another for each row, as an array."""
    draws = np.random.RandomState(row).randint(0, 256, (12, 8, 3), np.uint8)
    if kind in {"colour", "mixed"}:
        return draws[: 12 - row % 2] if kind == "mixed" else draws
    return (draws[..., :1] > 127).astype(np.uint8) if kind in {"binary", "stored_bits"} else draws[..., :1]


def png(array, mode=None):
    image = Image.fromarray(array.squeeze())
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, "PNG")
    return stream.getvalue()


def features(kind):
    shape = {"colour": (12, 8, 3), "mixed": (None, None, 3)}.get(kind, (12, 8, 1))
    label = {"label": tfds.features.ClassLabel(names=CLASSES)}
    image = {"image": tfds.features.Image(shape=shape)}
    return {
        "factors": image | {f"label_{name}": tfds.features.ClassLabel(num_classes=9) for name in ("size", "hue")},
        "hidden": image | label,
        "matrix": {"image": tfds.features.Tensor(shape=(12, 8), dtype=np.uint8)},
        "numbers": {"row": tfds.features.Tensor(shape=(5,), dtype=np.float32)} | label,
        "two": {"left": image["image"], "right": image["image"]},
        "text": {"story": tfds.features.Text()},
        "depth": {"image": tfds.features.Image(shape=(12, 8, 1), dtype=np.uint16)},
        "odd": {"picture": image["image"], "label": tfds.features.ClassLabel(num_classes=3), "note": np.int64},
    }.get(kind, image | label)


def example(row, kind):
    stored = png(picture(row, kind)) if kind != "stored_bits" else png(255 * picture(row, kind), "1")
    return {
        "factors": {"image": stored, "label_size": row % 4, "label_hue": row % 7},
        "hidden": {"image": stored, "label": -1},
        "matrix": {"image": picture(row, kind)[..., 0]},
        "numbers": {"row": np.arange(5, dtype=np.float32) - row, "label": row % 3},
        "two": {"left": stored, "right": stored},
        "text": {"story": "once"},
        "depth": {"image": stored},
        "odd": {"picture": stored, "label": row % 3, "note": row},
    }.get(kind, {"image": stored, "label": row % 3})


KINDS = ["grey", "colour", "binary", "stored_bits", "mixed", "factors", "hidden", "matrix", "numbers", "two", "text"]
KINDS += ["depth", "odd", "no_test", "manual", "by_hand", "packed", "packed_too"]


class VaejaxTestPictures(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=kind) for kind in KINDS]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Ask for\nneeded.bin by letter."
    url_infos: ClassVar = {
        URL: tfds.core.download.checksums.UrlInfo(
            size=len(FILE), checksum=hashlib.sha256(FILE).hexdigest(), filename="needed.bin"
        )
    }

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features(self.builder_config.name))
        )

    def _split_generators(self, dl_manager):
        kind = self.builder_config.name
        if kind == "manual":
            assert dl_manager.download(URL).read_bytes() == FILE
        if kind == "by_hand":
            assert (dl_manager.manual_dir / "needed.bin").read_bytes() == FILE
        if kind.startswith("packed"):
            # Unpacking as such takes TensorFlow; where it happens does not.
            hooks[kind] = dl_manager._extract_dir
            assert not list(hooks[kind].iterdir())
            (hooks[kind] / "GZIP.part.gz").write_bytes(kind.encode())
        splits = {"train": range(40), "test": range(40, 50)}
        return {name: self._generate_examples(splits[name]) for name in (["train"] if kind == "no_test" else splits)}

    def _generate_examples(self, rows):
        for row in rows:
            if row == 20:
                hooks.get("middle", lambda builder: None)(self)
            yield row, example(row, self.builder_config.name)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("NO_PROXY", "*")
    yield
    hooks.clear()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder in which what a test prepares stays for the others."""
    return tmp_path_factory.mktemp("prepared")


def load(kind, folder, **settings):
    return load_tfds(f"vaejax_test_pictures/{kind}", folder, **settings)


def by_bytes(examples, *others):
    order = sorted(range(len(examples)), key=lambda row: examples[row].tobytes())
    return [np.asarray(array)[order] for array in (examples, *others)]


@pytest.mark.parametrize("kind", ["grey", "colour", "binary", "stored_bits", "odd"])
def test_images_and_labels_are_those_that_were_prepared(shared, kind):
    dataset = load(kind, shared)
    for split, rows in [(dataset.train, range(40)), (dataset.test, range(40, 50))]:
        images = np.stack([picture(row, kind) for row in rows])
        images = 255 * images if kind == "stored_bits" else images
        expected = by_bytes(images, [row % 3 for row in rows])
        for ours, theirs in zip(by_bytes(split.examples, split.labels), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert split.examples.dtype == np.uint8
        assert split.labels.dtype == np.int32
    binary = kind == "binary"
    assert (dataset.meaning, dataset.max_value) == (
        (data.Meaning.BINARY, 1) if binary else (data.Meaning.INTENSITY, 255)
    )
    assert dataset.label_names == (() if kind == "odd" else CLASSES)
    assert "1.0.0" in dataset.origin
    assert str(shared) in dataset.origin
    assert dataset.validation is None


def test_classes_of_their_own_are_factors(shared):
    dataset = load("factors", shared)
    assert dataset.factor_names == ("size", "hue")
    assert dataset.train.labels is None
    images = np.stack([picture(row, "factors") for row in range(40)])
    expected = by_bytes(images, [(row % 4, row % 7) for row in range(40)])
    for ours, theirs in zip(by_bytes(dataset.train.examples, dataset.train.factors), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_labels_that_are_not_known_are_none(shared):
    assert load("hidden", shared).test.labels is None


@pytest.mark.parametrize(("labels", "expected"), [([1, -1], [1, -1]), ([-1, -1], None)])
def test_labels_are_none_only_where_no_example_has_one(labels, expected):
    class Source(list):
        def __getitems__(self, rows):
            return [self[row] for row in rows]

    read = lambda label: records.Record(np.zeros(3, np.uint8), label, [])
    fields = records.Fields(None, "image", False, "label", (), ())
    found = records.read_records(Source(labels), read, fields, (3,), np.dtype(np.uint8), "test")
    assert expected is None if "labels" not in found else found["labels"].tolist() == expected


def test_tensors_are_examples_too(shared):
    matrices = load("matrix", shared)
    assert matrices.shape == (12, 8, 1)
    assert matrices.meaning is data.Meaning.INTENSITY
    numbers = load("numbers", shared)
    assert numbers.shape == (5,)
    assert numbers.dtype == np.float32
    assert (numbers.meaning, numbers.max_value) == (data.Meaning.REAL, 49)
    np.testing.assert_array_equal(np.sort(numbers.test.examples[:, 0]), np.arange(-49.0, -39))


def test_the_second_time_nothing_is_decoded(shared, monkeypatch):
    first = load("grey", shared)
    monkeypatch.setattr(records, "decode_image", one_image := lambda *_: np.full((12, 8, 1), 7, np.uint8))
    second = load("grey", shared)
    assert isinstance(second.train.examples.base, np.memmap)
    assert second.sha256 == first.sha256
    np.testing.assert_array_equal(load("grey", shared, cache=False).train.examples[0], one_image())
    # Other settings are other arrays.
    assert load("grey", shared, size=(12, 8)).train.examples.max() == 7


def test_what_is_prepared_again_is_not_taken_from_the_cache(tmp_path, monkeypatch):
    first = load("grey", tmp_path)
    shutil.rmtree(tmp_path / "vaejax_test_pictures")
    original = picture
    monkeypatch.setitem(globals(), "picture", lambda row, kind: 255 - original(row, kind))
    second = load("grey", tmp_path)
    np.testing.assert_array_equal(
        by_bytes(255 - np.asarray(second.train.examples))[0], by_bytes(first.train.examples)[0]
    )


def test_records_of_another_time_are_read_again(tmp_path, monkeypatch):
    load("grey", tmp_path)
    monkeypatch.setattr(records, "decode_image", lambda *_: np.full((12, 8, 1), 7, np.uint8))
    assert load("grey", tmp_path).train.examples.max() > 7
    (file,) = tmp_path.rglob("*train.array_record*")
    os.utime(file, (1, 1))
    assert load("grey", tmp_path).train.examples.max() == 7


def test_crops_and_sizes(shared):
    whole, square = load("colour", shared).test.examples, load("colour", shared, crop=6).test.examples
    np.testing.assert_array_equal(square, whole[:, 3:9, 1:7])
    # The centre of the wanted aspect: 8 of 12 rows.
    np.testing.assert_array_equal(load("colour", shared, size=(8, 8)).test.examples, whole[:, 2:10])
    halved = load("colour", shared, size=(6, 4)).test.examples.astype(float)
    assert halved.shape == (10, 6, 4, 3)
    assert np.abs(halved.mean((1, 2)) - whole.mean((1, 2))).max() < 12
    assert load("mixed", shared, size=(5, 5)).shape == (5, 5, 3)
    assert load("mixed", shared, crop=8).shape == (8, 8, 3)


def test_resizing_averages_and_leaves_a_constant_image_as_it_is():
    flat = png(np.full((12, 8), 93, np.uint8))
    assert set(records.decode_image(flat, 1, np.dtype(np.uint8), None, (5, 3)).ravel()) == {93}
    # Black and white columns of one pixel become grey, not one of the two.
    stripes = png(np.tile(np.array([0, 255], np.uint8), (64, 32)))
    inner = records.decode_image(stripes, 1, np.dtype(np.uint8), None, (16, 16))[4:-4, 4:-4]
    assert inner.min() > 110
    assert inner.max() < 145


def test_too_many_examples_are_lazy_and_the_same(shared, monkeypatch):
    held = load("grey", shared)
    monkeypatch.setattr(module, "EXAMPLES_SHARE", 0)
    lazy, again = load("grey", shared), load("grey", shared)
    assert isinstance(lazy.train.examples, data.Lazy)
    assert lazy.train.examples.shape == (40, 12, 8, 1)
    np.testing.assert_array_equal(lazy.train.examples[:], held.train.examples)
    np.testing.assert_array_equal(lazy.train.examples[np.array([7, 3, 3])], held.train.examples[[7, 3, 3]])
    np.testing.assert_array_equal(lazy.train.labels, held.train.labels)
    assert (lazy.meaning, lazy.max_value, lazy.label_names) == (held.meaning, held.max_value, held.label_names)
    assert lazy.sha256 == again.sha256
    prints = {load("grey", shared, **other).train.examples.fingerprint for other in ({}, {"crop": 8}, {"size": (6, 4)})}
    assert len(prints | {lazy.test.examples.fingerprint}) == 4
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for rows, read in pool.map(
            lambda start: ([start, start + 1], lazy.train.examples[start : start + 2]), range(39)
        ):
            np.testing.assert_array_equal(read, held.train.examples[rows])
    factors = load("factors", shared)
    assert isinstance(factors.train.examples, data.Lazy)
    assert factors.train.factors.shape == (40, 2)


def test_the_fingerprint_is_that_of_the_content(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EXAMPLES_SHARE", 0)
    first = load("grey", tmp_path / "one").train.examples.fingerprint
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert load("grey", tmp_path / "two").train.examples.fingerprint == first
    (file,) = (tmp_path / "two").rglob("*train.array_record*")
    flip(file, file.stat().st_size // 3)
    monkeypatch.setattr(module, "_is_binary", lambda splits: False)
    monkeypatch.setattr(module, "_arrays", lambda *_: {})
    assert load("grey", tmp_path / "two").train.examples.fingerprint != first


SLICES = {"train": "train[:25]", "validation": "train[25:30]", "test": "test[50%:]+train[-10:]"}


def test_splits_are_slices(shared):
    whole, dataset = load("grey", shared), load("grey", shared, splits=SLICES)
    train, test = whole.train.examples, whole.test.examples
    np.testing.assert_array_equal(dataset.train.examples, train[:25])
    np.testing.assert_array_equal(dataset.validation.examples, train[25:30])
    np.testing.assert_array_equal(dataset.test.examples, np.concatenate([test[5:], train[-10:]]))
    assert len({row.tobytes() for split in dataset.splits.values() for row in split.examples}) == 25 + 5 + 15


def test_without_a_test_split_the_last_tenth_is_one(shared):
    dataset = load("no_test", shared)
    assert (len(dataset.train.examples), len(dataset.test.examples)) == (36, 4)
    assert "train[36:]" in dataset.origin
    assert len({row.tobytes() for split in dataset.splits.values() for row in split.examples}) == 40


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": "train[:20]", "test": "train[19:]"}, "splits train and test of .* share examples of its train"),
        ({"train": "train[:50%]", "validation": "train[25%:30%]", "test": "test"}, "train and validation"),
        ({"train": "train+test[:1]", "test": "test"}, "share examples of its test"),
        ({"train": "train+train", "test": "test"}, "share examples of its train"),
        ({"train": "all", "test": "test"}, "share"),
        ({"train": "train[:0]", "test": "test"}, "no examples in the split 'train"),
        ({"train": "train[30:10]", "test": "test"}, "no examples in the split 'train"),
        ({"train": "train[41:]", "test": "test"}, "no split 'train"),
        ({"train": "trian", "test": "test"}, "no split 'trian' for train"),
        ({"train": "train[", "test": "test"}, "no split 'train"),
        ({"train": "train"}, r"splits must.*got train"),
        ({"train": "train[:9]", "test": "test", "valid": "train[9:]"}, "splits must name"),
        ({}, "splits must name .* got none"),
    ],
)
def test_splits_that_share_examples_or_have_none_are_refused(shared, splits, message):
    with pytest.raises(ValueError, match=message) as caught:
        load("grey", shared, splits=splits)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", r"no data set 'mnits': mnist or "),
        ("vaejax_test_pictures/gray", r"gray': grey\?"),
        ("qqqqqqqqq", r"no data set 'qqqqqqqqq'$"),
        ("huggingface:mnist", "no data set"),
        ("../mnist", "no data set"),
        ("vaejax_test_pictures/grey:9.0.0", "cannot be loaded at version 9.0.0"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(tmp_path, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_tfds(name, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("two", {}, r"one feature that is an image or a tensor; got left \(Image\), right \(Image\)"),
        ("text", {}, r"got story \(Text\)"),
        ("mixed", {}, r"shapes .*12, 8, 3.* size=\(height, width\)"),
        ("depth", {}, "images must be uint8"),
        ("numbers", {"size": (3, 3)}, "size and crop are for images"),
        ("grey", {"crop": 9}, "crop must be at most the 8 pixels"),
        ("grey", {"size": (0, 3)}, "size: height must be at least 1"),
        ("grey", {"size": 3}, r"size must be \(height, width\)"),
    ],
)
def test_examples_that_do_not_fit_are_refused(shared, kind, settings, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        load(kind, shared, **settings)
    assert "\n" not in str(caught.value)


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 255
    file.write_bytes(content)


def edit(file, change):
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def as_tfrecord(folder):
    edit(folder / "dataset_info.json", lambda info: info | {"fileFormat": "tfrecord"})
    for file in folder.glob("*array_record*"):
        file.rename(folder / file.name.replace("array_record", "tfrecord"))


def one_less(info):
    info["splits"][0]["shardLengths"] = [str(int(info["splits"][0]["shardLengths"][0]) - 1)]
    return info


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder, file: file.write_bytes(file.read_bytes()[:-7]), r"{file} must hold 40 records; got a damaged"),
        (lambda folder, file: file.write_bytes(b""), r"{file} must.*got a damaged or truncated file"),
        (lambda folder, file: file.unlink(), r"{file} must hold 40 records; got no file"),
        (lambda folder, file: flip(file, 500), r"{folder}.* cannot be read"),
        (lambda folder, file: edit(folder / "dataset_info.json", one_less), r"{file} must hold 39 records; got 40"),
        (lambda folder, file: (folder / "dataset_info.json").unlink(), r"{folder} is no whole copy .*: delete it"),
        (lambda folder, file: (folder / "dataset_info.json").write_text("{"), r"no 'vaejax_test_pictures/grey'"),
        (lambda folder, file: as_tfrecord(folder), r"{folder} holds .* as tfrecord, .* delete it"),
    ],
    ids=["truncated", "empty", "missing", "altered", "counts", "half", "info", "tfrecord"],
)
def test_records_that_are_not_whole_are_named(shared, tmp_path, damage, message):
    load("grey", shared)
    folder = tmp_path / "vaejax_test_pictures" / "grey" / "1.0.0"
    shutil.copytree(shared / "vaejax_test_pictures" / "grey" / "1.0.0", folder)
    (file,) = folder.glob("*train*")
    damage(folder, file)
    pattern = message.format(file=re.escape(str(file)), folder=re.escape(str(folder)))
    with pytest.raises(ValueError, match=pattern) as caught:
        load("grey", tmp_path)
    assert "\n" not in str(caught.value)


def test_preparing_that_fails_is_not_taken_for_done(tmp_path):
    def fail(builder):
        raise RuntimeError("first line\nsecond line")

    hooks["middle"] = fail
    with pytest.raises(ValueError, match="cannot be prepared: RuntimeError: first line second line"):
        load("grey", tmp_path)
    hooks.clear()
    assert len(load("grey", tmp_path).train.examples) == 40


def test_what_a_killed_process_left_is_not_taken_for_done(tmp_path):
    unfinished = tmp_path / "vaejax_test_pictures" / "grey" / "incomplete.ABCDEF_1.0.0"
    unfinished.mkdir(parents=True)
    (unfinished / "vaejax_test_pictures-train.array_record-00000-of-00001").write_bytes(b"half")
    assert len(load("grey", tmp_path).train.examples) == 40


def test_two_that_prepare_at_once_both_get_it(shared, tmp_path):
    load("grey", shared)
    hooks["middle"] = lambda builder: shutil.copytree(
        shared / "vaejax_test_pictures" / "grey" / "1.0.0", tmp_path / "vaejax_test_pictures" / "grey" / "1.0.0"
    )
    assert len(load("grey", tmp_path).train.examples) == 40
    assert not list((tmp_path / "vaejax_test_pictures" / "grey").glob("incomplete*"))


def test_files_of_one_name_are_unpacked_anew_for_each_set(tmp_path):
    """As those of MNIST and Fashion-MNIST; what is left of the first would pass for the second."""
    for kind in ("packed", "packed_too"):
        load(kind, tmp_path)
    assert hooks["packed"] != hooks["packed_too"]
    assert not any(folder.exists() for folder in hooks.values())
    assert {path.name for path in tmp_path.iterdir()} - {"downloads"} == {"vaejax_test_pictures", "cache"}


OTHER = pytest.mark.slow("the other place of the file")


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("manual", "needed.bin"),
        ("by_hand", "vaejax_test_pictures/needed.bin"),
        pytest.param("manual", "vaejax_test_pictures/needed.bin", marks=OTHER),
        pytest.param("by_hand", "needed.bin", marks=OTHER),
    ],
)
def test_files_that_are_there_replace_a_download(tmp_path, kind, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(FILE)
    assert len(load(kind, tmp_path).train.examples) == 40


def test_a_file_that_is_altered_is_named(tmp_path):
    (tmp_path / "needed.bin").write_bytes(FILE + b"!")
    with pytest.raises(
        ValueError, match=r"needed\.bin is not the published file, but altered or of another set: its sha256 must be "
    ):
        load("manual", tmp_path)


@pytest.mark.parametrize(
    ("kind", "message"), [("manual", r"needs needed\.bin, in none of .*: put it into"), ("by_hand", "by letter")]
)
def test_a_file_that_is_missing_is_named_at_once(tmp_path, kind, message):
    with pytest.raises(FileNotFoundError, match=message) as caught:
        load(kind, tmp_path)
    assert str(tmp_path / "vaejax_test_pictures") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_preparing_says_one_line_and_reading_nothing(tmp_path, capfd):
    load("odd", tmp_path)
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("preparing tfds:vaejax_test_pictures/odd once, in ")
    load("odd", tmp_path, cache=False)
    assert capfd.readouterr() == ("", "")


def test_a_data_set_that_needs_tensorflow_says_so_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"preparing tfds:mnist needs TensorFlow once: pip install") as caught:
        load_tfds("mnist", tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


WITHOUT_TENSORFLOW = """
import importlib.util, sys

class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

# None in sys.modules would not do: tensorflow-datasets takes that for TensorFlow.
sys.meta_path.insert(0, Absent)
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "tensorflow" else find(name, *rest)
"""


def test_tensorflow_takes_no_gpu_while_it_prepares(tmp_path, monkeypatch):
    asked = []
    config = types.SimpleNamespace(set_visible_devices=lambda *arguments: asked.append(arguments))
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(config=config, __spec__=1))
    hooks["middle"] = lambda builder: asked.append("prepares")
    with contextlib.suppress(ValueError):  # of tensorflow-datasets, to which this is no TensorFlow
        load("grey", tmp_path)
    assert asked[0] == ([], "GPU")


def prepare_mnist(folder, monkeypatch):
    """The records of the real builder, of images of our own, since encoding them is what needs TensorFlow."""
    from tensorflow_datasets.image_classification.mnist import MNIST

    def generate(rows):
        for row in rows:
            yield row, {"image": png(np.random.RandomState(row).randint(0, 256, (28, 28), np.uint8)), "label": row % 10}

    monkeypatch.setattr(
        MNIST, "_split_generators", lambda self, _: {"train": generate(range(30)), "test": generate(range(30, 40))}
    )
    with module.quiet():
        tfds.builder("mnist", data_dir=os.fspath(folder)).download_and_prepare(file_format="array_record")
    monkeypatch.undo()


@pytest.mark.slow("a process of its own")
def test_the_real_mnist_is_read_without_tensorflow(tmp_path, monkeypatch):
    prepare_mnist(tmp_path, monkeypatch)
    code = (
        WITHOUT_TENSORFLOW
        + """
from vaejax.data.tfds import load_tfds
dataset = load_tfds("mnist", sys.argv[1])
print(dataset.sha256, dataset.shape, dataset.train.labels.sum(), dataset.label_names)
"""
    )
    said = subprocess.run([sys.executable, "-c", code, tmp_path], check=False, capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")
    dataset = load_tfds("mnist", tmp_path)
    assert said.stdout.split(maxsplit=1) == [dataset.sha256, "(28, 28, 1) 135 ()\n"]


@pytest.mark.slow("a process of its own")
def test_importing_the_room_loads_neither_tensorflow_datasets_nor_pil():
    code = "import sys, vaejax.data.tfds; assert not {'tensorflow_datasets', 'PIL', 'array_record'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("mode", "channels", "level"),
    [("1", 1, 255), ("L", 3, 200), ("P", 3, 200), ("RGBA", 3, 200), ("LA", 1, 200), ("RGB", 1, 200)],
)
def test_images_of_any_mode_are_grey_or_coloured_bytes(mode, channels, level):
    content = png(np.full((4, 5), level, np.uint8), mode)
    image = records.decode_image(content, channels, np.dtype(np.uint8), None, None)
    assert image.shape == (4, 5, channels)
    assert image.dtype == np.uint8
    assert set(image.ravel()) == {level}


def test_images_that_are_too_deep_or_too_large_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="must be of 8 bits"):
        records.decode_image(png(np.full((4, 5), 60_000, np.uint16)), 1, np.dtype(np.uint8), None, None)
    monkeypatch.setattr(records, "MAX_PIXELS", 19)
    with pytest.raises(ValueError, match="at most 19 pixels"):
        records.decode_image(png(np.zeros((4, 5), np.uint8)), 1, np.dtype(np.uint8), None, None)


def test_the_cache_holds_the_arrays(shared, tmp_path):
    load("grey", shared)
    (index,) = cache.cache_folder().rglob("index.json")
    assert set(json.loads(index.read_text())["arrays"]) == {
        f"{split}_{kind}" for split in ("train", "test") for kind in ("examples", "labels")
    }
