"""How much memory there is, and how much a run has needed."""

import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.extend import core

# The part of a memory, of the machine or of a device, that examples may take; more are read or streamed.
EXAMPLES_SHARE = 0.25
JAXPRS = (core.Jaxpr, core.ClosedJaxpr)
# Of control groups of version 2 and 1.
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def device_capacity() -> int:
    """The bytes of memory of a local device, the least of them; on a CPU those of the machine.

    >>> device_capacity() > 2**28
    True
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    limits = [each["bytes_limit"] for each in stats if "bytes_limit" in each]
    # The devices of a CPU share its memory.
    return int(min(limits)) if limits else host_capacity() // len(stats)


def host_capacity() -> int:
    """The bytes of memory of the machine, or of the container; 8 GiB where the system does not tell."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        machine = 2**33
    limits = [int(text) for path in CONTAINER_LIMITS if (text := _read(path)).isdigit()]
    return min([machine, *limits])


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def largest_array(primitives: Collection[str], function: Callable[..., Any], *arguments: Any) -> int:
    """The bytes of the largest array that some of JAX's primitives make in a function; nothing is computed.

    >>> import jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((100, 3), jnp.float32)
    >>> largest_array({"dot_general"}, lambda x: jnp.sum(x @ x.T), x), largest_array({"sin"}, jnp.cos, x)
    (40000, 0)
    """
    return max(_sizes(primitives, jax.make_jaxpr(function)(*arguments).jaxpr), default=0)


def _sizes(primitives: Collection[str], jaxpr: Any) -> Iterator[int]:
    for equation in jaxpr.eqns:
        if equation.primitive.name in primitives:
            for variable in equation.outvars:
                yield math.prod(variable.aval.shape) * variable.aval.dtype.itemsize
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda each: isinstance(each, JAXPRS)):
            if isinstance(parameter, JAXPRS):
                yield from _sizes(primitives, getattr(parameter, "jaxpr", parameter))


def peak_memory() -> dict[str, int]:
    """The most bytes that were in use at once: `host`, by this process, and `device`, on the fullest local device.

    What the system does not tell is left out: `host` on Windows, `device` on a CPU.

    >>> peak_memory()["host"] > 2**20
    True
    """
    devices = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in devices if "peak_bytes_in_use" in stats]
    device = {"device": int(max(peaks))} if peaks else {}
    return _host() | device


def _host() -> dict[str, int]:
    if sys.platform == "win32":
        return {}
    # Linux' getrusage begins with the peak of the process that started this one.
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE) if status.is_file() else None
    if found:
        return {"host": int(found[1]) * 1024}
    import resource  # not on Windows  # noqa: PLC0415

    # Bytes on macOS, and KiB elsewhere.
    return {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)}
