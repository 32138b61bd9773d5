"""Several processes as one run: two of them with two devices each on this machine, and what says that there are any."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from vaejax import training
from vaejax.training import hosts

SCRIPT = Path(__file__).with_name("two_hosts.py")
LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES", "JOB_COMPLETION_INDEX")


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def run_both(folder):
    """What each of the two hosts found; neither outlives the test."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_DEBUG_KEY_REUSE": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    address = f"localhost:{free_port()}"
    with (folder / "errors").open("wb") as errors:
        processes = [
            subprocess.Popen(
                [sys.executable, SCRIPT, folder, address, str(index)], env=os.environ | settings, stderr=errors
            ) for index in range(2)
        ]  # fmt: skip
        try:
            codes = [process.wait(timeout=120) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    assert codes == [0, 0], (folder / "errors").read_text()[-5000:]
    found = []
    for index in range(2):
        with np.load(folder / f"host{index}.npz") as arrays:
            found.append(dict(arrays))
    return found


@pytest.mark.slow("two processes that compile the same run each")
def test_two_hosts_are_one_run(tmp_path):
    """Twenty steps with a checkpoint in the middle, against one process that had neither."""
    first, second = run_both(tmp_path)
    script = runpy.run_path(str(SCRIPT))
    feed = script["feed_on"](None)
    progress, losses = script["go"](feed, training.begin(feed, script["start"]()))
    for found in (first, second):
        for name, expected in progress.state.params.items():
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-6)
        # The reports of the two parts: the first ended after ten steps, with a report of its own.
        assert len(found["losses"]) == 4 + 4
        np.testing.assert_allclose(found["losses"][:3], losses[:3], rtol=1e-5)
        np.testing.assert_allclose(found["losses"][-3:], losses[-3:], rtol=1e-5)
        assert found["agreed"].tolist() == [1, 5]
        assert found["refused"].tolist() == [False, True]
    # Alike to the bit on both hosts.
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    # One checkpoint, which one process reads as well.
    assert training.saved_steps(tmp_path / "saves") == [10]
    loaded, _ = training.load_newest(tmp_path / "saves", training.begin(feed, script["start"]()))
    assert loaded.state.step == 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("localhost:1",), ValueError, "num_hosts, host_index must be given with coordinator"),
        (("localhost:1", 2), ValueError, "host_index must be given with coordinator, num_hosts"),
        ((None, 2, 0), ValueError, "coordinator must be given with num_hosts, host_index"),
        (("localhost:1", 2, 2), ValueError, "host_index must be below num_hosts=2; got 2"),
        (("localhost:1", 0, 0), ValueError, "num_hosts must be at least 1"),
        (("localhost:1", 2, -1), ValueError, "host_index must be at least 0"),
        (("localhost:1", "2", 0), TypeError, "num_hosts must be an integer"),
    ],
)
def test_half_a_cluster_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        training.join_cluster(*arguments)


def test_a_cluster_that_cannot_be_joined_any_more_is_an_error():
    """JAX has started here."""
    assert training.is_first_host()
    with pytest.raises(OSError, match="the hosts of the cluster did not come together: "):
        training.join_cluster("localhost:1", 2, 1, timeout=1)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        # A batch script that starts its program without srun: one process, whatever it was given.
        ({"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, False),
        ({"SLURM_STEP_NUM_TASKS": "none"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_a_cluster_is_what_a_launcher_says(variables, expected, monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hosts.in_cluster() == expected
    if not expected:
        assert training.join_cluster() is False


def test_one_host_agrees_with_itself():
    assert hosts.agree(3, -1) == (3, -1)
    assert training.is_first_host()


def test_hosts_agree_on_the_greatest_of_each_value(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    gathered = lambda values: values + np.array([[0, 0], [4, -4], [-1, -1]])
    monkeypatch.setattr(multihost_utils, "process_allgather", gathered)
    assert hosts.agree(3, -1) == (7, -1)
