"""Two processes train as two hosts do, and what they make is compared with what one process makes.

Shows: that a run does not depend on how many hosts it is on. Each process is given its share of each batch; the
  gradients are averaged over gloo, as they are over the network of a cluster.
Command: make hosts
Time: a minute on 2 cores.
Expected: the same test figures to four digits, and parameters equal to 1e-6 after 110 steps of plain gradient descent.
  (Adam makes a whole step of a gradient that is nothing but rounding.)
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from vaejax import run


def main() -> None:
    """Train both ways and print how far apart they end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="digits_vae")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--output", type=Path, help="folder of the two runs; by default a temporary one")
    options = parser.parse_args()
    folder = options.output or Path(tempfile.mkdtemp(prefix="vaejax_hosts_"))
    command = [sys.executable, "-m", "vaejax", "train", options.experiment, "--epochs", str(options.epochs)]
    command += ["--optimizer", "sgd", "--learning-rate", "1e-3"]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    start([[*command, "--output", str(folder / "one")]])
    command += ["--coordinator", address, "--num-hosts", str(options.hosts), "--feed", "streamed"]
    command += ["--output", str(folder / "hosts"), "--host-index"]
    start([[*command, str(index)] for index in range(options.hosts)])

    one, several = (run.load_run(folder / name)[2] for name in ("one", "hosts"))
    gaps = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), one.params, several.params)
    print(f"parameters after {one.step} steps differ by at most {max(jax.tree.leaves(gaps)):.1e}")
    for name in ("one", "hosts"):
        test = json.loads((folder / name / "results.json").read_text())["test"]
        print(f"{name:<6}", ", ".join(f"{what} {value['mean']:.4f}" for what, value in test.items()))


def start(commands: list[list[str]]) -> None:
    """Run processes side by side, each on one CPU device, and wait for all of them."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for command in commands]
    try:
        failed = [process.args for process in processes if process.wait(timeout=600)]
    finally:
        for process in processes:
            process.kill()
    if failed:
        sys.exit(f"failed: {' '.join(map(str, failed[0]))}")


if __name__ == "__main__":
    main()
