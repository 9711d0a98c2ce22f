"""MongoDB: the only room that imports Motor, and its stand-in.

Motor gets critical fixes only until May 2027; moving to PyMongo's own async client is a change of these files.
"""

from app.stack.mongodb.connection import Collection, Database, connect
from app.stack.mongodb.find import NEWEST_FIRST, Find, Order, Rows
from app.stack.mongodb.mongomock import is_stand_in, stand_in
from app.stack.mongodb.snapshot import NoSnapshot, rows, together
from app.stack.mongodb.transactions import Contended, Transaction, transaction
from app.stack.mongodb.write import create_clustered, grown, insert_missing, prepare

__all__ = [
    "NEWEST_FIRST",
    "Collection",
    "Contended",
    "Database",
    "Find",
    "NoSnapshot",
    "Order",
    "Rows",
    "Transaction",
    "connect",
    "create_clustered",
    "grown",
    "insert_missing",
    "is_stand_in",
    "prepare",
    "rows",
    "stand_in",
    "together",
    "transaction",
]
