"""Celery with a worker process: tasks, retries, late acknowledgement, remote control."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import eventually

HERE = Path(__file__).resolve().parent


class Celery:
    """The application as a producer, and its workers as processes."""

    def __init__(self, url, queue, directory):
        self.directory = directory
        self.journal = directory / "journal"
        self.journal.touch()
        self.environment = {"CELERY_BROKER_URL": url, "CELERY_QUEUE": queue,
                            "CELERY_JOURNAL": str(self.journal)}
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
        self.tasks.app.close()


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
