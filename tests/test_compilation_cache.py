"""Compiled programs that are kept: for whom, where, and how many."""

import json
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

from vaejax import compilation_cache
from vaejax.compilation_cache import bound, keep_compiled, machine

SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_compilation_cache")


@pytest.fixture
def unset(tmp_path, monkeypatch):
    """JAX as it is without settings, and a cache folder of one's own."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    monkeypatch.setenv("VAEJAX_CACHE", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    with warnings.catch_warnings():
        yield tmp_path / "cache"
    for name, value in before.items():
        jax.config.update(name, value)


COUNTING = """
import json, sys
import jax
import jax.monitoring
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
from vaejax.cli import main
for path in sys.argv[2:]:
    events.clear()
    jax.clear_caches()
    code = main(["generate", sys.argv[1], "--count", "2", "--output", path])
    print(json.dumps([code, *(events.count(name) for name in ("cache_misses", "cache_hits"))]))
"""


@pytest.mark.slow("compiles a command in processes of its own")
# Without what it has in memory a process is as good as another.
@pytest.mark.parametrize("processes", [[["a", "b"]], [["a"], ["b"]]], ids=["one process", "two processes"])
def test_a_second_command_compiles_nothing(processes, bank, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"VAEJAX_CACHE": str(tmp_path / "cache")}
    counts = []
    for names in processes:
        paths = [tmp_path / f"{name}.npz" for name in names]
        command = [sys.executable, "-c", COUNTING, bank("plain"), *paths]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        counts += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    (first, misses, _), (second, missed, hits) = counts
    assert first == second == 0
    assert missed == 0 < misses <= hits
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.parent for path in kept} == {tmp_path / "cache" / "compiled" / machine()}


def test_programs_are_kept_in_a_folder_that_others_cannot_open(unset):
    assert keep_compiled() == unset / "compiled" / machine() == Path(jax.config.jax_compilation_cache_dir)
    assert (unset / "compiled" / machine()).stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


@pytest.mark.parametrize(
    ("name", "value"), [("jax_compilation_cache_dir", "own"), ("jax_enable_compilation_cache", False)]
)
def test_what_is_set_already_stays(unset, name, value):
    jax.config.update(name, value)
    before = [getattr(jax.config, each) for each in SETTINGS]
    assert keep_compiled() is None
    assert [getattr(jax.config, each) for each in SETTINGS] == before
    assert not unset.exists()


def test_a_folder_that_cannot_be_written_is_a_warning(unset):
    unset.write_text("a file in its place")
    with pytest.warns(
        UserWarning, match=f"^{unset}/compiled/.* cannot be written, so compiled programs are not kept: "
    ):
        assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_what_jax_says_of_an_entry_is_no_warning(unset):
    warnings.simplefilter("error")  # also what the settings of pytest let pass
    keep_compiled()
    warnings.warn("Error reading persistent compilation cache entry for 'jit_run': truncated", stacklevel=1)
    with pytest.raises(UserWarning, match="another"):
        warnings.warn("another", stacklevel=1)


def test_each_cpu_and_each_jaxlib_has_a_folder_of_its_own(monkeypatch, tmp_path):
    cpu = tmp_path / "cpuinfo"
    monkeypatch.setattr(compilation_cache, "Path", lambda path: cpu if path == "/proc/cpuinfo" else Path(path))
    said = "processor : 0\nflags : sse avx2\ncpu MHz : 2400\nprocessor : 1\nflags : sse avx2\ncpu MHz : 2500\n"
    cpu.write_text(said)
    names = {machine()}
    cpu.write_text(said.replace("2500", "2900"))
    assert {machine()} == names
    cpu.write_text(said.replace("avx2", "avx512f"))
    names.add(machine())
    cpu.unlink()  # as where there is no such file
    names.add(machine())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    names.add(machine())
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    names.add(machine())
    assert len(names) == 5


@pytest.mark.parametrize(("most_bytes", "most_files"), [(100, 1000), (10**6, 10)])
def test_what_was_not_used_for_longest_goes(tmp_path, monkeypatch, most_bytes, most_files):
    monkeypatch.setattr(compilation_cache, "MAX_BYTES", most_bytes)
    monkeypatch.setattr(compilation_cache, "MAX_FILES", most_files)
    write = lambda number: ((path := tmp_path / "old" / str(number)).write_bytes(bytes(10)), path)[1]
    (tmp_path / "old").mkdir()
    # The first was read last, and the others in their order.
    for number in range(10):
        os.utime(write(number), (1000 + number, 1000))
    os.utime(tmp_path / "old" / "0", (2000, 1000))
    bound(tmp_path)
    assert len(list(tmp_path.rglob("?"))) == 10
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "x").write_bytes(bytes(10))
    bound(tmp_path)
    assert {path.name for path in tmp_path.rglob("?")} == {"x", "0", "9", "8", "7", "6", "5"}
