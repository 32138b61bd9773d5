"""The settings of an experiment from the command line."""

import contextlib
import io
import re
import sys
from typing import Any

import jax
import tyro

from vaejax.cli.platform import check_platform
from vaejax.data import Dataset
from vaejax.data.axes import understood
from vaejax.experiment import Settings, load_experiment
from vaejax.feed import describe_feed
from vaejax.training import is_first_host, join_cluster


def read_settings(command: str, name: str, words: list[str]) -> tuple[Any, Any]:
    """The module of an experiment and its settings, after the cluster has been joined that they name."""
    module = load_experiment(name)
    settings = _parse(module, f"vaejax {command}", words)
    settings.check()
    join_cluster(settings.running.coordinator, settings.running.num_hosts, settings.running.host_index)
    check_platform()
    return module, settings


def _parse(module: Any, prog: str, words: list[str]) -> Any:
    """The settings that the words say; what tyro frames in a box is said in a line, as all else."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                module.Settings,
                args=words,
                prog=prog,
                description=module.__doc__,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.EnumChoicesFromValues, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as leaving:
        if leaving.code != 2:
            raise
        raise ValueError(f"{in_a_line(said.getvalue())} (see {prog} --help)") from None


def in_a_line(box: str) -> str:
    """What is said in a box of tyro, up to its first rule, and which option it would have taken.

    >>> in_a_line("╭─ Error ───╮\\n│ No option │\\n│ --a       │\\n│ ───────── │\\n│ Help      │\\n╰───────────╯")
    'No option --a'
    """
    words = " ".join(word for line in box.splitlines() if line[:1] not in "╭╰" for word in line.strip("│ ").split())
    title, said, *_ = [*re.split(r" ?[─-]{5,} ?", words), ""]
    close = re.search(r"Perhaps you meant: (--[\w.-]+)", words)
    # Where there are no letters for a frame, the title is above a rule.
    return (title if "╭" in box else said).rstrip(".") + (f": perhaps {close[1]}" if close else "")


def say_what_begins(what: str, settings: Settings, dataset: Dataset) -> None:
    """Say on which device and from where, before it takes its time."""
    count, kind = settings.running.devices or len(jax.devices()), jax.devices()[0].device_kind
    device, feed = kind if count == 1 else f"{count} x {kind}", describe_feed(dataset, settings.running)
    size = settings.examples_per_step(dataset)
    all_of_them = f"; a batch is all {size:,} training examples" if size < settings.batch_size else ""
    if is_first_host():
        print(f"{what}: {dataset.name}, {understood(dataset)}, on {device}; {feed}{all_of_them}", file=sys.stderr)
