"""Settings and fixtures of every test: key reuse is an error, compiled programs are cached, and tests report their cost."""

import collections
import contextlib
import fcntl
import gc
import io
import os
import shutil
from pathlib import Path

import hypothesis
import jax
import pytest

CACHE = Path(__file__).parent.parent / ".pytest_cache"

# XLA compiles the step of a hierarchical model in 4 s in place of 28 s; its programs are as fast.
os.environ["XLA_FLAGS"] = f"--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE {os.environ.get('XLA_FLAGS', '')}"
jax.config.update("jax_debug_key_reuse", True)
# Most of the time of a test is compilation, which is twice as fast without optimizations.
jax.config.update("jax_disable_most_optimizations", True)
# Programs need not say from which lines they come.
jax.config.update("jax_traceback_in_locations_limit", 0)
# A small program compiles in 0.3 s and loads in 0.06 s.
jax.config.update("jax_compilation_cache_dir", str(CACHE / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
# What commands in processes of their own keep, programs and arrays, stays here too.
os.environ["VAEJAX_CACHE"] = str(CACHE / "vaejax")

hypothesis.settings.register_profile("vaejax", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("vaejax")

# Processor seconds above which `make test` lists a test.
EXPENSIVE = 2.0
STARTED = pytest.StashKey[float]()


def pytest_addoption(parser):
    parser.addoption("--costs", action="store_true", help="list the processor seconds of each file and of 50 tests")


def pytest_configure(config):
    config.pluginmanager.register(Costs())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks doctests and tests in a browser as slow, and refuses a slow test without a reason.

    Both before `-m 'not slow'` takes effect.
    """
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.slow("examples are written to be read: each line compiles its own programs"))
        elif "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow("starts a browser"))
    unexplained = [item.nodeid for item in items for mark in item.iter_markers("slow") if not mark.args]
    if unexplained:
        raise pytest.UsageError(f"pytest.mark.slow needs a reason, as in slow('compiles for a minute'): {unexplained}")


def pytest_sessionfinish():
    """Keeps pytest from collecting garbage five times as it ends, which takes seconds over all that JAX holds."""
    gc.freeze()


# -- what tests cost


def processor_seconds():
    """Seconds of processor time that this process and the children it waited for have used."""
    return sum(os.times()[:4])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    item.stash[STARTED] = processor_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown" and STARTED in item.stash:
        report.user_properties.append(("processor_seconds", processor_seconds() - item.stash[STARTED]))
    return report


class Costs:
    """The processor seconds of each test, summed in the process that reports, and shown at its end."""

    def __init__(self):
        self.costs = collections.Counter()

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            self.costs[report.nodeid] += dict(report.user_properties).get("processor_seconds", 0.0)

    def pytest_terminal_summary(self, terminalreporter, config):
        tests = self.costs.most_common(50)
        if not config.option.costs:
            tests = [(name, seconds) for name, seconds in self.costs.most_common() if seconds > EXPENSIVE]
        self.show(terminalreporter, f"{self.costs.total():.0f} processor seconds; the most expensive tests", tests)
        if config.option.costs:
            files = collections.Counter()
            for name, seconds in self.costs.items():
                files[name.partition("::")[0]] += seconds
            self.show(terminalreporter, "processor seconds of each file", files.most_common())

    def show(self, terminalreporter, title, costs):
        terminalreporter.section(title)
        for name, seconds in costs:
            terminalreporter.write_line(f"{seconds:7.1f} {name}")


# -- fixtures


@pytest.fixture
def key():
    return jax.random.key(20260)


@pytest.fixture
def x64():
    """Double precision for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimized():
    """Programs compiled with XLA's optimizations: for a test that trains longer than it compiles."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def patch_pictures(patch):
    """Runs write no pictures and no page while `patch`, a `MonkeyPatch`, holds."""
    from vaejax import pictures, run_report

    patch.setattr(pictures, "draw", lambda *_: iter(()))
    patch.setattr(run_report, "write_report", lambda *_: None)


@pytest.fixture
def without_pictures(monkeypatch):
    """Runs write no pictures and no page: for tests of anything else."""
    patch_pictures(monkeypatch)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """`made_once(name, make)`: a folder that `make(folder)` fills, in the first of the processes that ask for it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def folder_of(name, make):
        folder = shared / name
        folder.mkdir(exist_ok=True)
        with (shared / f"{name}.made").open("a+") as made:
            fcntl.flock(made, fcntl.LOCK_EX)
            made.seek(0)
            if not made.read():
                make(folder)
                made.write("yes")
        return folder

    return folder_of


@pytest.fixture(scope="session")
def finished_runs(made_once):
    """Two finished runs that differ in beta, to read and never to change; beside each, what the command printed."""

    def make(folder):
        for name, beta in (("a", "1"), ("b", "50")):
            words = ["--epochs", "2", "--hidden-sizes", "8", "--latent-size", "3", "--beta", beta]
            out, err = run_quietly("train", "digits_vae", *words, "--output", folder / name)
            (folder / f"{name}.out").write_text(out)
            (folder / f"{name}.err").write_text(err)

    folder = made_once("finished_runs", make)
    return folder / "a", folder / "b"


def run_quietly(*words):
    """What a command that succeeds prints to stdout and to stderr, hidden from the `capsys` of the test."""
    from vaejax import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(map(str, words)))
    assert code == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture
def finished_run(finished_runs, tmp_path):
    """A finished run of one's own."""
    return Path(shutil.copytree(finished_runs[0], tmp_path / "run"))


@pytest.fixture(scope="session")
def programs():
    """The programs of this process, for module fixtures; their learning rates must not depend on the epochs."""
    from tests.programs import Programs

    return Programs()


@pytest.fixture
def shared_programs(programs, monkeypatch):
    """Runs of equal settings share their compiled programs: for tests of what happens around the training."""
    programs.patch(monkeypatch)


@pytest.fixture(scope="session")
def bank(made_once, programs):
    """`bank(name)`: the folder of a finished run of `tiny.py`, to read and never to change.

    Its settings are those of `tiny.BANK`. It is trained when first asked for, without pictures and page; beside it is
    what the command printed.
    """
    from vaejax import experiment

    path = str(Path(__file__).with_name("tiny.py"))

    def make(folder):
        command, *words = experiment.load_experiment(path).BANK[folder.name.replace("_", " ")]
        with pytest.MonkeyPatch.context() as patch:
            patch_pictures(patch)
            programs.patch(patch)
            out, _ = run_quietly(command, path, *words, "--output", folder / folder.name)
        (folder / f"{folder.name}.out").write_text(out)

    def folder_of(name):
        folder = made_once(name.replace(" ", "_"), make)
        return folder / folder.name

    return folder_of


# Not longer than a module: its event loop sends what asyncio does elsewhere to other threads, which do not know of x64.
@pytest.fixture(scope="module")
def browser():
    """A real browser without a window; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs the browser chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
