"""Compiled programs that are kept between commands: what was compiled before is read."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax

from vaejax.data.cache import cache_folder

# Of all machines and versions together; most programs take 5 to 300 KB.
MAX_BYTES, MAX_FILES = 2**30, 10_000
# How much of that is left where there is more, so that not every command has something to remove.
LEFT = 0.75
# What of /proc/cpuinfo says which code a CPU takes; the rest differs from second to second.
CPU_LINES = ("vendor_id", "model", "flags", "Features", "CPU implementer", "CPU part", "isa")


def keep_compiled() -> Path | None:
    """Let JAX keep what it compiles below `cache_folder()`, and read it from there.

    It changes settings of JAX and the filter of warnings, as a program may and a library may not. A folder that is
    already set, as by JAX_COMPILATION_CACHE_DIR, stays, and with JAX_ENABLE_COMPILATION_CACHE=0 nothing is kept. Each
    kind of CPU and each version of jaxlib has a folder of its own: code for one CPU may end a process on another. What
    was not used for longest goes, so that the whole has a bound. Where nothing can be written, it warns.

    Returns:
      The folder; None where nothing was changed.
    """
    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] is not None or not settings["jax_enable_compilation_cache"]:
        return None
    root = cache_folder() / "compiled"
    folder = root / machine()
    try:
        # Whoever can write here can make this user run anything.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        warnings.warn(f"{folder} cannot be written, so compiled programs are not kept: {error}", stacklevel=2)
        return None
    bound(root)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Most are small, and reading one takes a fraction of compiling it.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # An entry that is damaged, being written or removed is compiled, and a full disk is named by what needs it.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry", UserWarning)
    return folder


def machine() -> str:
    """A name for the version of jaxlib and the kind of CPU."""
    about = [platform.system(), platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        about += sorted({line for line in lines if line.startswith(CPU_LINES)})
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()
    return f"jaxlib-{importlib.metadata.version('jaxlib')}-{platform.machine()}-{digest[:12]}"


def bound(root: Path) -> None:
    """Remove the files that were not used for longest, where there are more than `MAX_BYTES` or `MAX_FILES`."""
    found = sorted(_files(root), reverse=True)
    if len(found) <= MAX_FILES and sum(size for _, size, _ in found) <= MAX_BYTES:
        return
    total = 0
    for count, (_, size, path) in enumerate(found, start=1):
        total += size
        if count > LEFT * MAX_FILES or total > LEFT * MAX_BYTES:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _files(root: Path) -> Iterator[tuple[float, int, str]]:
    """When each file was last used, its size and its path."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            # Another process may have removed it.
            with contextlib.suppress(OSError):
                about = os.stat(path)
                # Some disks keep no times of reading.
                yield max(about.st_atime, about.st_mtime), about.st_size, path
