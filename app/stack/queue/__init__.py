"""The delivery queues: RQ on Redis. Jobs are JSON: the name of a function, and ids and names as text."""

from rq import Retry

from app.stack.queue.connection import connect, stand_in
from app.stack.queue.delivery_queue import DeliveryQueue, QueueDown
from app.stack.queue.jobs import FIRST, MORE, QUEUES
from app.stack.queue.looking import JobSeen, WorkerState
from app.stack.queue.strict import FAN_OUT, JOB_TIMEOUT_S, NOTHING

__all__ = [
    "FAN_OUT",
    "FIRST",
    "JOB_TIMEOUT_S",
    "MORE",
    "NOTHING",
    "QUEUES",
    "DeliveryQueue",
    "JobSeen",
    "QueueDown",
    "Retry",
    "WorkerState",
    "connect",
    "stand_in",
]
