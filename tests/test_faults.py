"""Runs in processes of their own that are killed, stopped and repeated: they lose nothing and their bits are the same."""

import collections
import json
import os
import queue
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from vaejax import experiment, training
from vaejax.training import interrupts
from vaejax.training.checkpoint import check_whole

HERE = Path(__file__).parent
tiny = experiment.load_experiment(str(HERE / "tiny.py"))
FAST = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """The processes of these tests share what they compile, and nothing with those of an earlier time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAST, "JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


OFTEN = ("--checkpoint-seconds", "0")


def start(fault, argument, folder, *settings, environment=FAST):
    """A run with a fault, in which every step is a pause."""
    command = [sys.executable, HERE / "faulty.py", fault, str(argument), folder, *settings]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ | environment
    )


def finish(process, timeout=120):
    """The exit code, and what the process had to say."""
    try:
        err = process.communicate(timeout=timeout)[1]
    finally:
        process.kill()
    return process.returncode, err


def wait_for(process, text):
    """Read what a process says up to a text."""
    said = ""
    while text not in said:
        line = process.stderr.readline()
        assert line, f"it ended: {said}"
        said += line


def saved(folder):
    return training.saved_steps(folder / "checkpoints")


# -- repeated


def outcome_of(folder, *settings, environment=FAST):
    code, err = finish(start("none", 0, folder, *settings, environment=environment))
    assert code == 0, err
    return tiny.outcome(folder)


@pytest.mark.slow("a process that compiles everything again")
def test_two_processes_with_one_seed_give_the_same_bits(tmp_path, bank):
    """This one, and one with the hashes of another process, which compiles everything again, into another folder."""
    different = FAST | {"JAX_ENABLE_COMPILATION_CACHE": "0", "PYTHONHASHSEED": "1"}
    assert outcome_of(tmp_path / "other" / "folder", environment=different) == tiny.outcome(bank("plain"))


# -- signals


@pytest.fixture
def listening(monkeypatch):
    """Signals that are listened to here: `(send, ended, said)`, where a process that would end notes its exit code."""
    ended, said = queue.Queue(), queue.Queue()
    monkeypatch.setattr(interrupts.os, "_exit", ended.put)
    monkeypatch.setattr(interrupts, "_say", said.put)
    with interrupts.Interrupts() as heard:
        yield heard, ended, said


def test_a_signal_with_nothing_to_save_ends_the_process(listening):
    _, ended, said = listening
    os.kill(os.getpid(), signal.SIGTERM)
    assert (said.get(timeout=9), ended.get(timeout=9)) == ("stopped at once", 143)


def test_a_second_signal_ends_the_process(listening):
    heard, ended, said = listening
    heard.has_work = True
    os.kill(os.getpid(), signal.SIGINT)
    assert "once more to stop at once" in said.get(timeout=9)
    assert heard.received == signal.SIGINT
    assert ended.empty()
    os.kill(os.getpid(), signal.SIGTERM)
    assert (said.get(timeout=9), ended.get(timeout=9)) == ("stopped at once", 143)


@pytest.mark.slow("processes of their own for what the fast tests prove of stopped runs")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_in_time_with_one_line(number, tmp_path):
    # A process in the background of a script ignores interrupts unless it asks for them.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from vaejax.__main__ import main"
    words = ["train", HERE / "tiny.py", "--epochs", "1000000", "--output", tmp_path]
    command = [sys.executable, "-c", f"{code}; raise SystemExit(main())", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | FAST)
    try:
        while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").stat().st_size:
            assert process.poll() is None
            time.sleep(0.05)
        sent = time.monotonic()
        process.send_signal(number)
        code, err = finish(process)
    finally:
        process.kill()
    assert time.monotonic() - sent < 10
    assert code == 128 + number
    assert err.strip().splitlines()[-1] == (
        f"vaejax: error: stopped by {number.name}; the same command goes on from there"
    )
    assert "Traceback" not in err
    # All that was done is saved: more than the last report tells of.
    (step,) = saved(tmp_path)[-1:]
    assert step >= tiny.lines(tmp_path)[-1]["step"]


@pytest.mark.slow("a process of its own for what is proved of the signals")
def test_a_signal_before_there_is_anything_to_save_ends_at_once(tmp_path):
    process = start("early", 0, tmp_path, *tiny.FIVE_STEPS)
    wait_for(process, "training")
    process.send_signal(signal.SIGTERM)
    code, err = finish(process, timeout=10)
    assert (code, err.strip()) == (143, "vaejax: stopped at once")
    assert saved(tmp_path) == []


@pytest.mark.slow("a process of its own for what is proved of the signals and of kills")
def test_a_second_signal_ends_at_once_and_leaves_the_checkpoint_before(tmp_path):
    process = start("sleep", 3, tmp_path, *tiny.FIVE_STEPS)
    wait_for(process, "sealing")
    process.send_signal(signal.SIGINT)
    wait_for(process, "once more to stop at once")
    process.send_signal(signal.SIGTERM)
    code, err = finish(process, timeout=10)
    assert code == 143
    assert err.strip() == "vaejax: stopped at once"
    assert saved(tmp_path) == [2, 3]
    check_whole(training.path_of(tmp_path / "checkpoints", 3))


# -- kills


class Lives:
    """Runs of one config, each killed or stopped again and again until it is finished."""

    def __init__(self, folder, expected, *settings, environment=FAST):
        self.folder, self.expected, self.settings, self.environment = folder, expected, settings, environment
        self.number, self.newest, self.fell = 0, 0, collections.Counter()

    @property
    def run(self):
        return self.folder / str(self.number)

    def live(self, fault, argument, *more, after=None):
        """One life of the run, which ends by itself or after some seconds of training; what it had to say."""
        process = start(fault, argument, self.run, *self.settings, *more, environment=self.environment)
        if after is not None:
            wait_for(process, " on cpu;")
            time.sleep(after)
            process.kill()
        code, err = finish(process)
        assert code in (0, -signal.SIGKILL, 128 + signal.SIGTERM), err
        assert "Traceback" not in err
        assert "warning" not in err
        # It began where the last life was saved.
        begins = re.search(r"begins at (\d+)", err)
        assert begins is None or int(begins[1]) == self.newest
        if code == 0:
            self.finished()
        else:
            self.check()
            self.fell[self.where(err)] += 1
        return err

    def check(self):
        """What there is after a kill is whole, and as much as before or more."""
        steps = saved(self.run)
        for step in steps:
            check_whole(training.path_of(self.run / "checkpoints", step))
        newest = max(steps, default=0)
        assert newest >= self.newest
        self.newest = newest
        for name in ("config.json", "results.json"):
            if (self.run / name).exists():
                json.loads((self.run / name).read_text())

    def where(self, err):
        told = re.search(r"killed at (\S+) .*?'([^']*)'", err)
        if told is not None:
            return f"{told[1]} of {kind_of(Path(os.path.relpath(self.run / told[2], self.run)))}"
        steps = [path for path in (self.run / "checkpoints").glob("*") if path.name.isdigit()]
        unsealed = [path for path in steps if not (path / "seal.json").exists()]
        return "a clock: " + ("inside a save" if unsealed else "between saves" if steps else "before the first save")

    def finished(self):
        assert tiny.outcome(self.run) == self.expected
        self.number, self.newest = self.number + 1, 0

    def end(self):
        if self.run.exists():
            self.live("none", 0)


def kind_of(path):
    """A path in a run without the names that differ from one save to the next."""
    parts = ["N" if part.isdigit() else "HASH" if re.fullmatch("[0-9a-f]{32}", part) else part for part in path.parts]
    return "/".join(parts)


@pytest.mark.usefixtures("without_pictures", "shared_programs")
def test_a_run_that_was_killed_and_stopped_loses_nothing(tmp_path, bank):
    """Processes with other hashes than this one begin it; this one finishes it, with the bits of a run of its own."""
    expected = tiny.outcome(bank("plain"))
    # They find the programs of this one compiled.
    others = FAST | {"PYTHONHASHSEED": "1", "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    lives = Lives(tmp_path, expected, environment=others)
    lives.live("kill", 130, *OFTEN)
    ((where, _),) = lives.fell.items()
    assert "checkpoints/N/state" in where
    unsealed = [path.name for path in (lives.run / "checkpoints").iterdir() if not (path / "seal.json").exists()]
    assert unsealed == [f"{lives.newest + 1:09d}"]
    step = tiny.STEPS_PER_EPOCH + 5
    said = lives.live("stop", step)
    assert said.strip().splitlines()[-1] == "vaejax: error: stopped by SIGTERM; the same command goes on from there"
    assert lives.newest == step
    assert tiny.train(lives.run) == 0
    assert tiny.outcome(lives.run) == expected


@pytest.mark.slow("starts some seventy processes")
def test_runs_killed_fifty_times_lose_nothing(tmp_path):
    settings = (*tiny.FIVE_STEPS, "--epochs", "12", "--ema-decay", "0.9", "--validation-size", "20")
    lives, chance = Lives(tmp_path, outcome_of(tmp_path / "unbroken", *settings), *settings), random.Random(0)
    try:
        for each in ("config.json", "metrics.jsonl", "results.json"):
            lives.live("half", each)
        while sum(lives.fell.values()) < 40:
            # A save touches some seventy files.
            lives.live("kill", chance.randint(1, 500))
        while sum(lives.fell.values()) < 60:
            lives.live("none", 0, after=chance.uniform(0, 4))
        lives.end()
    finally:
        for where, count in lives.fell.most_common():
            print(f"{count:3d} {where}")
    assert lives.number >= 2
