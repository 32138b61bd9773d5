"""Which cases of a parametrized test are in the fast tier."""

import pytest


def slow_but(fast, cases, reason):
    """The cases as parameters of a test: those in `fast` are in the fast tier, the others are slow for a reason."""
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow(reason)) for case in cases]


def tier_of(name, names, fast):
    """All names in the tier of one of them, in order: for results of a tier that one program computes."""
    return tuple(each for each in names if (each in fast) == (name in fast))
