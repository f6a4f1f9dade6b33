"""An HTML page as a list of elements, to check what readers and screen readers get."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

_EMPTY = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}

_BLOCKS = {"td", "th", "dt", "dd", "li", "p", "h1", "h2", "h3", "h4", "option", "caption", "title", "summary"}


@dataclass
class Element:
    """An element: its tag, attributes, parent, and all text inside it."""

    tag: str
    attributes: dict[str, str]
    parent: "Element | None"
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def is_inside(self, tag: str) -> bool:
        return self.parent is not None and (self.parent.tag == tag or self.parent.is_inside(tag))


class Page(HTMLParser):
    """Parses a page and rejects elements that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open[-1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), names
        parent = self._open[-1] if self._open else None
        element = Element(tag, {name: value or "" for name, value in attrs}, parent)
        self.elements.append(element)
        if tag not in _EMPTY:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _EMPTY:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        self.handle_data(" " if tag in _BLOCKS else "")
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.texts.append(data)

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]

    def text_of(self, id: str) -> str:
        (found,) = (element for element in self.elements if element.attributes.get("id") == id)
        return found.text

    def rows(self, id: str) -> list[list[str]]:
        """Return the texts of the cells of the body of a table."""
        rows: list[list[str]] = []
        for element in self.all("tr", "td", "th"):
            inside, table = element, False
            while inside.parent is not None:
                inside = inside.parent
                table = table or inside.attributes.get("id") == id
            if table and element.is_inside("tbody"):
                if element.tag == "tr":
                    rows.append([])
                else:
                    rows[-1].append(element.text)
        return rows
