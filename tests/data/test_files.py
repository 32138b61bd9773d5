"""npz and npy files: what they hold comes back, and whatever else they are is refused before it is read."""

import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from vaejax.data import files
from vaejax.data.dataset import Meaning
from vaejax.data.files import load_npy, load_npz, npz_keys, read_npy, read_npz
from vaejax.data.lazy import Lazy

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 5)).astype(np.uint8)
LABELS = np.arange(12) % 3
SAVES = [np.savez, np.savez_compressed]
READ = {".npz": lambda path: read_npz(path, ["x"])["x"], ".npy": read_npy}


def npy(header, content=b"", version=(1, 0)):
    """A file as numpy saves it, with whatever header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + content


def write(path, content):
    """A file of these bytes, or an archive with them as its array x."""
    if path.suffix == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", content)


@pytest.mark.parametrize("suffix", READ)
@pytest.mark.parametrize(
    "array",
    [
        IMAGES,
        np.asfortranarray(IMAGES),
        IMAGES[:, 0, 0] > 100,
        IMAGES.astype(">i8"),
        IMAGES.astype(np.float16),
        IMAGES.astype(np.longdouble),
        np.array(3),
        np.zeros((0, 5), np.int32),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_come_back(tmp_path, suffix, array):
    path = tmp_path / f"file{suffix}"
    for save in SAVES if suffix == ".npz" else [lambda path, x: np.save(path, x)]:
        save(path, x=array)
        found = READ[suffix](path)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


def test_arrays_longer_than_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "READ_AT_ONCE", 7)
    for save in SAVES:
        save(tmp_path / "a.npz", x=IMAGES, y=LABELS)
        np.testing.assert_array_equal(read_npz(str(tmp_path / "a.npz"), ("x",))["x"], IMAGES)


@pytest.mark.parametrize("suffix", READ)
@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '<i4', 'fortran_order': False, 'shape': (2L, 1L), }", bytes(8)),
        npy("{'descr': '<i4', 'fortran_order': False, 'shape': (2, 1), }" + " " * 300, bytes(8), (2, 0)),
        npy("{'shape':(2,1),'fortran_order':False,'descr':'<i4'}", bytes(8), (3, 0)),
        npy('{"descr": "<i4", "fortran_order": False, "shape": (2, 1)}', bytes(8)),
    ],
)
def test_headers_of_python_2_other_versions_and_other_writers(tmp_path, suffix, content):
    write(tmp_path / f"file{suffix}", content)
    found = READ[suffix](tmp_path / f"file{suffix}")
    assert (found.dtype, found.tolist()) == (np.int32, [[0], [0]])


def header(kind="'<i4'", shape="(2, 1)", order="False"):
    return f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}"


PICKLED = io.BytesIO()
np.save(PICKLED, np.array([{}, "text"], object))


@pytest.mark.parametrize("suffix", READ)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be an array as numpy saves it; it starts with nothing"),
        (b"GIF89a.............", "must be an array as numpy saves it; it starts with 474946383961"),
        (npy(header(), bytes(8), (4, 0)), "must be of the npy format 1.0, 2.0 or 3.0; got 4.0"),
        (npy(header(), bytes(8))[:40], "has a truncated or damaged header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(99), "has a truncated or damaged header of 4294967295 bytes"),
        (npy(header() + " " * 2**16, bytes(8), (2, 0)), "has a truncated or damaged header"),
        (npy(header(), bytes(7)), r"must have \d+ bytes for its shape \(2, 1\) of int32; got"),
        (npy(header(), bytes(9)), r"must have \d+ bytes for its shape \(2, 1\) of int32; got"),
        (npy(header(shape="(1000000000000, 1)"), bytes(8)), "must have 40000000000.. bytes"),
        (npy(header(shape="(-2, -1)"), bytes(8)), "must be an array of numbers; got the header"),
        (npy(header(shape="(2.0, 1)"), bytes(8)), "must be an array of numbers; got the header"),
        (npy(header(shape="[2, 1]"), bytes(8)), "must be an array of numbers; got the header"),
        (npy(header(shape="(" + "1, " * 40 + ")"), bytes(4)), "must be an array of numbers; got the header"),
        (npy(header(shape="(" + "1" * 5000 + "x)"), bytes(4)), "must be an array of numbers; got the header"),
        (npy(header(order="0"), bytes(8)), "must be an array of numbers; got the header"),
        (npy("(" * 9000, bytes(8)), "must be an array of numbers; got the header"),
        (npy(header("'<i3'"), bytes(6)), "must hold numbers; got the type <i3"),
        (npy(header("'|S4'"), bytes(8)), "must be an array of numbers; got the header"),
        (npy(header("'<c8'"), bytes(16)), "must be an array of numbers; got the header"),
        (npy(header("'|V4'"), bytes(8)), "must be an array of numbers; got the header"),
        (npy(header("[('a', '<i4')]"), bytes(8)), "must be an array of numbers; got the header"),
        (npy(header("('<i4', (2,))"), bytes(16)), "must be an array of numbers; got the header"),
        (npy(header("'|O'"), bytes(16)), "must hold numbers; got objects, which are pickled and never loaded"),
        (npy(header("[('a', '|O')]"), bytes(16)), "must hold numbers; got objects"),
        (PICKLED.getvalue(), "must hold numbers; got objects"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused_by_its_header(tmp_path, suffix, content, message):
    path = tmp_path / f"file{suffix}"
    write(path, content)
    with pytest.raises(ValueError, match=rf"file{suffix}(: x)? {message}"):
        READ[suffix](path)


def test_missing_files_and_folders(tmp_path):
    for read in (lambda path: read_npz(path, ["x"]), npz_keys, read_npy, load_npz, load_npy):
        for path in (tmp_path / "none.npz", tmp_path):
            with pytest.raises(FileNotFoundError, match=f"{path} is missing, or is no file"):
                read(path)


def test_missing_arrays_are_named_with_the_nearest_and_all(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES, labels=LABELS)
    assert npz_keys(path) == ("images", "labels")
    with pytest.raises(ValueError, match=r"a.npz has no array image \(did you mean images\?\); got images, labels"):
        read_npz(path, ["labels", "image"])
    np.savez(path, **{f"array_{i:02}": LABELS for i in range(25)})
    with pytest.raises(ValueError, match=r"a.npz has no array x; got array_00.*array_19 and 5 more"):
        read_npz(path, ["x"])
    np.savez(path)
    with pytest.raises(ValueError, match=r"a.npz has no array x; got no array"):
        read_npz(path, ["x"])


@pytest.mark.parametrize("save", SAVES)
def test_any_flipped_byte_is_harmless_or_named(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, x=IMAGES, y=LABELS.astype(np.uint8))
    whole = path.read_bytes()
    refused = harmless = 0
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 0xFF
        path.write_bytes(content)
        try:
            found = read_npz(path, ["x", "y"])
        except ValueError as error:
            refused += str(error).startswith(str(path))
            continue
        harmless += 1
        np.testing.assert_array_equal(found["x"], IMAGES)
        np.testing.assert_array_equal(found["y"], LABELS)
    assert refused + harmless == len(whole)
    # All numbers and all headers at least; of the rest dates and the like are no matter.
    assert refused > 240 + 12 + 2 * 60


@pytest.mark.parametrize("save", SAVES)
def test_truncated_archives_are_named(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, x=IMAGES)
    whole = path.read_bytes()
    for length in range(0, len(whole), 9):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a.npz must be an npz archive; it is truncated or damaged"):
            read_npz(path, ["x"])
    np.save(tmp_path / "bare.npy", IMAGES)
    with pytest.raises(ValueError, match=r"must be an npz archive; it is one bare array \(load_npy reads it\)"):
        npz_keys(tmp_path / "bare.npy")


def test_other_compression_and_passwords_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy(header(), bytes(8)))
    with pytest.raises(ValueError, match=r"a.npz: x must be stored or deflated; got compression 14"):
        read_npz(path, ["x"])
    np.savez(path, x=IMAGES)
    content = bytearray(path.read_bytes())
    # The flag of encryption, in both places that have it.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.npz: x is damaged: .*password required"):
        read_npz(path, ["x"])


def test_bombs_are_refused_in_little_memory(tmp_path, monkeypatch):
    """Of 64 MiB of zeros nothing is unpacked where the bound is below, nor where the header says something else."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros(2**26, np.uint8))
    assert path.stat().st_size < 2**17
    write(tmp_path / "other.npz", npy(header("'<u1'", "(5,)"), bytes(2**26)))
    monkeypatch.setattr(files, "MAX_BYTES", 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"bomb.npz: x must be at most 1048576 bytes; got 67108864"):
            read_npz(path, ["x"])
        with pytest.raises(ValueError, match=r"other.npz: x must.*got 6710"):
            read_npz(tmp_path / "other.npz", ["x"])
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_size_that_is_only_claimed_is_not_filled(tmp_path):
    """The directory and the header agree about 2 GiB that are not there."""
    path = tmp_path / "a.npz"
    content = npy(header("'<u1'", "(2147483648,)"), bytes(100))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
    claimed = struct.pack("<I", 2**31 + len(content) - 100)
    whole = path.read_bytes().replace(struct.pack("<I", len(content)) * 2, struct.pack("<I", len(content)) + claimed)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"a.npz: x is (truncated|damaged)"):
        read_npz(path, ["x"])


def test_mapped_files_cannot_be_written_to(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    found = read_npy(tmp_path / "a.npy")
    assert isinstance(found, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


@pytest.mark.parametrize(
    ("train", "labels"),
    [
        ("train", "train_labels"),
        ("x_train", "y_train"),
        ("X", "Y"),
        ("images", "labels"),
        ("imgs", "label"),
        ("train_x", "train_y"),
        ("images_train", "labels_train"),
        ("train_data", "train_label"),
        ("data", "target"),
        ("XTrain", "yTrain"),
        ("training", "targets"),
        ("train-images", "train-labels"),
    ],
)
@pytest.mark.parametrize(
    ("test", "test_labels", "validation", "validation_labels"),
    [
        ("test", "test_labels", "valid", "valid_labels"),
        ("x_test", "y_test", "x_val", "y_val"),
        ("test_images", "test_labels", "val_images", "val_labels"),
        ("test_x", "test_y", "val_x", "val_y"),
        ("test_data", "test_targets", "x_valid", "y_valid"),
        ("X_TEST", "testLabel", "x_dev", "y_dev"),
    ],
)
def test_the_usual_names_of_arrays(tmp_path, train, labels, test, test_labels, validation, validation_labels):
    parts = [slice(0, 6), slice(6, 9), slice(9, 12)]
    names = [(train, labels), (validation, validation_labels), (test, test_labels)]
    arrays = {name: IMAGES[part] for part, (name, _) in zip(parts, names, strict=True)}
    arrays |= {name: LABELS[part] for part, (_, name) in zip(parts, names, strict=True)}
    np.savez(tmp_path / "some.npz", **arrays, metadata=np.array([{}], object))
    dataset = load_npz(tmp_path / "some.npz")
    assert (dataset.name, dataset.meaning, dataset.origin) == ("some", Meaning.INTENSITY, str(tmp_path / "some.npz"))
    for part, split in zip(parts, dataset.splits.values(), strict=True):
        np.testing.assert_array_equal(split.examples, IMAGES[part][..., None])
        np.testing.assert_array_equal(split.labels, LABELS[part])


def test_one_array_of_any_name_is_split(tmp_path):
    np.savez(tmp_path / "one.npz", IMAGES)
    dataset = load_npz(tmp_path / "one.npz", max_value=300)
    order = np.random.RandomState(0).permutation(12)
    np.testing.assert_array_equal(dataset.test.examples, IMAGES[order[-1:], ..., None])
    np.testing.assert_array_equal(dataset.train.examples, IMAGES[order[:-1], ..., None])
    assert (dataset.max_value, dataset.train.labels, dataset.validation) == (300, None, None)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES, "labels": LABELS}, "must hold an array of train examples; got labels, pictures"),
        ({"test": IMAGES, "valid": IMAGES}, "must hold an array of train examples; got test, valid"),
        ({"train": IMAGES, "test_labels": LABELS}, "must hold an array of test examples; got test_labels, train"),
        (
            {"train": IMAGES, "images": IMAGES},
            r"must hold one array of train examples; got images, train \(read_npz reads any\)",
        ),
        ({"x": IMAGES, "X": IMAGES}, "must hold one array of train examples; got X, x"),
        ({"x": IMAGES, "y": LABELS[:5]}, r"train.labels must.*got shape \(5,\)"),
        ({"x": IMAGES, "y": LABELS - 2}, "train.labels must be at least -1.*got values down to -2"),
        ({"x": IMAGES, "y": LABELS / 2}, "train.labels must hold integers; got 0.5"),
        ({"x": IMAGES, "y": LABELS, "labels": LABELS}, "must hold one array of train labels; got labels, y"),
        ({"test": IMAGES}, "must hold an array of train examples; got test"),
        ({"y": IMAGES}, "must hold an array of train examples; got y"),
        (
            {"my_test_set": IMAGES},
            r"must hold arrays of known names; got my_test_set \(understood are train, .*x_train",
        ),
        ({"x": IMAGES, "Test2": IMAGES}, r"must hold arrays of known names; got Test2 \(.*; read_npz reads any\)"),
        ({"x": IMAGES, "x_VALIDATE": IMAGES}, "must hold arrays of known names; got x_VALIDATE"),
        ({"x": IMAGES, "fine_labels": LABELS}, "must hold arrays of known names; got fine_labels"),
        ({"x": IMAGES, "Target_age": LABELS}, "must hold arrays of known names; got Target_age"),
        ({"x": IMAGES, "y": LABELS.astype(object)}, r"y must.*got objects, .*astype\(str\)"),
        ({"x": IMAGES.astype(str)}, "x must be an array of numbers; got the header"),
        ({"train": IMAGES, "test": IMAGES[:, :3]}, r"test must hold examples of shape \(4, 5, 1\)"),
        ({"x": np.full((3, 2), np.nan)}, "train must.*missing.* in example 0"),
        ({"x": IMAGES.astype(object)}, "x must hold numbers; got objects"),
    ],
)
def test_archives_that_are_no_data_set_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=f"a.npz:? {message}"):
        load_npz(tmp_path / "a.npz")


def test_an_npy_file_stays_mapped_and_takes_its_labels_from_beside(tmp_path):
    np.save(tmp_path / "faces.npy", IMAGES)
    assert load_npy(tmp_path / "faces.npy").train.labels is None
    np.save(tmp_path / "faces_labels.npy", LABELS)
    dataset = load_npy(str(tmp_path / "faces.npy"))
    order = np.random.RandomState(0).permutation(12)
    for split, rows in ((dataset.train, order[:-1]), (dataset.test, order[-1:])):
        assert isinstance(split.examples, Lazy)
        np.testing.assert_array_equal(split.examples[:], IMAGES[rows, ..., None])
        np.testing.assert_array_equal(split.labels, LABELS[rows])
    assert (dataset.name, dataset.shape, dataset.meaning) == ("faces", (4, 5, 1), Meaning.INTENSITY)
    assert load_npy(tmp_path / "faces.npy", meaning=Meaning.REAL).meaning is Meaning.REAL
    for kind in ("U", "S", ">U4"):
        np.save(tmp_path / "faces_labels.npy", LABELS.astype(str).astype(kind))
        dataset = load_npy(tmp_path / "faces.npy")
        assert dataset.label_names == ("0", "1", "2")
        assert [dataset.label_names[label] for label in dataset.test.labels] == [str(LABELS[order[-1]])]
    np.save(tmp_path / "faces_labels.npy", np.full(12, 0xD800, "<u4").view("<U1"))
    with pytest.raises(ValueError, match=r"faces.npy: train.labels must be strings"):
        load_npy(tmp_path / "faces.npy")
    np.save(tmp_path / "faces_labels.npy", LABELS[:3])
    with pytest.raises(ValueError, match=r"faces.npy: train.labels must.*got"):
        load_npy(tmp_path / "faces.npy")


@pytest.mark.data
@pytest.mark.skipif("VAEJAX_DATA" not in os.environ, reason="VAEJAX_DATA names no folder of data sets")
def test_the_pickle_in_dsprites_is_left_alone():
    path = os.path.join(os.environ["VAEJAX_DATA"], "dsprites", "dsprites_downsampled.npz")
    assert "metadata" in npz_keys(path)
    assert read_npz(path, ["latents_classes"])["latents_classes"].shape == (46080, 5)
    with pytest.raises(ValueError, match="metadata must hold numbers; got objects, which are pickled"):
        read_npz(path, ["metadata"])
