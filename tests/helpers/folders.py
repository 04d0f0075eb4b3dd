"""What folders hold, disks that are full, and processes that are waited for."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import subprocess
import time

import pytest


def names(folder):
    """What the folder holds."""
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def room_for(size):
    """A disk on which no file grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def contents(folder):
    """Every file's bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def wait_for(condition, process, seconds=120):
    """Polls until the condition holds; fails where the process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"the process ended early, with {process.wait(0.02)}")


def free_ports(count):
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
