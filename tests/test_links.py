"""Every relative link of the documentation leads to a file that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)|\b(?:src|href|srcset)=\"([^\"\s]+)\"")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#|//")


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = [markdown or html for markdown, html in LINK.findall(page.read_text(encoding="utf-8"))]
    targets = sorted({link.partition("#")[0] for link in links if not ELSEWHERE.match(link)})
    assert [target for target in targets if not (page.parent / target).exists()] == []
