"""The delivery queues: RQ on Redis. Jobs are JSON: the name of a function, and ids and names as text."""

from rq import Retry

from app.stack.queue.connection import connect, stand_in
from app.stack.queue.delivery_queue import DeliveryQueue, QueueDown
from app.stack.queue.jobs import FIRST, JOB_TIMEOUT_S, MORE, QUEUES
from app.stack.queue.looking import Delivery, WorkerState

__all__ = [
    "FIRST",
    "JOB_TIMEOUT_S",
    "MORE",
    "QUEUES",
    "Delivery",
    "DeliveryQueue",
    "QueueDown",
    "Retry",
    "WorkerState",
    "connect",
    "stand_in",
]
