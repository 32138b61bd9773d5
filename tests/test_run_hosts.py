"""A run on two hosts, which are two processes here: the numbers of one, one folder, and a signal to one stops both."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vaejax import experiment, training

HERE = Path(__file__).parent
tiny = experiment.load_experiment(str(HERE / "tiny.py"))
SETTINGS = (*tiny.FIVE_STEPS, "--epochs", "3", "--ema-decay", "0.9", "--validation-size", "20")
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def run_both(folder, *settings, faults=(("none", "0"), ("none", "0"))):
    """The exit code of each of two hosts, what it printed and what it had to say."""
    cluster = ["--coordinator", f"localhost:{free_port()}", "--num-hosts", "2"]
    processes = [
        subprocess.Popen(
            [sys.executable, HERE / "faulty.py", *fault, folder, *settings, *cluster, "--host-index", str(index)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT,
        ) for index, fault in enumerate(faults)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], *zip(*said, strict=True)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of the same run on one host."""
    folder = tmp_path_factory.mktemp("one")
    command = [sys.executable, HERE / "faulty.py", "none", "0", folder, *SETTINGS]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | ENVIRONMENT)
    return folder


def check_same(folder, expected):
    for found, line in zip(tiny.lines(folder), tiny.lines(expected), strict=True):
        assert found.keys() == line.keys()
        for name, value in line.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    found, figures = tiny.figures(folder), tiny.figures(expected)
    for name, value in figures["test"].items():
        np.testing.assert_allclose(found["test"][name]["mean"], value["mean"], rtol=1e-5, err_msg=name)
    assert [found[name] for name in ("steps", "measured_step")] == [figures["steps"], figures["measured_step"]]


@pytest.mark.slow("starts two processes, twice")
def test_a_signal_to_one_host_stops_both_and_they_go_on(tmp_path, one):
    """With batches of which each host reads its share."""
    codes, _, err = run_both(tmp_path, *SETTINGS, "--feed", "streamed", faults=(("none", "0"), ("stop", "7")))
    assert codes == [143, 143], err
    for each in err:
        assert "vaejax: error: stopped by SIGTERM; the same command goes on from there" in each
        assert "Traceback" not in each
    assert training.saved_steps(tmp_path / "checkpoints")[-1] == 7
    codes, out, err = run_both(tmp_path, *SETTINGS, "--feed", "streamed")
    assert codes == [0, 0], err
    assert "begins at 7\n" in err[0]
    assert "begins at 7\n" in err[1]
    # One host writes and speaks.
    assert "run folder" in out[0]
    assert "run folder" not in out[1]
    check_same(tmp_path, one)


@pytest.mark.slow("starts two processes, twice")
def test_two_hosts_are_one_run(tmp_path, one):
    codes, _, err = run_both(tmp_path, *SETTINGS)
    assert codes == [0, 0], err
    check_same(tmp_path, one)
    # A folder that cannot be had ends both.
    (tmp_path / "file").write_text("")
    codes, _, err = run_both(tmp_path / "file", *SETTINGS)
    assert codes == [2, 2], err
    assert all("is a file" in each for each in err)
