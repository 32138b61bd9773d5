"""Transforms of images, and those that are done once and for all."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vaejax
from vaejax import data
from vaejax.data.once import once
from vaejax.data.transforms import (
    binarize,
    center_crop,
    dequantize,
    pad,
    random_crop,
    random_flip,
    resize,
    threshold,
)

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (5, 6, 4, 2)).astype(np.uint8)


def test_threshold_is_one_above_and_zero_at_it():
    levels = np.arange(17, dtype=np.uint8)
    compiled = jax.jit(threshold)
    for at, first in [(0.5, 9), (0.0, 1), (0.7, 12), (0.25, 5), (15 / 16, 16)]:
        for function in (threshold, compiled):
            found = function(levels, 16, at)
            assert found.dtype == jnp.float32
            np.testing.assert_array_equal(found, np.arange(17) >= first)


def test_threshold_has_no_rounding_at_levels():
    """Of max_value = 255, 127.5 lies between two levels, and a fifth, 51, is one."""
    levels = np.arange(256, dtype=np.uint8)
    assert np.sum(threshold(levels, 255)) == 128
    for k in range(5):
        assert np.sum(threshold(levels, 255, k / 5)) == 255 - 51 * k


@pytest.mark.parametrize("compile", [jax.jit, pytest.param(lambda f: f, marks=pytest.mark.slow("eager"))])
@pytest.mark.parametrize(
    "max_value",
    [255, *(pytest.param(other, marks=pytest.mark.slow("other numbers of levels")) for other in (1, 16, 1023))],
)
def test_dequantization_stays_within_its_level(monkeypatch, max_value, compile):
    """The highest draw that float32 has, added to a level of 1 or more, is rounded to the next level."""
    draws = np.float32([0.0, 0.5, 1 - 2**-23])
    # The number of a key chooses the draw.
    chosen = lambda key: jnp.asarray(draws)[jax.random.key_data(key)[-1]]
    monkeypatch.setattr(
        sys.modules[dequantize.__module__], "uniform", lambda key, shape: jnp.broadcast_to(chosen(key), shape)
    )
    levels = np.arange(max_value + 1)
    # A function of its own, since compiled programs are kept, and with them the draws.
    function = compile(lambda *arguments: dequantize(*arguments))
    for number, draw in enumerate(draws):
        x = np.asarray(function(jax.random.key(number), levels, max_value), np.float64)
        assert x.max() < 1
        assert np.all(x < (levels + 1) / (max_value + 1))
        np.testing.assert_allclose(x * (max_value + 1), levels + draw, atol=1e-6 * (max_value + 1))


def test_dequantized_levels_are_even_within_their_share(key):
    x = np.asarray(jax.jit(dequantize)(key, np.repeat(np.arange(4), 10_000).reshape(4, 10_000), 3))
    within = 4 * x - np.arange(4)[:, None]
    assert abs(within.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / within.size)
    assert abs(within.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / within.size)
    # Each pixel and each image has a draw of its own.
    assert len(np.unique(within[0])) > 9_900
    assert np.all(np.abs(np.corrcoef(within) - np.eye(4)) < 0.05)


def test_a_uniform_density_says_eight_bits_of_each_byte(key):
    size = math.prod(IMAGES.shape[1:])

    @jax.jit
    def density(key):
        x = dequantize(key, IMAGES, 255).reshape(5, size)
        return vaejax.ContinuousBernoulli(jnp.zeros(x.shape)).log_prob(x)

    nats = np.asarray(density(key)) - size * math.log(256)
    np.testing.assert_allclose(-nats / size / math.log(2), 8.0, rtol=1e-6)


def test_the_bound_that_dequantization_gives(key):
    """Of a density 1 + a (2v - 1) with mass (1 - a / 2) / 2 and (1 + a / 2) / 2 for the levels 0 and 1."""
    a, count = 0.9, 100_000
    compiled = jax.jit(dequantize)
    for level, split in enumerate(jax.random.split(key)):
        density = 1 + a * (2 * np.asarray(compiled(split, np.full((1, count), level), 1), np.float64) - 1)
        mass = (1 + a * (level - 0.5)) / 2
        assert abs(density.mean() / 2 - mass) < 5 * density.std() / 2 / math.sqrt(count)
        gap = math.log(mass) - (np.log(density).mean() - math.log(2))
        # Jensen's gap, by the integral of ln t over the densities that occur.
        low, high = sorted((1.0, 1 + a * (2 * level - 1)))
        mean_log = (high * math.log(high) - high - low * math.log(low) + low) / (high - low)
        assert gap > 0
        np.testing.assert_allclose(
            gap, math.log(2 * mass) - mean_log, atol=5 * np.log(density).std() / math.sqrt(count)
        )


def test_resizing_by_hand():
    """A triangle of twice the width for half the size: 1, 3, 3 and 1 eighths, without those beyond the edge."""
    x = np.float32([0, 8, 0, 0, 16, 0, 0, 0]).reshape(1, 8, 1)
    shrunk, grown = jax.jit(lambda x, y: (resize(x, (1, 4)), resize(y, (4, 1))))(x, np.float32([0, 8]).reshape(2, 1, 1))
    np.testing.assert_allclose(np.ravel(shrunk), [8 * 3 / 7, 8 / 8 + 16 / 8, 16 * 3 / 8, 0], rtol=1e-6)
    np.testing.assert_allclose(np.ravel(grown), [0, 2, 6, 8], rtol=1e-6)


@pytest.mark.parametrize(
    "sizes", [[(3, 5)], pytest.param([(13, 2), (6, 4), (1, 1)], marks=pytest.mark.slow("other sizes"))]
)
def test_resizing_is_that_of_pillow(sizes):
    """Its bilinear filter, on floats, is another implementation of the same kernel."""
    image = pytest.importorskip("PIL.Image")
    x = RANDOM.uniform(0, 255, (2, 6, 4, 3)).astype(np.float32)
    for size, ours in zip(sizes, jax.jit(lambda x: [resize(x, each) for each in sizes])(x), strict=True):
        assert ours.shape == (2, *size, 3)
        planes = [np.moveaxis(each, -1, 1).reshape(6, *each.shape[1:3]) for each in (x, np.asarray(ours))]
        for theirs, resized in zip(*planes, strict=True):
            expected = image.fromarray(theirs).resize(size[::-1], image.Resampling.BILINEAR)
            np.testing.assert_allclose(resized, np.asarray(expected), rtol=1e-4, atol=1e-3)


SIZES = [(1, 1), (4, 6), (7, 2)]


@jax.jit
def to_all_sizes(image):
    return [resize(image, size) for size in SIZES]


@pytest.mark.slow("what is that of pillow keeps constants")
@given(st.integers(0, 255))
def test_resizing_keeps_constants(level):
    for size, constant in zip(SIZES, to_all_sizes(np.full((3, 5, 2), level, np.uint8)), strict=True):
        assert constant.dtype == jnp.float32
        np.testing.assert_array_equal(constant, np.full((*size, 2), level))


@pytest.mark.slow("follows from what pillow has, but for a rounding")
def test_resizing_keeps_the_range_of_each_channel():
    for extremes in jax.device_get(to_all_sizes(np.where(IMAGES > 127, np.float32(0.1), np.float32(0.7)))):
        assert extremes.min() >= np.float32(0.1)
        assert extremes.max() <= np.float32(0.7)
    narrow = np.stack([np.full((4, 4), 0.1), np.arange(16).reshape(4, 4)], -1).astype(np.float32)
    for size, resized in zip(SIZES, jax.device_get(to_all_sizes(narrow)), strict=True):
        np.testing.assert_array_equal(resized[..., 0], np.full(size, np.float32(0.1)))


OTHER = pytest.mark.slow("other sizes and types")


@pytest.mark.parametrize("more", [pytest.param((0, 0), marks=OTHER), (1, 2), (2, 3), pytest.param((3, 0), marks=OTHER)])
@pytest.mark.parametrize("dtype", [np.uint8, pytest.param(np.float32, marks=OTHER)])
def test_a_centred_crop_takes_away_what_was_padded(more, dtype):
    more_height, more_width = more
    x = IMAGES.astype(dtype)
    size = (6 + more_height, 4 + more_width)

    @jax.jit
    def both(x):
        padded = pad(x, size, 9)
        return padded, center_crop(padded, (6, 4))

    padded, cropped = both(x)
    assert padded.dtype == dtype
    assert padded.shape == (5, *size, 2)
    assert cropped.dtype == dtype
    np.testing.assert_array_equal(cropped, x)
    # The rest is the value, the greater half of it below and to the right.
    outside = np.asarray(padded).astype(np.int64).sum((1, 2)) - x.astype(np.int64).sum((1, 2))
    np.testing.assert_array_equal(outside, 9 * (size[0] * size[1] - 24))
    np.testing.assert_array_equal(padded[:, more_height // 2 :][:, :6, more_width // 2 :][:, :, :4], x)


@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_any_leading_axes(batch, key):
    x = np.broadcast_to(IMAGES[0], (*batch, 6, 4, 2))
    for function in (
        partial(resize, size=(3, 3)),
        partial(pad, size=(8, 9)),
        partial(center_crop, size=(3, 3)),
        partial(random_crop, jax.random.clone(key), size=(3, 3)),
        partial(random_flip, jax.random.clone(key)),
        partial(dequantize, jax.random.clone(key), max_value=255),
        partial(threshold, max_value=255),
        partial(binarize, jax.random.clone(key), max_value=255),
    ):
        shape = jax.eval_shape(function, x).shape
        assert shape[:-3] == batch
        assert shape[-1] == 2


def test_random_crops_are_windows_and_every_place_occurs(key):
    """Of an image whose pixels are all different, the first of a window says its place."""
    image = np.arange(6 * 4).reshape(6, 4, 1)
    both = jax.jit(lambda key, x, y: (random_crop(key, x, (4, 3)), random_crop(jax.random.key(1), y, (6, 4))))
    crops, whole = jax.device_get(both(key, np.broadcast_to(image, (3, 100, 6, 4, 1)), IMAGES))
    crops = crops.reshape(300, 4, 3)
    window = np.arange(4)[:, None] * 4 + np.arange(3)
    np.testing.assert_array_equal(crops, crops[:, :1, :1] + window)
    places, counts = np.unique(crops[:, 0, 0], return_counts=True)
    assert places.tolist() == [0, 1, 4, 5, 8, 9]
    assert np.sum((counts - 50) ** 2) / 50 < 30  # chi-squared of 5 degrees: 1e-5
    np.testing.assert_array_equal(whole, IMAGES)


def test_random_flips_exchange_left_and_right_of_half_of_the_images(key):
    x = np.broadcast_to(IMAGES, (200, *IMAGES.shape))
    flip = jax.jit(random_flip)
    flipped = np.asarray(flip(key, x))
    assert flipped.dtype == np.uint8
    done = np.all(flipped == x[..., ::-1, :], axis=(-3, -2, -1))
    kept = np.all(flipped == x, axis=(-3, -2, -1))
    assert np.all(done != kept)
    assert abs(done.sum() - 500) < 5 * math.sqrt(250)
    # In a batch, and along both of its axes.
    assert done.any(0).all()
    assert done.any(1).sum() > 150
    assert kept.any(1).sum() > 150
    again = flip(jax.random.clone(key), flipped)  # the same choices take back what they did
    np.testing.assert_array_equal(again, x)


@pytest.mark.slow("many small programs: eager transforms")
def test_compiled_transforms_are_the_same(key):
    for function, exact in (
        (partial(random_crop, size=(3, 3)), True),
        (random_flip, True),
        (partial(dequantize, max_value=255), True),
        (partial(binarize, max_value=255), True),
        (lambda key, x: resize(x, (3, 3)), False),
        (lambda key, x: pad(center_crop(x, (3, 3)), (5, 5), 7), True),
    ):
        plain = np.asarray(function(jax.random.clone(key), IMAGES))
        compiled = np.asarray(jax.jit(function)(jax.random.clone(key), IMAGES))
        assert plain.dtype == compiled.dtype
        np.testing.assert_allclose(compiled, plain, rtol=0 if exact else 1e-6, atol=0)


KEY = jax.random.key
BAD = {
    "legacy key": (lambda: random_flip(jax.random.PRNGKey(0), IMAGES), TypeError, "^key must"),
    "no key": (lambda: random_crop(0, IMAGES, (2, 2)), TypeError, "key must be a typed PRNG key"),
    "keys": (lambda: dequantize(jax.random.split(KEY(0)), IMAGES, 255), ValueError, "key must be one key"),
    "rank": (lambda: random_flip(KEY(0), IMAGES[0, 0]), ValueError, r"random_flip: images must be .*shape \(4, 2\)"),
    "no height": (lambda: resize(IMAGES[:, :0], (2, 2)), ValueError, r"none of them 0; got shape \(5, 0, 4, 2\)"),
    "a list": (lambda: resize([[[1]]], (2, 2)), TypeError, "resize: images must be an array; got list"),
    "one number": (lambda: resize(IMAGES, 28), TypeError, r"resize: size must be \(height, width\); got 28"),
    "three numbers": (lambda: pad(IMAGES, (9, 9, 2)), TypeError, r"pad: size must be \(height, width\)"),
    "no integers": (lambda: pad(IMAGES, (9.0, 9)), TypeError, "pad: height of size must be an integer; got float"),
    "negative size": (lambda: resize(IMAGES, (2, -1)), ValueError, "resize: width of size must be at least 1; got -1"),
    "size 0": (lambda: random_crop(KEY(0), IMAGES, (0, 1)), ValueError, "height of size must be at least 1; got 0"),
    "traced size": (lambda: jax.jit(center_crop)(IMAGES, (2, 2)), TypeError, "height of size must be an integer"),
    "pad to less": (lambda: pad(IMAGES, (9, 3)), ValueError, r"pad: size must be at least \(6, 4\).*got \(9, 3\)"),
    "crop to more": (lambda: center_crop(IMAGES, (7, 4)), ValueError, r"must be at most \(6, 4\).*got \(7, 4\)"),
    "random crop to more": (
        lambda: random_crop(KEY(0), IMAGES, (6, 5)),
        ValueError,
        r"random_crop: size must be at most",
    ),
    "no uint8": (
        lambda: pad(IMAGES, (9, 9), 256),
        ValueError,
        "pad: value must be a whole number that uint8 has; got 256",
    ),
    "negative uint8": (lambda: pad(IMAGES, (9, 9), -1), ValueError, "whole number that uint8 has; got -1"),
    "half a byte": (lambda: pad(IMAGES, (9, 9), 0.5), ValueError, "whole number that uint8 has; got 0.5"),
    "NaN byte": (lambda: pad(IMAGES, (9, 9), math.nan), ValueError, "whole number that uint8 has; got nan"),
    "values": (
        lambda: pad(IMAGES, (9, 9), np.zeros(2)),
        ValueError,
        r"pad: value must be one number; got shape \(2,\)",
    ),
    "no range": (lambda: data.to_unit(IMAGES, 0), ValueError, "max_value must be positive; got values down to 0"),
    "negative range": (lambda: threshold(IMAGES, -1), ValueError, "max_value must be positive; got values down to -1"),
    "text range": (lambda: dequantize(KEY(0), IMAGES, "1"), TypeError, "max_value must be an array; got str"),
    "at 1": (lambda: threshold(IMAGES, 255, 1.0), ValueError, "at must be at least 0 and below 1; got 1.0"),
    "at a level": (lambda: threshold(IMAGES, 255, 128), ValueError, "at must be at least 0 and below 1"),
    "above the levels": (
        lambda: dequantize(KEY(0), IMAGES, 16),
        ValueError,
        "images must be whole numbers from 0 to max_value=16",
    ),
    "no levels": (lambda: dequantize(KEY(0), IMAGES / 255, 255), ValueError, "images must be whole numbers"),
    "NaN levels": (lambda: dequantize(KEY(0), np.full(3, math.nan), 255), ValueError, "images must be whole.*got NaN"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_arguments_are_named(case):
    call, error, message = case
    with pytest.raises(error, match=message):
        call()


def small(count=11, lazy=False):
    """A data set of three splits, the same images in all of them."""
    images = RANDOM_SPLIT[:count]

    def split(shift):
        examples = data.Lazy(lambda rows: images[rows], images.shape, images.dtype, "small") if lazy else images
        return data.Split(examples, np.arange(count) + shift, np.arange(2 * count).reshape(count, 2))

    return data.Dataset("small", split(0), split(1), 255, validation=split(2), origin="memory")


RANDOM_SPLIT = np.random.default_rng(1).integers(0, 256, (11, 3, 4, 1)).astype(np.uint8)
BINARIZE = partial(binarize, max_value=255)


def expected(transform, seed, number, index):
    """By the definition: one example and its own key."""
    return np.asarray(one_by_one(transform, np.uint32(seed), number, index, RANDOM_SPLIT[index]))


@partial(jax.jit, static_argnums=0)
def one_by_one(transform, seed, number, index, example):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0x0DA7A5E7), number), index)
    return transform(key, example[None])[0]


# Lazy examples are read by the same function, when they are asked for.
LAZY = [False, pytest.param(True, marks=pytest.mark.slow("lazy examples of the same"))]


@pytest.mark.parametrize("lazy", LAZY)
@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.slow("another seed")), 2**32 - 1])
def test_static_binarization_is_a_function_of_seed_split_and_index(seed, lazy):
    result = once(small(lazy=lazy), BINARIZE, seed=seed, meaning=data.Meaning.BINARY, max_value=1)
    assert (result.meaning, result.max_value, result.dtype) == (data.Meaning.BINARY, 1, np.uint8)
    assert isinstance(result.train.examples, data.Lazy if lazy else np.ndarray)
    for number, name in enumerate(("train", "validation", "test")):
        split = result.splits[name]
        whole = np.stack([expected(BINARIZE, seed, number, index) for index in range(11)])
        assert split.examples[:].dtype == np.uint8
        np.testing.assert_array_equal(split.examples[:], whole)
        np.testing.assert_array_equal(split.examples[np.array([7, 0, 7])], whole[[7, 0, 7]])
        np.testing.assert_array_equal(split.examples[10], whole[10])
        assert split.examples[:0].shape == (0, 3, 4, 1)
        np.testing.assert_array_equal(split.labels, small().splits[name].labels)
        np.testing.assert_array_equal(split.factors, small().splits[name].factors)


@pytest.mark.parametrize(
    "at_once", [4, *(pytest.param(size, marks=pytest.mark.slow("other sizes of a part")) for size in (1, 11, 4096))]
)
def test_results_do_not_depend_on_how_many_are_transformed_at_once(monkeypatch, at_once):
    traces = []

    def transform(key, x):
        traces.append(x)
        return random_crop(jax.random.fold_in(key, 0), dequantize(jax.random.fold_in(key, 1), x, 255), (2, 2))

    monkeypatch.setattr(sys.modules[once.__module__], "EXAMPLES_AT_ONCE", at_once)
    result = once(small(), transform, seed=3, max_value=1)
    assert (result.shape, result.dtype, result.meaning) == ((2, 2, 1), np.float32, data.Meaning.INTENSITY)
    assert len(traces) == 4  # once for each first example, and one compiled program
    for index in range(11):
        np.testing.assert_allclose(result.test.examples[index], expected(transform, 3, 2, index), rtol=1e-6)
    fewer = once(small(4), transform, seed=3, max_value=1)
    np.testing.assert_array_equal(fewer.train.examples, result.train.examples[:4])


def test_held_out_lazy_examples_are_those_of_their_place():
    result = data.hold_out(once(small(lazy=True)._replace(validation=None), BINARIZE, meaning="binary"), 4)
    assert len(result.train.examples) == 7
    np.testing.assert_array_equal(result.validation.examples[1], expected(BINARIZE, 0, 0, 8))


def test_threads_may_read_at_once():
    examples = once(small(lazy=True), BINARIZE, meaning=data.Meaning.BINARY).train.examples
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda index: examples[index % 11 : index % 11 + 1 + index % 3], range(66)))
    whole = examples[:]
    for index, each in enumerate(read):
        np.testing.assert_array_equal(each, whole[index % 11 : index % 11 + 1 + index % 3])


def test_where_jax_was_told_to_have_no_cpu(monkeypatch):
    whole = once(small(), BINARIZE, meaning=data.Meaning.BINARY).train.examples

    def missing(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", missing)
    np.testing.assert_array_equal(once(small(), BINARIZE, meaning=data.Meaning.BINARY).train.examples, whole)


def test_checksums_tell_apart_what_is_known_to_differ():
    def checksum(transform, **options):
        return once(small(lazy=True), transform, **options).sha256

    def flip(key, x):
        return random_flip(key, x)

    def crop(key, x):
        return random_crop(key, x, (3, 4))

    different = [
        checksum(flip),
        checksum(crop),
        checksum(flip, seed=1),
        checksum(partial(random_crop, size=(3, 4))),
        checksum(partial(random_crop, size=(3, 3))),
        checksum(partial(random_crop, size=(2, 4))),
        small(lazy=True).sha256,
    ]
    assert len(set(different)) == len(different)
    assert checksum(flip) == checksum(flip)

    # An address in memory is no name.
    def same(key, x, inner):
        return x

    one, other = (partial(same, inner=lambda: None) for _ in range(2))
    assert checksum(one) == checksum(other)
    result = once(small(), partial(random_crop, size=(3, 3)), seed=7)
    assert result.origin == "memory, random_crop(size=(3, 3)) with seed 7"


def test_the_generator_does_not_depend_on_a_setting():
    examples = once(small(), BINARIZE, meaning=data.Meaning.BINARY).test.examples
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(once(small(), BINARIZE, meaning=data.Meaning.BINARY).test.examples, examples)


@pytest.mark.slow("another type")
def test_results_are_the_same_in_double_precision(x64):
    """Indices and keys are of 32 bits."""
    result = once(small(), BINARIZE, meaning=data.Meaning.BINARY)
    np.testing.assert_array_equal(result.test.examples[3], expected(BINARIZE, 0, 2, 3))
    assert once(small(), lambda key, x: x > 3, meaning=data.Meaning.BINARY).dtype == np.uint8


@pytest.mark.slow("other transforms of the same law, with many small programs")
def test_results_keep_their_type(x64):
    assert once(small(), random_flip).dtype == np.uint8
    assert once(small(), lambda key, x: resize(x, (2, 2))).dtype == np.float32


def test_a_set_without_validation_and_an_empty_split():
    bare = small()._replace(validation=None, test=data.Split(RANDOM_SPLIT[:0]), origin="")
    result = once(bare, BINARIZE, meaning=data.Meaning.BINARY)
    assert result.validation is None
    assert result.origin == "binarize(max_value=255) with seed 0"
    assert (result.test.examples.shape, result.test.examples.dtype) == ((0, 3, 4, 1), np.uint8)


@pytest.mark.parametrize(
    ("transform", "options", "error", "message"),
    [
        ("flip", {}, TypeError, "once: transform must be a function; got str"),
        (random_flip, {"seed": -1}, ValueError, "once: seed must be at least 0; got -1"),
        (random_flip, {"seed": 2**32}, ValueError, r"once: seed must be below 2\*\*32"),
        (random_flip, {"max_value": 0}, ValueError, "^max_value must be positive"),
        (random_flip, {"max_value": np.inf}, ValueError, "^max_value must be one finite number; got inf"),
        (random_flip, {"max_value": np.ones(2)}, ValueError, "^max_value must be one finite number"),
        (random_flip, {"meaning": "grey"}, ValueError, "'grey' is not a valid Meaning"),
        (BINARIZE, {"meaning": data.Meaning.BINARY, "max_value": 255}, ValueError, "max_value must be 1 for binary"),
        (lambda key, x: None, {}, TypeError, "once: what transform returns must be an array; got NoneType"),
        (lambda key, x: x[0], {}, ValueError, r"must return shape \[1, ...\] for one example; got \(3, 4, 1\)"),
        (lambda key, x: x.sum(), {}, ValueError, r"must return shape \[1, ...\] for one example; got \(\)"),
        # The images are not what this transform thinks: seen of the first example, since tracing hides values.
        (
            partial(binarize, max_value=1),
            {"meaning": data.Meaning.BINARY},
            ValueError,
            "intensities from 0 to max_value=1",
        ),
        (
            random_flip,
            {"meaning": data.Meaning.BINARY},
            ValueError,
            r"train split must.*got whole numbers from [0-9]+ to 2",
        ),
        (
            lambda key, x: x / 2,
            {"meaning": data.Meaning.COUNTS},
            ValueError,
            "must be whole, from 0 to 255; got numbers from",
        ),
        (lambda key, x: x - 255.0, {}, ValueError, "must be from 0 to max_value=255; got .*numbers from -2"),
        (lambda key, x: x * 2.0, {}, ValueError, "must be from 0 to max_value=255; got .*numbers from"),
        (
            lambda key, x: x * np.inf,
            {"meaning": data.Meaning.REAL},
            ValueError,
            "must be finite in float32; got",
        ),
        (
            lambda key, x: x - 300.0,
            {"meaning": data.Meaning.REAL},
            ValueError,
            "must be from -255 to 255; got .*numbers from -2",
        ),
    ],
)
@pytest.mark.parametrize("lazy", LAZY)
def test_what_cannot_be_done_once_is_named(transform, options, error, message, lazy):
    if lazy and getattr(transform, "__name__", "") == "<lambda>":
        transform.__name__ = "named"
    with pytest.raises(error, match=message):
        once(small(lazy=lazy), transform, **options).train.examples[:]


def test_a_lambda_has_no_name_for_a_checksum():
    for transform in (lambda key, x: x, partial(lambda key, x, size: x, size=3)):
        assert once(small(), transform).train.examples.shape == small().train.examples.shape
        with pytest.raises(ValueError, match=r"a transform of lazy examples must have a name, .* got a lambda"):
            once(small(lazy=True), transform)


def test_a_set_may_be_made_once_while_something_is_traced():
    """As in a sweep, whose settings are traced when an experiment is built."""

    make = lambda: once(small(), partial(binarize, max_value=255), meaning=data.Meaning.BINARY).train.examples
    assert jax.jit(lambda beta: beta * jnp.sum(make()))(2.0) == 2 * make().sum()


def test_its_keys_are_none_of_a_run_with_the_same_seed():
    data_of = lambda key: tuple(np.asarray(jax.random.key_data(key)).tolist())
    shown = once(small(), lambda key, x: jax.random.key_data(key)[None], meaning=data.Meaning.COUNTS, max_value=2**32)
    keys = {tuple(row) for split in shown.splits.values() for row in split.examples.tolist()}
    seed = jax.random.key(0)
    of_a_run = [jax.random.fold_in(stream, i) for stream in jax.random.split(seed, 3) for i in range(30)]
    of_a_run += [jax.random.fold_in(jax.random.clone(seed), i) for i in range(30)]
    assert len(keys) == sum(len(split.examples) for split in shown.splits.values())
    assert not keys & {data_of(key) for key in of_a_run}


@pytest.mark.parametrize("meaning", data.Meaning)
def test_the_splits_of_an_array_are_checked_to_the_last_example(meaning):
    def transform(key, x):
        return jnp.where(x == RANDOM_SPLIT[10], jnp.nan, 1.0)

    with pytest.raises(ValueError, match=r"once: results of the train split must.*got NaN in example 10"):
        once(small(), transform, meaning=meaning)
