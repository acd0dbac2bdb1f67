"""The Celery application whose worker test_celery.py runs; tasks leave a line in a journal file."""

import os
import time

from celery import Celery

app = Celery("isthmus", broker=os.environ["CELERY_BROKER_URL"])
app.conf.update(
    task_default_queue=os.environ["CELERY_QUEUE"],
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=False,
    broker_transport_options={"confirm_publish": True},
)


def note(text):
    """Appends a line in one write, so that processes may do so side by side."""
    with open(os.environ["CELERY_JOURNAL"], "ab", buffering=0) as journal:
        journal.write(text.encode() + b"\n")


@app.task
def record(text):
    """Runs once."""
    note(text)


@app.task(bind=True, max_retries=3)
def flaky(self, text, failures):
    """Fails so many times before it works; a retry is a new message."""
    note(f"{text} attempt {self.request.retries}")
    if self.request.retries < failures:
        raise self.retry(countdown=0.1)
    note(f"{text} done")


@app.task(acks_late=True, bind=True)
def slow_the_first_time(self, text):
    """Blocks until it is killed, unless it was delivered before."""
    redelivered = self.request.delivery_info["redelivered"]
    note(f"{text} redelivered={redelivered}")
    if not redelivered:
        time.sleep(60)
