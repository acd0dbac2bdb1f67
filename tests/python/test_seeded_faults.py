"""Each test that the conformance page names is seen to fail under a seeded fault of its row."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from faults import FAULTS

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "conformance" / "amqp091.md"
# A fault is mostly noticed by something that does not come.
PATIENCE_S = "1.5"
# They wait more than they work.
PROCESSES = 4
WITHIN_S = 200


def rows():
    """The rows of the page, by their first cell: (tests as `file::test`, cell of the faults)."""
    found = {}
    for line in PAGE.read_text().splitlines():
        if "::" in line and line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found[cells[0]] = re.findall(r"`(\w+\.py::\w+)`", line), cells[-1].rstrip("| ")
    return found


ROWS = rows()
ROWS_OF_TEST = defaultdict(list)
for key, (tests, _) in ROWS.items():
    for test in tests:
        ROWS_OF_TEST[test].append(key)


def faults_of(row, test=None):
    """The faults of a row, or those of them that a test must notice."""
    name = test and test.split("::")[1]
    return [each for each in FAULTS
            if each.row == row and (not name or not each.tests or name in each.tests)]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_its_faults(row):
    tests, cell = ROWS[row]
    assert cell == "; ".join(each.name for each in faults_of(row)), "the page and the table differ"
    for test in tests:
        assert faults_of(row, test), f"{test} has no fault to notice in this row"


def test_each_fault_is_of_a_row_and_for_its_tests():
    for each in FAULTS:
        assert each.row in ROWS, f"no row {each.row} on the page"
        named = {test.split("::")[1] for test in ROWS[each.row][0]}
        assert set(each.tests) <= named, f"{each.name}: {set(each.tests) - named} are not in its row"


def start(tests, report):
    """Runs tests through the fault proxy in a process of their own; `report` gets the outcomes."""
    environment = os.environ | {
        "FAULTED_REPORT": str(report), "FAULTED_ROWS": json.dumps(ROWS_OF_TEST),
        "ISTHMUS_TEST_PATIENCE_S": PATIENCE_S,
    }
    for variable in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST"):
        environment.pop(variable, None)
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "faulted", "-p",
         "no:xdist", "-o", "addopts=-p no:logging --strict-markers", "--timeout=6", "-q", *tests],
        cwd=HERE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcomes(directory):
    """What became of each test, with each of its faults and without: `{test: {fault: [case]}}`."""
    tests = sorted(ROWS_OF_TEST)
    parts = {directory / f"{number}.json": tests[number::PROCESSES] for number in range(PROCESSES)}
    running = {report: start(part, report) for report, part in parts.items()}
    found = {}
    for report, process in running.items():
        try:
            output, _ = process.communicate(timeout=WITHIN_S)
        finally:
            process.kill()
        assert report.exists(), output
        found |= json.loads(report.read_text())
    return found


@pytest.mark.serial
@pytest.mark.timeout(WITHIN_S + 20)
def test_the_tests_of_each_row_notice_its_faults(tmp_path):
    found = outcomes(tmp_path)
    complaints = []
    for row, (tests, _) in ROWS.items():
        for test in tests:
            if set(found[test][""]) != {"passed"}:
                complaints.append(f"{row}: {test} without a fault: {found[test]['']}")
            for each in faults_of(row, test):
                cases = found[test][each.name]
                # One case of several may be all that a fault touches.
                if "failed" not in cases or not {"passed", "failed"} >= set(cases):
                    complaints.append(f"{row}: {test} with the fault {each.name!r}: {cases}")
    assert complaints == []
