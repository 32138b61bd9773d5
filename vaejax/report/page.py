"""Pages for a browser that need nothing but themselves: no network, no script but that of the explorer."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import NamedTuple

# Characters that have room beside a label on the narrowest card.
UNBROKEN = 24


class Headline(NamedTuple):
    """What a reader should know first."""

    text: str
    sentences: Sequence[str] = ()
    tone: str = "good"  # good, warn or bad: the colour of its edge


def page(title: str, subtitle: str, *parts: str) -> str:
    """A whole document of parts that the functions below make.

    >>> "<h1>A run</h1>" in page("A run", "on digits", section("Figures", "<p>none</p>"))
    True
    """
    style = resources.files("vaejax.report").joinpath("page.css").read_text()
    # Nothing is fetched, also where a label holds what would fetch it.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="subtitle">{escape(subtitle)}</p>
</header>
<main>
{"".join(parts)}</main>
</body>
</html>
"""


def headline(said: Headline) -> str:
    """The headline and its sentences, in a box."""
    sentences = "".join(f"<p>{escape(each)}</p>\n" for each in said.sentences)
    return f'<div class="verdict {said.tone}">\n<p class="headline">{escape(said.text)}</p>\n{sentences}</div>\n'


def section(title: str, content: str) -> str:
    """A part of the page under a heading; nothing where there is no content."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}</section>\n" if content else ""


def cards(parts: Iterable[tuple[str, Mapping[str, str], Sequence[str]]]) -> str:
    """Titles, words by their labels, and remarks, each in a card."""
    return "".join(
        f'<div class="card">\n<h3>{escape(title)}</h3>\n{_rows(rows, "numbers")}'
        + "".join(f'<p class="remark">{escape(remark)}</p>\n' for remark in remarks)
        + "</div>\n"
        for title, rows, remarks in parts
    ).join(('<div class="sections">\n', "</div>\n"))


def table(rows: Sequence[Sequence[str]], name: str = "") -> str:
    """A table whose first row is the header; `name` is read aloud, the header's words where it is empty."""
    name = name or ", ".join(rows[0])
    header, *body = ([escape(cell) for cell in row] for row in rows)
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>\n' for row in body
    )
    return (
        # A keyboard must reach what scrolls.
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(name)}">\n'
        f'<table class="numbers">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody>\n'
        "</table>\n</div>\n"
    )


def details(title: str, rows: Mapping[str, str]) -> str:
    """What is looked up rather than read: a table that opens."""
    return f"<details>\n<summary>{escape(title)}</summary>\n{_rows(rows)}</details>\n" if rows else ""


def pictures(images: Sequence[tuple[bytes, str, str]]) -> str:
    """PNG images inside the page, each with its caption, and with what it is in a few words where it is not seen."""
    return "".join(
        f'<figure>\n<img src="data:image/png;base64,{base64.b64encode(png).decode()}" '
        f'alt="{escape(alt)}">\n<figcaption>{escape(caption)}</figcaption>\n</figure>\n'
        for png, caption, alt in images
    ).join(('<div class="pictures">\n', "</div>\n") if images else ("", ""))


def footer(text: str) -> str:
    """The end of the page."""
    return f"<footer>\n<p>{escape(text)}</p>\n</footer>\n"


def _unbroken(value: str) -> str:
    """A number that stays on one line with its error and, where it is short, with its unit."""
    return value.replace(" ", "\u00a0") if len(value) <= UNBROKEN else value.replace(" ± ", "\u00a0±\u00a0")


def _rows(rows: Mapping[str, str], kind: str = "") -> str:
    fitted = _unbroken if kind == "numbers" else str
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(fitted(value))}</td></tr>\n'
        for name, value in rows.items()
    )
    return f'<table class="{kind}">\n{lines}</table>\n' if rows else ""
