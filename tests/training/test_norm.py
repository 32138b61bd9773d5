"""The norm of a gradient."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaejax.training.norm import global_norm

TREES = {
    "odd and even": {"a": (7, 3), "b": (16, 5), "c": (48,), "d": ()},
    "one": {"a": (6, 4)},
    "empty": {"a": (0, 4), "b": (3,)},
}


def filled(shapes, key):
    return {name: jax.random.normal(jax.random.fold_in(key, i), shapes[name]) for i, name in enumerate(shapes)}


@pytest.mark.parametrize("name", TREES)
def test_it_is_the_norm_of_all_numbers_together(name, key):
    tree = filled(TREES[name], key)
    together = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)
    chex.assert_trees_all_close(global_norm(tree), np.linalg.norm(together), rtol=1e-6)
    chex.assert_trees_all_close(jax.jit(global_norm)(tree), optax.tree.norm(tree), rtol=1e-6)


def test_of_nothing_it_is_zero():
    assert global_norm(()) == 0.0


def test_it_sees_every_number():
    tree = filled(TREES["odd and even"], jax.random.key(0))
    for name, leaf in tree.items():
        for place in range(leaf.size):
            spoiled = {**tree, name: leaf.ravel().at[place].set(jnp.nan).reshape(leaf.shape)}
            assert jnp.isnan(global_norm(spoiled))


def test_of_complex_numbers_it_is_that_of_their_parts():
    chex.assert_trees_all_close(global_norm([jnp.array([3 + 4j, 0.0])]), 5.0)


def test_it_keeps_double_precision(x64, key):
    tree = filled(TREES["one"], key)
    chex.assert_trees_all_close(global_norm(tree), np.linalg.norm(np.asarray(tree["a"])), rtol=1e-14)


def test_small_floats_are_added_as_larger_ones(key):
    small = jax.random.normal(key, (4096,), jnp.bfloat16)
    chex.assert_trees_all_close(global_norm(small), np.linalg.norm(np.asarray(small, np.float64)), rtol=1e-5)


def test_members_have_norms_of_their_own(key):
    trees = filled({"a": (4, 6, 8), "b": (4, 3)}, key)
    each = [global_norm(jax.tree.map(lambda leaf, i=i: leaf[i], trees)) for i in range(4)]
    chex.assert_trees_all_close(jax.vmap(global_norm)(trees), jnp.stack(each), rtol=1e-6)
