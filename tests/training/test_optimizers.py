"""Optimizers and learning rates by name, against optax called by hand."""

import functools

import chex
import jax
import numpy as np
import optax
import pytest

from tests.tiers import slow_but, tier_of
from vaejax.training.optimizers import _OPTIMIZERS, learning_rate_schedule, make_optimizer

PARAMS = {"w": np.array([1.0, -2.0, 3.0], np.float32), "b": np.float32(0.5)}
GRADIENT = {"w": np.array([3.0, 0.0, -4.0], np.float32), "b": np.float32(12.0)}  # of norm 13
# Each schedule by name, what optax would be told by hand for a rate of 0.1 and 100 steps of which 20 warm up, and
# what else it asks for.
SCHEDULES = {
    "constant": (optax.constant_schedule(0.1), {}),
    "cosine_decay": (optax.cosine_decay_schedule(0.1, 80), {}),
    "cosine_decay_schedule": (optax.cosine_decay_schedule(0.1, 80, alpha=0.2), {"alpha": 0.2}),
    "linear": (optax.linear_schedule(0.1, 0.0, 80), {}),
    "linear_schedule": (optax.linear_schedule(0.1, 0.03, 80), {"end_value": 0.03}),
    "polynomial": (optax.polynomial_schedule(0.1, 0.0, 2, 80), {"power": 2}),
    "exponential_decay": (optax.exponential_decay(0.1, 80, 0.5), {"decay_rate": 0.5}),
    "piecewise_constant": (
        optax.piecewise_constant_schedule(0.1, {40: 0.5}), {"boundaries_and_scales": {40: 0.5}}
    ),
    "cosine_onecycle": (optax.cosine_onecycle_schedule(80, 0.1), {}),
    "linear_onecycle": (optax.linear_onecycle_schedule(80, 0.1), {}),
}  # fmt: skip
WARM_UPS = {
    "warmup_constant": (optax.warmup_constant_schedule(0.005, 0.1, 20), {}),
    "warmup_cosine_decay": (optax.warmup_cosine_decay_schedule(0.005, 0.1, 20, 100), {}),
    "warmup_cosine_decay_schedule": (optax.warmup_cosine_decay_schedule(0.0, 0.1, 20, 100), {"init_value": 0.0}),
    "warmup_exponential_decay": (
        optax.warmup_exponential_decay_schedule(0.005, 0.1, 20, 80, 0.5), {"decay_rate": 0.5}
    ),
}  # fmt: skip


def rates(schedule, steps=100):
    return np.asarray(jax.jit(jax.vmap(schedule))(np.arange(steps)))


FAST = ("cosine_decay", "linear_schedule", "piecewise_constant", "warmup_cosine_decay")
OTHER = "other schedules of the same law"


def rates_of(name):
    """The rates of a schedule by name and by hand."""
    return all_rates(tier_of(name, SCHEDULES | WARM_UPS, FAST))[name]


@functools.cache
def all_rates(names):
    """Those of several schedules, in one program."""

    def rates(name, num_steps, steps, **options):
        return jax.vmap(learning_rate_schedule(name, 0.1, num_steps=num_steps, **options))(np.arange(steps))

    @jax.jit
    def compute():
        found = {}
        for name in (each for each in names if each in SCHEDULES):
            by_hand, options = SCHEDULES[name]
            found[name] = {
                "warmed up": rates(name, 100, 100, warm_up_steps=20, **options),
                "plain": rates(name, 80, 80, **options),
                "longer": rates(name, 180, 180, warm_up_steps=100, **options),
                "by hand": jax.vmap(by_hand)(np.arange(80)),
            }
        for name in (each for each in names if each in WARM_UPS):
            by_hand, options = WARM_UPS[name]
            warmed_up = rates(name, 100, 100, warm_up_steps=20, **options)
            found[name] = {"warmed up": warmed_up, "by hand": jax.vmap(by_hand)(np.arange(100))}
        return found

    return jax.device_get(compute())


def updates(optimizer, steps=3):
    """What an optimizer makes of the same gradient again and again."""

    @jax.jit
    def compute(params, gradient):
        state, found = optimizer.init(params), []
        for _ in range(steps):
            update, state = optimizer.update(gradient, state, params)
            found.append(update)
        return found

    return compute(PARAMS, GRADIENT)


def program(optimizer):
    """What an optimizer does in a step, as text: equal programs make equal updates."""

    def step(params, gradient):
        return optimizer.update(gradient, optimizer.init(params), params)

    return str(jax.make_jaxpr(step)(PARAMS, GRADIENT))


@pytest.mark.parametrize("name", slow_but(FAST, SCHEDULES, OTHER))
def test_a_schedule_by_name_is_that_of_optax_after_a_line(name):
    found = rates_of(name)
    first = found["by hand"][0]
    np.testing.assert_allclose(found["warmed up"][:20], first * np.arange(1, 21) / 20, rtol=1e-5)
    np.testing.assert_allclose(found["warmed up"][20:], found["by hand"], rtol=1e-5)


@pytest.mark.parametrize("name", slow_but(["cosine_decay"], SCHEDULES, OTHER))
def test_a_schedule_takes_a_number_and_a_traced_step(name):
    schedule = learning_rate_schedule(name, 0.1, num_steps=100, warm_up_steps=20, **SCHEDULES[name][1])
    np.testing.assert_allclose(schedule(50), rates_of(name)["warmed up"][50], rtol=1e-5)


@pytest.mark.parametrize("name", slow_but(FAST, SCHEDULES, OTHER))
def test_without_warm_up_it_is_that_of_optax(name):
    found = rates_of(name)
    np.testing.assert_allclose(found["plain"], found["by hand"], rtol=1e-5)
    np.testing.assert_allclose(found["plain"], found["longer"][100:], rtol=1e-5)


@pytest.mark.parametrize("name", slow_but(FAST, WARM_UPS, OTHER))
def test_a_schedule_that_warms_up_does_it_once(name):
    found = rates_of(name)["warmed up"]
    np.testing.assert_allclose(found, rates_of(name)["by hand"], rtol=1e-5)
    assert found.max() == pytest.approx(0.1)
    assert (found[0] > 0) == ("init_value" not in WARM_UPS[name][1])


@pytest.mark.parametrize("name", [name for name, (_, options) in WARM_UPS.items() if "init_value" not in options])
def test_a_schedule_that_warms_up_starts_at_its_rate_where_there_is_no_warm_up(name):
    assert learning_rate_schedule(name, 0.1, num_steps=100, **WARM_UPS[name][1])(0) == pytest.approx(0.1)


def test_a_function_of_the_step_is_used_as_it_is():
    given = lambda step: 0.5 / (step + 2)
    assert learning_rate_schedule(given, None) is given
    warmed = learning_rate_schedule(given, None, num_steps=100, warm_up_steps=4)
    np.testing.assert_allclose(rates(warmed, 6), [0.0625, 0.125, 0.1875, 0.25, 0.25, 0.5 / 3], rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lion", "rmsprop", "adafactor"])
def test_an_optimizer_by_name_is_that_of_optax(name):
    by_hand, mine = getattr(optax, name)(0.1), make_optimizer(0.1, optimizer=name)
    assert program(mine) == program(by_hand)
    chex.assert_trees_all_equal_structs(*(jax.eval_shape(each.init, PARAMS) for each in (mine, by_hand)))


@pytest.mark.slow("the numbers of programs that are equal as text")
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lion", "rmsprop", "adafactor"])
def test_its_updates_are_those_of_optax(name):
    chex.assert_trees_all_equal(updates(make_optimizer(0.1, optimizer=name)), updates(getattr(optax, name)(0.1)))


def test_options_and_functions_reach_the_optimizer():
    options = {"b1": 0.7, "weight_decay": 0.3}
    by_hand = program(optax.adamw(0.1, **options))
    assert program(optax.adamw(0.1)) != by_hand
    assert program(make_optimizer(0.1, optimizer="adamw", **options)) == by_hand
    assert program(make_optimizer(0.1, optimizer=optax.adamw, **options)) == by_hand
    assert program(make_optimizer(0.1, optimizer=lambda rate: optax.adamw(rate, **options))) == by_hand


def test_the_gradient_is_clipped_before_the_optimizer_sees_it():
    sgd = lambda norm: make_optimizer(1.0, optimizer="sgd", clip_norm=norm)
    chex.assert_trees_all_close(updates(sgd(1.0), 1)[0], jax.tree.map(lambda g: -g / 13, GRADIENT), rtol=1e-6)
    chex.assert_trees_all_equal(updates(sgd(14.0), 1)[0], jax.tree.map(np.negative, GRADIENT))
    # Adam after clipping moves as far as without, which clipping after Adam would not.
    adam = make_optimizer(0.1, clip_norm=1e-3)
    chex.assert_trees_all_close(updates(adam, 1), updates(optax.adam(0.1), 1), rtol=1e-4, atol=1e-7)


def test_a_gradient_whose_squares_overflow_is_clipped_and_not_zeroed():
    clip = make_optimizer(1.0, optimizer="sgd", clip_norm=2.0)
    update = lambda gradient: clip.update(gradient, clip.init(gradient))[0]
    found = jax.jit(update)(np.full(4, 1e20, np.float32))
    chex.assert_trees_all_close(found, np.full(4, -1.0, np.float32), rtol=1e-6)


def test_schedule_warm_up_and_clipping_together():
    mine = make_optimizer(
        0.1, num_steps=10, optimizer="sgd", schedule="polynomial", warm_up_steps=2, clip_norm=1.3,
        schedule_options={"power": 2},
    )  # fmt: skip
    expected = [0.05, 0.1, 0.1, 0.1 * (7 / 8) ** 2, 0.1 * (6 / 8) ** 2]
    for update, rate in zip(updates(mine, 5), expected, strict=True):
        chex.assert_trees_all_close(update, jax.tree.map(lambda g: -rate * g / 10, GRADIENT), rtol=1e-5)  # noqa: B023


def test_rate_and_norm_may_be_traced():
    def first(rate, norm):
        return updates(make_optimizer(rate, clip_norm=norm, optimizer="sgd"), 1)[0]

    swept = jax.jit(jax.vmap(first))(np.array([0.1, 0.3]), np.array([1.0, 2.0]))
    for i, scale in enumerate((0.1 * 1 / 13, 0.3 * 2 / 13)):
        one = jax.tree.map(lambda leaf: np.asarray(leaf)[i], swept)  # noqa: B023
        chex.assert_trees_all_close(one, jax.tree.map(lambda g: -scale * g, GRADIENT), rtol=1e-6)  # noqa: B023

    def scheduled(rate):
        return updates(make_optimizer(rate, num_steps=9, schedule="cosine_decay", warm_up_steps=1))[-1]

    chex.assert_trees_all_close(jax.jit(scheduled)(0.1), scheduled(0.1), rtol=1e-5)


def test_a_schedule_with_rates_of_its_own_does_not_read_the_rate():
    cycles = [{"init_value": 0.1, "peak_value": 1.0, "decay_steps": 5, "warmup_steps": 2, "end_value": 0.0}] * 2
    schedules = [learning_rate_schedule("sgdr", rate, cosine_kwargs=cycles) for rate in (None, 0.3)]
    *mine, by_hand = jax.jit(jax.vmap(lambda step: [each(step) for each in (*schedules, optax.sgdr_schedule(cycles))]))(
        np.arange(12)
    )
    for rates in mine:
        np.testing.assert_array_equal(rates, by_hand)


def named(name):
    return make_optimizer(0.1, optimizer=name, **({"key": 0} if name == "noisy_sgd" else {}))


def first_update(optimizer):
    return lambda gradient, params: optimizer.update(gradient, optimizer.init(params), params)[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Specifying a key")
def test_every_optimizer_that_has_a_name_makes_a_step():
    """Or says at once that it wants more than a gradient, whose like a step does not have."""
    refused = []
    for name in _OPTIMIZERS:
        try:
            assert jax.eval_shape(first_update(named(name)), GRADIENT["w"], PARAMS["w"]).shape == (3,)
        except TypeError as error:
            refused.append(name)
            assert str(error).startswith(f"optimizer '{name}' needs more than the gradient of a step")  # noqa: PT017
    assert refused == ["lbfgs"]


@pytest.mark.slow("compiles a program for every optimizer of optax")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Specifying a key")
@pytest.mark.parametrize("name", [name for name in _OPTIMIZERS if name != "lbfgs"])
def test_the_step_of_every_optimizer_that_has_a_name_is_finite(name):
    assert np.all(np.isfinite(jax.jit(first_update(named(name)))(GRADIENT["w"], PARAMS["w"])))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": "adamv"}, ValueError, r"optimizer must.*got 'adamv': did you mean 'adam"),
        ({"optimizer": "scale_by_rprop"}, ValueError, "got 'scale_by_rprop': did you mean 'rprop'"),
        ({"optimizer": 3}, TypeError, r"optimizer must.*got int"),
        ({"optimizer": "sgd", "b1": 0.9}, TypeError, "optimizer 'sgd' has no option b1; it has momentum, nesterov"),
        ({"optimizer": lambda rate: rate}, TypeError, "must make an optax.GradientTransformation; got float"),
        ({"optimizer": "sm3", "warm_up_steps": 2}, TypeError, "'sm3' could not be made with a schedule as its rate"),
        ({"schedule": "cosine"}, ValueError, r"schedule must.*got 'cosine': did you mean 'cosine_decay'"),
        ({"schedule": "join_schedules"}, ValueError, "schedule must be one of"),
        ({"schedule": "cosine_decay"}, TypeError, r"schedule 'cosine_decay' needs decay_steps \(num_steps gives it\)"),
        ({"schedule": "exponential_decay", "num_steps": 9}, TypeError, "'exponential_decay' needs decay_rate$"),
        ({"schedule": "linear", "num_steps": 9, "schedule_options": {"end": 0.1}}, TypeError,
         "schedule 'linear' has no option end; it has init_value, end_value"),
        ({"schedule": "linear", "num_steps": 9, "schedule_options": {"init_value": 0.1}}, TypeError,
         "schedule 'linear': init_value is learning_rate here and no option"),
        ({"schedule": "warmup_constant", "schedule_options": {"warmup_steps": 4}}, TypeError,
         "warmup_steps is warm_up_steps here and no option"),
        ({"schedule": lambda step: 0.1, "schedule_options": {"power": 2}}, TypeError, "schedules by name; got power"),
        ({"warm_up_steps": 9, "num_steps": 9}, ValueError, "warm_up_steps must be less than num_steps, 9; got 9"),
        ({"warm_up_steps": -1}, ValueError, "warm_up_steps must be at least 0"),
        ({"clip_norm": -1.0}, ValueError, "clip_norm must be at least 0"),
        ({"learning_rate": -0.1}, ValueError, "learning_rate must be at least 0"),
        ({"learning_rate": None}, TypeError, "learning_rate must be an array; got NoneType"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(options, error, message):
    with pytest.raises(error, match=message):
        make_optimizer(**{"learning_rate": 0.1, **options})
