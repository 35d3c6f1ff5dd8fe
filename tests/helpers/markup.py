"""What a browser would make of a piece of HTML."""

from html.parser import HTMLParser


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements, self.text = [], ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(page: str) -> _Parser:
    """Its `elements`, (tag, attributes) each, and its `text`."""
    parser = _Parser()
    parser.feed(page)
    return parser


def assert_harmless(page: str, hostile: str) -> None:
    """The text `hostile`, which tries to, makes no element or attribute; it is there as text."""
    parsed = parse(page)
    attributes = [a for _, attributes in parsed.elements for a in attributes.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert not [tag for tag, _ in parsed.elements if tag in ("script", "iframe")]
    assert hostile in parsed.text or hostile in [value for _, value in attributes]
