"""The settings of an experiment from the command line."""

import sys
from typing import Any

import jax
import tyro

from vaejax.cli.command import check_platform
from vaejax.data import Dataset
from vaejax.experiment import Settings, load_experiment
from vaejax.feed import describe_feed
from vaejax.training import is_first_host, join_cluster


def read_settings(command: str, name: str, words: list[str]) -> tuple[Any, Any]:
    """The module of an experiment and its settings, after the cluster has been joined that they name."""
    module = load_experiment(name)
    settings = tyro.cli(
        module.Settings,
        args=words,
        prog=f"vaejax {command}",
        description=module.__doc__,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.EnumChoicesFromValues, tyro.conf.FlagCreatePairsOff),
    )
    settings.check()
    join_cluster(settings.running.coordinator, settings.running.num_hosts, settings.running.host_index)
    check_platform()
    return module, settings


def say_what_begins(what: str, settings: Settings, dataset: Dataset) -> None:
    """Say on which device and from where, before it takes its time."""
    count, kind = settings.running.devices or len(jax.devices()), jax.devices()[0].device_kind
    device, feed = kind if count == 1 else f"{count} x {kind}", describe_feed(dataset, settings.running)
    if is_first_host():
        print(f"{what}: {dataset.name} on {device}; {feed}", file=sys.stderr)
