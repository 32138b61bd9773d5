"""What was found out about a run: figures with errors and units, for a person, a page and a script."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vaejax.folder import read_json, write_json

EVALUATION = "evaluation.json"


class Figure(NamedTuple):
    """A number and how sure it is."""

    label: str
    value: float
    standard_error: float | None = None
    unit: str = ""

    def words(self) -> str:
        """The number with its error, as it is read.

        >>> Figure("-ELBO", 93.9166, 0.6412, "nats").words()
        '93.92 ± 0.64 nats'
        >>> Figure("MIG", 0.12345).words()
        '0.123'
        """
        error, sure = self.standard_error, self.standard_error is not None and math.isfinite(self.standard_error)
        if not sure or not error:
            return f"{_number(self.value)} {self.unit}".rstrip()
        # Two digits of the error, and as many decimals of what it belongs to.
        decimals = min(6, max(0, 1 - math.floor(math.log10(error))))
        return f"{self.value:,.{decimals}f} ± {error:,.{decimals}f} {self.unit}".rstrip()


class Section(NamedTuple):
    """Figures that belong together, by their names, and what they mean."""

    title: str
    figures: dict[str, Figure]
    remarks: list[str] = []  # noqa: RUF012 (it is never changed)
    status: str = ""  # of the latents, one of `evaluation.Verdict`


# By their names, in the order in which they are shown.
Findings = dict[str, Section]


def text(findings: Findings) -> str:
    """The findings as lines of words."""
    blocks = []
    for section in findings.values():
        width = max((len(figure.label) for figure in section.figures.values()), default=0)
        lines = [section.title, *(f"  {each.label:<{width}}  {each.words()}" for each in section.figures.values())]
        blocks.append("\n".join([*lines, *(f"  {remark}" for remark in section.remarks)]))
    return "\n\n".join(blocks)


def write_findings(folder: Path, findings: Findings) -> None:
    """Write `evaluation.json`."""
    content = {
        name: {
            "title": section.title,
            "figures": {key: figure._asdict() for key, figure in section.figures.items()},
            "remarks": section.remarks,
            "status": section.status,
        }
        for name, section in findings.items()
    }
    write_json(folder / EVALUATION, content)


def read_findings(folder: Path) -> Findings:
    """What `write_findings` wrote; nothing where a run has not been evaluated.

    Raises:
      ValueError: the file is damaged.
    """
    path = folder / EVALUATION
    if not path.is_file():
        return {}
    try:
        return {name: _section(each) for name, each in read_json(path).items()}
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error


def section_of(title: str, figures: Iterable[tuple[str, Figure]], *remarks: str, status: str = "") -> Section:
    """A section of pairs of names and figures, without empty remarks."""
    return Section(title, dict(figures), [remark for remark in remarks if remark], status)


def _section(content: Mapping[str, Any]) -> Section:
    figures = {name: _figure(each) for name, each in content["figures"].items()}
    return Section(content["title"], figures, content["remarks"], content.get("status", ""))


def _figure(content: Mapping[str, Any]) -> Figure:
    """A figure as it was written; what was not finite is NaN, and an error that was not is unknown."""
    error, value = content["standard_error"], content["value"]
    known = {
        "value": math.nan if value is None else float(value),
        "standard_error": None if error is None else float(error),
    }
    return Figure(**{**content, **known})


def _number(value: float) -> str:
    """A number whose error is unknown: three or four digits."""
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"
