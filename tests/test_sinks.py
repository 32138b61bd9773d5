"""What comes in chunks is in the file, whole, in order and under its name at the end; or nothing is."""

import errno
import resource
import signal
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vaejax import sinks
from vaejax.drafts import draft_of
from vaejax.sinks import pictures

X = np.random.default_rng(0).normal(size=(11, 4, 6, 1)).astype(np.float32)
Z = np.arange(22, dtype=np.int64).reshape(11, 2)
GREY = (-1.0, 3.0)


def write(path, *, sizes=(4, 4, 3), x=X, **how):
    with sinks.open_sink(path, **how) as sink:
        start = 0
        for size in sizes:
            sink.write({"x": x[start : start + size], "z": Z[start : start + size]})
            start += size
    return sink.path


def grey_of(images, black, white):
    """What a person would have on paper: 0 to 255, clipped."""
    return np.array([round(255 * min(max((v - black) / (white - black), 0), 1)) for v in images.ravel()]).reshape(
        images.shape
    )


def names_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("sizes", [(11,), (4, 4, 3), (1,) * 11])
def test_arrays_are_whole_however_they_come(tmp_path, sizes):
    one = np.load(write(tmp_path / "z.npy", names=["z"], sizes=sizes), allow_pickle=False)
    np.testing.assert_array_equal(one, Z, strict=True)
    with np.load(write(tmp_path / "new" / "all.NPZ", sizes=sizes), allow_pickle=False) as several:
        assert set(several) == {"x", "z"}
        np.testing.assert_array_equal(several["x"], X, strict=True)
        np.testing.assert_array_equal(several["z"], Z, strict=True)
    assert names_in(tmp_path) == ["all.NPZ", "new", "z.npy"]


def test_arrays_are_mapped_from_a_file_of_which_no_byte_is_superfluous(tmp_path):
    path = write(tmp_path / "x.npy", names=["x"])
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), X)
    np.save(tmp_path / "same.npy", X)
    assert path.read_bytes() == (tmp_path / "same.npy").read_bytes()


def test_names_that_no_file_can_have(tmp_path):
    with sinks.open_sink(tmp_path / "odd.npz") as sink:
        sink.write({"a/b": Z, "..": X})
    assert set(np.load(sink.path)) == {"a/b", ".."}
    assert zipfile.ZipFile(sink.path).testzip() is None


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, ending):
    chunk = {"x": np.zeros((1000, 100))}  # 800 kB

    def peak(count):
        tracemalloc.start()
        with sinks.open_sink(tmp_path / f"{count}.{ending}") as sink:
            for _ in range(count):
                sink.write(chunk)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(40) < peak(4) + 200_000
    assert np.load(tmp_path / f"40.{ending}", mmap_mode=None if ending == "npz" else "r") is not None


@pytest.mark.parametrize("shades", [GREY, (0.0, 1.0), (1.0, 0.0)])
def test_a_folder_has_every_image_from_black_to_white(tmp_path, shades):
    path = write(str(tmp_path / "images.v2") + "/", names=["x"], shades=shades)
    assert names_in(path) == [f"{number:06d}.png" for number in range(11)]
    found = np.stack([np.asarray(Image.open(each)) for each in sorted(path.iterdir())])
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, grey_of(X[..., 0], *shades))


def test_colours_keep_their_places(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (11, 4, 6, 3)).astype(np.uint8)
    path = write(tmp_path / "images", names=["x"], shades=(0, 255), x=colour)
    np.testing.assert_array_equal(np.stack([Image.open(each) for each in sorted(path.iterdir())]), colour)
    # Magnified to where the longer side has 32 pixels, less what is not whole.
    sheet = np.asarray(Image.open(write(tmp_path / "s.png", names=["x"], shades=(0, 255), x=colour, columns=4)))
    assert sheet.shape == (3 * (5 * 4 + 1) - 1, 4 * (5 * 6 + 1) - 1, 3)
    np.testing.assert_array_equal(sheet[21 : 21 + 20 : 5, 62 : 62 + 30 : 5], colour[6])  # second row, third column
    assert (sheet[20] == pictures.GAP_COLOR).all()
    assert (sheet[41, :] == pictures.GAP_COLOR).all()
    # Where there are no more images there is paper.
    assert (sheet[42:, 93:] == 255).all()
    assert (sheet[42:, 92] == pictures.GAP_COLOR).all()


def test_a_sheet_of_pairs_has_each_beside_its_other(tmp_path):
    path = tmp_path / "pairs.png"
    with sinks.open_sink(path, shades=GREY, columns=3) as sink:
        for start in (0, 2):
            part = X[start : start + 2]
            sink.write({"x": part, "reconstruction": part + 1})
    sheet = np.asarray(Image.open(path))[..., 0]
    shown = [sheet[r * 21 : r * 21 + 20 : 5, c * 31 : c * 31 + 30 : 5] for r, c in ((0, 0), (0, 1), (0, 4), (1, 1))]
    expected = np.stack([X[0], X[0] + 1, X[2], X[3] + 1])[..., 0]
    np.testing.assert_array_equal(shown, grey_of(expected, *GREY))
    assert sheet.shape == (2 * 21 - 1, 6 * 31 - 1)


def test_a_sheet_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_IMAGES", 10)
    with pytest.raises(ValueError, match=r"at most 10 images .*name a folder, .*many/, for more"):
        write(tmp_path / "many.png", names=["x"], shades=GREY)
    monkeypatch.setattr(pictures, "MAX_IMAGES", 11)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 11 * 20 * 30 - 1)
    with pytest.raises(ValueError, match="6,599 pixels; got 11 images and 6,600 pixels"):
        write(tmp_path / "many.png", names=["x"], shades=GREY)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 11 * 20 * 30)
    write(tmp_path / "all.png", names=["x"], shades=GREY)
    assert names_in(tmp_path) == ["all.png"]


ENDINGS = ["one.npy", "all.npz", "sheet.png", "folder/"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("name", ENDINGS)
def test_an_interruption_leaves_nothing_and_what_was_there(tmp_path, name, error):
    how = {"names": ["x"], "shades": GREY}
    for is_there in (False, True):
        if is_there:
            write(f"{tmp_path}/{name}", **how)
        old = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(error):
            write_and_fail(f"{tmp_path}/{name}", error, is_there, overwrite=True, **how)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == old
        assert [path.name for path in tmp_path.iterdir()] == [name.strip("/")] * is_there


def write_and_fail(path, error, is_there, **how):
    with sinks.open_sink(path, **how) as sink:
        sink.write({"x": X[::-1]})
        assert sink.path.exists() == is_there
        raise error


@pytest.mark.parametrize("name", ENDINGS)
def test_what_is_in_the_way_is_replaced_on_demand_only(tmp_path, name):
    path, how = f"{tmp_path}/{name}", {"names": ["x"], "shades": GREY}
    write(path, **how)
    with pytest.raises(FileExistsError, match=rf"{name.strip('/')} exists: name another (file|folder) or --overwrite"):
        write(path, **how)
    with pytest.raises(FileExistsError, match="exists: name"), sinks.open_sink(path, **how):
        pytest.fail("nothing is begun that cannot be ended")
    before = (tmp_path / name / "000010.png").exists()
    write(path, overwrite=True, sizes=(2,), **how)
    assert [each.name for each in tmp_path.iterdir()] == [name.strip("/")]
    if before:
        assert names_in(tmp_path / name) == ["000000.png", "000001.png"]


@pytest.mark.parametrize("path", ["run/", "run/notes.txt", "run.npy"])
def test_no_folder_is_replaced_that_a_sink_has_not_made(tmp_path, path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    (tmp_path / "run.npy").mkdir()
    (tmp_path / "run.npy" / "000000.png").touch()
    target = path.replace("notes.txt", "")
    with pytest.raises(FileExistsError, match="exists and is something else, which is never replaced"):
        write(f"{tmp_path}/{target}", names=["x"], shades=GREY, overwrite=True)
    assert names_in(tmp_path) == ["000000.png", "notes.txt", "run", "run.npy"]


def test_a_file_that_comes_while_another_is_written_is_not_replaced(tmp_path):
    path = tmp_path / "z.npy"

    def write_slowly():
        with sinks.open_sink(path) as sink:
            sink.write({"z": Z})
            path.write_text("faster")

    with pytest.raises(FileExistsError, match="exists: name another file"):
        write_slowly()
    assert path.read_text() == "faster"
    assert names_in(tmp_path) == ["z.npy"]


def test_an_empty_folder_is_in_nobodys_way(tmp_path):
    (tmp_path / "images").mkdir()
    assert len(names_in(write(tmp_path / "images", names=["x"], shades=GREY))) == 11
    # But no file takes its place.
    (tmp_path / "dir.png").mkdir()
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"dir.png exists and is something else"):
            write(tmp_path / "dir.png", names=["x"], shades=GREY, overwrite=overwrite)
    assert (tmp_path / "dir.png").is_dir()


@pytest.mark.parametrize("name", ENDINGS)
def test_a_full_disk_names_the_path_and_leaves_no_draft(tmp_path, name):
    big = np.random.default_rng(0).normal(size=(3, 90, 90, 1))
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
        with pytest.raises(OSError, match=name.strip("/")) as failure:
            write(f"{tmp_path}/{name}", names=["x"], shades=GREY, x=big, sizes=(3,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert failure.value.errno == errno.EFBIG
    assert Path(failure.value.filename) == tmp_path / name
    assert names_in(tmp_path) == []


def test_an_error_of_what_is_written_keeps_its_own_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), draft_of(tmp_path / "z.npy"):
        Path(tmp_path / "nowhere").read_bytes()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "z.npy", tmp_path / "file" / "deep" / "z.npy"):
        with pytest.raises(
            NotADirectoryError, match=f"^{path} cannot be written: {tmp_path / 'file'} is a file and no "
        ):
            write(path, names=["z"])


@pytest.mark.parametrize(
    ("name", "how", "error", "message"),
    [
        ("x.jpg", {}, ValueError, "must end in .npy, .npz or .png, or be a folder, ending in /; got '.jpg'"),
        ("x.npy", {}, ValueError, "x.npy holds one array: name one of x, z, or a file that ends in .npz"),
        ("x/", {"shades": GREY}, ValueError, "x holds one array: name one of x, z"),
        ("x.npz", {"names": ["y"]}, ValueError, "names must be among x, z; got y"),
        ("x.npz", {"names": []}, ValueError, "nothing came"),
        ("x.png", {"names": ["x"]}, ValueError, "pictures are made of images, which these are not"),
        ("x/", {"names": ["x"]}, ValueError, "pictures are made of images"),
        ("x.png", {"names": ["z"], "shades": GREY}, ValueError, r"must be of shape .*; got \(1, 2\)"),
        ("x.png", {"shades": GREY}, ValueError, "must be of shape"),
        ("x.png", {"names": ["x"], "shades": (1, 1)}, ValueError, "shades must be two numbers"),
        ("x.png", {"names": ["x"], "shades": GREY, "columns": 0}, ValueError, "columns must be at least 1"),
    ],
)
def test_what_a_kind_cannot_hold(tmp_path, name, how, error, message):
    sizes = () if how.get("names") == [] else (1,)
    with pytest.raises(error, match=message):
        write(f"{tmp_path}/{name}", sizes=sizes, **how)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("chunk", "error", "message"),
    [
        ({"x": X[:2].astype(np.float64), "z": Z[:2]}, ValueError, "rows must be of float32 and shape"),
        ({"x": X[:2, :2], "z": Z[:2]}, ValueError, "rows must be of float32 and shape"),
        ({"x": X[:2], "z": Z[:1]}, ValueError, r"as many rows, at least one; got x \(2, 4, 6, 1\), z \(1, 2\)"),
        ({"x": X[:0], "z": Z[:0]}, ValueError, "at least one"),
        ({"x": X[:2]}, ValueError, "every chunk must have x, z; got x"),
        ({"x": X[:2], "z": np.array([{}, {}])}, TypeError, "arrays must hold numbers; got object"),
    ],
)
def test_chunks_that_do_not_fit(tmp_path, chunk, error, message):
    def write_two():
        with sinks.open_sink(tmp_path / "a.npz") as sink:
            sink.write({"x": X[:2], "z": Z[:2]})
            sink.write(chunk)

    with pytest.raises(error, match=message):
        write_two()
    assert names_in(tmp_path) == []


def test_images_that_are_not_finite(tmp_path):
    with pytest.raises(ValueError, match="images must be finite"):
        write(tmp_path / "x.png", names=["x"], shades=GREY, x=X * np.nan)
