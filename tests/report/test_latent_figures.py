"""Pictures of latents: which bar is which, and what is where."""

import numpy as np
import pytest

from vaejax.report import latent_figures


def test_the_bars_are_ranked_and_named_by_their_latent():
    kl = np.array([[0.1, 2.0, 0.5], [0.3, 4.0, 0.5]])
    axes = latent_figures.kl_bars(kl).axes[0]
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], [3.0, 0.5, 0.2])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "0"]
    assert axes.get_title() == "test set: KL of each latent, 3.70 in all"
    # Standard errors of the mean: half the standard deviation over the root of two, above and below.
    tops = [segment[:, 1] for segment in axes.collections[0].get_segments()]
    np.testing.assert_allclose(np.ptp(tops[0]), 2 * 1.0 / 2**0.5, rtol=1e-5)


def test_many_latents_are_bars_without_names():
    axes = latent_figures.kl_bars(np.ones((2, 100))).axes[0]
    assert len(axes.patches) == 100
    assert axes.get_xlabel() == "latents by rank"


def test_the_plane_shows_the_pair_that_is_asked_for():
    means = np.arange(12.0).reshape(3, 4)
    axes = latent_figures.latents(means, (1, 3), np.array([0, 1, 1])).axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), means[:, [1, 3]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z[1]", "z[3]")
    assert "the two axes of 4 that say most" in axes.get_title()
    assert "of 2" not in latent_figures.latents(means[:, :2], (0, 1)).axes[0].get_title()


def test_codes_without_a_label_are_grey_and_have_no_colour_of_a_class():
    means = np.arange(8.0).reshape(4, 2)
    without, known = latent_figures.latents(means, (0, 1), np.array([1, -1, 0, -1])).axes[0].collections
    np.testing.assert_array_equal(without.get_offsets(), means[[1, 3]])
    np.testing.assert_array_equal(known.get_offsets(), means[[0, 2]])
    np.testing.assert_array_equal(known.get_array(), [1, 0])
    assert len(latent_figures.latents(means, (0, 1), np.full(4, -1)).axes[0].collections) == 1


@pytest.mark.parametrize("shape", [(4, 4, 1), (3, 6, 3)])
def test_rows_of_traversals_are_named_by_latent_kl_and_range(shape):
    images = np.zeros((2, 5, *shape))
    values = np.stack([np.linspace(-1, 1, 5), np.linspace(-3, 2, 5)])
    figure = latent_figures.traversals(images, [7, 0], values, np.array([1.5, 0.25]))
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["z[7]\n1.50 nats\n-1.0 to 1.0", "z[0]\n0.25 nats\n-3.0 to 2.0"]
    unknown = latent_figures.traversals(images, [7, 0], values, None)
    assert unknown.axes[0].get_yticklabels()[0].get_text() == "z[7]\n-1.0 to 1.0"
    between = latent_figures.interpolations(images)
    assert [text.get_text() for text in between.axes[0].get_yticklabels()] == ["0 to 1", "2 to 3"]
