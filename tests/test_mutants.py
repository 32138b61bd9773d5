"""The list of mutants: each still applies, gives a program, and names a test that exists."""

import ast
import collections
from functools import cache

import pytest

from tests import mutants

MUTANTS = mutants.read()


def test_there_are_enough_of_them_and_each_has_a_name_of_its_own():
    assert len(MUTANTS) >= 80
    assert [bug for bug, count in collections.Counter(mutant.bug for mutant in MUTANTS).items() if count > 1] == []


@cache
def names_in(path):
    return {node.name for node in ast.parse((mutants.ROOT / path).read_text()).body if hasattr(node, "name")}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.bug)
def test_a_mutant_applies_and_names_a_test(mutant):
    mutated = mutant.mutated(mutants.ROOT)
    if mutant.file != "README.md":
        assert mutant.file.startswith(("vaejax/", "experiments/"))
        ast.parse(mutated)
    path, _, name = mutant.test.partition("::")
    assert name.partition("[")[0].partition("::")[0] in names_in(path)
