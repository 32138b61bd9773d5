"""Schedules against their formulas, at their ends, and traced."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaejax.training import schedules

MAKERS = {
    "constant": lambda start, end, n: schedules.constant(end),
    "linear": lambda start, end, n: schedules.linear(start, end, n),
    "delayed": lambda start, end, n: schedules.linear(start, end, n, delay=n),
    "sigmoid": lambda start, end, n: schedules.sigmoid(start, end, n),
    "cyclic": lambda start, end, n: schedules.cyclic(start, end, n, ramp=0.75, num_cycles=2),
}


def values(schedule, steps):
    return np.asarray(jax.jit(jax.vmap(schedule))(np.asarray(steps)))


def test_a_line_is_that_of_optax():
    steps = np.arange(200)
    mine = values(schedules.linear(0.2, 3.0, 70, delay=30), steps)
    np.testing.assert_allclose(mine, values(optax.linear_schedule(0.2, 3.0, 70, 30), steps), rtol=1e-5)
    assert np.all(values(schedules.constant(2.5), steps) == 2.5)


def test_a_sigmoid_is_the_logistic_function_moved_and_stretched():
    steps = np.arange(0, 131)
    logistic = lambda u: 1 / (1 + np.exp(-7.0 * (u - 0.5)))
    u = np.minimum(steps / 100, 1.0)
    fraction = (logistic(u) - logistic(0.0)) / (logistic(1.0) - logistic(0.0))
    mine = values(schedules.sigmoid(4.0, 1.0, 100, steepness=7.0), steps)
    np.testing.assert_allclose(mine, 4.0 - 3.0 * fraction, rtol=1e-5)
    # Half-way at half the time, whatever the steepness.
    assert values(schedules.sigmoid(0.0, 1.0, 100, steepness=40.0), [50]) == 0.5


def test_a_cycle_is_that_of_the_paper():
    """Written out as in equation 6 and 7 of Fu et al. 2019: T steps, M cycles, R the part that rises."""
    total, cycles, part = 600, 4, 0.5
    tau = np.mod(np.arange(total), total // cycles) / (total / cycles)
    expected = np.where(tau <= part, tau / part, 1.0)
    schedule = schedules.cyclic(0.0, 1.0, total // cycles, ramp=part, num_cycles=cycles)
    np.testing.assert_allclose(values(schedule, np.arange(total)), expected, rtol=1e-6)
    assert np.all(values(schedule, np.arange(total, 2 * total)) == 1.0)
    forever = values(schedules.cyclic(0.0, 1.0, total // cycles, ramp=part), np.arange(2 * total))
    np.testing.assert_allclose(forever, np.tile(expected, 2), rtol=1e-6)


def test_a_cycle_is_exact_where_float32_no_longer_counts():
    step = 3 * 2**24 + 1  # 50,331,649, which float32 does not have
    assert schedules.cyclic(0.0, 1.0, 64, ramp=1.0)(step) == 1 / 64


def test_whole_numbers_are_exact_also_as_floats():
    """Where float32 no longer counts, and at an end beyond all steps that an integer holds."""
    large = 2**24 + 1
    periods = (110.0, np.float32(110), jnp.array(110.0))
    cyclic = partial(schedules.cyclic, 0.0, 1.0)

    @jax.jit
    def found(large, three_periods):
        endless = [cyclic(period, ramp=1.0, num_cycles=1e12)(large) for period in periods]
        ended = [cyclic(period, ramp=1.0, num_cycles=3.0)(three_periods) for period in periods]
        ends = [cyclic(1, num_cycles=float(2**24 + 1))(step) for step in (large - 1, large)]
        # What is no whole number stays as it is.
        halves = jax.vmap(cyclic(2.5, ramp=1.0, num_cycles=2))(np.arange(7))
        return endless, ended, ends, schedules.linear(0.0, 1.0, 4.0, delay=2.0**24)(large), halves

    endless, ended, ends, line, halves = jax.device_get(found(large, 330))
    np.testing.assert_allclose(endless, [(large % 110) / 110] * 3, rtol=1e-6)
    assert ended == [1.0, 1.0, 1.0]
    assert ends == [0.0, 1.0]
    assert line == 0.25
    np.testing.assert_allclose(halves, [0.0, 0.4, 0.8, 0.2, 0.6, 1.0, 1.0], rtol=1e-6)


STEPS = np.arange(101)


@jax.jit
def traced(start, end, num_steps):
    """The values of each schedule at 101 steps, with all arguments traced."""
    return {name: jax.vmap(make(start, end, num_steps))(STEPS) for name, make in MAKERS.items()}


@given(start=st.floats(-1e3, 1e3, width=32), end=st.floats(-1e3, 1e3, width=32), num_steps=st.integers(1, 50))
def test_the_ends_are_reached_and_never_left(start, end, num_steps):
    for name, found in jax.device_get(traced(start, end, num_steps)).items():
        assert np.all((found >= min(start, end)) & (found <= max(start, end))), name
        assert np.all(found[2 * num_steps :] == np.float32(end)), name
        rising = found[:num_steps] if name == "cyclic" else found
        assert np.all(np.diff(rising) * np.sign(end - start) >= 0), name
        if name != "constant":
            assert found[0] == np.float32(start), name


@pytest.mark.parametrize("name", MAKERS)
def test_steps_and_arguments_may_be_traced(name):
    expected = traced(0.5, 2.0, 10)[name]
    for step in (0, 3, 10, 25):
        value = MAKERS[name](0.5, 2.0, 10)(step)
        np.testing.assert_allclose(value, expected[step], rtol=1e-6)
        assert value.dtype == jnp.float32
        assert value.shape == ()


def test_values_stay_float32_in_double_precision(x64):
    double, steps = jax.ShapeDtypeStruct((), jnp.float64), jax.ShapeDtypeStruct((), jnp.int64)
    for make in MAKERS.values():
        value = jax.eval_shape(lambda start, end, step: make(start, end, 10)(step), double, double, steps)  # noqa: B023
        assert value.dtype == jnp.float32


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.constant("1"), TypeError, "constant: value must be an array; got str"),
        (lambda: schedules.linear(None, 1.0, 5), TypeError, "linear: start must be an array"),
        (lambda: schedules.linear(0.0, 1.0, 0), ValueError, "linear: num_steps must be positive"),
        (lambda: schedules.linear(0.0, 1.0, 5, delay=-1), ValueError, "linear: delay must be at least 0"),
        (lambda: schedules.sigmoid(0.0, 1.0, -5), ValueError, "sigmoid: num_steps must be positive"),
        (lambda: schedules.sigmoid(0.0, 1.0, 5, steepness=0), ValueError, "sigmoid: steepness must be positive"),
        (lambda: schedules.cyclic(0.0, 1.0, 0), ValueError, "cyclic: period must be positive"),
        (lambda: schedules.cyclic(0.0, 1.0, 5, ramp=0.0), ValueError, "cyclic: ramp must be positive"),
        (lambda: schedules.cyclic(0.0, 1.0, 5, ramp=1.5), ValueError, "cyclic: ramp must be at most 1.*got 1.5"),
        (lambda: schedules.cyclic(0.0, 1.0, 5, num_cycles=0), ValueError, "cyclic: num_cycles must be positive"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
