"""The Celery application whose worker test_celery.py runs; tasks leave a line in a journal file."""

import os
import ssl
import time

from celery import Celery

app = Celery("isthmus", broker=os.environ["CELERY_BROKER_URL"], backend="rpc://")
app.conf.update(
    task_default_queue=os.environ["CELERY_QUEUE"],
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=False,
    broker_transport_options={"confirm_publish": True},
    task_queue_max_priority=10,
    # A file for each: the authority, and the client's certificate and key if it has any.
    broker_use_ssl={
        "ca_certs": os.environ["CELERY_CA"], "certfile": os.environ["CELERY_CERTIFICATE"] or None,
        "keyfile": os.environ["CELERY_KEY"] or None, "cert_reqs": ssl.CERT_REQUIRED,
    } if os.environ.get("CELERY_CA") else None,
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


@app.task(ignore_result=False)
def add(left, right):
    """Has a result."""
    return left + right


@app.task(ignore_result=False)
def fail(text):
    """Has an error for a result."""
    raise ValueError(text)


@app.task
def record_time(due):
    """Notes by how much it ran later than it was due."""
    note(f"{time.time() - due:.3f}")
