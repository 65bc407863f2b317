"""The data plane of one process: everything that sends or receives file data goes through it."""

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Final, Self

import zmq
import zmq.asyncio

from filesync.digest import Digest
from filesync.errors import FilesyncError, LocalError, PeerError, Unavailable
from filesync.manifest import Manifest
from filesync.transfer import calls_zmq
from filesync.transfer.address import check_address, check_listen_address
from filesync.transfer.channel_zmq import Channel
from filesync.transfer.connections_zmq import Dialler, Listener
from filesync.transfer.dispatch import Dispatch
from filesync.transfer.landing_disk import Update
from filesync.transfer.offer import Offer, Replica
from filesync.transfer.pull_zmq import Pulling, Wanting
from filesync.transfer.receiver import WINDOW_BYTES, Receiver
from filesync.transfer.stats import Counters, Progress, PullStats, ReplicaStats
from filesync.transfer.wire import Call, Serve
