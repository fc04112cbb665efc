"""Files as parts of a page: a figure as an SVG element, the data behind it as a link."""

from __future__ import annotations

import re
from html import escape
from urllib.parse import quote

# A longer file is only named: the page stays small enough to open on a phone (ours).
MOST_INLINE = 300_000
_TAG = re.compile(r"<[a-zA-Z][^>]*>")  # attributes and text of matplotlib's files hold no bare ">"
_COLOR = re.compile(r"(fill|stroke): #([0-9a-f]{6})")


def inline_svg(svg: str, name: str, alt: str) -> str:
    """An SVG file as an element of a page: ids unique by `name`, an alt text; no prolog, metadata or fixed size.

    A colour #rrggbb becomes the style variable --crrggbb where the page defines that, as it does on a dark screen.
    """
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    prefix = f"fig-{name}"
    body = _TAG.sub(lambda tag: _own_names(tag[0], prefix), body)
    body = body.replace('<style type="text/css">*{', f"<style type=\"text/css\">[id='{prefix}'] *{{", 1)
    tag, rest = body.split(">", 1)
    tag = re.sub(r'\s(width|height)="[^"]*"', "", tag)
    return f'{tag} id="{prefix}" role="img" aria-label="{escape(alt)}">{rest}'


def _own_names(tag: str, prefix: str) -> str:
    tag = re.sub(r'(\sid=")', rf"\1{prefix}-", tag)
    tag = re.sub(r"(url\(#|href=\"#)", rf"\1{prefix}-", tag)
    return _COLOR.sub(r"\1: var(--c\2,#\2)", tag)


def csv_link(data: bytes) -> str | None:
    """The table as a link that a browser saves, None for one that is too long for a page."""
    link = "data:text/csv;charset=utf-8," + quote(data, safe=",")
    return link if len(link) <= MOST_INLINE else None
