"""Uniform draws from both words of a hash."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import KeyReuseError
from scipy import stats

from vaejax.data.draws import uniform


def test_they_are_the_words_of_the_published_generator():
    """Known answers of Threefry-2x32-20: counter and key of zeros, and of ones (Random123, kat_vectors)."""
    words = jax.jit(lambda data: uniform(jax.random.wrap_key_data(data), (1, 2)))(np.zeros(2, np.uint32))
    chex.assert_trees_all_equal(words[0], np.float32([0x6B200159 >> 9, 0x99BA4EFE >> 9]) / 2**23)


@pytest.mark.parametrize("shape", [(784,), (3, 784), (2, 3, 7), (5, 1), (1,), (0, 4), (4, 0)])
def test_their_shape_is_what_was_asked_for(key, shape):
    draws = jax.eval_shape(lambda: uniform(key, shape))
    assert (draws.shape, draws.dtype) == (shape, jnp.float32)


def test_they_are_uniform_and_independent(key):
    draws = np.asarray(jax.jit(lambda key: uniform(key, (400, 501)))(key), np.float64)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 1e-3
    normal = stats.norm.ppf(np.clip(draws, 1e-9, None))
    for first, second in [
        (normal[:, :250], normal[:, 251:]),
        (normal[:, :-1], normal[:, 1:]),
        (normal[:-1], normal[1:]),
    ]:
        correlation = np.mean(first * second)
        assert abs(correlation) < 4 / np.sqrt(first.size)


def test_no_two_rows_or_columns_are_the_same(key):
    draws = np.asarray(jax.jit(lambda key: uniform(key, (50, 60)))(key))
    # Of 3,000 draws of 2^23 values, half a pair is expected.
    assert len(np.unique(draws)) > draws.size - 8


def test_a_key_may_be_used_once(key):
    uniform(key, (3,))
    with pytest.raises(KeyReuseError):
        uniform(key, (3,))


def test_keys_may_be_mapped_over(key):
    keys, draw = jax.random.split(key, 4), lambda key: uniform(key, (9,))
    together, compiled = np.asarray(jax.jit(jax.vmap(draw))(keys)), jax.jit(draw)
    np.testing.assert_array_equal(together, [compiled(each) for each in keys])
    assert len(np.unique(together)) == together.size


def test_other_generators_draw_as_jax_does():
    key = jax.random.key(3, impl="rbg")
    chex.assert_trees_all_equal(uniform(key, (4, 6)), jax.random.uniform(jax.random.key(3, impl="rbg"), (4, 6)))
