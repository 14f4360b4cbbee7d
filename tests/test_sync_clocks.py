"""A peer's clock that is wrong by minutes is a warning on both sides; near enough is none."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from sync_world import CONNECTED, World, paired
from trio.testing import MockClock

from backrest.admin.instance import peer_json
from backrest.sync.clocks import SKEW_S, announced, skew

NOW = 1_700_000_000


@pytest.mark.parametrize("ahead", [SKEW_S, SKEW_S + 1, -SKEW_S, -SKEW_S - 1, 86_400 * 365])
def test_a_clock_is_judged_from_five_minutes_on(ahead: int) -> None:
    found = ahead if abs(ahead) > SKEW_S else 0
    assert skew([announced(NOW + ahead)], {}, NOW) == found
    assert skew([], {"date": formatdate(NOW + ahead, usegmt=True)}, NOW) == found


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Tue, 99 Dec 2026 01:51:43 GMT", "Tue, 01 Dec 99999 01:51:43 GMT"]
)
def test_a_time_that_is_none_says_nothing(date: str) -> None:
    assert skew([], {"date": date}, NOW) == skew([], {}, NOW) == 0
    assert (
        skew(["clock/-1"], {}, NOW) == skew(["clock/" + "9" * 40], {}, NOW) == skew(["clock/"], {}, NOW) == 0
    )


async def test_both_sides_say_that_a_clock_is_wrong_until_it_is_set(
    autojump_clock: MockClock, world: World
) -> None:
    hub, client = paired(world)
    for ahead, theirs, ours in ((420.0, "7 min behind", "7 min ahead of"), (0.0, "", "")):
        hub.ahead = ahead
        async with hub.running(), client.running():
            await client.until_peer(hub, CONNECTED)
            await hub.until_peer(client, CONNECTED)
            [at_client] = client.config.current.multihost.known_hosts
            [at_hub] = hub.config.current.multihost.authorized_clients
            for said, words in (
                (peer_json(client.context(), at_client, "host")["warnings"], ours),
                (peer_json(hub.context(), at_hub, "client")["warnings"], theirs),
            ):
                assert bool(said) == bool(words)
                assert not words or f"its clock is {words}" in said[0]
