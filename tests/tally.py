"""Counts the tests that passed and failed in a folder of results, and prints one closing line.

    tally.py FOLDER [FAILED_STAGE…]

The folder holds JUnit files (*.xml) and logs of `cargo test` (*.log). A stage that failed without
a failed test, such as one that did not compile, counts as one failure.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def junit(path):
    """Passed and failed test cases of a JUnit file; skipped ones are neither. Names those that
    failed, each with the first line of what it said."""
    passed = failed = 0
    for case in ElementTree.parse(path).iter("testcase"):
        found = [each for each in map(case.find, ("failure", "error")) if each is not None]
        if found:
            said = (found[0].get("message") or found[0].text or "").strip().split("\n")[0]
            print(f"failed: {case.get('classname')} {case.get('name')}: {said[:200]}")
            failed += 1
        elif case.find("skipped") is None:
            passed += 1
    return passed, failed


def cargo_log(path):
    """Passed and failed tests of the summaries that `cargo test` prints, one a test binary."""
    summaries = re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed;",
                           path.read_text(errors="replace"), re.MULTILINE)
    return sum(int(passed) for passed, _ in summaries), sum(int(failed) for _, failed in summaries)


def main(folder, *failed_stages):
    results = [junit(path) for path in sorted(Path(folder).glob("*.xml"))]
    results += [cargo_log(path) for path in sorted(Path(folder).glob("*.log"))]
    passed = sum(each[0] for each in results)
    failed = sum(each[1] for each in results)
    if failed_stages:
        print("failed:", ", ".join(failed_stages))
        failed = max(failed, len(failed_stages))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
