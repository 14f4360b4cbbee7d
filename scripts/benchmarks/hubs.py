"""The hub that light clients dial: one of ours, another that runs already, or a fresh one that a command starts."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from backrest.crypto.identity import is_keyid
from backrest.crypto.tokens import PairingToken, new_secret
from backrest.net.dial import NetError
from benchmarks import process
from benchmarks.light import LightClient, Target
from benchmarks.machines import STOP_S, Machine, scratch
from benchmarks.model import FailedError, Figures, Options, Other


class Hub:
    def __init__(self, target: Target, pid: int) -> None:
        self.target = target
        self.pid = pid

    def cpu_s(self) -> float:
        """0 for a hub whose process we do not know; ``figures`` leaves out what is made of it."""
        return process.cpu_s(self.pid) if self.pid else 0.0

    def memory_mib(self, what: str) -> float:
        return process.memory_mib(self.pid, what)

    def figures(self, make: Callable[[], Figures]) -> Figures:
        """Those that say something of the hub's process: none when it is not known."""
        return make() if self.pid else {}


def light(count: int) -> list[LightClient]:
    """With names that no earlier run has used: another implementation's hub remembers them."""
    run = os.urandom(4).hex()
    return [LightClient(f"bench-{run}-{number}") for number in range(count)]


@contextmanager
def hub_for(options: Options, clients: Sequence[LightClient]) -> Iterator[Hub]:
    """A hub that knows the clients (ours, when nothing is compared) or lets them in by a token."""
    if options.other is not None:
        with _running(options.other) as other:
            yield Hub(target_of(other), other.pid)
        return
    with scratch() as directory:
        hub = Machine(directory, "hub")
        secret = new_secret() if options.compared else ""
        if secret:
            hub.take(PairingToken(hub.identity.keyid, secret, hub.name))
        else:
            hub.let_in((client.name, client.identity.keyid) for client in clients)
        with hub.serving() as daemon, daemon.blamed():
            yield Hub(Target(daemon.url, hub.identity.keyid, hub.name, secret), daemon.pid)


def target_of(other: Other) -> Target:
    """ValueError says what is wrong with its URL, token or process."""
    token = PairingToken.parse(other.token)
    if not is_keyid(token.keyid):
        raise ValueError("the token does not begin with a key id: was it copied as a whole?")
    try:
        target = Target(other.url, token.keyid, token.instance_id, token.secret)
        if other.pid:
            process.cpu_s(other.pid)
    except NetError as error:
        raise ValueError(str(error)) from None
    except OSError:
        raise ValueError(f"there is no process {other.pid}") from None
    return target


@contextmanager
def _running(other: Other) -> Iterator[Other]:
    """It, or what its command starts: a group of processes, which SIGTERM ends. What is left of it when its
    first process has ended is killed."""
    if not other.command:
        yield other
        return
    started = subprocess.Popen(shlex.split(other.command), stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert started.stdout is not None
        yield _told(other.command, started.stdout.readline())
    finally:
        _end(started)


def _told(command: str, line: str) -> Other:
    try:
        told: dict[str, Any] = json.loads(line)
        fresh = Other(url=str(told["url"]), token=str(told["token"]), pid=int(told["pid"]))
        target_of(fresh)
    except (ValueError, TypeError, KeyError) as error:
        why = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise FailedError(
            f'the first line of {command!r} must be {{"url": ..., "token": ..., "pid": ...}}: {why}'
        ) from None
    return fresh


def _end(started: subprocess.Popen[str]) -> None:
    with started:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(started.pid, number)
                started.wait(STOP_S)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue
