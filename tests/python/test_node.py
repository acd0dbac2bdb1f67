"""Runs the Node.js clients' tests against the broker under test."""

import os
import subprocess
from pathlib import Path

import pytest

NODE_TESTS = Path(__file__).resolve().parents[1] / "node"


@pytest.mark.parametrize("script", sorted(path.name for path in NODE_TESTS.glob("*.test.js")))
def test_node(transport, script):
    environment = {"ISTHMUS_TEST_URL": transport.url.removesuffix("//")}
    if transport.certificates:
        environment["ISTHMUS_TEST_CA"] = str(transport.certificates / "ca.pem")
    if transport.is_mutual:
        environment["ISTHMUS_TEST_CERTIFICATE"] = str(transport.certificates / "client.pem")
        environment["ISTHMUS_TEST_KEY"] = str(transport.certificates / "client.key")
    ran = subprocess.run(
        ["node", "--test", "--test-reporter=spec", script], cwd=NODE_TESTS, timeout=50, text=True,
        env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert ran.returncode == 0, ran.stdout
