"""Tables that are reproduced: what is run, what is kept, what is said of it, and the recipe of the paper."""

import dataclasses
import doctest
import functools
import itertools
import json
import math
import os
import signal
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import pytest
from scipy import special

from experiments.reproduce import __main__ as command
from experiments.reproduce import measures, page, records, tables, work
from tests.conftest import patch_pictures
from tests.parameters import random_params
from vaejax import cli, data, experiment, kl_divergence, run
from vaejax.findings import read_findings
from vaejax.settings import Precision

ROOT = Path(__file__).parent.parent

tiny = experiment.load_experiment(str(Path(__file__).with_name("tiny.py")))
two_layers = experiment.load_experiment(str(ROOT / "experiments" / "mnist_iwae_two_layers.py"))
mnist_iwae = two_layers.mnist_iwae

SIZE = tables.Size("here", {"epochs": 2}, goals={"wide": 20.0}, num_seeds=2, num_examples=8, num_samples=50)
WATCHED = SIZE._replace(settings={"epochs": 3, "training": {"validation_size": 8}})
HIDDEN = {"hidden_sizes": (4,)}
TABLE = tables.Table(
    "Tiny tables",
    "Nobody 2015",
    "as it was",
    {
        "wide": tables.Row("three latents", tiny.__file__, HIDDEN, 9.0, "Table 9"),
        "narrow": tables.Row("one latent", tiny.__file__, {**HIDDEN, "latent_size": 1}),
    },
    {"quick": SIZE, "together": SIZE._replace(together=True)},
    [tables.Claim("wide", "narrow"), tables.Claim("narrow", "wide", strict=False)],
)
WHOLE = pytest.mark.slow("trains every row of a table")
RECIPE = pytest.mark.slow("a table's recipe")

ENVIRONMENT = {"versions": {}, "python": "3", "device": "cpu", "processor": "p", "cores": 1, "commit": "c", "date": "2026-01-01"}  # fmt: skip
# As a trained seed is kept.
MADE = records.EXAMPLE._replace(
    value=13.0, negative_elbo=14.0, data={"name": "tiny", "sha256": "ab"}, environment=ENVIRONMENT
)


class Place:
    """A folder in which the table is reproduced."""

    def __init__(self, folder):
        self.folder, self.page = folder, folder / "RESULTS.md"

    def run(self, *words, table=TABLE):
        places = ["--runs", self.folder / "runs", "--results", self.folder / "results", "--page", self.page]
        return command.main([*words, *map(str, places)], {"tiny": table})

    def kept(self, size="quick"):
        return records.read_records(records.path_of("tiny", size, self.folder / "results"))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture(scope="module")
def trained_seed(tmp_path_factory):
    """Seed 1 of the row `wide`, trained and measured: what was measured, and its record."""
    taken, likelihood = [], measures.MEASURES["likelihood"]
    measure = likelihood._replace(take=lambda size, trained: taken.append(trained) or likelihood.take(size, trained))
    with pytest.MonkeyPatch.context() as patch:
        patch_pictures(patch)
        ((seed, record),) = work.run_row(TABLE.rows["wide"], WATCHED, measure, [1], tmp_path_factory.mktemp("runs"))
    assert seed == taken[0].seed == 1
    return taken[0], record


def without_training(monkeypatch):
    """`work.run_row` gives a record without training, with the settings of each seed and a value of its own."""

    def run_row(row, size, measure, seeds, folder):
        for seed in seeds:
            settings = work.settings_of(row, size, tiny, seed)
            value = MADE.value + 0.25 * seed - 0.5 * settings.latent_size
            made = MADE._replace(value=value, settings=work.identity(settings))
            yield seed, made._replace(num_examples=size.num_examples, num_samples=size.num_samples)

    monkeypatch.setattr(work, "run_row", run_row)


@pytest.fixture
def untrained(monkeypatch):
    """Rows are kept without being trained, and pictures are not drawn."""
    without_training(monkeypatch)
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, path: Path(path).touch())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All rows of the table, kept without being trained."""
    place = Place(tmp_path_factory.mktemp("done"))
    with pytest.MonkeyPatch.context() as patch:
        without_training(patch)
        assert place.run("tiny") == 0
    return place


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All rows of the table, run."""
    place = Place(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch_pictures(patch)
        assert place.run("tiny") == 0
    return place


def lasting(record):
    """What two runs of the same must agree in."""
    return record._replace(train_seconds=0.0, measure_seconds=0.0, environment={})


def check_all_that_made_it_is_kept(record, seed, latent_size, epochs):
    assert record.settings["seed"] == seed
    assert record.settings["latent_size"] == latent_size
    assert record.settings["epochs"] == epochs
    assert "running" not in record.settings
    assert (record.num_examples, record.num_samples) == (8, 50)
    assert record.data["name"] == "tiny"
    assert len(record.data["sha256"]) == 64
    assert record.environment["versions"]["jax"] == jax.__version__
    assert {"commit", "date", "device", "processor", "python"} <= set(record.environment)
    assert len(record.experiment["sha256"]) == 64
    assert 5.0 < record.value < record.negative_elbo < 20.0


@pytest.mark.slow("trains a seed")
def test_a_trained_seed_is_kept_with_all_that_made_it(trained_seed):
    trained, record = trained_seed
    check_all_that_made_it_is_kept(record, seed=1, latent_size=3, epochs=3)
    assert record.negative_elbo == pytest.approx(trained.measured.figures["negative_elbo"].mean(dtype=np.float64))
    assert record.experiment["name"] == tiny.__file__
    assert record.measure_seconds > 0


def test_every_seed_of_every_row_is_kept(done):
    kept = done.kept()
    assert {row: sorted(seeds) for row, seeds in kept.items()} == {"wide": [0, 1], "narrow": [0, 1]}
    for row, seeds in kept.items():
        for seed, record in seeds.items():
            assert record.settings["seed"] == seed
            assert record.settings["latent_size"] == (3 if row == "wide" else 1)


@WHOLE
def test_every_trained_seed_of_every_row_is_kept_with_all_that_made_it(whole):
    kept = whole.kept()
    assert {row: sorted(seeds) for row, seeds in kept.items()} == {"wide": [0, 1], "narrow": [0, 1]}
    for row, seeds in kept.items():
        for seed, record in seeds.items():
            check_all_that_made_it_is_kept(record, seed, latent_size=3 if row == "wide" else 1, epochs=2)


def test_what_is_kept_is_not_run_again(done, monkeypatch, capsys):
    monkeypatch.setattr(work, "run_row", lambda *_: pytest.fail("it trains again"))
    before = done.kept()
    assert done.run("tiny") == 0
    assert done.kept() == before
    assert "wide: -ln p(x)" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"settings": {"epochs": 3}}, {"num_samples": 60}, {"num_examples": 9}])
def test_what_was_made_in_another_way_counts_as_missing(done, change):
    row, seeds = TABLE.rows["wide"], done.kept()["wide"]
    assert work.missing_seeds(row, SIZE, seeds) == []
    assert work.missing_seeds(row, SIZE._replace(num_seeds=3), seeds) == [2]
    assert work.missing_seeds(row, SIZE._replace(**change), seeds) == [0, 1]


def test_a_setting_that_came_later_had_what_is_now_its_default(done):
    row, seeds = TABLE.rows["wide"], done.kept()["wide"]

    def with_settings(change):
        return {seed: record._replace(settings=change(record.settings)) for seed, record in seeds.items()}

    without = with_settings(lambda settings: {name: value for name, value in settings.items() if name != "poison"})
    assert work.missing_seeds(row, SIZE, without) == []
    assert work.missing_seeds(row, SIZE, with_settings(lambda settings: {**settings, "poison": [3]})) == [0, 1]
    # One that is no more cannot have been what is now run.
    assert work.missing_seeds(row, SIZE, with_settings(lambda settings: {**settings, "gone": 1})) == [0, 1]


@pytest.mark.usefixtures("untrained")
def test_a_size_may_have_some_of_the_rows(place, capsys):
    table = TABLE._replace(sizes={"quick": SIZE._replace(rows=["narrow"], num_seeds=1), "together": SIZE})
    assert place.run("tiny", table=table) == 0
    assert list(place.kept()) == ["narrow"]
    said = place.page.read_text()
    assert "Not yet run: `wide`, `narrow`; `make reproduce TABLE=tiny SIZE=together`." in said
    assert "SIZE=quick ARGS" not in said
    with pytest.raises(SystemExit):
        place.run("tiny", "--only", "wide", table=table)
    assert "--only must be of narrow; got wide" in capsys.readouterr().err


def test_other_settings_have_a_folder_of_their_own(tmp_path):
    """The same for a seed with the same settings; another as soon as anything differs."""
    wide, narrow = TABLE.rows.values()

    def folder(row, size, seed=0, what="seed-0"):
        settings = work.settings_of(row, size, tiny, seed)
        return work.in_folder(row, settings, tmp_path, what).running.output

    shorter = SIZE._replace(settings={"epochs": 1})
    found = {folder(wide, SIZE), folder(wide, shorter), folder(narrow, SIZE), folder(wide, SIZE, 1, "seed-1")}
    assert len(found) == 4
    assert folder(wide, SIZE) in found
    assert all(Path(each).parent == tmp_path for each in found)


@pytest.mark.slow("trains twice")
@pytest.mark.usefixtures("without_pictures")
def test_other_settings_have_runs_of_their_own(place):
    for epochs in (2, 1):
        size = SIZE._replace(settings={"epochs": epochs}, num_seeds=1)
        assert place.run("tiny", "--only", "narrow", table=TABLE._replace(sizes={"quick": size})) == 0
        assert place.kept()["narrow"][0].settings["epochs"] == epochs


@WHOLE
def test_a_row_that_is_stopped_goes_on_to_the_same_figures(whole, place, monkeypatch, capsys):
    tiny.stop_at(monkeypatch, 30, signal.SIGTERM)
    assert place.run("tiny", "--only", "wide") == 143
    assert "the same command goes on from there" in capsys.readouterr().err
    assert place.kept() == {}
    monkeypatch.undo()
    assert place.run("tiny", "--only", "wide") == 0
    unbroken = whole.kept()["wide"]
    for seed, record in place.kept()["wide"].items():
        assert lasting(record) == lasting(unbroken[seed])
    assert json.loads(next(place.folder.glob("runs/tiny/quick/wide/seed-0-*/results.json")).read_text())["steps"] == 50


@WHOLE
def test_seeds_that_train_together_come_out_as_alone(whole, place):
    assert place.run("tiny", "--size", "together", "--only", "wide") == 0
    alone, together = whole.kept()["wide"], place.kept("together")["wide"]
    for seed in (0, 1):
        assert together[seed].settings == alone[seed].settings
        assert together[seed].experiment == alone[seed].experiment
        assert together[seed].value == pytest.approx(alone[seed].value, rel=1e-4)
        assert together[seed].negative_elbo == pytest.approx(alone[seed].negative_elbo, rel=1e-4)
    assert work.missing_seeds(TABLE.rows["wide"], TABLE.sizes["together"], together) == []


def test_the_whole_test_set_is_told_from_some_of_it():
    """Without bias over the choice of examples, and to a fraction of the error that they have by themselves."""
    random = np.random.default_rng(0)
    size, few = 2000, 100
    elbo = 100 + 25 * random.normal(size=size)
    estimated = elbo - 4 - random.normal(size=size)
    found = []
    for _ in range(400):
        chosen = random.permutation(size)[:few]
        found.append(measures.of_whole_test_set(elbo, estimated[chosen], elbo[chosen]))
    values, errors = np.array(found).T
    assert abs(values.mean() - estimated.mean()) < 5 * values.std() / 20
    # Chosen without replacement, they are a little closer than the error says.
    assert values.std() < errors.mean() < 1.15 * values.std()
    assert errors.mean() < 0.1 * 25 / few**0.5
    every, error = measures.of_whole_test_set(elbo + 7, estimated, elbo)
    assert (every, error) == pytest.approx((estimated.mean(), estimated.std(ddof=1) / size**0.5))


def test_the_page_says_what_was_run_and_what_was_not(done, place):
    said = done.page.read_text()
    kept = done.kept()
    for row, seeds in kept.items():
        found = records.summarize(seeds)
        assert f"(`{row}`) | {found.mean:.2f} ± {found.standard_error:.2f} |" in said
        for seed, record in seeds.items():
            assert f"| `{row}` | {seed} | {record.value:.2f} ± {record.standard_error:.2f} | 8 x 50 |" in said
    wide = records.summarize(kept["wide"])
    assert f"| 9.00 (Table 9) | {wide.mean - 9:+.2f} | 20.00: reached |" in said
    assert "Not yet run: `wide`, `narrow`; `make reproduce TABLE=tiny SIZE=together`." in said
    assert (done.folder / "pictures" / "reproduced_tiny.png").stat().st_size > 5000
    assert place.run() == 0
    nothing = place.page.read_text()
    assert "| three latents" not in nothing
    assert ".png" not in nothing
    assert "SIZE=quick" in nothing


def check_a_bound_that_is_measured_on_the_way(value, standard_error, unreliable, curve):
    # 25 steps of 4 examples an epoch.
    assert [examples for examples, _ in curve] == [100.0, 200.0, 300.0]
    assert all(5.0 < value < 20.0 for _, value in curve)
    assert unreliable is None
    assert 0 < standard_error < 2
    assert 5.0 < value < 20.0


@pytest.mark.slow("trains a seed")
def test_a_bound_is_measured_on_the_way_too(trained_seed):
    trained, _ = trained_seed
    found = measures.MEASURES["bound"].take(WATCHED, trained)
    check_a_bound_that_is_measured_on_the_way(found.value, found.standard_error, found.unreliable, found.curve)
    each = trained.measured.figures["negative_elbo"].astype(np.float64)
    assert len(each) == 16
    assert (found.value, found.standard_error) == pytest.approx((each.mean(), each.std(ddof=1) / 4))
    # It is measured of the validation examples, which are not those of the test.
    assert found.curve[-1][1] != pytest.approx(found.value, rel=1e-6)


def test_the_curve_of_each_seed_is_drawn_beside_the_bounds():
    curve = [[100.0, 12.0], [200.0, 11.0]]
    kept = {
        row: {seed: record._replace(curve=curve, unreliable=None) for seed, record in seeds.items()}
        for row, seeds in rows_of(wide=(10.0, 10.5), narrow=(11.0, 11.5)).items()
    }
    axes = page.picture(TABLE._replace(measure="bound"), {"quick": kept}).axes
    assert axes[1].get_ylabel() == "-ELBO of the validation examples"
    assert len(axes[1].lines) == 4


@WHOLE
@pytest.mark.usefixtures("without_pictures")
def test_a_table_of_bounds_has_a_curve_of_each_seed(place):
    table = TABLE._replace(measure="bound", sizes={"quick": WATCHED})
    assert place.run("tiny", table=table) == 0
    for seeds in place.kept().values():
        for record in seeds.values():
            check_a_bound_that_is_measured_on_the_way(
                record.value, record.standard_error, record.unreliable, record.curve
            )
            assert record.value == pytest.approx(record.negative_elbo)
    said = place.page.read_text()
    assert "| row | -ELBO | the paper's | difference | goal | active units |" in said
    assert "Pareto k too high |" not in said
    assert "-ELBO |" in said.split("## Where each figure")[1]
    axes = page.picture(table, {"quick": place.kept()}).axes
    assert axes[1].get_ylabel() == "-ELBO of the validation examples"
    assert len(axes[1].lines) == 4


def scored(**values):
    return {
        row: {seed: record._replace(scores={"SAP": 0.25 + seed}, standard_error=None, unreliable=None, data={"name": "tiny", "sha256": "ab"}, environment=ENVIRONMENT) for seed, record in seeds.items()}
        for row, seeds in rows_of(**values).items()
    }  # fmt: skip


def test_of_a_score_the_higher_is_the_better():
    table = TABLE._replace(
        measure="disentanglement", sizes={"quick": SIZE._replace(goals={"wide": 0.3, "narrow": 0.3})}
    )
    kept = {"tiny": {"quick": scored(wide=(0.5, 0.52), narrow=(0.1, 0.12))}}
    said = page.page({"tiny": table}, kept)
    assert "| row | MIG | the paper's | difference | goal | -ELBO | SAP | active units |" in said
    assert "| three latents (`wide`) | 0.51 ± 0.01 | 9.00 (Table 9) | -8.49 | 0.30: reached | 95.00 | 0.75 |" in said
    assert "| 0.30: missed |" in said
    assert "- three latents, above one latent: +0.40 ± 0.01, holds." in said
    assert "- one latent, no worse than three latents: -0.40 ± 0.01, does not hold." in said
    origins = page.provenance({"tiny": table}, kept)
    assert "| `wide` | 0 | 0.50 | tiny `ab` |" in origins


def test_a_row_with_some_of_its_seeds_says_which_are_missing(done, place):
    path = records.path_of("tiny", "quick", place.folder / "results")
    records.write_record(path, "wide", 1, done.kept()["wide"][1])
    assert place.run() == 0
    said = place.page.read_text()
    assert "Not all seeds yet: `wide`" in said
    assert 'Not yet run: `narrow`; `make reproduce TABLE=tiny SIZE=quick ARGS="--only narrow"`.' in said
    assert f"(`wide`) | {done.kept()['wide'][1].value:.2f} |" in said


def rows_of(**values):
    return {
        row: {seed: records.EXAMPLE._replace(value=each) for seed, each in enumerate(seeds)}
        for row, seeds in values.items()
    }


@pytest.mark.parametrize(
    ("wide", "narrow", "verdicts"),
    [
        ((1.0, 1.1, 1.2), (2.0, 2.1, 2.2), ("holds", "does not hold")),
        ((1.0, 1.5, 2.0), (1.1, 1.6, 2.1), ("open", "holds")),
        ((3.0, 3.1, 3.2), (2.0, 2.1, 2.2), ("does not hold", "holds")),
    ],
)
def test_what_the_paper_says_is_held_against_two_standard_errors(wide, narrow, verdicts):
    said = page._claims(TABLE, rows_of(wide=wide, narrow=narrow))
    difference = np.mean(wide) - np.mean(narrow)
    error = math.sqrt((np.var(wide, ddof=1) + np.var(narrow, ddof=1)) / 3)
    assert said[0] == f"- three latents, below one latent: {difference:+.2f} ± {error:.2f}, {verdicts[0]}."
    assert said[1] == f"- one latent, no worse than three latents: {-difference:+.2f} ± {error:.2f}, {verdicts[1]}."
    one = page._claims(TABLE, rows_of(wide=wide[:1], narrow=narrow))
    assert "open: an error needs two seeds of each" in one[0]
    assert page._claims(TABLE, rows_of(wide=wide)) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tables",), "invalid choice: 'tables'"),
        (("tiny", "--size", "huge"), "--size must be of quick, together; got huge"),
        (("tiny", "--only", "wide", "wid"), "--only must be of wide, narrow; got wid"),
    ],
)
def test_what_there_is_not_is_said_in_a_line(place, capsys, words, said):
    with pytest.raises(SystemExit) as leaving:
        place.run(*words)
    assert leaving.value.code == 2
    assert said in capsys.readouterr().err


def test_damaged_records_and_unknown_settings_are_named(place, capsys):
    unknown = TABLE._replace(rows={"wide": TABLE.rows["wide"]._replace(settings={"gamma": 1})})
    assert place.run("tiny", table=unknown) == 2
    assert "has no setting gamma" in capsys.readouterr().err
    path = records.path_of("tiny", "quick", place.folder / "results")
    path.parent.mkdir()
    for content in ("{", '{"wide": {"0": {"value": 1}}}', "[]", '{"wide": 3}'):
        path.write_text(content)
        assert place.run() == 2
        assert f"reproduce: error: {path} is damaged" in capsys.readouterr().err
        assert path.read_text() == content


def test_the_page_in_the_project_is_that_of_its_records(tmp_path, monkeypatch):
    # Pictures are drawn and not written: they differ from one version of matplotlib to another.
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, path: Path(path).touch())
    known = tables.tables()
    command.write_page(known, records.RESULTS, tmp_path / "RESULTS.md")
    assert (tmp_path / "RESULTS.md").read_text() == page.PAGE.read_text()
    for written in (tmp_path / "pictures").glob("*"):
        assert (page.PICTURES / written.name).is_file()


@pytest.mark.parametrize("module", [page, records, mnist_iwae], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_hold(module, monkeypatch):
    # Another test may have loaded the file again; doctest takes the functions of the module that bears the name.
    monkeypatch.setitem(sys.modules, module.__name__, module)
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert not found.failed


def test_every_row_of_the_project_names_an_experiment_with_its_settings(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, table in tables.tables().items():
        for row in table.rows.values():
            module = experiment.load_experiment(row.experiment)
            for size in table.sizes.values():
                work.settings_of(row, size, module, 0).check()
        for claim in table.claims:
            assert {claim.better, claim.worse} <= set(table.rows), name
        for label, size in table.sizes.items():
            assert set(size.goals) <= set(table.rows_at(label)), name
        # A size that is not the paper's has nothing else to be held against.
        assert set(table.sizes["quick"].goals) == set(table.rows_at("quick")), name


def test_every_kept_figure_of_the_project_is_of_its_table(monkeypatch):
    """None is there that the table as it stands would not take for its own."""
    monkeypatch.chdir(ROOT)
    known = tables.tables()
    for path in records.RESULTS.glob("*.json"):
        name, size = path.stem.rsplit("-", 1)
        table = known[name]
        for row, seeds in records.read_records(path).items():
            assert (
                not set(range(table.sizes[size].num_seeds))
                & set(seeds)
                & set(work.missing_seeds(table.rows[row], table.sizes[size], seeds))
            ), f"{path}: {row}"


# The recipe of the paper.


def test_adam_from_ones_is_that_of_the_authors():
    """Against their update, written down number by number."""
    batch, rate = 20, 1e-3
    optimizer = optax.chain(mnist_iwae.adam_from_ones(batch), optax.scale_by_learning_rate(rate))
    update = jax.jit(optimizer.update)
    params = np.array([0.5, -1.0, 2.0])
    state, ours, random = optimizer.init(jnp.asarray(params, jnp.float32)), params, np.random.default_rng(0)
    first, second = np.zeros(3), np.ones(3)
    for step in range(1, 6):
        summed = 50 * random.normal(size=3)
        updates, state = update(jnp.asarray(summed / batch, jnp.float32), state)
        ours = ours + np.asarray(updates)
        first, second = 0.99 * first + 0.01 * summed, 0.999 * second + 0.001 * summed**2
        alpha = rate * np.sqrt(1 - 0.999**step) / (1 - 0.99**step)
        params = params - alpha * first / (np.sqrt(second) + 1e-4)
    np.testing.assert_allclose(ours, params, rtol=1e-5)


def test_the_rates_of_the_paper_last_as_long_as_there():
    epochs = [1, 3, 9, 27, 81, 243, 729, 2187]
    rates = [10e-4, 7.2e-4, 5.2e-4, 3.7e-4, 2.7e-4, 1.9e-4, 1.4e-4, 1e-4]
    expected = np.repeat(rates, epochs)
    found = np.asarray(jax.jit(jax.vmap(mnist_iwae.paper_rates(3280)))(np.arange(3280)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    tenth = np.asarray(jax.jit(jax.vmap(mnist_iwae.paper_rates(328)))(np.arange(328)))
    assert abs(np.sum(tenth > 1.5e-4) - np.sum(expected > 1.5e-4) / 10) <= 1


@pytest.fixture
def small_mnist(monkeypatch):
    """Small images in the place of MNIST, whose first pixel is always black."""
    images = np.random.default_rng(0).integers(0, 256, (500, 4, 4, 1), np.uint8)
    images[:, 0, 0, 0] = 0
    dataset = data.Dataset("mnist", data.Split(images), data.Split(images[:20]), 255, data.Meaning.INTENSITY)
    monkeypatch.setattr(data, "load", lambda name, folder=None: dataset)
    return dataset


def check_begins_as_in_the_paper(net, sizes):
    """Each layer as (fan in, its outputs, fan out of the paper's layer)."""
    for index, (fan_in, outputs, fan_out) in enumerate(sizes):
        kernel = np.asarray(net["layers"][index]["kernel"])
        limit = math.sqrt(6 / (fan_in + fan_out))
        assert kernel.shape == (fan_in, outputs)
        assert 0.9 * limit < np.abs(kernel).max() <= limit
        assert abs(kernel.mean()) < 5 * limit / math.sqrt(3 * kernel.size)


SMALL = {"hidden_sizes": (30, 20), "latent_size": 5, "batch_size": 10}
ENCODER, DECODER = [(16, 30, 30), (30, 20, 20), (20, 10, 5)], [(5, 20, 20), (20, 30, 30), (30, 16, 16)]


@RECIPE
def test_the_last_400_images_are_held_out_and_the_weights_begin_as_in_the_paper(small_mnist, key):
    built = mnist_iwae.build(mnist_iwae.Settings(**SMALL))
    assert len(built.dataset.train.examples) == 100
    both = jax.jit(jax.vmap(built.model.init))(jax.random.split(key))
    params, other = (jax.tree.map(lambda leaf, number=number: np.asarray(leaf)[number], both) for number in (0, 1))
    check_begins_as_in_the_paper(params["encoder"], ENCODER)
    check_begins_as_in_the_paper(params["decoder"], DECODER)
    layers = [layer for net in ("encoder", "decoder") for layer in params[net]["layers"].values()]
    assert len({np.asarray(layer["kernel"]).ravel()[:10].tobytes() for layer in layers}) == 6
    assert not any(np.any(layer["bias"]) for layer in layers[:-1])
    mean = np.clip(small_mnist.train.examples[:100].reshape(100, -1).mean(0) / 255, 0.001, 0.999)
    np.testing.assert_allclose(special.expit(layers[-1]["bias"]), mean, rtol=1e-4)
    assert not np.array_equal(other["encoder"]["layers"][0]["kernel"], layers[0]["kernel"])


@RECIPE
def test_the_nets_between_two_layers_begin_as_in_the_paper(small_mnist, key):
    settings = two_layers.Settings(**SMALL, lower_size=8, upper_hidden_sizes=(7, 6))
    params = jax.jit(two_layers.build(settings).model.init)(key)
    check_begins_as_in_the_paper(params["encoder"]["lower"], [*ENCODER[:2], (20, 16, 8)])
    check_begins_as_in_the_paper(params["decoder"]["lower"], [(8, 20, 20), *DECODER[1:]])
    check_begins_as_in_the_paper(params["encoder"]["upper"], [(8, 7, 7), (7, 6, 6), (6, 10, 5)])
    check_begins_as_in_the_paper(params["decoder"]["upper"], [(5, 6, 6), (6, 7, 7), (7, 16, 8)])


def halves(settings):
    """The settings in half precision."""
    return dataclasses.replace(settings, training=experiment.Training(precision=Precision.BFLOAT16))


def value_and_gradient_of(settings, images):
    """A function of a key: the mean bound and its gradient at the first parameters."""
    built = two_layers.build(settings)

    def compute(key):
        init_key, pixel_key, noise_key = jax.random.split(key, 3)
        x = built.prepare(pixel_key, images)
        loss = lambda params: jnp.mean(built.objective(params, noise_key, x).value)
        return jax.value_and_grad(loss)(built.model.init(init_key))

    return compute


OF_TWO = {**SMALL, "lower_size": 8, "upper_hidden_sizes": (7, 6)}


@RECIPE
def test_two_layers_in_half_precision_have_a_gradient_in_whole_precision(small_mnist, key):
    images, dtypes = small_mnist.train.examples[:10], []
    for settings in (two_layers.Settings(**OF_TWO), halves(two_layers.Settings(**OF_TWO))):
        traced, (_, gradient) = jax.make_jaxpr(value_and_gradient_of(settings, images), return_shape=True)(key)
        assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
        dtypes.append("bf16" in str(traced))
    assert dtypes == [False, True]


@pytest.mark.slow("compiles two gradients")
def test_two_layers_train_in_half_precision(small_mnist, key):
    images, settings = small_mnist.train.examples[:10], two_layers.Settings(**OF_TWO)
    values = [
        jax.jit(value_and_gradient_of(each, images))(jax.random.clone(key))[0] for each in (settings, halves(settings))
    ]
    assert values[0] != values[1]
    np.testing.assert_allclose(*values, rtol=1e-2)


TINY = {"hidden_sizes": (4,), "latent_size": 2, "batch_size": 5, "num_samples": 4, "groups": 2, "elbo_share": 0.25}


def build(module, **changed):
    extra = {"lower_size": 3, "upper_hidden_sizes": (4,)} if module is two_layers else {}
    return module.build(module.Settings(**{**TINY, **extra, **changed}))


def binary(images):
    return (images > 127).astype(np.float32)


@functools.cache
def bounds(module, methods):
    """Each method's value and the terms of its bound at the latents that it drew, all at the same parameters."""
    built = {method: build(module, method=mnist_iwae.Method(method)) for method in methods}
    model, prior, prepare = (getattr(next(iter(built.values())), name) for name in ("model", "prior", "prepare"))
    params = random_params(model, 0.4)
    images = data.load("mnist").train.examples[:5]

    @jax.jit
    def compute(params, key):
        pixel_key, noise_key = jax.random.split(key)
        x = prepare(pixel_key, images)
        q, found = model.encode(params, x), {}
        for method, each in built.items():
            terms = each.objective(params, jax.random.clone(noise_key), x)
            z = terms.latents
            likelihood = model.decode(params, z).log_prob(x)
            log_weights = likelihood + prior(params).log_prob(z) - q.log_prob(z)
            found[str(method)] = terms.value, likelihood, log_weights
        return found, None if module is two_layers else kl_divergence(q, prior(params))

    return jax.tree.map(np.asarray, compute(params, jax.random.key(20260)))


ALL = tuple(mnist_iwae.Method)
AGAIN = pytest.mark.slow("the same method with two layers of latents")
MODULES = pytest.mark.parametrize("module", [mnist_iwae, two_layers], ids=["one layer", "two layers"])


@pytest.mark.parametrize(
    ("module", "methods", "method"),
    [
        *(pytest.param(mnist_iwae, ALL, method, id=f"one layer-{method}") for method in ALL),
        *(pytest.param(two_layers, ALL, method, id=f"two layers-{method}", marks=AGAIN) for method in ALL),
    ],
)
def test_each_method_is_what_it_says(small_mnist, module, methods, method):
    found, divergence = bounds(module, methods)
    value, likelihood, log_weights = found[method]
    importance_weighted = special.logsumexp(log_weights, axis=0) - math.log(4)
    if method == "ciwae":
        expected = 0.25 * log_weights.mean(0) + 0.75 * importance_weighted
    elif method == "miwae":
        expected = np.mean(special.logsumexp(log_weights.reshape(2, 2, -1), axis=1) - math.log(2), axis=0)
    elif method != "vae":
        expected = importance_weighted
    elif module is two_layers:
        expected = log_weights.mean(0)
    else:
        expected = likelihood.mean(0) - divergence
    assert value.shape == (5,)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def improvement_of_a_step(built, key, images):
    """The mean bound before and after a step of the optimizer, with the same noise."""

    x = binary(images)

    @jax.jit
    def compute(params):
        bound = lambda params: jnp.mean(built.objective(params, jax.random.clone(key), x).value)
        before, gradient = jax.value_and_grad(lambda params: -bound(params))(params)
        updates, _ = built.optimizer.update(gradient, built.optimizer.init(params), params)
        return -before, bound(optax.apply_updates(params, updates))

    return compute(random_params(built.model, 0.4))


@pytest.mark.slow("trains each recipe")
@pytest.mark.parametrize(
    ("method", "recipe", "layers"),
    [*itertools.product(mnist_iwae.Method, mnist_iwae.Recipe, ("one", "two"))],
)
def test_a_step_of_each_method_with_each_recipe_raises_its_bound(small_mnist, key, method, recipe, layers):
    built = build(mnist_iwae if layers == "one" else two_layers, method=method, recipe=recipe)
    before, after = improvement_of_a_step(built, key, small_mnist.train.examples[:5])
    assert after > before


def gradients(module, methods, key, images, count=1, **changed):
    """The gradient of the mean bound of each method with the same `count` noises, as one program."""
    built = [build(module, method=mnist_iwae.Method(method), **changed) for method in methods]

    x = binary(images)

    @jax.jit
    def compute(params, keys):
        found = []
        for each in built:
            loss = lambda params, key, each=each: jnp.mean(each.objective(params, key, x).value)
            found.append(jax.vmap(jax.grad(loss), (None, 0))(params, jax.random.clone(keys)))
        return found

    return jax.tree.map(np.asarray, compute(random_params(built[0].model, 0.4), jax.random.split(key, count)))


def first_kernel(module, part):
    return (part["lower"] if module is two_layers else part)["layers"][0]["kernel"]


@pytest.mark.slow("statistics of what tests/objectives proves of the estimator")
@MODULES
def test_dreg_has_the_gradient_of_iwae_but_for_noise(small_mnist, key, module):
    """Over many draws, the two estimates of the gradient of the encoder's first layer agree."""
    count = 1200
    found = gradients(module, ["iwae", "dreg"], key, small_mnist.train.examples[:5], count, num_samples=3)
    plain, path = (first_kernel(module, each["encoder"]).reshape(count, -1) for each in found)
    difference = plain.mean(0) - path.mean(0)
    error = np.sqrt((plain.var(0) + path.var(0)) / count) + 1e-7
    assert np.all(np.abs(difference) < 5 * error)
    assert np.abs(plain.mean(0)).max() > 10 * error.max()
    assert not np.allclose(plain, path, rtol=1e-3)


@pytest.mark.slow("compiles three gradients; tests/objectives proves it of the estimator")
@MODULES
def test_piwae_trains_the_encoder_by_miwae_and_all_else_by_iwae(small_mnist, key, module):
    piwae, miwae, iwae = gradients(module, ["piwae", "miwae", "iwae"], key, small_mnist.train.examples[:5])
    chex.assert_trees_all_close(piwae["encoder"], miwae["encoder"], rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(piwae["decoder"], iwae["decoder"], rtol=1e-4, atol=1e-6)
    for end, other in (("encoder", iwae), ("decoder", miwae)):
        assert not np.allclose(first_kernel(module, piwae[end]), first_kernel(module, other[end]), rtol=1e-3)


@pytest.mark.slow("trains and evaluates a run")
def test_two_layers_train_and_are_measured(small_mnist, tmp_path):
    words = ["--hidden-sizes", "8", "--lower-size", "4", "--upper-hidden-sizes", "6", "--latent-size", "3", "--epochs", "2"]  # fmt: skip
    path = str(ROOT / "experiments" / "mnist_iwae_two_layers.py")
    assert cli.main(["train", path, *words, "--num-samples", "2", "--output", str(tmp_path / "run")]) == 0
    opened = run.open_run(tmp_path / "run")
    assert opened.experiment.prior(opened.params).sample(jax.random.key(0), (5,)).shape == (5, 7)
    words = ["--samples", "100", "--examples", "20", "--gaps", "2", "--simulated", "2", "--temperatures", "20"]
    assert cli.main(["evaluate", str(tmp_path / "run"), *words]) == 0
    found = read_findings(tmp_path / "run")
    assert {"negative_log_likelihood", "pareto_k"} <= set(found["likelihood"].figures)
    assert found["simulated"].figures["width"].value > -1


def test_a_weight_of_the_kl_term_is_refused(small_mnist):
    with pytest.raises(ValueError, match="beta and kl_schedule must be 1 and constant"):
        mnist_iwae.build(mnist_iwae.Settings(beta=2.0))


@RECIPE
@pytest.mark.data
@pytest.mark.skipif("VAEJAX_DATA" not in os.environ, reason="VAEJAX_DATA names no folder")
def test_on_mnist_it_trains_on_the_first_59600_images():
    built = mnist_iwae.build(mnist_iwae.Settings())
    assert len(built.dataset.train.examples) == 59_600
    assert built.dataset.shape == (28, 28, 1)
