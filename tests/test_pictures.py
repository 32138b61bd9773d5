"""What is drawn of a run: which latents move, from where to where."""

import numpy as np

from vaejax import pictures
from vaejax.outcome import Measured

N, Z = 50, 4


def measured_of(kl=(0.2, 3.0, 0.0, 1.0)):
    rng = np.random.default_rng(0)
    means = rng.normal(size=(N, Z)) * np.array([1.0, 2.0, 0.1, 3.0]) + 1.0
    per_axis = None if kl is None else np.tile(np.array(kl), (N, 1))
    return Measured({}, np.zeros(N, np.uint32), means.astype(np.float32), None, per_axis)


def as_images(z):
    """A decoder that shows z itself, as an image of one row."""
    return np.asarray(z)[:, None, :, None]


def test_axes_are_ordered_by_kl_and_without_one_by_variance():
    assert pictures.ordered_axes(measured_of()) == [1, 3, 0, 2]
    assert pictures.ordered_axes(measured_of(kl=None)) == [3, 1, 0, 2]


def test_a_traversal_moves_one_latent_over_its_codes_and_holds_the_others():
    measured = measured_of()
    found = pictures.traversals(as_images, measured)
    assert found.axes == [1, 3, 0, 2]
    np.testing.assert_allclose(found.kl, [3.0, 1.0, 0.2, 0.0])
    z = found.images[:, :, 0, :, 0]
    for row, axis in enumerate(found.axes):
        others = np.delete(np.arange(Z), axis)
        np.testing.assert_allclose(z[row][:, others], np.tile(np.median(measured.means, axis=0)[others], (11, 1)))
        np.testing.assert_allclose(z[row][:, axis], found.values[row], rtol=1e-6)
        ends = np.percentile(measured.means[:, axis], [1, 99])
        np.testing.assert_allclose(z[row][[0, -1], axis], ends, rtol=1e-5)
        np.testing.assert_allclose(np.diff(z[row][:, axis], n=2), 0, atol=1e-5)


def test_an_interpolation_begins_and_ends_at_the_codes_of_its_pair():
    measured = measured_of()
    z = pictures.interpolations(as_images, measured.means)[:, :, 0, :, 0]
    assert z.shape == (6, 11, Z)
    np.testing.assert_allclose(z[:, 0], measured.means[:12:2], rtol=1e-6)
    np.testing.assert_allclose(z[:, -1], measured.means[1:12:2], rtol=1e-6)
    np.testing.assert_allclose(z[:, 5], (measured.means[:12:2] + measured.means[1:12:2]) / 2, rtol=1e-5)


def test_few_examples_make_fewer_pairs():
    means = measured_of().means
    assert pictures.interpolations(as_images, means[:5]).shape[0] == 2
    assert pictures.interpolations(as_images, means[:1]).shape[0] == 1
