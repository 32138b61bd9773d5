"""Settings of every test: key reuse is an error, and compiled programs are kept between runs."""

import os
import shutil
from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_debug_key_reuse", True)
# Most of the time of a test is compilation, which is twice as fast without optimizations. The tests that take minutes
# run with them, as programs do.
jax.config.update("jax_disable_most_optimizations", not os.environ.get("VAEJAX_TEST_OPTIMIZED"))
# A small program compiles in 0.3 s and loads in 0.06 s.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
# What commands in processes of their own keep, programs and arrays, stays here too.
os.environ["VAEJAX_CACHE"] = str(Path(__file__).parent.parent / ".pytest_cache" / "vaejax")

hypothesis.settings.register_profile("vaejax", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("vaejax")


@pytest.fixture
def x64():
    """Double precision for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory):
    """Two finished runs that differ in beta, to read and never to change."""
    from vaejax import cli

    folder = tmp_path_factory.mktemp("runs")
    for name, beta in (("a", "1"), ("b", "50")):
        words = ["--epochs", "2", "--hidden-sizes", "8", "--latent-size", "3", "--beta", beta]
        assert cli.main(["train", "digits_vae", *words, "--output", str(folder / name)]) == 0
    return folder / "a", folder / "b"


@pytest.fixture
def finished_run(finished_runs, tmp_path):
    """A finished run of one's own."""
    return Path(shutil.copytree(finished_runs[0], tmp_path / "run"))


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


@pytest.fixture
def key():
    return jax.random.key(20260)
