"""The task of `celery_peer`, as its worker's processes import it."""

from __future__ import annotations

import os

import requests
from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.task_ignore_result = True
app.conf.task_acks_late = True
session = requests.Session()


@app.task
def send(url: str, body: str, secret: str) -> None:
    session.post(url, data=body, headers={"x-webhook-secret": secret}, timeout=15).raise_for_status()
