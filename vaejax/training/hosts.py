"""Several hosts as one run: joining a cluster, and agreeing on what clocks and signals decide."""

import os

import jax
import numpy as np

from vaejax.checks import check_count

# The count that a launcher leaves in the environment of each of its processes.
PROCESS_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# Comma-separated hosts of a TPU pod.
WORKERS = "TPU_WORKER_HOSTNAMES"
# The place of a pod in an indexed Kubernetes job.
POD_INDEX = "JOB_COMPLETION_INDEX"
SHUTDOWN_SECONDS = 24 * 3600


def join_cluster(
    coordinator: str | None = None, num_hosts: int | None = None, host_index: int | None = None, *, timeout: int = 300
) -> bool:
    """Make this process one of several that train together; to be called before JAX is used.

    Without arguments the cluster is found where a launcher that JAX knows says that there is one (Slurm, Open MPI,
    Kubernetes, TPU pods), and nothing is done elsewhere.

    Args:
      coordinator: `address:port` of the first process, the same for all.
      num_hosts: how many processes there are.
      host_index: which one this is, from 0.
      timeout: seconds to wait for the others.

    Returns:
      Whether there is a cluster.

    Raises:
      ValueError: some of the three arguments and not all, or an index that is not below the count.
      OSError: the others did not come.
    """
    given = {"coordinator": coordinator, "num_hosts": num_hosts, "host_index": host_index}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given) and not in_cluster():
        return False
    if 0 < len(missing) < len(given):
        raise ValueError(f"{', '.join(missing)} must be given with {', '.join(n for n in given if n not in missing)}")
    if num_hosts is not None and host_index is not None:
        check_count("num_hosts", num_hosts)
        check_count("host_index", host_index, minimum=0)
        if host_index >= num_hosts:
            raise ValueError(f"host_index must be below num_hosts={num_hosts}; got {host_index}")
    try:
        jax.distributed.initialize(
            coordinator,
            num_hosts,
            host_index,
            initialization_timeout=timeout,
            # The others wait at the end while the first host measures and draws.
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OSError(f"the hosts of the cluster did not come together: {reason}") from error
    return True


def in_cluster() -> bool:
    """Whether a launcher has started this process as one of several."""
    counts = [int(value) for name in PROCESS_COUNTS if (value := os.environ.get(name, "")).isdigit()]
    workers = os.environ.get(WORKERS, "").split(",")
    return max([len(workers), *counts]) > 1 or POD_INDEX in os.environ


def is_first_host() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def agree(*values: int) -> tuple[int, ...]:
    """The greatest of each value over the hosts, so that all of them do the same next."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils  # noqa: PLC0415

    everywhere = multihost_utils.process_allgather(np.array(values, np.int32))
    return tuple(int(value) for value in np.max(everywhere.reshape(-1, len(values)), axis=0))


def from_first_host(text: str) -> str:
    """What the first host says, on all of them."""
    if jax.process_count() == 1:
        return text
    from jax.experimental import multihost_utils  # noqa: PLC0415

    encoded = text.encode()
    # Arrays of one length on all of them.
    (length,) = agree(len(encoded))
    content = np.frombuffer(encoded.ljust(length, b"\0")[:length], np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(content).astype(np.uint8)).rstrip(b"\0").decode()
