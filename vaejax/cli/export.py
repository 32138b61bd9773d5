"""Write encoder, decoder and generator as files that load without this library.

The weights go to weights.safetensors, the functions to encode.jax, decode.jax and generate.jax, as jax.export has them,
for a CPU, a GPU of NVIDIA or a TPU and any number of rows; export.json says what goes in and comes out.
"""

import argparse
from pathlib import Path

from vaejax.cli.command import Answer, Parser, say
from vaejax.cli.output import add_run, open_run
from vaejax.drafts import check_free
from vaejax.export import export_run, is_export


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    add_run(parser)
    parser.add_argument("--output", type=Path, help="a new folder; export in the run folder by default")
    parser.add_argument("--overwrite", action="store_true", help="also where there is an export")


def run(options: argparse.Namespace) -> Answer:
    """Export."""
    folder = options.output or Path(options.run) / "export"
    check_free(folder, options.overwrite, is_export)
    opened = open_run(options.run)
    config = opened.config
    about = {name: config[name] for name in ("experiment", "data", "settings", "versions")} | {"step": opened.step}
    say(f"compiling and writing {folder}")
    path = export_run(opened.experiment, opened.params, folder, about=about, overwrite=options.overwrite)
    files = sorted(path.iterdir())
    sizes = [f"  {each.name:<22}{each.stat().st_size:>12,} bytes" for each in files]
    return Answer("\n".join([f"export: {path}", *sizes]), {"path": path, "files": [each.name for each in files]})
