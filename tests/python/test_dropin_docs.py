"""The documentation of keywords is what the classes do."""

from keyword_tables import DOCUMENT, filled


def test_the_tables_are_those_of_the_classes():
    text = DOCUMENT.read_text()
    assert filled(text) == text, "run: python tests/python/keyword_tables.py"
