"""Pages: whole, escaped, and nothing in them asks for anything elsewhere."""

import itertools
import re
from html.parser import HTMLParser

import pytest

from vaejax.report import page

HOSTILE = '<script src="https://example.com/x.js"></script>&"'


class Reader(HTMLParser):
    """Which elements there are, and whether each that opens is closed."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def whole(words):
    return page.page(
        words,
        words,
        page.headline(page.Headline(words, [words], "warn")),
        page.section(words, page.cards([(words, {words: words}, [words])])),
        page.section("tables", page.table([["run", words], [words, words]]) + page.details(words, {words: words})),
        page.section("pictures", page.pictures([(b"\x89PNG", words, words)])),
        page.section("left out", ""),
        page.footer(words),
    )


def test_a_page_is_well_formed_and_says_what_it_was_given():
    text = whole("a word")
    found = Reader(text)
    assert found.seen.count("section") == 3
    assert "left out" not in text
    assert text.count("a word") == 19
    assert 'class="verdict warn"' in text
    assert '<img src="data:image/png;base64,iVBORw=="' in text


def test_a_picture_has_words_of_its_own_where_it_is_not_seen():
    text = page.pictures([(b"", "What was learned.", "grid of digits")])
    assert 'alt="grid of digits"' in text
    assert text.count("What was learned.") == 1


def test_a_table_that_scrolls_is_reached_by_keyboard_and_has_a_name():
    rows = [["run", "KL"], ["a", "1"]]
    assert 'tabindex="0" role="region" aria-label="run, KL"' in page.table(rows)
    assert 'aria-label="the &quot;figures&quot;"' in page.table(rows, 'the "figures"')


def test_numbers_stay_whole_and_words_stay_as_they_are():
    # 24 characters, and 25.
    rows = {"KL": "1.146 ± 0.028 white = 10", "error": "1.146 ± 0.028 white = 100"}
    text = page.cards([("Test", rows, [])]) + page.details("Settings", {"sizes": "16, 32 ± 0"})
    for words in ("1.146_±_0.028_white_=_10<", "1.146_±_0.028 white = 100<", "16, 32 ± 0<"):
        assert words.replace("_", "\u00a0") in text


@pytest.fixture
def show(browser, tmp_path):
    """Opens parts in a page of a width, in a context with options."""
    contexts = []

    def show(width, *parts, **options):
        path = tmp_path / "page.html"
        path.write_text(page.page("A page", "", *parts), encoding="utf-8")
        contexts.append(browser.new_context(viewport={"width": width, "height": 740}, **options))
        shown = contexts[-1].new_page()
        shown.goto(path.as_uri())
        return shown

    yield show
    for context in contexts:
        context.close()


def test_paper_is_white_and_has_what_is_closed_on_the_screen(show):
    parts = page.headline(page.Headline("Good.")), page.details("Settings", {"learning rate": "0.001"})
    shown = show(800, *parts, color_scheme="dark")
    visible = lambda: shown.evaluate("document.querySelector('details td').checkVisibility()")
    colours = lambda: (
        shown.evaluate("""[['body', 'backgroundColor'], ['body', 'color'], ['.good', 'borderLeftColor']].map(
      ([selector, name]) => getComputedStyle(document.querySelector(selector))[name])""")
    )
    assert not visible()
    assert colours() == ["rgb(20, 24, 30)", "rgb(230, 234, 240)", "rgb(92, 199, 149)"]
    shown.emulate_media(media="print", color_scheme="dark")
    assert visible()
    assert shown.locator("details td").bounding_box()["height"] > 10
    assert colours() == ["rgb(255, 255, 255)", "rgb(0, 0, 0)", "rgb(29, 127, 78)"]


@pytest.mark.parametrize("width", [320, 360, 1200])
def test_cards_need_no_scrolling_and_leave_no_holes(show, width):
    rows = {"-ELBO": "93.92 ± 0.64 nats", "reconstruction": "83.97 ± 0.65 nats"}
    long = {"squared error": "1.146 ± 0.028 white = 1, summed over the pixels", **rows}
    cards = [("Short", rows, []), ("Long", long, ["A remark. " * 40]), *[(f"Card {i}", rows, []) for i in range(4)]]
    shown = show(width, page.section("Figures", page.cards(cards)), page.details("Data", {"sha256": 64 * "0"}))
    shown.evaluate("document.querySelector('details').open = true")
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate(
        "[...document.querySelectorAll('.card')].every((card) => card.scrollWidth <= card.clientWidth)"
    )
    boxes = shown.evaluate("""[...document.querySelectorAll('.card')].map((card) => {
      const box = card.getBoundingClientRect();
      return [box.left, box.top, box.bottom, card.querySelector('td').getBoundingClientRect().height]; })""")  # fmt: skip
    # Each card lies a gap below the one before it, or at the head of the next column.
    top = boxes[0][1]
    for before, box in itertools.pairwise(boxes):
        assert box[1] - before[2] == 16 if box[0] == before[0] else box[1] == top
    assert len({box[0] for box in boxes}) == (3 if width == 1200 else 1)
    # One line.
    assert boxes[0][3] < 40


def test_hostile_words_stay_words_and_nothing_is_fetched():
    found = Reader(whole(HOSTILE))
    assert "script" not in found.seen
    sources = [value for name, value in found.attributes if name in ("src", "href")]
    assert all(value.startswith("data:") for value in sources)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'") in (
        found.attributes
    )
    assert not re.search(r"url\(|@import", whole("x"))
