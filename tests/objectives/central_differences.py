"""Gradients against central differences, in one compiled program."""

import jax
import jax.numpy as jnp
import numpy as np

# The error of a central difference is of the order of its square, and rounding 1e-16 over it.
STEP = 1e-5


def slopes(functions, *arguments):
    """The slopes of functions to `[]` by name, in a random direction of all their arguments, in double precision.

    A dict of pairs: by the gradient, and by a central difference.
    """
    random = np.random.default_rng(0)
    direction = jax.tree.map(lambda leaf: random.normal(size=np.shape(leaf)), arguments)

    @jax.jit
    def pairs(arguments):
        move = lambda step: jax.tree.map(lambda leaf, along: leaf + step * along, arguments, direction)
        values = lambda step: {name: function(*move(step)) for name, function in functions.items()}
        # One after the other, so that the functions are compiled once.
        moved = jax.lax.map(values, np.array([STEP, -STEP]))

        def slope(function):
            gradient = jax.grad(lambda arguments: function(*arguments))(arguments)
            return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, direction)))

        differences = {name: (ahead - behind) / (2 * STEP) for name, (ahead, behind) in moved.items()}
        return {name: (slope(function), differences[name]) for name, function in functions.items()}

    return pairs(jax.tree.map(np.float64, arguments))


def check_slopes(by_gradient, by_difference):
    """Asserts that both are the same, and in double precision."""
    assert by_gradient.dtype == np.float64
    np.testing.assert_allclose(by_gradient, by_difference, rtol=1e-5, atol=1e-6)


def check_gradients(function, *arguments):
    """Asserts that the gradient of a function to `[]`, to all its arguments, is right in a random direction."""
    check_slopes(*slopes({"": function}, *arguments)[""])
