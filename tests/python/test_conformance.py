"""The tests that docs/conformance names exist."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PAGES = sorted((HERE.parents[1] / "docs" / "conformance").glob("amqp*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    named = re.findall(r"`(\w+\.py)::(\w+)`", page.read_text())
    assert len(named) > 10, "the page names its tests as `file::test`"
    missing = [f"{file}::{test}" for file, test in named if not (HERE / file).is_file()
               or not re.search(rf"^def {test}\(", (HERE / file).read_text(), re.MULTILINE)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_of_a_page_names_a_test(page):
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert [row for row in rows if "::" not in row and "| test |" not in row] == []
