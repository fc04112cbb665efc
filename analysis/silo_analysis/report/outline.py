"""The sections of a page: a permanent link beside each heading, and the contents made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup

# Text from a study is escaped: only the templates' own headings have this form.
_HEADING = re.compile(r'<h([23])([^>]*?\sid="([^"]+)"[^>]*)>(.*?)</h\1>', re.DOTALL)


@dataclass(frozen=True)
class Section:
    """A section, or a part of one: its id and its title as HTML, and the parts inside."""

    id: str
    title: Markup
    parts: tuple[Section, ...] = ()


def with_anchors(body: str) -> Markup:
    """The page's HTML with a link to itself in every h2 and h3 that has an id."""
    link = r'<a class="anchor" href="#\3" aria-label="Link to this section">#</a>'
    return Markup(_HEADING.sub(rf"<h\1\2>\4 {link}</h\1>", body))


def contents(body: str) -> list[Section]:
    """The h2 that have an id, each with the h3 that follow it."""
    found: list[tuple[Section, list[Section]]] = []
    for level, _, id_, title in _HEADING.findall(body):
        entry = Section(id_, Markup(title.strip()))
        if level == "2" or not found:
            found.append((entry, []))
        else:
            found[-1][1].append(entry)
    return [Section(entry.id, entry.title, tuple(parts)) for entry, parts in found]
