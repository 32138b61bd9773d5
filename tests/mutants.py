"""Mutation tests: `make mutants` injects each bug of `mutants.toml` into a copy and runs the test that must fail.

A mutant names its file, the text to find there, which occurs once, what replaces it, and one test of the fast tier. It
is caught if that test fails, survives if it passes, and is stale if the text or the test is gone. Before anything is
injected, all of these tests must pass on the copy: a test that always fails would catch every bug.
"""

import argparse
import compileall
import multiprocessing
import os
import queue
import shutil
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
CONTENT = ("vaejax", "experiments", "tests", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile")
LIST = ROOT / "tests" / "mutants.toml"
# Processes are forked from one that has loaded what most tests import; nothing of the project, which is to be mutated.
FORKS = multiprocessing.get_context("forkserver")
PRELOADED = [
    "jax.numpy",
    "flax.nnx",
    "numpyro.distributions",
    "optax",
    "orbax.checkpoint",
    "scipy.stats",
    "sklearn.datasets",
]
# Exit codes of pytest.
PASSED, FAILED = 0, 1
SECONDS = 300


class Mutant(NamedTuple):
    """A bug, and the test that must notice it."""

    bug: str
    file: str
    find: str
    replace: str
    test: str

    def mutated(self, root: Path) -> str:
        """The text of the file with the bug in it.

        Raises:
          ValueError: the text to find does not occur once, or stays as it is.
        """
        text = (root / self.file).read_text()
        if text.count(self.find) != 1 or self.find == self.replace:
            raise ValueError(f"{self.file} must hold the text {self.find!r} once, and another must replace it")
        return text.replace(self.find, self.replace)


def read(path: Path = LIST) -> list[Mutant]:
    """All mutants, in the order of the file."""
    with path.open("rb") as file:
        return [Mutant(**entry) for entry in tomllib.load(file)["mutant"]]


def copy_project(folder: Path) -> Path:
    """A copy of the project with compiled modules, which shares the compiled programs of the project's tests."""
    for name in CONTENT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    compileall.compile_dir(folder / "vaejax", quiet=1)
    cache = ROOT / ".pytest_cache"
    cache.mkdir(exist_ok=True)
    (folder / ".pytest_cache").symlink_to(cache)
    return folder


def run_tests(folder: Path, tests: list[str], *options: str) -> tuple[int | None, str]:
    """The exit code of pytest in a copy, or None if it did not end, and what it printed."""
    output = folder / "output.txt"
    process = FORKS.Process(target=_run_tests, args=(folder, output, ["-p", "no:cacheprovider", *options, *tests]))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None, f"no answer after {SECONDS} s"
    return process.exitcode, output.read_text(errors="replace")


def _run_tests(folder: Path, output: Path, words: list[str]) -> None:
    """Run pytest in a process of its own, with everything that is printed in a file."""
    for descriptor in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(folder)
    # The copy comes first for processes that tests start, too; no bytecode, since a file may change twice in a second.
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:] = [str(folder), *(path for path in sys.path if Path(path) not in (ROOT, ROOT / "tests"))]
    import pytest

    sys.exit(pytest.main(words))


def judge(mutant: Mutant, folder: Path) -> str:
    """What becomes of a mutant: caught, SURVIVED, or STALE with the reason."""
    path = folder / mutant.file
    try:
        mutated = mutant.mutated(folder)
    except (OSError, ValueError) as error:
        return f"STALE: {error}"
    original, times = path.read_bytes(), path.stat()
    path.write_text(mutated)
    try:
        code, output = run_tests(folder, [mutant.test], "-x")
    finally:
        path.write_bytes(original)
        # Its compiled module is valid again.
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    if code == PASSED:
        return "SURVIVED"
    return "caught" if code == FAILED else f"STALE: pytest ended with {code}\n{output}"


def main() -> int:
    """Inject the mutants whose description or file holds a text, several at a time, and count the caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="text in the bug, the file or the test")
    parser.add_argument("--list", type=Path, default=LIST, help="the file of mutants")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    options = parser.parse_args()
    FORKS.set_forkserver_preload(PRELOADED)
    mutants = [mutant for mutant in read(options.list) if options.only in f"{mutant.bug} {mutant.file} {mutant.test}"]
    with tempfile.TemporaryDirectory() as temporary:
        folders: queue.Queue[Path] = queue.Queue()
        for job in range(options.jobs):
            folder = Path(temporary) / str(job)
            folder.mkdir()
            folders.put(copy_project(folder))
        code, output = run_tests(folder, sorted({mutant.test for mutant in mutants}), "-n", str(options.jobs))
        if code != PASSED:
            print(output)
            print("some of these tests fail without a mutant")
            return 1

        def attempt(mutant: Mutant) -> str:
            folder = folders.get()
            try:
                verdict = judge(mutant, folder)
            finally:
                folders.put(folder)
            print(f"{verdict:8} {mutant.bug}", flush=True)
            return verdict

        with ThreadPoolExecutor(options.jobs) as pool:
            verdicts = list(pool.map(attempt, mutants))
    caught = verdicts.count("caught")
    print(f"{caught} of {len(mutants)} mutants caught")
    return int(caught < len(mutants) or not mutants)


if __name__ == "__main__":
    sys.exit(main())
