"""Runs the Node.js clients' tests against the broker under test."""

import os
import subprocess
from pathlib import Path

import pytest

NODE_TESTS = Path(__file__).resolve().parents[1] / "node"


@pytest.mark.parametrize("script", sorted(path.name for path in NODE_TESTS.glob("*.test.js")))
def test_node(amqp, script):
    ran = subprocess.run(
        ["node", "--test", "--test-reporter=spec", script], cwd=NODE_TESTS, timeout=50, text=True,
        env=os.environ | {"ISTHMUS_TEST_AMQP": f"{amqp.host}:{amqp.port}"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert ran.returncode == 0, ran.stdout
