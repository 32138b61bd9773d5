"""Settings of every test: key reuse is an error, and compiled programs are kept between runs."""

import os
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

hypothesis.settings.register_profile("vaejax", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("vaejax")


@pytest.fixture
def x64():
    """Double precision for the length of a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(20260)
