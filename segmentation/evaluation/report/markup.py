"""HTML elements that escape what they are given, and the frame of a page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from dense_resnet.errors import escape_control

VOID = ("br", "img", "meta")  # elements without an end
NONE = "–"


class Html(str):
    """Text that is markup already; all other is escaped."""

    __slots__ = ()


def element(name: str, /, *children: str | int, **attributes: str | float | None) -> Html:
    """Return an element. Attributes that are None are omitted; ``class_`` is class, ``aria_label`` is aria-label.

    >>> element("p", "1 < 2, ", element("b", "really"), class_="note")
    '<p class="note">1 &lt; 2, <b>really</b></p>'
    """
    start = name
    for key, value in attributes.items():
        if value is not None:
            value = f"{value:.5g}" if isinstance(value, float) else value
            start += f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
    if name in VOID:
        return Html(f"<{start}>")
    return Html(f"<{start}>{join(children)}</{name}>")


def escape(value: object) -> str:
    r"""Escape text for use between tags and in attributes; invisible characters are spelled out.

    >>> escape("<b>\0")
    '&lt;b&gt;\\x00'
    """
    return html.escape(escape_control(str(value)))


def join(children: Iterable[str | int]) -> Html:
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children))


def format_percent(value: float | None, unit: str = "", digits: int = 2) -> str:
    return NONE if value is None else f"{100 * value:.{digits}f}{unit}"


def format_interval(interval: Sequence[float | None] | None) -> str:
    if interval is None or None in interval:
        return NONE
    return f"{format_percent(interval[0])}–{format_percent(interval[1])}"


def make_scrollable(content: Html, label: str, *, tall: bool = False) -> Html:
    """Wrap content that may be wider than the page in a box that the keyboard can focus and scroll."""
    return element("div", content, class_="scroll tall" if tall else "scroll", tabindex=0, role="region", aria_label=label)


def make_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Iterable[int] = (), class_: str | None = None
) -> Html:
    """Return a table whose first cells are the rows' headers; the columns `texts` are not numbers."""
    texts = {0, *texts}
    kinds = [None if column in texts else "number" for column in range(len(head))]
    heads = [element("th", cell, scope="col", class_=kind) for cell, kind in zip(head, kinds, strict=True)]
    body = []
    for first, *rest in rows:
        cells = [element("td", cell, class_=kind) for cell, kind in zip(rest, kinds[1:], strict=True)]
        body.append(element("tr", element("th", first, scope="row"), *cells))
    return element("table", element("thead", element("tr", *heads)), element("tbody", *body), class_=class_)


def make_details(summary: str, content: Html) -> Html:
    return element("details", element("summary", summary), content)


def make_facts(value: Any) -> Html:
    """Show JSON as nested definition lists."""
    if isinstance(value, Mapping) and value:
        items = [element("div", element("dt", key), element("dd", make_facts(inner))) for key, inner in value.items()]
        return element("dl", *items, class_="facts")
    if isinstance(value, list | tuple) and any(isinstance(inner, Mapping | list | tuple) for inner in value):
        return element("ol", *(element("li", make_facts(inner)) for inner in value))
    if isinstance(value, Mapping | list | tuple):
        return join([", ".join(_plain(inner) for inner in value) or "none"])
    return join([_plain(value)])


def _plain(value: Any) -> str:
    return {True: "yes", False: "no", None: "none"}[value] if value is None or isinstance(value, bool) else str(value)


def format_color(color: Sequence[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in color)


def format_class(entry: Mapping[str, Any], mark: str = "") -> Html:
    """Return a class as its color and its name."""
    swatch = element("span", class_="swatch", style=f"background:{format_color(entry['color'])}", aria_hidden="true")
    return element("span", swatch, element("bdi", entry["name"]), mark, class_="class")


def make_page(title: str, header: Html, sections: Iterable[tuple[str, str, Html]]) -> str:
    """Return a page without scripts or external resources; `sections` are (anchor, heading, content), empty ones left out."""
    sections = [section for section in sections if section[2]]
    links = [element("a", heading, href=f"#{name}") for name, heading, _ in sections]
    body = [
        header,
        element("nav", *links, aria_label="Sections"),
        element("main", *(element("section", element("h2", heading), body, id=name) for name, heading, body in sections)),
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content="script-src 'none'"),
        element("title", title),
        element("style", Html("\n" + files(__package__).joinpath("style.css").read_text("utf-8"))),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', *body), lang='en')}\n"
