"""Parameters for tests that need some, and not those that `init` draws."""

import jax
import numpy as np


def random_params(model, scale=0.5):
    """Normal numbers of the shapes that `model.init` gives.

    They compile nothing: the program that draws initial parameters often takes longer to compile than what is tested.
    None of them is zero, as an initial offset is, where a wrong one would not be seen.
    """
    random = np.random.default_rng(0)
    number = lambda leaf: (scale * random.standard_normal(leaf.shape)).astype(leaf.dtype)
    return jax.tree.map(number, jax.eval_shape(model.init, jax.random.key(0)))
