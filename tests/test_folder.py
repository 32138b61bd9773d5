"""The folder of a run: which one it is, who has it, and what becomes of it on a bad disk."""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax import durable, experiment, folder, run, trainer, training
from vaejax.program import make_program
from vaejax.settings import Running

tiny = experiment.load_experiment(str(Path(__file__).with_name("tiny.py")))
STOPPED_BEFORE, STOPPED_AT = 29, 31
CONFIG = {"experiment": "any", "settings": {"a": 1}, "data": {}, "versions": {}, "devices": []}


pytestmark = pytest.mark.usefixtures("without_pictures", "shared_programs")


@pytest.fixture(scope="module")
def once_stopped(tmp_path_factory, programs):
    path = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patched:
        programs.patch(patched)
        # Each signal makes it save.
        for step in (STOPPED_BEFORE, STOPPED_AT):
            tiny.stop_at(patched, step, signal.SIGTERM)
            assert tiny.train(path) == 143
    return path


@pytest.fixture(scope="module")
def unbroken(bank):
    """The outcome of the run that nothing stopped."""
    return tiny.outcome(bank("plain"))


@pytest.fixture
def stopped(once_stopped, tmp_path):
    """A run of its own for each test that was stopped at step 31, with one report and checkpoints of 29 and 31."""
    path = tmp_path / "run"
    shutil.copytree(once_stopped, path)
    assert training.saved_steps(path / "checkpoints") == [STOPPED_BEFORE, STOPPED_AT]
    return path


def error_of(capsys):
    """The one line that an error is, after a warning for each line before it."""
    *others, last = capsys.readouterr().err.strip().splitlines()
    assert not [line for line in others if "Traceback" in line or "Error" in line]
    assert last.startswith("vaejax: error: ")
    return last.removeprefix("vaejax: error: ")


class limited:
    """A context in which no file grows beyond a size."""

    def __init__(self, size):
        self.size = size

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


# -- which folder


def test_a_run_that_begins_while_another_is_under_way_gets_the_next_number(tmp_path):
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(folder.open_folder(tmp_path / "runs", Running(), CONFIG)).name for _ in range(3)]
    assert names == ["001", "002", "003"]
    # What was made and never finished goes on, the newest first.
    with folder.open_folder(tmp_path / "runs", Running(), CONFIG) as path:
        assert path.name == "003"


def test_runs_without_an_output_are_numbered_and_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs" / "tiny"
    finished = lambda: sorted(path.parent.name for path in runs.glob("*/results.json"))
    with monkeypatch.context() as patched:
        tiny.stop_at(patched, STOPPED_AT, signal.SIGTERM)
        assert tiny.train(None) == 143
    assert tiny.train(None, "--max-not-finite", "9") == 0
    assert finished() == ["002"]
    assert tiny.train(None) == 0
    assert finished() == ["001", "002"]
    assert [line["step"] for line in tiny.lines(runs / "001")] == [25, 50, 75]
    capsys.readouterr()
    assert tiny.train(None, "--resume") == 2
    assert error_of(capsys) == "resume: runs/tiny has no unfinished run of these settings"
    assert {path.name for path in runs.iterdir()} == {"001", "002"}


def test_a_folder_with_no_more_than_what_a_killed_run_leaves_is_taken(tmp_path):
    for name in ("lock", ".config.json.1a2b3c4d.draft"):
        (tmp_path / name).touch()
    with folder.open_folder(tmp_path, Running(output=str(tmp_path)), CONFIG) as path:
        assert folder.read_config(path) == CONFIG


def test_what_a_config_does_not_say_is_named(tmp_path):
    for name in CONFIG:
        for content in ({each: value for each, value in CONFIG.items() if each != name}, {**CONFIG, name: 3}):
            (tmp_path / "config.json").write_text(json.dumps(content))
            with pytest.raises(ValueError, match=f"config.json is damaged: it does not say {name}$"):
                folder.read_config(tmp_path)
    there = {**CONFIG, "settings": {"b": 2}}
    assert folder.differences(there, CONFIG, with_soft=True) == [
        "a is not said there and 1 here", "b is 2 there and not said here"
    ]  # fmt: skip


def test_two_that_write_a_file_at_once_leave_one_of_both_whole(tmp_path):
    path = tmp_path / "x.json"
    contents = [bytes([letter]) * 200_000 for letter in b"abcd"]
    writers = [threading.Thread(target=durable.write_durably, args=(path, each)) for each in contents * 5]
    errors = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading, "excepthook", errors.append)
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    assert not errors
    assert path.read_bytes() in contents
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]


def test_what_cannot_be_written_durably_is_named_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.json"
    durable.write_durably(path, b"before")
    with limited(10), pytest.raises(OSError, match="File too large") as failure:
        durable.write_durably(path, bytes(1000))
    assert failure.value.filename == str(path)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("x.json", b"before")]


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("precious")
    assert tiny.train(tmp_path) == 2
    assert error_of(capsys) == f"output {tmp_path} exists and is no run folder: name a new folder for the run"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert tiny.train(tmp_path / "mine.txt") == 2
    assert "is a file" in error_of(capsys)
    assert tiny.train(tmp_path / "none", "--resume") == 2
    assert error_of(capsys) == f"resume: {tmp_path / 'none'} is no run folder"
    assert not (tmp_path / "none").exists()


OTHERS = {
    "a setting": (["--learning-rate", "0.01"], "learning_rate is 0.001 there and 0.01 here"),
    "a setting of the training": (["--ema-decay", "0.9"], "training.ema_decay is None there and 0.9 here"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_another_run_is_named_by_its_first_difference(case, stopped, capsys):
    words, difference = OTHERS[case]
    before = sorted(path.name for path in stopped.rglob("*"))
    for resume in ([], ["--resume"]):
        assert tiny.train(stopped, *words, *resume) == 2
        assert error_of(capsys) == f"output {stopped} is another run: {difference} (name a new folder for the run)"
    assert sorted(path.name for path in stopped.rglob("*")) == before


@pytest.mark.filterwarnings("always")
def test_other_versions_go_on_only_on_purpose(stopped, capsys, unbroken):
    config = json.loads((stopped / "config.json").read_text())
    config["versions"]["optax"] = "0.0.1"
    (stopped / "config.json").write_text(json.dumps(config))
    difference = f"versions.optax is 0.0.1 there and {run.importlib.metadata.version('optax')} here"
    assert tiny.train(stopped) == 2
    assert error_of(capsys) == f"output {stopped} is another run: {difference} (--resume goes on in spite of it)"
    assert tiny.train(stopped, "--resume") == 0
    said = capsys.readouterr().err.splitlines()
    assert said.count(f"vaejax: warning: going on in spite of a difference: {difference}") == 1
    assert tiny.outcome(stopped) == unbroken


def test_only_one_process_has_a_folder(stopped, capsys):
    config = json.loads((stopped / "config.json").read_text())
    with folder.open_folder(stopped.parent, Running(output=str(stopped)), config):
        assert tiny.train(stopped) == 2
    with folder.open_folder(stopped.parent, Running(output=str(stopped)), config) as path:
        assert path == stopped
    expected = f"{stopped} is in use by process {os.getpid()} on .*: wait for it, or name a new folder"
    assert re.fullmatch(expected, error_of(capsys))


# -- what is damaged


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def test_damaged_files_are_named(stopped, capsys):
    (stopped / "metrics.jsonl").write_text('{"step": 25, "los\n{"step": 50}\n')
    assert tiny.train(stopped) == 2
    assert f"{stopped / 'metrics.jsonl'} is damaged in line 1: " in error_of(capsys)
    (stopped / "results.json").write_text('{"test": ')
    assert tiny.train(stopped) == 2
    assert f"{stopped / 'results.json'} is damaged: " in error_of(capsys)
    cut(stopped / "config.json")
    assert tiny.train(stopped) == 2
    assert f"{stopped / 'config.json'} is damaged: " in error_of(capsys)


def test_lines_after_the_checkpoint_and_an_unfinished_one_are_written_again(stopped, unbroken):
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "seconds": 0.1, "loss": 7.0}\n{"step": 75, "seconds": 0.1, "lo')
    assert tiny.train(stopped) == 0
    assert tiny.outcome(stopped) == unbroken


def test_a_run_of_many_devices_is_read_on_one(stopped):
    config = json.loads((stopped / "config.json").read_text())
    config["settings"]["running"] |= {"devices": 8, "feed": "streamed"}
    (stopped / "config.json").write_text(json.dumps(config))
    assert run.load_run(stopped)[2].step == STOPPED_AT


@pytest.mark.filterwarnings("always")
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(stopped, capsys, unbroken):
    newest = stopped / "checkpoints" / f"{STOPPED_AT:09d}"
    damaged = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    cut(damaged)
    assert tiny.train(stopped) == 0
    warning = f"vaejax: warning: {damaged} is damaged: .*; going back to the checkpoint before it"
    assert [line for line in capsys.readouterr().err.splitlines() if re.fullmatch(warning, line)]
    assert tiny.outcome(stopped) == unbroken


@pytest.mark.filterwarnings("always")
def test_without_any_checkpoint_that_is_whole_nothing_is_trained(stopped, capsys):
    for seal in (stopped / "checkpoints").glob("*/seal.json"):
        cut(seal)
    assert tiny.train(stopped) == 2
    assert re.search(rf"checkpoints/{STOPPED_AT:09d}/seal.json is damaged", error_of(capsys))


def test_a_checkpoint_of_another_model_is_refused_by_its_first_leaf(stopped, capsys):
    narrow = tiny.Settings(latent_size=2)
    like = make_program(tiny.build(narrow), narrow).like()
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    zeros = jax.tree.map(lambda leaf: jax.random.key(0) if is_key(leaf) else np.zeros(leaf.shape, leaf.dtype), like)
    shutil.rmtree(stopped / "checkpoints")
    training.save_checkpoint(stopped / "checkpoints" / "000000002", zeros)
    assert tiny.train(stopped) == 2
    expected = r"checkpoints/0+2 belongs to another model: state.params.\S+ is float32\[2, 16\] there and float32\[3, 16\] here"
    assert re.search(expected, error_of(capsys))


# -- the disk


def test_a_file_in_the_way_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / "runs").write_text("")
    assert tiny.train(tmp_path / "runs" / "mine") == 2
    assert str(tmp_path / "runs") in error_of(capsys)
    monkeypatch.chdir(tmp_path)
    assert tiny.train(None) == 2
    assert "'runs" in error_of(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert tiny.train(tmp_path / "run") == 2
    assert str(tmp_path) in error_of(capsys)


# No file may grow beyond so many bytes, which looks to a program like a full disk.
LIMITS = {"the lock": 5, "the config": 700, "the checkpoint": 6000}


ELSEWHERE = pytest.mark.slow("the disk is full at another file")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=ELSEWHERE) if case == "the lock" else case for case in LIMITS]
)
def test_a_disk_that_is_full_from_the_start_is_named_and_the_run_goes_on(case, tmp_path, capsys, unbroken):
    with limited(LIMITS[case]):
        assert tiny.train(tmp_path) == 2
    assert str(tmp_path) in error_of(capsys)
    assert tiny.train(tmp_path) == 0
    assert tiny.outcome(tmp_path) == unbroken


@pytest.mark.slow("a full disk again, of a run that has begun")
def test_a_disk_that_fills_up_leaves_the_last_checkpoint(stopped, capsys, unbroken):
    with limited(700):  # the second line of the metrics is too much, and a checkpoint is too
        assert tiny.train(stopped) == 2
    assert str(stopped) in error_of(capsys)
    assert training.saved_steps(stopped / "checkpoints")[-1] == STOPPED_AT
    assert tiny.train(stopped) == 0
    assert tiny.outcome(stopped) == unbroken


def test_what_could_not_be_reported_is_reported_again(tmp_path, monkeypatch, capsys):
    """The best weights are saved at a report; the save must not outlive the line that could not be written."""
    write = trainer.JsonLines.write

    def full(self, step, values):
        if step == 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, step, values)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.JsonLines, "write", full)
        assert tiny.train(tmp_path, *tiny.WATCHED) == 2
    assert error_of(capsys) == f"[Errno 28] No space left on device: '{tmp_path}'"
    assert tiny.train(tmp_path, *tiny.WATCHED) == 0
    assert [line["step"] for line in tiny.lines(tmp_path)] == [25, 50, 75]
