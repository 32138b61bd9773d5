"""Parameters for tests of nets that need some, and not those that `init` draws."""

import jax
import numpy as np
import pytest


@pytest.fixture
def random_params():
    """A function from a model to Normal numbers of the shapes that its `init` has, which compiles nothing."""

    def draw(model, scale=0.5):
        random = np.random.default_rng(0)
        number = lambda leaf: (scale * random.standard_normal(leaf.shape)).astype(leaf.dtype)
        return jax.tree.map(number, jax.eval_shape(model.init, jax.random.key(0)))

    return draw
