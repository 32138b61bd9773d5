"""The norm of a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaejax.training.norm import global_norm

TREES = {
    "odd and even": {"a": (7, 3), "b": (16, 5), "c": (48,), "d": ()},
    "one": {"a": (6, 4)},
    "empty": {"a": (0, 4), "b": (3,)},
}
norm = jax.jit(global_norm)
norms = jax.jit(jax.vmap(global_norm))


def filled(shapes, dtype=np.float32):
    normal = np.random.default_rng(0).normal
    return {name: normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def test_it_is_the_norm_of_all_numbers_together():
    trees = {name: filled(shapes) for name, shapes in TREES.items()}
    of_each = lambda norm: lambda trees: {name: norm(tree) for name, tree in trees.items()}
    mine, optaxs = jax.jit(of_each(global_norm))(trees), jax.jit(of_each(optax.tree.norm))(trees)
    for name, tree in trees.items():
        together = np.concatenate([np.ravel(leaf) for leaf in tree.values()]).astype(np.float64)
        np.testing.assert_allclose(mine[name], np.linalg.norm(together), rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(mine[name], optaxs[name], rtol=1e-6, err_msg=name)


def test_of_nothing_it_is_zero():
    assert global_norm(()) == 0.0


def test_it_sees_every_number():
    """Of as many copies as the tree has numbers, each has its NaN in another place."""
    tree = filled(TREES["odd and even"])
    total = sum(leaf.size for leaf in tree.values())
    spoiled, done = {}, 0
    for name, leaf in tree.items():
        spoiled[name] = np.tile(leaf.ravel(), (total, 1))
        spoiled[name][done + np.arange(leaf.size), np.arange(leaf.size)] = np.nan
        spoiled[name] = spoiled[name].reshape(total, *leaf.shape)
        done += leaf.size
    found = norms(spoiled)
    assert found.shape == (150,)
    assert np.all(np.isnan(found))


def test_of_complex_numbers_it_is_that_of_their_parts():
    np.testing.assert_allclose(norm([np.array([3 + 4j, 0.0], np.complex64)]), 5.0, rtol=1e-6)


def test_it_keeps_double_precision(x64):
    tree = filled(TREES["one"], np.float64)
    np.testing.assert_allclose(norm(tree), np.linalg.norm(tree["a"]), rtol=1e-14)


def test_small_floats_are_added_as_larger_ones():
    small = filled({"a": (4096,)}, jnp.bfloat16)["a"]
    np.testing.assert_allclose(norm(small), np.linalg.norm(small.astype(np.float64)), rtol=1e-5)


def test_members_have_norms_of_their_own():
    trees = filled({"a": (4, 6, 8), "b": (4, 3)})
    expected = [np.sqrt(sum(np.sum(leaf[i].astype(np.float64) ** 2) for leaf in trees.values())) for i in range(4)]
    np.testing.assert_allclose(norms(trees), expected, rtol=1e-6)


def test_squares_do_not_overflow():
    """Beside numbers whose squares do; what is infinite itself stays so."""
    trees = {"a": np.float32([[1e20] * 4, [1.0] * 4, [3e38, 0, 0, 0], [np.inf, 0, 0, 0]])}
    np.testing.assert_allclose(norms(trees), [2e20, 2.0, 3e38, np.inf], rtol=1e-6)
