"""Folders of images: which are found, what comes out of each kind of file, and what is refused."""

import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaejax.data import image_folder
from vaejax.data.dataset import Meaning
from vaejax.data.image_folder import load_image_folder
from vaejax.data.lazy import Lazy

# Most tests have one image in both splits. In the test of the warning every one is recorded.
pytestmark = pytest.mark.filterwarnings("ignore:.*in two splits")
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (12, 7, 5)).astype(np.uint8)
COLOUR = RANDOM.integers(0, 256, (12, 7, 5, 3)).astype(np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def fill(folder, images=GREY, suffix="png"):
    for i, pixels in enumerate(images):
        save(folder / f"{i:03}.{suffix}", pixels)


def only(folder, **options):
    """The examples of a folder with a train and a test split that are the same image."""
    return load_image_folder(folder, **options).train.examples[:]


def both(folder, name, pixels, **options):
    save(folder / "train" / name, pixels, **options)
    save(folder / "test" / name, pixels, **options)


def test_files_in_one_folder_are_drawn_into_two_splits(tmp_path):
    fill(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    (tmp_path / ".git").mkdir()
    dataset = load_image_folder(str(tmp_path))
    order = np.random.RandomState(0).permutation(12)
    for split, rows in ((dataset.train, order[:-1]), (dataset.test, order[-1:])):
        assert isinstance(split.examples, Lazy)
        assert split.labels is None
        np.testing.assert_array_equal(split.examples[:], GREY[rows, ..., None])
    assert (dataset.name, dataset.shape, dataset.dtype) == (tmp_path.name, (7, 5, 1), np.uint8)
    assert (dataset.meaning, dataset.max_value, dataset.label_names) == (Meaning.INTENSITY, 255, ())


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "validation", "test"),
        ("Train", "valid", "Testing"),
        ("TRAINING", "val", "TEST"),
        ("training", "VAL", "testing"),
        ("train", "validate", "test"),
        ("train", "Dev", "test"),
        ("train", None, "test"),
    ],
)
def test_splits_and_classes(tmp_path, train, validation, test):
    """Classes are numbered over all splits; deeper folders belong to theirs; the order is that of the paths."""
    save(tmp_path / train / "cat" / "b.png", COLOUR[1])
    save(tmp_path / train / "cat" / "a" / "z.PNG", COLOUR[0])
    save(tmp_path / train / "ape" / "c.png", COLOUR[2])
    save(tmp_path / test / "dog" / "d.png", COLOUR[3])
    if validation:
        save(tmp_path / validation / "e.png", COLOUR[4])
        save(tmp_path / validation / "f.png", COLOUR[5])
    dataset = load_image_folder(tmp_path)
    assert dataset.label_names == ("ape", "cat", "dog")
    np.testing.assert_array_equal(dataset.train.examples[:], COLOUR[[2, 0, 1]])
    assert dataset.train.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(dataset.test.examples[:], COLOUR[[3]])
    assert dataset.test.labels.tolist() == [2]
    assert (dataset.validation is not None) == bool(validation)
    if validation:
        np.testing.assert_array_equal(dataset.validation.examples[:], COLOUR[[4, 5]])
        assert dataset.validation.labels is None


def test_classes_without_splits_keep_their_labels(tmp_path):
    for i in range(12):
        save(tmp_path / "abc"[i % 3] / f"{i:02}.png", GREY[i])
    dataset = load_image_folder(tmp_path)
    ways = {image.tobytes(): i % 3 for i, image in enumerate(GREY)}
    for split in (dataset.train, dataset.test):
        assert split.labels.tolist() == [ways[image.tobytes()] for image in split.examples[:]]
    assert (dataset.label_names, len(dataset.train.labels)) == (("a", "b", "c"), 11)


def test_rows_come_in_the_order_asked_for_without_threads(tmp_path, monkeypatch):
    fill(tmp_path / "train", COLOUR)
    fill(tmp_path / "test", COLOUR)
    examples = load_image_folder(tmp_path).train.examples
    # Whoever reads examples has threads already.
    monkeypatch.delattr(image_folder, "ThreadPoolExecutor")
    for rows in ([3], [5, 0, 5], [*range(11, -1, -1)] * 2, []):
        np.testing.assert_array_equal(examples[np.array(rows, int)], COLOUR[rows])
    np.testing.assert_array_equal(examples[-1], COLOUR[11])


PALETTE = Image.fromarray(COLOUR[0]).quantize(16)


@pytest.mark.filterwarnings("ignore:.*only the first of its 2 pages")
@pytest.mark.parametrize(
    ("name", "pixels", "options", "expected"),
    [
        ("a.png", GREY[0], {}, GREY[0, ..., None]),
        ("a.png", COLOUR[0], {}, COLOUR[0]),
        ("a.png", Image.fromarray(GREY[0] > 99), {}, 255 * (GREY[0] > 99)[..., None]),
        ("a.png", np.stack([GREY[0], GREY[1]], -1), {}, GREY[0, ..., None]),
        ("a.png", np.concatenate([COLOUR[0], GREY[0, ..., None]], -1), {}, COLOUR[0]),
        ("a.png", PALETTE, {}, np.asarray(PALETTE.convert("RGB"))),
        ("a.png", PALETTE, {"transparency": bytes(range(16))}, np.asarray(PALETTE.convert("RGB"))),
        ("a.bmp", COLOUR[0], {}, COLOUR[0]),
        ("a.bmp", GREY[0], {}, GREY[0, ..., None]),
        ("a.ppm", COLOUR[0], {}, COLOUR[0]),
        ("a.pgm", GREY[0], {}, GREY[0, ..., None]),
        ("a.pbm", Image.fromarray(GREY[0] > 99), {}, 255 * (GREY[0] > 99)[..., None]),
        ("a.pnm", COLOUR[0], {}, COLOUR[0]),
        ("a.tif", COLOUR[0], {}, COLOUR[0]),
        ("a.tif", COLOUR[0], {"tiffinfo": {274: 6}}, np.rot90(COLOUR[0], -1)),
        ("a.TIFF", GREY[0], {"compression": "tiff_lzw"}, GREY[0, ..., None]),
        ("a.tif", Image.fromarray(GREY[0] > 99), {}, 255 * (GREY[0] > 99)[..., None]),
        ("a.tif", PALETTE, {}, np.asarray(PALETTE.convert("RGB"))),
        ("a.tif", PALETTE.convert("RGB"), {"save_all": True, "append_images": [PALETTE.rotate(180)]}, None),
        ("a.webp", COLOUR[0], {"lossless": True}, COLOUR[0]),
        ("a.gif", PALETTE, {}, np.asarray(PALETTE.convert("RGB"))),
        ("a.gif", PALETTE, {"save_all": True, "append_images": [PALETTE.rotate(180)]}, None),
        ("a.jpg", np.full((7, 5), 99, np.uint8), {}, np.full((7, 5, 1), 99)),
        ("a.jfif", np.full((7, 5), 99, np.uint8), {"format": "JPEG"}, np.full((7, 5, 1), 99)),
        ("a.JPEG", np.full((7, 5, 3), 99, np.uint8), {"quality": 100}, np.full((7, 5, 3), 99)),
    ],
)
def test_every_kind_of_file(tmp_path, name, pixels, options, expected):
    both(tmp_path, name, pixels, **options)
    expected = np.asarray(PALETTE.convert("RGB")) if expected is None else expected
    np.testing.assert_array_equal(only(tmp_path), expected[None])


def test_plain_ppm_of_eight_bits(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.ppm").write_text("P3\n# a comment\n2 1\n255\n1 2 3 4 5 6\n")
    assert only(tmp_path).tolist() == [[[[1, 2, 3], [4, 5, 6]]]]


def test_the_type_is_what_the_content_says(tmp_path):
    both(tmp_path, "a.jpg", COLOUR[0], format="PNG")
    np.testing.assert_array_equal(only(tmp_path)[0], COLOUR[0])


def triangle(size, to):
    """Weights `[to, size]` of the antialiased linear filter: a triangle as wide as what one pixel becomes of."""
    scale = size / to
    distance = (np.arange(size) + 0.5)[None] - (np.arange(to) + 0.5)[:, None] * scale
    weights = np.maximum(1 - np.abs(distance) / max(scale, 1), 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("size", "part"),
    [
        ((7, 5), np.s_[:, :]),
        ((30, 20), np.s_[:, 0:19]),
        ((14, 5), np.s_[:, 5:15]),
        ((4, 5), np.s_[6:22, :]),
        ((40, 40), np.s_[4:24, :]),
        # 28 * 2 / 3 is 18.7 columns.
        ((3, 2), np.s_[:, 0:19]),
        ((1, 60), np.s_[13:14, :]),
    ],
)
def test_resizing_is_the_linear_filter_over_the_largest_part_in_the_middle(tmp_path, size, part):
    pixels = RANDOM.integers(0, 256, (28, 20, 3)).astype(np.uint8)
    both(tmp_path, "a.png", pixels)
    found = only(tmp_path, size=size)[0]
    pixels = pixels[part].astype(float)
    rows, columns = triangle(pixels.shape[0], size[0]), triangle(pixels.shape[1], size[1])
    # PIL rounds after each of the two axes.
    np.testing.assert_allclose(found, np.einsum("ah,bw,hwc->abc", rows, columns, pixels), atol=1.05)


def test_crops_are_centred_and_come_before_resizing(tmp_path):
    pixels = RANDOM.integers(0, 256, (9, 6)).astype(np.uint8)
    both(tmp_path / "whole", "a.png", pixels)
    both(tmp_path / "part", "a.png", pixels[2:6, 1:5])
    # 9 - 4 is odd: the pixel that is left over is below.
    np.testing.assert_array_equal(only(tmp_path / "whole", crop=4)[0, ..., 0], pixels[2:6, 1:5])
    size = (2, 3)
    np.testing.assert_array_equal(only(tmp_path / "whole", crop=4, size=size), only(tmp_path / "part", size=size))


def test_mixed_sizes_are_named_and_made_alike(tmp_path):
    fill(tmp_path, GREY[:10])
    save(tmp_path / "003.png", GREY[3].T)
    with pytest.raises(ValueError, match=r"7 x 5 grey pixels in .*000.png and 5 x 7 .* in .*003.png \(give size=\("):
        load_image_folder(tmp_path)
    assert load_image_folder(tmp_path, size=(3, 4)).shape == (3, 4, 1)
    dataset = load_image_folder(tmp_path, crop=5)
    found = {image.tobytes() for split in dataset.splits.values() for image in split.examples[:]}
    assert found == {(GREY[i][1:6] if i != 3 else GREY[i].T[:, 1:6]).tobytes() for i in range(10)}
    with pytest.raises(ValueError, match=r"crop must.*got 6, and .*000.png has 7 x 5 grey"):
        load_image_folder(tmp_path, crop=6)


def test_grey_images_among_those_of_colour_become_colour(tmp_path):
    fill(tmp_path / "train", GREY)
    fill(tmp_path / "test", GREY[:2])
    grey = load_image_folder(tmp_path)
    save(tmp_path / "test" / "001.png", COLOUR[1])
    mixed = load_image_folder(tmp_path)
    assert (grey.shape, mixed.shape) == ((7, 5, 1), (7, 5, 3))
    np.testing.assert_array_equal(mixed.train.examples[:], np.repeat(GREY[..., None], 3, -1))
    np.testing.assert_array_equal(mixed.test.examples[1], COLOUR[1])
    # The same files, and other numbers.
    assert grey.train.examples.fingerprint != mixed.train.examples.fingerprint


def deep_png(mode):
    """A png of 16 bits: of colours PIL can read some, but writes none."""
    channels = {"grey": 1, "colour": 3}[mode]
    rows = b"".join(b"\0" + bytes(2 * 5 * channels) for _ in range(7))
    header = (5).to_bytes(4, "big") + (7).to_bytes(4, "big") + bytes([16, 0 if channels == 1 else 2, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = [len(c).to_bytes(4, "big") + k + c + zlib.crc32(k + c).to_bytes(4, "big") for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def deep_tif(kind, planes=1):
    """A tif of 16 bits: of colours PIL can read some, but writes none."""
    channels = {"grey": 1, "colour": 3}[kind]
    # A count of 3 has no place in the entry itself: the bits are behind the directory.
    entries = [(256, 4, 1, 5), (257, 4, 1, 7), (259, 3, 1, 1), (262, 3, 1, 2 if channels == 3 else 1)]
    entries += [
        (258, 3, channels, 16 if channels == 1 else 8 + 2 + 12 * 9 + 4),
        (277, 3, 1, channels),
        (284, 3, 1, planes),
    ]
    entries += [(273, 4, 1, 200), (279, 4, 1, 70 * channels)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + struct.pack("<3H", 16, 16, 16)
    return head.ljust(200, b"\0") + bytes(70 * channels)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tif", deep_tif("grey")),
        ("a.tif", deep_tif("colour")),
        ("a.tif", deep_tif("colour", planes=2)),
        ("a.png", deep_png("grey")),
        ("a.png", deep_png("colour")),
        ("a.pgm", b"P5 5 7 65535 " + bytes(70)),
        ("a.pgm", b"P5 5 7 4095 " + bytes(70)),
        ("a.ppm", b"P6 5 7 1023 " + bytes(210)),
        ("a.ppm", b"P3 1 1 300 " + b"1 2 300"),
        ("a.ppm", b"Pf 1 1 1.0 " + bytes(4)),
    ],
)
def test_more_than_eight_bits_are_refused(tmp_path, name, content):
    fill(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} must be 8 bits deep; got more, in mode"):
        load_image_folder(tmp_path)


def packed(pixels, kind):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        packed(GREY[0], "PNG")[:20],
        b"P5 5",
        b"P5 x 5 255 ",
        # A type that PIL reads, but that is none of those looked for.
        packed(GREY[0], "TGA"),
    ],
)
def test_what_the_header_tells_is_found_when_the_folder_is_loaded(tmp_path, content):
    fill(tmp_path)
    (tmp_path / "004.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"004.png is damaged or no image: "):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "ppm", "tif", "webp"])
def test_truncated_images_are_found_at_the_latest_when_they_are_read(tmp_path, suffix):
    large = RANDOM.integers(0, 256, (12, 64, 64, 3)).astype(np.uint8)
    fill(tmp_path, large, suffix)
    path = tmp_path / f"007.{suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"007.{suffix} is (truncated or damaged|damaged or no image): "):
        load_image_folder(tmp_path).train.examples[:]


def test_files_that_change_or_go_after_they_were_listed_are_named(tmp_path):
    fill(tmp_path / "train", GREY)
    fill(tmp_path / "test", GREY)
    examples = load_image_folder(tmp_path).train.examples
    save(tmp_path / "train" / "002.png", GREY[3])
    with pytest.raises(ValueError, match=r"002.png was altered after it was listed"):
        examples[1:4]
    (tmp_path / "train" / "002.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"002.png"):
        examples[2]
    np.testing.assert_array_equal(examples[1], GREY[1, ..., None])


def test_bombs_and_large_files_are_refused(tmp_path, monkeypatch):
    fill(tmp_path)
    (tmp_path / "bomb.pgm").write_bytes(b"P5 100000 100000 255 ")
    with pytest.raises(ValueError, match=r"bomb.pgm is damaged or no image: .*exceeds limit"):
        load_image_folder(tmp_path)
    # Of one and a half of the limit PIL warns only.
    limit = Image.MAX_IMAGE_PIXELS
    (tmp_path / "bomb.pgm").write_bytes(f"P5 {limit * 3 // 2} 1 255 ".encode())
    for action in ("ignore", "error"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with pytest.raises(ValueError, match=r"bomb.pgm (must have at most|is damaged)"):
                load_image_folder(tmp_path)
    (tmp_path / "bomb.pgm").unlink()
    monkeypatch.setattr(image_folder, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match=r"000.png must be at most 10 bytes to be an image; got"):
        load_image_folder(tmp_path)


def test_folders_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none is missing, or is no folder"):
        load_image_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"holds no images \(\.png, \.jpg"):
        load_image_folder(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "class").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FileNotFoundError, match=r"holds no images"):
        load_image_folder(tmp_path)
    save(tmp_path / "one.png", GREY[0])
    with pytest.raises(ValueError, match=rf"{tmp_path}: test_fraction must leave examples in both splits of the 1"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        (
            ["cat/a.png", "b.png"],
            ValueError,
            "must hold images, or folders of images.*; got b.png beside the folder cat",
        ),
        (["train/a.png", "cat/b.png"], ValueError, "must hold train, validation.*or classes; got train beside cat"),
        (["train/a.png", "b.png"], ValueError, "must hold train, validation.*or classes; got train beside b.png"),
        (["train/a.png", "val/b.png", "valid/b.png"], ValueError, "got train, val, valid beside valid"),
        (["train/a.png", "Training/b.png"], ValueError, "got Training, train beside train"),
        (["test/a.png"], ValueError, "must hold train, validation and test, or classes; got test without train"),
        (["train/a.png", "test/"], FileNotFoundError, "test holds no images"),
    ],
)
def test_folders_that_say_no_clear_split_are_refused(tmp_path, paths, error, message):
    for path in paths:
        if path.endswith("/"):
            (tmp_path / path).mkdir()
        else:
            save(tmp_path / path, GREY[0])
    with pytest.raises(error, match=message):
        load_image_folder(tmp_path)


def test_folders_without_images_are_no_classes_and_no_splits(tmp_path):
    for i in range(2):
        save(tmp_path / "classes" / "train" / "cat" / f"{i}.png", GREY[i])
    save(tmp_path / "classes" / "test" / "cat" / "a.png", GREY[2])
    for path in ("annotations/more", "train/annotations", "train/dog/more"):
        (tmp_path / "classes" / path).mkdir(parents=True)
        (tmp_path / "classes" / path / "notes.txt").write_text("no image")
    dataset = load_image_folder(tmp_path / "classes")
    assert (dataset.label_names, dataset.train.labels.tolist(), dataset.test.labels.tolist()) == (("cat",), [0, 0], [0])


@pytest.mark.parametrize("name", ["b.heic", "b.AVIF", "b.jp2", "b.tga", "b.psd"])
def test_images_of_types_that_are_not_read_are_named(tmp_path, name):
    fill(tmp_path / "train" / "cat", GREY)
    (tmp_path / "train" / "cat" / name).write_bytes(b"an image")
    with pytest.raises(ValueError, match=rf"{name} is of a type that is not read \(convert it to png"):
        load_image_folder(tmp_path)


def test_files_that_are_the_same_in_two_splits_are_warned_of_once(tmp_path, recwarn):
    warnings.simplefilter("always")
    fill(tmp_path / "train", [*GREY[:3], GREY[0]])
    fill(tmp_path / "val", GREY[4:6])
    fill(tmp_path / "test", GREY[6:])
    load_image_folder(tmp_path)
    # What occurs twice in one split is not meant.
    assert not recwarn
    save(tmp_path / "test" / "000.png", GREY[2])
    load_image_folder(tmp_path)
    assert [str(w.message) for w in recwarn] == [
        f"{tmp_path}: 1 image occurs in two splits, such as train/002.png and test/000.png"
    ]
    save(tmp_path / "val" / "001.png", GREY[1])
    load_image_folder(tmp_path)
    assert "2 images occur in two splits, such as train/001.png and val/001.png" in str(recwarn[-1].message)
    assert (len(recwarn), recwarn[-1].filename) == (2, __file__)


def test_names_of_classes_can_be_printed_and_stay_apart(tmp_path):
    for i, name in enumerate([b"caf\xe8", b"caf\xe9", b"caf\xea", "café".encode(), "caf\ufffd 2".encode()]):
        folder = os.path.join(os.fsencode(tmp_path / "train"), name)
        os.makedirs(folder)
        Image.fromarray(GREY[i]).save(os.path.join(os.fsdecode(folder), "a.png"))
    save(tmp_path / "test" / "other" / "b.png", GREY[9])
    dataset = load_image_folder(tmp_path)
    assert len(set(dataset.label_names)) == 6
    assert sorted(dataset.label_names, key=len)[:3] == ["café", "caf\ufffd", "other"]
    assert all(name.encode() for name in dataset.label_names)
    # Each image has the label of its own folder.
    assert sorted(dataset.train.labels.tolist()) == sorted(set(dataset.train.labels.tolist()))
    assert "caf" not in dataset.label_names[dataset.test.labels[0]]


def test_names_of_folders_can_be_printed(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"\xe9t\xe9")
    os.makedirs(folder)
    fill(Path(os.fsdecode(folder)))
    dataset = load_image_folder(os.fsdecode(folder))
    assert (dataset.name, dataset.origin) == ("\ufffdt\ufffd", f"{tmp_path}/\ufffdt\ufffd")


def test_without_pillow_it_is_said_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r'^images need pillow: pip install "vaejax\[data\]"$'):
        load_image_folder(tmp_path / "none")


def test_links_are_followed_but_never_in_a_circle(tmp_path):
    fill(tmp_path / "elsewhere", GREY[:3])
    save(tmp_path / "set" / "a" / "x.png", GREY[3])
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "y.png").symlink_to(tmp_path / "elsewhere" / "000.png")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "a" / "self").symlink_to(tmp_path / "set" / "a")
    (tmp_path / "set" / "a" / "nowhere.png").symlink_to(tmp_path / "none")
    (tmp_path / "set" / "a" / "itself.png").symlink_to(tmp_path / "set" / "a" / "itself.png")
    dataset = load_image_folder(tmp_path / "set")
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    assert (dataset.label_names, sorted(labels.tolist())) == (("a", "b"), [0, 0, 1, 1, 1])


def test_the_checksum_tells_names_contents_and_sizes_apart(tmp_path):
    fill(tmp_path / "one" / "train", GREY)
    fill(tmp_path / "two" / "train", GREY)
    first = load_image_folder(tmp_path / "one").sha256
    assert load_image_folder(tmp_path / "two").sha256 == first
    sums = {first, *(load_image_folder(tmp_path / "two", **o).sha256 for o in ({"size": (7, 5)}, {"crop": 5}))}
    changed = GREY[4].copy()
    changed[0, 0] ^= 1
    # However it is written down, a size is one size.
    assert load_image_folder(tmp_path / "two", size=[np.int64(7), 5]).sha256 in sums - {first}
    save(tmp_path / "two" / "train" / "004.png", changed)
    sums.add(load_image_folder(tmp_path / "two").sha256)
    (tmp_path / "one" / "train" / "004.png").rename(tmp_path / "one" / "train" / "004.PNG")
    sums.add(load_image_folder(tmp_path / "one").sha256)
    assert len(sums) == 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 64}, TypeError, r"size must be \(height, width\); got 64"),
        ({"size": (64,)}, TypeError, r"size must be \(height, width\); got"),
        ({"size": (64, 0)}, ValueError, "size: width must be at least 1; got 0"),
        ({"size": (1.5, 3)}, TypeError, "size: height must be an integer"),
        ({"crop": 0}, ValueError, "crop must be at least 1; got 0"),
        ({"crop": (3, 3)}, TypeError, "crop must be an integer"),
    ],
)
def test_wrong_sizes_are_named(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        load_image_folder(tmp_path, **options)


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_files_of_several_pages_are_warned_of(tmp_path, suffix):
    pages = [Image.fromarray(image) for image in COLOUR[:3]]
    fill(tmp_path, COLOUR[:2])
    pages[0].save(tmp_path / f"stack.{suffix}", save_all=True, append_images=pages[1:])
    with pytest.warns(UserWarning, match=f"stack.{suffix}: only the first of its 3 pages"):
        dataset = load_image_folder(tmp_path)
    assert sum(len(split.examples) for split in dataset.splits.values()) == 3


def test_images_beside_their_masks_are_warned_of(tmp_path):
    for name in ("images", "masks"):
        fill(tmp_path / name)
    with pytest.warns(UserWarning, match="images and masks are taken for two classes.*the path of images"):
        assert load_image_folder(tmp_path).label_names == ("images", "masks")
