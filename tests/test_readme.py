"""Every block of the README runs, in order, as a reader would run them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_block_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) >= 6
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_every_file_that_it_names_exists():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"EXPERIMENT=(\w+)", text):
        assert name == "name" or (ROOT / "experiments" / f"{name}.py").is_file(), name
