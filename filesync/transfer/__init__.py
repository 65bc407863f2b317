"""Moves the contents of offered trees between processes."""

from filesync.transfer.address import check_address, check_listen_address
from filesync.transfer.errors import InsecureListen, NotOffered, Refused
from filesync.transfer.offer import Offer, Replica
from filesync.transfer.plane_zmq import DataPlane
from filesync.transfer.stats import Counters, Progress, PullStats, ReplicaStats
from filesync.transfer.timeouts import Timeouts

__all__ = [
    "Counters",
    "DataPlane",
    "InsecureListen",
    "NotOffered",
    "Offer",
    "Progress",
    "PullStats",
    "Refused",
    "Replica",
    "ReplicaStats",
    "Timeouts",
    "check_address",
    "check_listen_address",
]
