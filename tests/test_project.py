"""The house: who may import whom, what the public names are, and that each is documented."""

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import vaejax
from vaejax import (
    assess,
    data,
    distributions,
    evaluation,
    export,
    generation,
    making,
    nets,
    objectives,
    recipes,
    report,
    sinks,
    testing,
    training,
    writers,
)

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vaejax"

CORE = {"types", "checks", "distributions"}
# A room to the rooms it may import, and to the packages.
ROOMS = {
    "types": (set(), {"jax"}),
    "checks": ({"types"}, {"jax", "numpy"}),
    "distributions": ({"types", "checks"}, {"jax", "numpy"}),
    "objectives": (CORE, {"jax", "numpy"}),
    "testing": (CORE | {"objectives"}, {"jax"}),
    # Scores of codes are scikit-learn's, and loaded where they are asked for.
    "evaluation": (CORE | {"objectives"}, {"jax", "numpy", "scipy", "sklearn"}),
    "__init__": (CORE | {"objectives", "testing"}, set()),
    "nets": (CORE, {"jax", "flax"}),
    "data": (
        {"types", "checks", "durable", "memory"},
        {"jax", "numpy", "grain", "PIL", "tensorflow_datasets", "array_record"},
    ),
    "durable": (set(), set()),
    "strict_json": (set(), set()),
    "training": ({"types", "checks", "durable", "strict_json"}, {"jax", "numpy", "optax", "orbax"}),
    "report": ({"types", "checks"}, {"jax", "numpy", "matplotlib"}),
    "generation": ({*CORE, "data", "training"}, {"jax", "numpy", "optax", "sklearn"}),
    "settings": ({"checks", "data"}, set()),
    "experiment_files": (set(), set()),
    "experiment": (
        {*CORE, "nets", "data", "evaluation", "training", "settings", "experiment_files"},
        {"jax", "optax"},
    ),
    "writers": ({"types", "checks", "durable", "strict_json"}, {"numpy"}),
    "memory": (set(), {"jax"}),
    "compilation_cache": ({"data"}, {"jax"}),
    "folder": ({"settings", "training", "durable", "strict_json"}, set()),
    "feed": ({"types", "data", "memory", "settings", "training"}, {"jax"}),
    "drafts": ({"durable"}, set()),
    "outcome": ({*CORE, "data", "evaluation", "experiment"}, {"jax", "numpy"}),
    "pictures": ({*CORE, "evaluation", "report", "experiment", "outcome"}, {"jax", "numpy"}),
    "making": ({*CORE, "data", "experiment", "generation", "outcome"}, {"jax", "numpy"}),
    "sinks": ({"types", "checks", "data", "drafts"}, {"numpy"}),
    "export": (
        {"types", "checks", "durable", "drafts", "strict_json", "experiment", "outcome", "making"},
        {"jax", "numpy"},
    ),
    "findings": ({"folder"}, set()),
    "assess": ({*CORE, "evaluation", "experiment", "outcome", "making", "findings"}, {"jax", "numpy", "optax"}),
    "run_report": (
        {*CORE, "durable", "evaluation", "report", "experiment", "outcome", "pictures", "results", "findings"},
        {"jax", "numpy"},
    ),
    "comparison": (
        {"evaluation", "writers", "folder", "outcome", "results", "findings", "trainer"},
        {"jax", "numpy"},
    ),
    "comparison_page": ({"__init__", "comparison", "evaluation", "report"}, {"numpy", "matplotlib"}),
    "program": (
        {
            "types",
            "checks",
            "data",
            "evaluation",
            "feed",
            "objectives",
            "training",
            "settings",
            "experiment",
            "outcome",
            "memory",
        },
        {"jax"},
    ),
    "results": ({"data", "durable", "evaluation", "folder", "outcome"}, {"numpy"}),
    "trainer": ({"types", "training", "settings", "writers", "program"}, {"jax", "numpy"}),
    "run": (
        {
            "types",
            "training",
            "settings",
            "experiment",
            "memory",
            "folder",
            "findings",
            "outcome",
            "pictures",
            "program",
            "results",
            "run_report",
            "trainer",
        },
        {"jax", "numpy"},
    ),
    "data_report": ({"checks", "data", "report"}, {"numpy", "matplotlib"}),
    "sweep_report": ({"evaluation", "report"}, {"numpy"}),
    "sweep": (
        {
            "types",
            "checks",
            "data",
            "evaluation",
            "training",
            "settings",
            "experiment",
            "feed",
            "folder",
            "outcome",
            "program",
            "trainer",
            "run",
            "sweep_report",
        },
        {"jax", "numpy"},
    ),
    "stages": (
        {"types", "checks", "feed", "training", "settings", "experiment", "program"},
        {"jax", "numpy", "optax"},
    ),
    "replay": (
        {"checks", "training", "settings", "experiment", "folder", "program", "stages", "trainer", "run"},
        {"jax", "numpy"},
    ),
    "progress": ({"training", "evaluation"}, {"rich"}),
    "cli": (
        {
            "__init__",
            "assess",
            "checks",
            "compilation_cache",
            "comparison",
            "comparison_page",
            "data",
            "data_report",
            "drafts",
            "evaluation",
            "experiment",
            "experiment_files",
            "export",
            "feed",
            "findings",
            "making",
            "outcome",
            "progress",
            "replay",
            "report",
            "results",
            "run",
            "settings",
            "sinks",
            "strict_json",
            "sweep",
            "sweep_report",
            "training",
        },
        {"jax", "numpy", "shtab", "tyro"},
    ),
    "__main__": ({"cli"}, set()),
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "vaejax":
                yield from (f"vaejax.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_lower_ones_only(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    rooms, packages = ROOMS[room]
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "vaejax":
            other = rest.partition(".")[0]
            other = other if other in ROOMS else "__init__"
            assert other in rooms | {room}, f"{room} imports vaejax.{rest}"
        else:
            assert top in packages or top in sys.stdlib_module_names, f"{room} imports {name}"


def test_the_rooms_are_those_of_the_package():
    """A room that is gone leaves no rule behind."""
    assert {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")} == set(ROOMS)


def test_importing_vaejax_loads_jax_and_nothing_heavier_and_starts_no_backend():
    code = """
import sys, vaejax
vaejax.elbo
heavy = {"flax", "optax", "orbax", "matplotlib", "tensorflow", "tensorflow_datasets", "sklearn", "tyro", "rich",
         "numpyro", "chex"}
assert not heavy & {name.partition(".")[0] for name in sys.modules}, heavy & set(sys.modules)
import jax
assert not jax._src.xla_bridge.backends_are_initialized()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


PUBLIC = [
    vaejax, distributions, objectives, recipes, testing, nets, nets.heads, nets.posteriors, nets.likelihoods, data,
    training, evaluation, assess, generation, report.figures, report.latent_figures, report.page, writers, making, sinks, export,
]  # fmt: skip


def defined_names(module):
    """The public names: those of `__all__`, or its public functions."""
    functions = [name for name, value in vars(module).items() if inspect.isfunction(value) and not name.startswith("_")]
    return getattr(module, "__all__", functions)


def own_docstring(value):
    """The docstring that was written for it: Python makes one of a NamedTuple and of a dataclass itself."""
    if inspect.isclass(value) and value.__doc__ is not None:
        written = value.__dict__.get("__doc__") or ""
        return None if written.startswith(f"{value.__name__}(") else written
    return getattr(value, "__doc__", None)


def test_a_docstring_that_python_makes_is_none():
    class Point(typing.NamedTuple):
        x: int

    @dataclasses.dataclass
    class Line:
        length: int

    class Written(typing.NamedTuple):
        """A point."""

        x: int

    assert Point.__doc__
    assert Line.__doc__
    assert own_docstring(Point) is own_docstring(Line) is None
    assert own_docstring(Written) == "A point."


@pytest.mark.parametrize("module", PUBLIC, ids=lambda m: m.__name__)
def test_public_names_are_sorted_and_documented(module):
    names = defined_names(module)
    assert names
    if hasattr(module, "__all__"):
        assert names == sorted(names, key=lambda n: (not n.isupper(), n))
        assert len(set(names)) == len(names)
    for name in names:
        value = getattr(module, name)
        if inspect.ismodule(value) or inspect.isclass(value) or inspect.isfunction(value):
            assert own_docstring(value), f"{module.__name__}.{name} has no docstring"


LEADING = {"params", "state", "key"}


@pytest.mark.parametrize("module", PUBLIC, ids=lambda m: m.__name__)
def test_arguments_come_in_the_order_of_the_conventions(module):
    """Parameters or state, then the key, then the rest."""
    for name in defined_names(module):
        function = getattr(module, name)
        if inspect.isfunction(function):
            names = list(inspect.signature(function).parameters)
            if "key" in names:
                assert set(names[: names.index("key")]) <= LEADING, f"{name}{names}"


@pytest.mark.parametrize(
    "function",
    [vaejax.elbo, vaejax.negative_elbo, vaejax.autoencode, vaejax.importance_bound],
    ids=lambda function: function.__name__,
)
def test_objectives_take_hyperparameters_by_keyword(function):
    parameters = list(inspect.signature(function).parameters.values())
    assert [p.name for p in parameters[:4]] == ["key", "x", "encode", "decode"]
    assert {"num_samples", "map_samples"} <= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


FORBIDDEN = {"pickle", "eval", "exec", "allow_pickle"}


def forbidden_names(source):
    """Which of the forbidden names a file uses: as a name, a module, an import, an attribute or an argument."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        used = [getattr(node, field, None) for field in ("id", "arg", "module", "name")]
        # `jax.eval_shape` is no `eval`, and of other objects `eval` may be a method.
        parts = [part for name in used if isinstance(name, str) for part in name.split(".")]
        found |= FORBIDDEN & set(parts)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import load",
        "eval(text)",
        "import os.path, pickle as p",
        "load(allow_pickle=True)",
    ],
)
def test_a_forbidden_name_is_noticed(source):
    assert forbidden_names(source)


def test_nothing_reads_pickles_or_evaluates_text():
    for path in PACKAGE.rglob("*.py"):
        assert not forbidden_names(path.read_text()), path


def test_the_version_has_an_entry_in_the_changelog():
    assert re.search(rf"^## {re.escape(vaejax.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
