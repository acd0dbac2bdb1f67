"""STOMP and MQTT in a page of Debian's Chromium: messages come, and pages of strangers do not."""

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from broker import Broker

NODE_TESTS = Path(__file__).resolve().parents[1] / "node"
MODULES = NODE_TESTS / "node_modules"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(directory):
    """The origin at which the files of `directory` are."""
    handler = functools.partial(Quiet, directory=directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.browser
@pytest.mark.timeout(180)
def test_pages(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(NODE_TESTS / "browser" / "page.html", site)
    shutil.copy(MODULES / "@stomp" / "stompjs" / "bundles" / "stomp.umd.min.js", site / "stomp.js")
    shutil.copy(MODULES / "mqtt" / "dist" / "mqtt.min.js", site / "mqtt.js")
    with served(site) as page, served(site) as stranger, \
            Broker(tmp_path / "data", {"websocket.origins": page}) as broker:
        sockets = [f"ws://127.0.0.1:{broker.ports['any']}/",
                   f"ws://127.0.0.1:{broker.ports['http']}/ws"]
        environment = {
            "ISTHMUS_TEST_PAGE": page, "ISTHMUS_TEST_STRANGER": stranger,
            "ISTHMUS_TEST_URL": "amqp://guest:guest@{}:{}".format(*broker.amqp),
            "ISTHMUS_TEST_WS": " ".join(sockets),
        }
        ran = subprocess.run(
            ["node", "--test", "--test-reporter=spec", "browser/page.test.js"], cwd=NODE_TESTS,
            timeout=150, text=True, env=os.environ | environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        assert ran.returncode == 0, ran.stdout
