"""What every page is held to: one file, for eyes and without, on a phone and at a desk, in light and in dark."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path


class Outline(HTMLParser):
    """What a reader without eyes gets: headings, tables, pictures; and what a page must not have."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def check_page(text: str) -> None:
    """Assert that a page is one file without network or script, with unique ids, and that a screen reader finds its way."""
    outline = Outline()
    outline.feed(text)
    assert outline.of("script") == []
    assert re.findall(r'(?:src|href|action)="(?!#|data:)[^"]*"', text) == []
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', text)) <= set(ids)
    assert outline.of("html")[0]["lang"] == "en"
    assert len(outline.of("caption")) == len(outline.of("table"))
    assert all("scope" in attributes for attributes in outline.of("th"))
    assert all(attributes.get("aria-label") for attributes in outline.of("figure"))
    assert all(attributes.get("alt") for attributes in outline.of("img"))
    assert {attributes.get("aria-hidden") for attributes in outline.of("svg")} == {"true"}
    assert all(attributes.get("tabindex") == "0" for attributes in outline.of("div") if attributes.get("class") == "scroll")
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h\d", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def check_in_browser(browser, page: Path, *, width: int, scheme: str) -> None:
    """Assert that a browser shows a page without a word of complaint, and that it can be read."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
    tab = context.new_page()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("requestfailed", lambda request: complaints.append(request.url))
    tab.goto(page.as_uri())
    assert complaints == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # Text of the charts can be read: at least nine pixels on a phone, and never outside its picture.
    assert tab.evaluate("[...document.querySelectorAll('svg text')].every(t => t.getBoundingClientRect().height >= 7)")
    clipped = tab.evaluate(
        "[...document.querySelectorAll('svg')].flatMap(s => { const f = s.getBoundingClientRect();"
        " return [...s.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()])"
        " .filter(([, r]) => r.left < f.left - 2 || r.right > f.right + 2).map(([text]) => text) })"
    )
    assert clipped == []
    background, ink = tab.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    assert (background, ink) == (
        ("rgb(255, 255, 255)", "rgb(27, 27, 27)") if scheme == "light" else ("rgb(22, 22, 22)", "rgb(236, 236, 236)")
    )
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "To the content"
    context.close()
