"""What a hostile peer may get and change, said once more: a model that shares no code with the program, and judges.

For test_sync_random_client.py and test_sync_random_hub.py; the peer itself is in hostile_peer.py.
"""

from __future__ import annotations

import gc
import logging
import pathlib
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from hostile_peer import Mischief, Wire
from sync_world import GUID, Instance, Pipe
from trio.testing import wait_all_tasks_blocked

from backrest import wire

CONNECTED = wire.sync.CONNECTION_STATE_CONNECTED
BLOCK = 25  # sessions after one another under the same terms, as a hub
# Bytes that may be added after a tenth of the sessions: in all, since caches fill up (Python's own of attributes keeps
# 4,096 names of some 55 bytes that C code looks up), and for each session less than any object that it would leave.
GROWTH = 250_000
GROWTH_A_SESSION = 32
Operation = wire.operations.Operation
Config = wire.config.Config

GUIDS = {
    "open": "1" * 64,
    "closed": "2" * 64,
    "gift": "3" * 64,
    "kept": "4" * 64,
    "mine": "5" * 64,
    "new": "6" * 64,
}
NAMES = {
    "repo": [*GUIDS, "other", "private"],
    "guid": [*GUIDS.values(), GUID, "7" * 64],
    "plan": ["open", "closed", "mine", "new", "photos", "_system_"],
    "instance": ["hub", "laptop", "evil", "witness", "new"],
}


def secret(place: str) -> str:
    return f"planted-{place}-secret"


SECRETS = {place: secret(place) for place in (*GUIDS, "plan-open", "plan-closed")} | {
    "token": "70c3" * 16,
    "pairing": "9a17" * 16,  # with a third machine
}


def furnish(config: Config) -> bool:
    """Repos and plans, each with secrets that name it; ``gift`` and ``kept`` are shared."""
    for place in ("open", "closed", "gift", "kept", "mine"):
        config.repos.add(
            id=place,
            guid=GUIDS[place],
            uri=f"rest:https://u:{secret(place)}@nas.example/{place}",
            password=secret(place),
            env=[f"AWS_SECRET_ACCESS_KEY={secret(place)}"],
            shared=place in ("gift", "kept"),
        )
    for place in ("open", "closed", "mine"):
        plan = config.plans.add(id=place, repo=place, paths=[f"/{place}"])
        plan.hooks.add(conditions=[1]).action_slack.webhook_url = f"https://h/{secret(f'plan-{place}')}"
    return True


@dataclass(frozen=True)
class Rights:
    """One set of permissions, and what they give, said once more in the model's own words."""

    grants: tuple[str, ...]
    sees: frozenset[str] = frozenset()  # repos in a view
    sees_plans: frozenset[str] = frozenset()
    receives: frozenset[str] = frozenset()  # secrets that it may have
    writes: frozenset[str] = frozenset()  # ids of repos and plans that it may change
    accepts_shared: bool = False
    operation: Callable[[Operation], bool] = lambda _: False


ALL = frozenset({"open", "closed", "gift", "kept", "mine"})
RIGHTS = (
    Rights(()),
    Rights(("read-operations=*,!repo:private,!plan:closed",), operation=lambda op: not _private(op)),
    Rights(("read-operations=repo:open,plan:photos",), operation=lambda op: _listed(op)),
    Rights(("read-config=repo:open,plan:open",), sees=frozenset({"open"}), sees_plans=frozenset({"open"})),
    Rights(
        ("read-config=!repo:closed", "receive-shared-repos=repo:gift"),
        sees=frozenset({"open", "gift", "kept", "mine"}),
        sees_plans=frozenset({"open", "mine"}),
        receives=frozenset({"gift"}),
        accepts_shared=True,
    ),
    Rights(
        ("read-write-config=repo:mine,plan:mine", "read-operations=*"),
        sees=frozenset({"mine"}),
        sees_plans=frozenset({"mine"}),
        writes=frozenset({"mine"}),
        operation=lambda _: True,
    ),
    Rights(
        ("read-operations=*", "receive-shared-repos=*"),
        receives=frozenset({"gift", "kept"}),
        accepts_shared=True,
        operation=lambda _: True,
    ),
)


def _private(op: Operation) -> bool:
    return op.repo_id == "private" or op.plan_id == "closed"


def _listed(op: Operation) -> bool:
    return op.repo_id == "open" or op.plan_id == "photos"


class Log(logging.Handler):
    """What the program logs: secrets in it, and mistakes, are kept; lines are counted; nothing else is."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        text = record.getMessage()
        if record.exc_info or any(one in text for one in SECRETS.values()):
            self.bad.append(self.format(record))


@contextmanager
def logged() -> Iterator[Log]:
    log = Log()
    logger = logging.getLogger("backrest")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # pytest keeps all it sees: that would be what grows
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)
        logger.propagate = propagate


class Ruler:
    """Memory and tasks after a tenth of the sessions, and at the end; each time when no session of the peer is on.

    What a session holds while it goes on (a manifest of 20,000 ids) would be taken for growth, or would hide some.
    """

    def __init__(self, sessions: int) -> None:
        self.after = max(sessions // 10 // BLOCK * BLOCK, BLOCK)
        self.sessions = sessions
        self.tasks = self.memory = 0

    def look(self) -> None:
        self.tasks, self.memory = _tasks(), _memory()

    def judge(self) -> None:
        if not self.memory:
            return  # a run of a few sessions, to look at one of them
        grown, most = _memory() - self.memory, GROWTH + GROWTH_A_SESSION * (self.sessions - self.after)
        assert grown < most, f"{grown} bytes more than after {self.after} sessions, of at most {most}"
        assert _tasks() <= self.tasks, "tasks are left over"


def _memory() -> int:
    """Without what is allocated in pathlib: the interpreter's own table of names, which doubles at times."""
    gc.collect()
    taken = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, pathlib.__file__)])
    return sum(statistic.size for statistic in taken.statistics("filename"))


def _tasks() -> int:
    def count(task: trio.lowlevel.Task) -> int:
        return 1 + sum(count(child) for nursery in task.child_nurseries for child in nursery.child_tasks)

    root = trio.lowlevel.current_root_task()
    assert root is not None
    return count(root)


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def others(config: Config, rights: Rights, sender: str = "") -> bytes:
    """What of a configuration the peer may not change: all but what is its own to write, or came from it."""
    rest = Config()
    rest.CopyFrom(config)
    rest.modno = 0
    del rest.repos[:], rest.plans[:], rest.multihost.authorized_clients[:], rest.multihost.known_hosts[:]
    for repo in config.repos:
        if repo.id not in rights.writes and not (
            rights.accepts_shared and sender and repo.origin_instance_id == sender
        ):
            rest.repos.append(repo)
    rest.plans.extend(plan for plan in config.plans if plan.id not in rights.writes)
    return bytes(rest.SerializeToString(deterministic=True))


def judge_heard(end: Wire, rights: Rights) -> None:
    """Nothing secret in any byte that came, and no view of what is not in reach."""
    everything = b"\n".join(end.plain)
    for place, text in SECRETS.items():
        assert place in rights.receives or text.encode() not in everything, f"got the secret of {place}"
    for item in end.heard:
        if item.HasField("receive_config"):
            assert {r.id for r in item.receive_config.config.repos} & ALL <= rights.sees
            assert {p.id for p in item.receive_config.config.plans} & ALL <= rights.sees_plans


async def talk(end: Wire, mischief: Mischief) -> None:
    """Up to a dozen items, right and wrong."""
    draw = end.draw
    for _ in range(draw.randint(0, 12)):
        if end.channel is None:
            return
        mood = draw.random()
        if mood < 0.88:
            await end.say(mischief.item().SerializeToString())
        elif mood < 0.93:
            await end.say(mischief.mutated(mischief.item().SerializeToString()))
        elif mood < 0.96:
            await end.misbehave(mischief)
        else:
            await wait_all_tasks_blocked()
        if draw.random() < 0.03:
            await trio.sleep(draw.choice((0.1, 3, 20)))  # simulated


def forget_sent(steady: Pipe) -> None:
    """The one session that outlives everything: what our pipes keep of it is not the program's memory."""
    for pipe in (steady, steady.other):
        pipe.sent.clear()


def restore_mine(instance: Instance) -> None:
    """The admin puts back what those who may have changed."""

    def again(config: Config) -> bool:
        fresh = Config()
        furnish(fresh)
        for here, good in ((config.repos, fresh.repos), (config.plans, fresh.plans)):
            for one in [one for one in here if one.id in ("mine", "new") or _came(one)]:
                here.remove(one)
            here.extend(one for one in good if one.id == "mine")
        return True

    instance.config.transform(again)


def _came(one: Any) -> bool:
    return bool(getattr(one, "origin_instance_id", "") == "evil")
