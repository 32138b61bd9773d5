"""A step taken again: the part, the leaf and the example that are named, and that it is the step of the run."""

import itertools
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.typed_keys import as_numbers
from vaejax import cli, pictures, run, run_report, stages, training
from vaejax import replay as replays
from vaejax.experiment import load_experiment
from vaejax.folder import write_json
from vaejax.outcome import Measured
from vaejax.program import initial_state, make_program, make_step
from vaejax.replay import DECISIVE, describe, replay
from vaejax.settings import FeedChoice, Running, Training
from vaejax.stages import Leaf, Stage, batch_of, take_apart

EXPERIMENT = Path(__file__).parent / "white_image.py"
WHITE = 13
ALL = ("parameters", "images", "x", "posterior", "latents", "likelihood", "terms", "loss", "gradient", "gradient norm",
       "update", "optimizer state after", "parameters after")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def without_figures():
    with pytest.MonkeyPatch.context() as patch:
        nothing = Measured({}, np.zeros(1, np.uint32), np.zeros((1, 1), np.float32), None, None)
        patch.setattr(run, "measure", lambda *arguments: nothing)
        patch.setattr(pictures, "draw", lambda *arguments: ())
        patch.setattr(run_report, "write_report", lambda *arguments: None)
        # Each step is followed by a pause, in which it is saved.
        patch.setattr("vaejax.training.loop.PAUSE_SECONDS", 0.0)
        yield


def train(folder, path=EXPERIMENT, feed=FeedChoice.AUTO, **settings):
    module = load_experiment(str(path))
    running = Running(output=str(folder), checkpoint_seconds=0.0, keep=100, feed=feed)
    settings = module.Settings(running=running, **settings)
    return run.train(str(path), settings, module.build(settings))


def made_before(step, **settings):
    """An experiment, its settings and a state before a step, without the steps to it."""
    module = load_experiment(str(EXPERIMENT))
    settings = module.Settings(**settings)
    built = module.build(settings)
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    state = jax.tree.map(
        lambda leaf: jax.random.key(1) if is_key(leaf) else np.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(lambda: initial_state(built, settings)),
    )
    kernel = 0.3 * np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    params = {
        "encoder": {"kernel": kernel, "scale": np.ones((), np.float32)},
        "decoder": {"kernel": kernel.T, "gain": np.ones((), np.float32)},
        "spare": np.full(2, 3e38 if settings.fault == "parameters" else 1e38, np.float32),
    }
    return built, settings, state._replace(step=np.int32(step), params=params)


# What a run leaves that fails, and the step at which it does.


def leave_made(folder, fault, **settings):
    """As the others, without a run: parameters fail at any step, and all else at that of the white image."""
    built, settings, state = made_before(0, fault=fault, **settings)
    batches = [batch_of(built, settings, step) for step in range(settings.steps_per_epoch(built.dataset))]
    step = next(step for step, batch in enumerate(batches) if (WHITE in batch) == (fault != "parameters"))
    training.save_checkpoint(folder / "failed", state._replace(step=np.int32(step)))
    write_json(folder / "config.json", run.describe(str(EXPERIMENT), settings, built))
    return step


def leave_trained(folder, **settings):
    with pytest.raises(training.NotFinite, match=f"vaejax replay {folder}") as error:
        train(folder, **settings)
    return int(re.search(r"at step (\d+)", str(error.value))[1])


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FAULTS = {
    "x": ("x", [""], (WHITE,)),
    "posterior": ("posterior", ["scale"], (WHITE,)),
    "likelihood": ("terms", ["log_likelihood", "value"], (WHITE,)),
    "gradient": ("gradient", ["decoder.gain"], (WHITE,)),
    "parameters": ("parameters after", ["spare"], ()),
}


FAILING = [*((fault, "elbo") for fault in FAULTS), ("posterior", "coupled"), ("gradient", "coupled")]
OTHER_FAULT = pytest.mark.slow("another fault of the same stages")


@pytest.mark.parametrize(
    ("fault", "objective"),
    [
        ("x", "elbo"),
        pytest.param("gradient", "elbo", marks=OTHER_FAULT),
        pytest.param("posterior", "coupled", marks=OTHER_FAULT),
        pytest.param("posterior", "elbo", marks=OTHER_FAULT),
        pytest.param("likelihood", "elbo", marks=OTHER_FAULT),
        pytest.param("gradient", "coupled", marks=OTHER_FAULT),
    ],
)
def test_the_example_is_named_in_the_stage_that_fails(fault, objective):
    stage, names, examples = FAULTS[fault]
    built, settings, state = made_before(0, fault=fault, objective=objective, num_samples=8)
    batch = (3, 1, WHITE, 8, 5, 6, 7, 2)
    # The stages after it are not computed.
    end = ALL.index("gradient norm" if fault == "gradient" else "loss")
    stages = tuple(itertools.islice(take_apart(built, settings, state, batch), end))
    assert tuple(each.name for each in stages) == ALL[:end]
    first = next(each for each in stages if not each.is_finite)
    assert first.name == stage
    assert [leaf.name for leaf in first.leaves if not leaf.is_finite] == names
    if fault == "gradient" and objective == "coupled":
        examples = ()  # a gradient of all examples at once
    assert first.examples == examples
    assert all(each.examples in {(), examples} for each in stages)


def test_the_example_is_named_whose_gradient_fails():
    built, _, state = made_before(0, fault="gradient")
    batch = (3, WHITE, 8)
    images = built.dataset.train.examples[np.array(batch)]
    inputs = stages._Inputs(state.params, state.key, images, {"beta": np.float32(1.0)})
    names = ["encoder.kernel", "encoder.scale", "decoder.kernel", "decoder.gain", "spare"]
    gradient = Stage("gradient", tuple(Leaf(name, name != "decoder.gain", 1.0, 2.0) for name in names))
    found = stages._with_examples(gradient, built, inputs, batch)
    assert [leaf.examples for leaf in found.leaves] == [(), (), (), (WHITE,), ()]


def test_the_axis_of_the_batch_is_the_one_that_grows_with_it():
    """Of as many samples as examples."""
    parts = lambda inputs, key, x: {"latents": jnp.zeros((8, *x.shape)), "x": x, "scales": jnp.ones(8)}
    axes = stages._growing_axes(parts, None, jax.random.key(0), np.ones((8, 2), np.float32))
    assert axes == {"latents": 1, "x": 0, "scales": -1}


@pytest.mark.parametrize("first", ALL)
def test_a_step_fails_where_its_outcome_is_not_finite(first):
    """The stage that is named is the first; without a fault in what decides, as in a metric alone, none is."""
    index = ALL.index(first)
    sound = lambda name: Stage(name, (Leaf("", True, 1.0, 2.0),))
    spoiled = lambda name: Stage(name, (Leaf("", True, 1.0, 2.0), Leaf("a", False, 1.0, 2.0)))
    replayed = lambda stages: replays.Replay(Path("run"), 1, (1, 2), tuple(stages), "cpu", ())
    after = [*map(sound, ALL[:index]), *map(spoiled, ALL[index:])]
    assert replayed(after).failed.name == first
    assert describe(replayed(after)).endswith(f"not finite: {first} (a)")
    alone = [spoiled(name) if name == first else sound(name) for name in ALL]
    assert (replayed(alone).failed is not None) == (first in DECISIVE)


@pytest.mark.slow("all stages of all faults, and of runs that are trained up to them")
@pytest.mark.parametrize("leave", [leave_made, leave_trained])
@pytest.mark.parametrize(("fault", "objective"), FAILING)
def test_the_first_part_that_is_not_finite_is_named(fault, objective, leave, tmp_path):
    stage, names, examples = FAULTS[fault]
    folder = tmp_path / "run"
    # As many samples as examples: their axes must not be taken for each other.
    step = leave(folder, fault=fault, objective=objective, num_samples=8)
    before = files(folder)
    found = replay(folder)
    assert files(folder) == before
    assert found.step == step
    assert tuple(each.name for each in found.stages) == ALL
    assert found.failed.name == stage
    assert [leaf.name for leaf in found.failed.leaves if not leaf.is_finite] == names
    if fault == "gradient" and objective == "coupled":
        examples = ()  # a gradient of all examples at once
    assert found.failed.examples == examples
    assert all(each.examples in {(), examples} for each in found.stages[: ALL.index("loss")])
    assert (WHITE in found.batch) == (fault != "parameters")
    assert all(each.is_finite for each in found.stages[: ALL.index(stage)])
    last = describe(found).splitlines()[-1]
    assert last.startswith(f"the first that is not finite: {stage}")
    assert all(name in last for name in names)
    assert last.endswith(f"in 1 of 8 examples: {WHITE}") == bool(examples)


QUICK = {"num_examples": 4, "batch_size": 2}
CASES = {
    "each example by itself": {"epochs": 3},
    "in micro-batches, streamed": {"training": Training(micro_batches=2, ema_decay=0.9), "feed": FeedChoice.STREAMED},
    "the batch as a whole": {"objective": "coupled", "num_samples": 2},
    "a bound without latents": {"objective": "marginal"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, programs):
    """A run of six steps, each of them saved, by a file of its own; and the file."""
    folder = tmp_path_factory.mktemp("replay")
    path = shutil.copy(EXPERIMENT, folder / "mine.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "make_program", programs.program)
        train(folder / "run", path, **QUICK, **CASES["each example by itself"])
    return folder / "run", Path(path)


def check_same(stages, logged, params):
    """The stages are those of a step with a batch of two, by what it logged and the parameters that it left."""
    of = {stage.name: {leaf.name: leaf for leaf in stage.leaves} for stage in stages}
    np.testing.assert_allclose(of["loss"][""].low, logged["loss"], rtol=1e-6)
    np.testing.assert_allclose(of["gradient norm"][""].low, logged["gradient_norm"], rtol=1e-6)
    # Two examples: the least and the largest value are all there are.
    value, images = of["terms"]["value"], of["images"][""]
    assert 0 <= images.low < images.high < 100
    np.testing.assert_allclose(-(value.low + value.high) / 2, of["loss"][""].low, rtol=1e-6)
    flat, made = jax.tree_util.tree_flatten_with_path(params)[0], of["parameters after"]
    assert len(made) == len(flat)
    for path, leaf in flat:
        found = made[jax.tree_util.keystr(path, simple=True, separator=".")]
        np.testing.assert_allclose((found.low, found.high), (np.min(leaf), np.max(leaf)), rtol=1e-6)


def stages_of(case):
    missing = {"posterior", "latents", "likelihood"} if case == "a bound without latents" else set()
    return [name for name in ALL if name not in missing]


@pytest.mark.slow("other objectives than that of the run below")
@pytest.mark.parametrize("case", [case for case in CASES if case != "each example by itself"])
def test_the_stages_are_those_of_the_step(case):
    options = {name: value for name, value in CASES[case].items() if name != "feed"}
    built, settings, state = made_before(2, **QUICK, **options)
    batch = (3, 1)
    after, logged = jax.jit(make_step(built, settings))(state, built.dataset.train.examples[np.array(batch)])
    stages = tuple(take_apart(built, settings, state, batch))
    assert [each.name for each in stages] == stages_of(case)
    check_same(stages, logged, after.params)


@pytest.mark.slow("another objective")
def test_a_bound_without_latents_has_fewer_stages():
    built, settings, state = made_before(2, **QUICK, **CASES["a bound without latents"])
    names = [stage.name for stage in itertools.islice(take_apart(built, settings, state, (3, 1)), 4)]
    assert names == ["parameters", "images", "x", "terms"]


OTHERS = pytest.mark.slow("trains for what is proved of the step")


@pytest.mark.parametrize(
    "case", [case if case == "each example by itself" else pytest.param(case, marks=OTHERS) for case in CASES]
)
def test_a_step_that_went_well_is_that_of_the_run(case, tmp_path, request):
    """Step 2 is the first of two of an epoch: what the run adds up for its report after it is what that step logs."""
    folder = tmp_path / "run"
    if case == "each example by itself":
        folder, _ = request.getfixturevalue("trained")
    else:
        train(folder, **QUICK, **CASES[case])
    before = files(folder)
    found = replay(folder, 2)
    assert files(folder) == before

    _, module, settings = run.read_run(folder)
    built = module.build(settings)
    after = training.load_checkpoint(folder / "checkpoints" / "000000003", make_program(built, settings).like())
    assert after.num_summed == 1
    check_same(found.stages, after.totals, after.state.params)
    # The other step of the epoch has the others of the four examples.
    assert sorted(found.batch + batch_of(built, settings, 3)) == [0, 1, 2, 3]
    assert found.failed is None
    assert describe(found).endswith(f"finite here: loss {found.loss:.9g}, gradient norm {found.gradient_norm:.9g}")
    assert [each.name for each in found.stages] == stages_of(case)


@pytest.fixture
def not_taken_apart(monkeypatch, programs):
    """A replay says from which state and batch it starts, and no more: the stages are tested above."""

    def stages(experiment, settings, state, batch):
        leaf = Leaf("", True, 2.0, 2.0)
        told = repr((batch, [leaf.tobytes() for leaf in jax.tree.leaves(as_numbers(state))]))
        return [*(Stage(name, (leaf,)) for name in DECISIVE), Stage(told, (leaf,))]

    monkeypatch.setattr(replays, "take_apart", stages)
    monkeypatch.setattr(replays, "make_program", programs.program)


@pytest.mark.usefixtures("not_taken_apart")
def test_it_starts_from_the_newest_checkpoint_that_is_whole(trained, tmp_path, monkeypatch):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    assert training.saved_steps(folder / "checkpoints") == [1, 2, 3, 4, 5, 6]
    begun, fit = [], training.fit

    def spy(feed, progress, **options):
        begun.append(int(progress.state.step))
        return fit(feed, progress, **options)

    monkeypatch.setattr(replays, "fit", spy)
    straight = replay(folder, 4)
    assert begun == []
    assert straight != replay(folder, 3)
    damaged = next((folder / "checkpoints" / "000000004" / "state").rglob("*.*"))
    damaged.write_bytes(damaged.read_bytes() + b"!")
    with pytest.warns(UserWarning, match="000000004.* is damaged"):
        assert replay(folder, 4) == straight
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    shutil.copytree(trained[0] / "checkpoints" / "000000006", folder / "checkpoints" / "000000006")
    assert replay(folder, 4) == straight
    assert begun == [3, 0]


@pytest.mark.usefixtures("not_taken_apart")
def test_it_is_the_step_that_failed_where_none_is_named(tmp_path):
    step = leave_made(tmp_path, "likelihood")
    before = files(tmp_path)
    found = replay(tmp_path)
    assert files(tmp_path) == before
    assert found.step == step
    assert WHITE in found.batch
    assert found.stages == replay(tmp_path).stages


@pytest.mark.usefixtures("not_taken_apart")
def test_a_run_of_another_file_is_told(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["versions"]["jax"] = "0.0.1"
    (folder / "config.json").write_text(json.dumps(config))
    (difference,) = replay(folder, 6 - 1).differences
    assert difference.startswith("versions.jax is 0.0.1 there")


@pytest.mark.usefixtures("not_taken_apart")
def test_what_cannot_be_replayed_is_one_line(trained, tmp_path, capsys):
    folder, path = trained
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "config.json").write_text(
        json.dumps({"experiment": str(path), "settings": {}, "data": {}, "versions": {}, "devices": [], "members": {}})
    )
    cases = [
        ([tmp_path / "none"], r"none is no run folder: there is no such folder"),
        ([tmp_path], r"is no run folder: it has no config.json"),
        ([tmp_path / "sweep"], r"is a sweep: train one of its members"),
        ([folder], r"no step of .*run has failed: name the one to replay \(--step\)"),
        ([folder, "--step", "6"], r"step must be at most 5, the last that is saved of .*run; got 6"),
        ([folder, "--step", "-1"], r"step must be at least 0; got -1"),
    ]
    for words, message in cases:
        assert cli.main(["replay", *map(str, words)]) == 2
        out, err = capsys.readouterr()
        assert re.fullmatch(rf"vaejax: error: .*{message}.*\n", err), err
        assert out == ""
    assert cli.main(["replay", str(folder), "--step", "5"]) == 0
    assert capsys.readouterr().out.startswith(f"step 5 of {folder}, with its 2 examples, on")
