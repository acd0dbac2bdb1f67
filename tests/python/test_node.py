"""Runs the Node.js clients' tests against the broker under test."""

import os
import subprocess
from pathlib import Path

NODE_TESTS = Path(__file__).resolve().parents[1] / "node"


def run(script, environment):
    """Runs the tests of a script; they all pass."""
    ran = subprocess.run(
        ["node", "--test", "--test-reporter=spec", script], cwd=NODE_TESTS, timeout=50, text=True,
        env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert ran.returncode == 0, ran.stdout


def test_amqplib(transport):
    environment = {"ISTHMUS_TEST_URL": transport.url.removesuffix("//")}
    if transport.certificates:
        environment["ISTHMUS_TEST_CA"] = str(transport.certificates / "ca.pem")
    if transport.is_mutual:
        environment["ISTHMUS_TEST_CERTIFICATE"] = str(transport.certificates / "client.pem")
        environment["ISTHMUS_TEST_KEY"] = str(transport.certificates / "client.key")
    run("amqplib.test.js", environment)


def test_mqtt_js(isthmus):
    run("mqtt.test.js", {
        "ISTHMUS_TEST_MQTT": f"mqtt://127.0.0.1:{isthmus.ports['mqtt']}",
        "ISTHMUS_TEST_MQTT_WS": f"ws://127.0.0.1:{isthmus.ports['any']}/mqtt",
    })
