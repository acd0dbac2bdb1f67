"""Celery with a worker process: tasks, retries, results, times, priorities, late acknowledgement,
remote control."""

import datetime
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import kombu.pools
import pytest

from helpers import eventually

HERE = Path(__file__).resolve().parent


class Celery:
    """The application as a producer, and its workers as processes."""

    def __init__(self, url, queue, directory, tls_files=None):
        self.directory = directory
        self.journal = directory / "journal"
        self.journal.touch()
        self.environment = {"CELERY_BROKER_URL": url, "CELERY_QUEUE": queue,
                            "CELERY_JOURNAL": str(self.journal)}
        files = tls_files or dict.fromkeys(("CA", "CERTIFICATE", "KEY"), "")
        self.environment |= {f"CELERY_{name}": str(path) for name, path in files.items()}
        os.environ.update(self.environment)
        sys.modules.pop("celery_tasks", None)
        self.tasks = importlib.import_module("celery_tasks")
        self.workers = []

    def start_worker(self):
        """A worker of one process, ready to take tasks."""
        log_path = self.directory / f"worker-{len(self.workers)}.log"
        with log_path.open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "celery_tasks", "worker", "--pool=solo",
                 "--loglevel=INFO", f"--hostname=worker-{len(self.workers)}@%h"],
                cwd=HERE, env=os.environ | self.environment | {"PYTHONPATH": str(HERE)},
                stdout=log, stderr=subprocess.STDOUT)
        self.workers.append(worker)

        def ready():
            assert worker.poll() is None, log_path.read_text()
            return " ready." in log_path.read_text()
        try:
            eventually(ready, within_s=20)
        except AssertionError as too_late:
            raise AssertionError(log_path.read_text()) from too_late
        return worker

    def lines(self):
        """What tasks have noted so far."""
        return self.journal.read_text().splitlines()

    def close(self):
        for worker in self.workers:
            worker.kill()
            worker.wait()
        # Connections that nobody reads any more would hold up the broker's stop.
        results = self.tasks.app.backend.result_consumer
        if results._connection is not None:
            results.stop()
        self.tasks.app.close()
        kombu.pools.reset()


@pytest.fixture
def celery(amqp, name, tmp_path):
    application = Celery(amqp.url, name, tmp_path)
    yield application
    application.close()


def test_tasks_and_retries_run(celery):
    for number in range(50):
        celery.tasks.record.delay(f"before {number}")
    worker = celery.start_worker()
    for number in range(50):
        celery.tasks.record.delay(f"after {number}")
    expected = sorted(f"{when} {number}" for when in ("before", "after") for number in range(50))
    eventually(lambda: len(celery.lines()) >= 100, within_s=20)
    assert sorted(celery.lines()) == expected

    celery.tasks.flaky.delay("flaky", failures=2)
    eventually(lambda: "flaky done" in celery.lines(), within_s=20)
    assert celery.lines()[100:] == [
        "flaky attempt 0", "flaky attempt 1", "flaky attempt 2", "flaky done"]

    replies = celery.tasks.app.control.ping(timeout=5, limit=1)
    assert [list(reply.values()) for reply in replies] == [[{"ok": "pong"}]]

    worker.terminate()
    assert worker.wait(20) == 0


def test_a_task_acknowledged_late_survives_its_worker(celery):
    victim = celery.start_worker()
    celery.tasks.slow_the_first_time.delay("late")
    eventually(lambda: celery.lines() == ["late redelivered=False"], within_s=10)
    victim.kill()
    victim.wait()
    celery.start_worker()
    eventually(lambda: len(celery.lines()) == 2, within_s=20)
    assert celery.lines()[1] == "late redelivered=True"


def test_results_times_and_priorities(celery):
    # One worker process takes them one by one; what waits for it is in the order of priority.
    for number in range(10):
        celery.tasks.record.apply_async((f"priority {number}",), priority=number)
    celery.start_worker()
    eventually(lambda: len(celery.lines()) == 10, within_s=10)
    assert celery.lines() == [f"priority {number}" for number in range(9, -1, -1)]

    sums = [celery.tasks.add.delay(number, 1) for number in range(20)]
    assert [result.get(timeout=10) for result in sums] == list(range(1, 21))
    with pytest.raises(ValueError, match="on purpose"):
        celery.tasks.fail.delay("on purpose").get(timeout=10)

    due = time.time() + 1
    celery.tasks.record_time.apply_async((due,), countdown=1)
    eta = datetime.datetime.fromtimestamp(due, datetime.timezone.utc)
    celery.tasks.record_time.apply_async((due,), eta=eta)
    eventually(lambda: len(celery.lines()) == 12, within_s=10)
    for late_s in map(float, celery.lines()[10:]):
        assert -0.05 <= late_s < 3


@pytest.mark.parametrize("broker", ["tls_isthmus", "mtls_isthmus"], ids=["tls", "mtls"])
def test_tasks_and_results_over_tls(request, broker, name, tmp_path):
    endpoint = request.getfixturevalue(broker)
    files = {"CA": endpoint.certificates / "ca.pem", "CERTIFICATE": "", "KEY": ""}
    if endpoint.is_mutual:
        files |= {"CERTIFICATE": endpoint.certificates / "client.pem",
                  "KEY": endpoint.certificates / "client.key"}
    application = Celery(endpoint.url, name, tmp_path, files)
    try:
        application.start_worker()
        assert application.tasks.add.delay(20, 22).get(timeout=10) == 42
    finally:
        application.close()
