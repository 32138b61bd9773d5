"""`vaejax data`: what a data set is, in words and as a sheet."""

import re

import numpy as np
import pytest

from vaejax import cli, data, data_report
from vaejax.data_report import contact_sheet, describe


def test_a_known_set_is_described_and_drawn(tmp_path, capsys):
    sheet = tmp_path / "deep" / "sheet.png"
    assert cli.main(["data", "digits", "--output", str(sheet)]) == 0
    out = capsys.readouterr().out
    for line in (
        "digits: 1,437 images of 8 x 8 x 1 .*uint8, intensities, white is 16",
        r"  train +1,437 examples, 0.1 MiB in memory or mapped; all from 0 to 16, mean 4.\d+",
        r"  test +360 examples",
        r"  labels +10 \(0, 1, 2, 3, 4, 5, 6, 7, 8, 9\), \d+ to \d+ training examples each",
        f"  sha256 +{data.load('digits').sha256}",
        "  feed +0.1 MiB of examples stay on the device",
        f"contact sheet: {sheet}",
    ):
        assert re.search(f"^{line}", out, re.MULTILINE), line
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_the_sheet_goes_to_the_runs_by_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("odd name!.npz", np.zeros((3, 4), np.float32) - 1)
    assert cli.main(["data", "sprites"]) == 0
    assert (tmp_path / "runs" / "data" / "sprites.png").is_file()
    assert "factors    shape 3, scale 6, orientation 10, position_x 8, position_y 8" in capsys.readouterr().out
    assert cli.main(["data", "odd name!.npz"]) == 0
    assert "no contact sheet: these are no images" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "runs" / "data").iterdir()] == ["sprites.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "unknown data set nonsense"),
        (["digits", "--size", "4"], "size is not for digits"),
        (["./nowhere"], "there is no file or folder nowhere"),
        (["tests"], "tests.*no image"),
    ],
)
def test_bad_names_are_one_line(words, message, capsys, tmp_path):
    assert cli.main(["data", *words, "--output", str(tmp_path / "x.png")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert re.search(f"vaejax: error: .*{message}", err)
    assert not list(tmp_path.iterdir())


def rows(figure):
    return [text.get_text() for text in figure.axes[0].get_yticklabels()]


def cell(figure, row, column, size=8):
    sheet = figure.axes[0].images[0].get_array()
    return np.asarray(
        sheet[row * (size + 1) : row * (size + 1) + size, column * (size + 1) : column * (size + 1) + size]
    )


def test_each_row_of_the_sheet_is_a_label():
    digits = data.load("digits")
    figure = contact_sheet(digits)
    assert rows(figure) == list("0123456789")
    for label in (0, 7):
        first = digits.train.examples[np.flatnonzero(digits.train.labels == label)[1]]
        np.testing.assert_allclose(cell(figure, label, 1), first[..., 0] / 16, atol=1e-6)


def test_each_row_of_the_sheet_is_a_factor_that_changes_alone():
    sprites = data.make_sprites(32, num_scales=2, num_orientations=3, num_positions=5)
    figure = contact_sheet(sprites)
    assert rows(figure) == list(sprites.factor_names)
    moved = [cell(figure, 3, column, 32) for column in range(5)]
    centres = [np.average(np.arange(32), weights=each.sum(axis=0)) for each in moved]
    assert np.allclose(np.diff(centres), np.diff(centres)[0])
    assert np.diff(centres)[0] > 1
    assert len({np.average(np.arange(32), weights=each.sum(axis=1)) for each in moved}) == 1
    # A factor of fewer values leaves its row empty from there on.
    assert np.isnan(cell(figure, 1, 2, 32)).all()


@pytest.mark.parametrize("labels", [None, np.arange(40)])
def test_without_labels_or_with_very_many_it_is_some_of_all(labels):
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 4, 3)).astype(np.uint8)
    dataset = data.from_arrays(data.Split(images, labels), images, meaning=data.Meaning.INTENSITY)
    figure = contact_sheet(dataset)
    assert rows(figure) == ["from 0", "from 16", "from 32"]
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(sheet[7:13, 5:9], images[17] / 255, atol=1e-6)


def test_a_lazy_set_is_not_read_whole(monkeypatch):
    monkeypatch.setattr(data_report, "NUMBERS_READ", 2**14)
    monkeypatch.setattr(data_report, "NUMBERS_AT_ONCE", 2**12)
    asked = []

    def read(rows):
        asked.append(len(rows))
        return np.zeros((len(rows), 4, 4, 1), np.uint8)

    split = data.Split(data.Lazy(read, (2**20, 4, 4, 1), np.dtype(np.uint8), "zeros"))
    text = describe(data.Dataset("zeros", split, split, 255, data.Meaning.INTENSITY))
    assert "1,048,576 examples, 16.0 MiB read when asked for; the first 1,024 from 0 to 0" in text
    assert sum(asked) == 2 * 1024
    assert max(asked) <= 256


def test_numbers_that_are_no_images():
    counts = data.from_arrays(np.arange(40, dtype=np.int32).reshape(20, 2))
    assert contact_sheet(counts) is None
    assert re.match(r"arrays: 18 vectors of 2 numbers .*int32, counts up to 39\n", describe(counts))
    real = data.from_arrays(-np.arange(40, dtype=np.float32).reshape(20, 2))
    assert "float32, real numbers up to 39 in magnitude" in describe(real)


def test_factors_without_names_and_without_a_middle(tmp_path):
    """Of each factor there is a row, be it of a single image."""
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1)).astype(np.uint8)
    factors = np.array([[0, 0], [0, 2], [2, 0], [2, 2], [0, 0], [2, 2]])
    split = data.Split(images, None, factors)
    dataset = data.from_arrays(split, data.Split(images, None, factors), meaning=data.Meaning.INTENSITY)
    assert rows(contact_sheet(dataset)) == ["factor 0", "factor 1"]
    assert "factors    factor 0 3, factor 1 3" in describe(dataset)


def test_large_images_are_shown_by_some_of_their_pixels():
    images = np.zeros((20, 300, 500, 3), np.uint8)
    figure = contact_sheet(data.from_arrays(images, meaning=data.Meaning.INTENSITY))
    assert figure.axes[0].images[0].get_array().shape[:2] == (2 * 76 - 1, 16 * 126 - 1)


def test_labels_of_one_name_are_rows_of_their_own():
    images = np.zeros((20, 4, 4, 1), np.uint8)
    split = data.Split(images, np.arange(20) % 2)
    dataset = data.from_arrays(split, meaning=data.Meaning.INTENSITY, label_names=("same", "same"))
    assert rows(contact_sheet(dataset)) == ["same", "same"]


def test_a_folder_may_be_called_as_a_command_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "train", "replay"):
        np.savez(f"{name}.npz", train=np.zeros((20, 3), np.float32) - 1)
        assert cli.main(["data", "./" + name]) == 2
        assert f"there is no file or folder {name}" in capsys.readouterr().err
        assert cli.main(["data", name]) == 2
        assert f"unknown data set {name}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--output", "sheet"], "output must end in .png"), (["--max-value", "3"], "max_value is not for")],
)
def test_bad_options_are_named_before_anything_is_read(words, message, capsys):
    assert cli.main(["data", "digits", *words]) == 2
    assert message in capsys.readouterr().err


def test_examples_without_a_label_are_shown_as_such():
    images = np.zeros((20, 4, 4, 1), np.uint8)
    split = data.Split(images, np.where(np.arange(20) < 12, -1, np.arange(20) % 2))
    dataset = data.from_arrays(split, data.Split(images, np.full(20, -1)), label_names=("even", "odd"))
    assert sorted(rows(contact_sheet(dataset))) == ["even", "no label", "odd"]
    assert re.search(r"labels +2 \(even, odd\), 4 to 4 .*; 12 training examples have none", describe(dataset))
    assert re.search(r"labels +0 \(even, odd\); 20 ", describe(dataset._replace(train=dataset.test)))


def test_what_is_missing_is_black_and_its_share_is_said():
    images = np.full((8, 4, 4, 1), 0.5, np.float32)
    images[:, :, 1] = np.nan
    dataset = data.from_arrays(images, images, meaning=data.Meaning.REAL, max_value=1)
    assert "from 0.5 to 0.5, mean 0.5, 25 % missing" in describe(dataset)
    np.testing.assert_allclose(cell(contact_sheet(dataset), 0, 2, 4), [[0.75, 0, 0.75, 0.75]] * 4)


def test_axes_and_meaning_may_be_said(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.arange(20 * 3 * 8 * 4).reshape(20, 3, 8, 4) % 256)
    words = ["data", str(tmp_path / "a.npy"), "--output", str(tmp_path / "a.png")]
    assert cli.main([*words, "--axes", "NCHW", "--meaning", "intensity", "--max-value", "255"]) == 0
    assert re.search("a: 18 images of 8 x 4 x 3 .*intensities, white is 255", capsys.readouterr().out)
    assert cli.main(["data", "digits", "--axes", "NCHW"]) == 2
    assert "axes is not for digits" in capsys.readouterr().err
