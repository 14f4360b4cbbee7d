"""Connect on ASGI: the order of the checks, and unary calls, over both HTTP versions."""

from __future__ import annotations

import gzip
import json
import logging
import tracemalloc

import h11
import pytest
import trio
from connect_client import APP, JSON, LIMIT, PROTO, Http1, Http2, both, headers, http2
from h2raw import Clock, ClosedByServer, jump_clock, ours

from backrest.errors import Code
from backrest.net import connect
from backrest.net.connect import ConnectError

__all__ = ["both", "jump_clock"]


# -- what exists


async def test_a_path_that_is_not_served_is_404(both: Http2) -> None:
    for path in ("/", "/s.S/Sync/", "/s.S/sync", "/s.S", "//s.S/Sync", "/s.S/Sync%20"):
        assert (await both.call(path, PROTO)).status == 404


async def test_a_query_does_not_change_the_path(both: Http2) -> None:
    assert (await both.call("/s.S/Describe?x=1", "application/json")).status == 200


async def test_a_stream_that_needs_http2_answers_505_first_and_closes(jump_clock: Clock) -> None:
    async with ours(APP) as server:
        answer = await Http1(server).call("/s.S/Sync", "text/plain", method="GET")
        assert answer.status == 505
        assert answer.headers["connection"] == "close"
        assert (await Http2(server).call("/s.S/Sync", PROTO)).status == 200


@pytest.mark.parametrize("path", ["/s.S/Describe", "/s.S/Tail"])
async def test_another_method_is_405_before_the_content_type_is_looked_at(both: Http2, path: str) -> None:
    for method in ("GET", "PUT", "OPTIONS"):
        answer = await both.call(path, "text/plain", method=method)
        assert (answer.status, answer.headers["allow"], answer.body) == (405, "POST", b"")
    assert (await both.call("/nowhere", method="GET")).status == 404


@pytest.mark.parametrize(
    ("path", "wrong", "served"),
    [
        (
            "/s.S/Describe",
            ["", "text/plain", PROTO, "application/jsonp"],
            "application/json, application/proto",
        ),
        ("/s.S/Tail", ["", "application/json", "application/grpc"], f"{JSON}, {PROTO}"),
    ],
)
async def test_another_content_type_is_415_with_what_is_served(
    both: Http2, path: str, wrong: list[str], served: str
) -> None:
    for content_type in wrong:
        answer = await both.call(path, content_type)
        assert (answer.status, answer.headers["accept-post"]) == (415, served)


# -- unary


@pytest.mark.parametrize(
    ("content_type", "codec"),
    [
        ("application/json", "json"),
        ("application/proto", "proto"),
        ("Application/JSON; charset=utf-8", "json"),
    ],
)
async def test_a_unary_call_gets_its_answer_in_the_codec_of_its_request(
    both: Http2, content_type: str, codec: str
) -> None:
    answer = await both.call("/s.S/Describe", content_type, b"12345", connect_protocol_version="1")
    assert answer.status == 200
    assert answer.headers["content-type"] == f"application/{codec}"
    assert json.loads(answer.body) == ["/s.S/Describe", codec, 5, "127.0.0.1"]


@pytest.mark.parametrize(("code", "status"), connect.HTTP_STATUS.items())
async def test_an_error_has_its_http_status_and_is_json(code: Code, status: int, jump_clock: Clock) -> None:
    async with ours(APP) as server:
        answer = await Http2(server).call("/s.S/Fail", "application/proto", code.encode())
        assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
        assert answer.error == (code, "because")


def test_every_code_has_a_status() -> None:
    assert set(connect.HTTP_STATUS) == set(Code)


async def test_a_handlers_mistake_is_internal_and_its_text_stays_in_the_log(
    both: Http2, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await both.call("/s.S/Fail", "application/json", b"bug")
    assert (answer.status, answer.error[0]) == (500, "internal")
    assert b"secret" not in answer.body
    (record,) = caplog.records
    assert record.getMessage() == "the handler of /s.S/Fail failed: FileNotFoundError: /etc/secret"
    assert not record.exc_info


async def test_a_handlers_mistake_has_its_traceback_for_who_debugs(
    jump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "backrest.net")
    async with ours(APP) as server:
        await Http2(server).call("/s.S/Fail", "application/json", b"bug")
    assert any(record.exc_info for record in caplog.records)


async def test_an_answer_may_come_in_pieces(both: Http2) -> None:
    answer = await both.call("/s.S/Pieces", "application/json", b"")
    assert (answer.status, answer.body) == (200, b"one two three")
    assert "content-length" not in answer.headers, "nobody knew it when the first piece went out"
    answer = await both.call("/s.S/Pieces", "application/json", b"nothing")
    assert (answer.status, answer.body) == (200, b"")


async def test_an_answer_that_fails_half_way_is_not_taken_for_a_whole_one(both: Http2) -> None:
    with pytest.raises((AssertionError, ClosedByServer, h11.RemoteProtocolError)):
        await both.call("/s.S/Pieces", "application/json", b"bug")
    assert (await both.call("/s.S/Pieces", "application/json", b"")).status == 200


async def test_a_gzip_body_is_unpacked(both: Http2) -> None:
    packed = gzip.compress(bytes(LIMIT))
    answer = await both.call("/s.S/Describe", "application/proto", packed, content_encoding="gzip")
    assert json.loads(answer.body)[2] == LIMIT
    answer = await both.call("/s.S/Describe", "application/proto", b"", content_encoding="gzip")
    assert json.loads(answer.body)[2] == 0


@pytest.mark.parametrize(
    ("body", "encoding", "code", "says"),
    [
        (bytes(LIMIT + 1), "identity", "resource_exhausted", "1000 bytes"),
        (gzip.compress(bytes(LIMIT + 1)), "gzip", "resource_exhausted", "1000 bytes"),
        (gzip.compress(bytes(500_000)), "gzip", "resource_exhausted", "1000 bytes"),
        (gzip.compress(b"some")[:-1], "gzip", "invalid_argument", "cut off"),
        (gzip.compress(b"some") + b"x", "gzip", "invalid_argument", "followed by something"),
        (b"some", "gzip", "invalid_argument", "damaged"),
        (b"", "br", "unimplemented", "unknown compression 'br': supported are gzip, identity"),
    ],
    ids=(
        "long",
        "long packed",
        "very long packed",
        "cut",
        "followed",
        "damaged",
        "unknown",
    ),  # no time of day in them
)
async def test_a_body_that_cannot_be_taken_is_refused_by_name(
    both: Http2, body: bytes, encoding: str, code: str, says: str
) -> None:
    answer = await both.call("/s.S/Describe", "application/proto", body, content_encoding=encoding)
    assert answer.error[0] == code
    assert says in answer.error[1]
    assert answer.status == connect.HTTP_STATUS[Code(code)]


def test_a_bomb_is_not_unpacked_beyond_the_limit() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(ConnectError):
        connect._decompress(bomb, "gzip", LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("version", ["0", "2", "", "1.0", "one"])
async def test_another_connect_version_is_refused(both: Http2, version: str) -> None:
    answer = await both.call("/s.S/Describe", "application/json", connect_protocol_version=version)
    assert (answer.status, answer.error[0]) == (400, "invalid_argument")
    answer = await both.call("/s.S/Tail", JSON, connect_protocol_version=version)
    assert (answer.status, answer.error[0]) == (200, "invalid_argument")


async def test_a_unary_call_may_take_as_long_as_its_timeout_says(both: Http2, jump_clock: Clock) -> None:
    answer = await both.call("/s.S/Fail", "application/json", b"late", connect_timeout_ms="59000")
    assert (answer.status, answer.error[0]) == (504, "deadline_exceeded")
    answer = await both.call("/s.S/Fail", "application/json", b"late", connect_timeout_ms="61000")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("text", ["", "-1", "1.5", "12345678901", "٣", "1s", " 1"])
def test_a_timeout_is_one_to_ten_digits(text: str) -> None:
    with pytest.raises(ConnectError):
        connect.parse_timeout(text)


def test_a_timeout_is_in_milliseconds() -> None:
    assert connect.parse_timeout(None) is None
    assert connect.parse_timeout("0") == 0
    assert connect.parse_timeout("9999999999") == 9_999_999.999


async def test_a_body_that_never_comes_to_an_end_is_given_up(jump_clock: Clock) -> None:
    async with http2() as client:
        stream_id = await client.request(*headers("/s.S/Describe", "application/json"))
        await client.data(stream_id, b"and then")
        began = trio.current_time()
        status, _, body = await client.response(stream_id)
        assert trio.current_time() - began == pytest.approx(connect.BODY_S, abs=1)
        assert (status, json.loads(body)["code"]) == (504, "deadline_exceeded")
