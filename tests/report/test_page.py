"""Pages: whole, escaped, and nothing in them asks for anything elsewhere."""

import re
from html.parser import HTMLParser

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
        page.verdict(page.Verdict(words, [words], "warn")),
        page.section(words, page.cards([(words, {words: words}, [words])])),
        page.section("tables", page.table([["run", words], [words, words]]) + page.details(words, {words: words})),
        page.section("pictures", page.pictures([(b"\x89PNG", words)])),
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


def test_hostile_words_stay_words_and_nothing_is_fetched():
    found = Reader(whole(HOSTILE))
    assert "script" not in found.seen
    sources = [value for name, value in found.attributes if name in ("src", "href")]
    assert all(value.startswith("data:") for value in sources)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'") in (
        found.attributes
    )
    assert not re.search(r"url\(|@import", whole("x"))
