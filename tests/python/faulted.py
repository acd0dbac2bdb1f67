"""A pytest plugin that runs each collected test through the fault proxy: as it is, and with each
fault that it must notice. FAULTED_REPORT names the file for the outcomes.

Outcomes are `{test: {fault or "": [outcome of each of its cases]}}`, in JSON.
"""

import json
import os
from collections import defaultdict

import pytest
from faultproxy import FaultProxy
from faults import FAULTS
from helpers import VIA

OUTCOMES = defaultdict(lambda: defaultdict(list))


class Proxies:
    """A proxy for each endpoint that tests ask for; all commit the same fault."""

    def __init__(self):
        self.of = {}
        self.fault = None

    def __call__(self, endpoint):
        """The endpoint by way of its proxy."""
        if endpoint.address not in self.of:
            self.of[endpoint.address] = FaultProxy(endpoint.address, *endpoint.proxy_contexts())
        proxy = self.of[endpoint.address]
        proxy.fault = self.fault
        return endpoint._replace(host=proxy.address[0], port=proxy.address[1])

    def commit(self, fault):
        """Commits this from now on, or nothing."""
        self.fault = fault
        for proxy in self.of.values():
            proxy.fault = fault

    def take_errors(self):
        """What faults raised since the last time; they are to pervert, not to break."""
        errors = []
        for proxy in self.of.values():
            errors += proxy.errors
            proxy.errors.clear()
        return errors


PROXIES = Proxies()


def pytest_configure(config):
    config.stash[VIA] = PROXIES


def name_of(function, path):
    """`file::function`, without the case."""
    return f"{path.name}::{function}"


def faults_of(test):
    """The faults that the rows of the page declare for a test."""
    rows = json.loads(os.environ["FAULTED_ROWS"]).get(test, [])
    return [each for each in FAULTS if each.row in rows
            and (not each.tests or test.split("::")[1] in each.tests)]


def pytest_generate_tests(metafunc):
    test = name_of(metafunc.function.__name__, metafunc.definition.path)
    metafunc.parametrize("seeded_fault", [None, *faults_of(test)], indirect=True,
                         ids=lambda fault: fault.name if fault else "none")


@pytest.fixture(autouse=True)
def seeded_fault(request):
    """The fault that the proxies commit during a test, its setup included."""
    PROXIES.commit(request.param.commit if request.param else None)


def pytest_collection_modifyitems(items):
    # The proxies speak TLS as one who has a client's certificate.
    items[:] = [item for item in items
                if item.callspec.params.get("transport") != "tls_isthmus"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when != "teardown" and (report.when == "call" or not report.passed):
        note(item, item.callspec.params["seeded_fault"], report)
        # Clients say goodbye in peace.
        PROXIES.commit(None)
    return report


def note(item, fault, report):
    """Keeps the outcome of a case."""
    outcome = report.outcome
    if errors := PROXIES.take_errors():
        outcome = f"broke the proxy: {errors}"
    elif report.failed and not fault:
        outcome += f": {report.longreprtext}"
    elif report.failed and os.environ.get("FAULTED_VERBOSE"):
        print(f"\n{item.name}: {report.longreprtext[-300:]}")
    test = name_of(item.originalname, item.path)
    OUTCOMES[test][fault.name if fault else ""].append(outcome)


def pytest_sessionfinish():
    with open(os.environ["FAULTED_REPORT"], "w") as report:
        json.dump(OUTCOMES, report)
