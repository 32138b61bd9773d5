"""JSON as its standard has it, for every file and answer: any parser reads what a run writes."""

import json
import math
from typing import Any


def dump_json(content: Any, **options: Any) -> str:
    """The text of what `json.dumps` takes; NaN and infinities, which JSON does not have, become null.

    Args:
      content: dicts, lists, tuples, text, numbers, truth values and None.
      options: of `json.dumps`, such as `indent`.

    Raises:
      TypeError: something else in it.

    >>> dump_json({"loss": [0.5, float("nan")]})
    '{"loss": [0.5, null]}'
    """
    return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(each) for name, each in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(each) for each in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
