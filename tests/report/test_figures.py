"""Pictures: what is drawn where, for grey, colour and non-square images."""

import numpy as np
import pytest

from vaejax.report import figures


def test_images_are_tiled_in_reading_order_with_gaps():
    images = np.arange(1, 4)[:, None, None, None] * np.ones((3, 2, 3, 1))
    sheet = figures.tile(images, columns=2)
    assert sheet.shape == (5, 7, 1)
    np.testing.assert_array_equal(sheet[:2, :3, 0], 1)
    np.testing.assert_array_equal(sheet[:2, 4:, 0], 2)
    np.testing.assert_array_equal(sheet[3:, :3, 0], 3)
    assert np.isnan(sheet[2]).all()
    assert np.isnan(sheet[:, 3]).all()
    assert np.isnan(sheet[3:, 4:]).all()


@pytest.mark.parametrize("shape", [(6, 9, 3), pytest.param((8, 8, 1), marks=pytest.mark.slow("another shape"))])
def test_every_picture_is_drawn_and_saved(tmp_path, shape):
    images = np.random.default_rng(0).uniform(0, 16, (10, *shape))
    drawn = {
        "reconstructions": figures.reconstructions(images, images, 16.0),
        "samples": figures.samples(images, images, 16.0),
        "curves": figures.learning_curves([1, 2], {"kl": [1.0, 0.5], "negative_elbo": [3.0, 2.0]}),
        "one report": figures.learning_curves([1], {"reconstruction": [1.0]}),
        "several runs": figures.overlaid_curves({"a": ([1, 2], [3.0, 2.0]), "b": ([1], [4.0])}, "-ELBO"),
        "their latents": figures.kl_profiles({"a": [0.1, 2.0], "b": [1.0]}),
        "rate": figures.rate_distortion({"a": [(3.0, 80.0)], "b": [(5.0, 75.0)]}, "test set", path=False),
        "manifold": figures.manifold(images[:9], 3, 16.0),
    }
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 3000, name


def test_white_is_white_and_curves_show_where_they_settle():
    figure = figures.reconstructions(np.full((4, 8, 8, 1), 16.0), np.zeros((4, 8, 8, 1)), white=16.0)
    above, below = (axes.images[0].get_array() for axes in figure.axes)
    assert np.nanmin(above) == np.nanmax(above) == 1.0
    assert np.nanmax(below) == 0.0
    missing = figures.reconstructions(np.full((1, 8, 8, 1), np.nan), np.ones((1, 8, 8, 1)), black=-1.0)
    np.testing.assert_array_equal(missing.axes[0].images[0].get_array(), 0.0)
    curves = figures.learning_curves([1, 2], {"kl": [1.0, 0.5]})
    assert curves.axes[0].get_ylabel() == "nats per example"
    single = figures.learning_curves([1, 2, 3], {"reconstruction": [61.0, 60.0, 59.0], "penalty": [0.0] * 3})
    assert len(single.axes[0].lines) == 1
    assert single.axes[0].lines[0].get_marker() == "o"
    many = figures.learning_curves(range(50), {"kl": np.ones(50)})
    assert many.axes[0].lines[0].get_marker() == "None"
    runs = figures.overlaid_curves({"a": (range(50), np.arange(50.0)), "b": ([1], [4.0])}, "-ELBO")
    assert [line.get_marker() for line in runs.axes[0].lines] == ["None", "o"]
    assert 58.0 < single.axes[0].get_ylim()[0] < 59.0
