"""Early stopping, against sequences worked out by hand."""

import json
import math

import pytest

from vaejax.training.stopping import Stopping, init_stopping, should_stop, update_stopping

NAN, INF = math.nan, math.inf


def after(values, **options):
    """The states after values at steps 10, 20, 30, ..."""
    states = [init_stopping()]
    for i, value in enumerate(values):
        states.append(update_stopping(states[-1], 10 * (i + 1), value, **options))
    return states[1:]


@pytest.mark.parametrize(
    ("values", "options", "best", "best_step", "num_worse"),
    [
        ([5.0, 4.0, 3.0], {}, 3.0, 30, 0),
        ([5.0, 4.0, 4.5, 4.0], {}, 4.0, 20, 2),  # as good is no better
        ([5.0, 6.0, 6.0, 4.0], {}, 4.0, 40, 0),  # one better value takes back the worse ones
        ([-1.0, -2.0, -1.5], {}, -2.0, 20, 1),
        ([5.0, 4.5, 4.0, 3.5], {"min_delta": 1.0}, 3.5, 40, 0),  # 4.0 is no more than 1.0 better, 3.5 is
        ([5.0, 4.5, 4.0], {"min_delta": 1.0}, 5.0, 10, 2),
        ([NAN, 5.0, NAN, NAN], {}, 5.0, 20, 2),
        ([NAN, NAN], {}, None, 0, 2),
        ([-INF, INF, 2.0, -INF], {}, 2.0, 30, 1),
        ([1.0, 2.0, 3.0], {"warm_up": 40}, 1.0, 10, 0),
        ([1.0, 2.0, 3.0], {"warm_up": 30}, 3.0, 30, 0),  # the best of the warm-up is forgotten
        ([1.0, 2.0, 3.0, 4.0, 2.5, 2.7], {"warm_up": 25}, 2.5, 50, 1),
        ([1.0, 2.0, NAN, NAN], {"warm_up": 30}, None, 0, 2),
        ([1.0, 2.0, NAN, 9.0], {"warm_up": 30}, 9.0, 40, 0),
        ([NAN, NAN], {"warm_up": 30}, None, 0, 0),
    ],
)
def test_sequences_by_hand(values, options, best, best_step, num_worse):
    assert after(values, **options)[-1] == Stopping(best, best_step, num_worse)


def test_it_stops_after_as_many_worse_values_as_patience_says():
    stops = [should_stop(state, patience=3) for state in after([3.0, 2.0, 2.5, 2.5, 1.9, 4.0, NAN, 2.0, 5.0])]
    assert stops == [False] * 7 + [True, True]
    assert not should_stop(init_stopping(), patience=1)


def test_a_state_survives_strict_json_in_the_middle_of_a_run():
    values, state = [NAN, 3.0, INF, 2.0, 2.5, 2.6], init_stopping()
    for i, value in enumerate(values):
        state = Stopping(*json.loads(json.dumps(state, allow_nan=False)))
        state = update_stopping(state, 10 * (i + 1), value)
        assert [type(each) for each in state[1:]] == [int, int]
    assert state == after(values)[-1] == Stopping(2.0, 40, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: update_stopping(s, 1.5, 2.0), TypeError, "update_stopping: step must be an integer"),
        (lambda s: update_stopping(s, -1, 2.0), ValueError, "update_stopping: step must be at least 0"),
        (lambda s: update_stopping(s, 1, "low"), TypeError, "update_stopping: value must be an array; got str"),
        (lambda s: update_stopping(s, 1, 2.0, min_delta=-1.0), ValueError, "min_delta must be at least 0"),
        (lambda s: update_stopping(s, 1, 2.0, warm_up=-1), ValueError, "warm_up must be at least 0"),
        (lambda s: should_stop(s, 0), ValueError, "should_stop: patience must be at least 1"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(init_stopping())
