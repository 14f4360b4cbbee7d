"""HTTP and the Connect protocol, the program as the hub: PROTOCOL.md section 1, and HTTP.md for the server's faults."""

from __future__ import annotations

import trio

from conformance import h2raw
from conformance.framing import COMPRESSED, END, envelope, gzip
from conformance.h2raw import RawStream, frame, open_transport
from conformance.hublab import HubLab, created, operation
from conformance.model import Role, case, check, hub
from conformance.peer import PATH, AsClient, Item, item, kind_of, patience

KEY = item("establish_shared_secret")


async def _answer(lab: HubLab, **changes: str) -> RawStream:
    """The whole answer to a request that ends at once."""
    async with lab.connect() as connection:
        stream: RawStream = await connection.open(lab.headers(**changes), end=True)
        async with patience(lab.seconds, "an HTTP response"):
            await stream.response()
            await stream.body()
        return stream


@hub("http/1", "the response's headers come at once, before any message", "1", ours=True)
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk, patience(lab.seconds, "response headers before the client's key"):
        headers = await talk.stream.response()
        check(talk.stream.status == 200, f"status {talk.stream.status}")
        check(headers.get("content-type") == "application/connect+proto", f"content-type {headers}")


@hub("http/2", "a stream is answered with 200 and content-type application/connect+proto", "1")
async def _(lab: HubLab) -> None:
    async with lab.keyed() as talk:
        headers = await talk.stream.response()
        check(talk.stream.status == 200, f"status {talk.stream.status}")
        check(headers.get("content-type") == "application/connect+proto", f"content-type {headers}")


def _not_served(id: str, path: str) -> None:
    async def run(lab: HubLab) -> None:
        stream = await _answer(lab, path=lab.origin[2] + path)
        check(stream.status == 404, f"{path} is answered with {stream.status}")

    case(id, Role.HUB, f"{path} is not served on the sync port: 404", "1", run, ours=True)


_not_served("http/3", "/")
_not_served("http/4", "/v1.Backrest/GetConfig")
_not_served("http/5", "/v1sync.BackrestSyncService/Other")
_not_served("http/6", "/v1sync.BackrestSyncStateService/GetPeerSyncStatesStream")


def _wrong_type(id: str, content_type: str, ours: bool = False) -> None:
    async def run(lab: HubLab) -> None:
        stream = await _answer(lab, content_type=content_type)
        check(stream.status == 415, f"content-type {content_type} is answered with {stream.status}")
        accepted = (stream.headers or {}).get("accept-post", "")
        check("application/connect+proto" in accepted, f"accept-post is {accepted!r}")

    sentence = f"content-type {content_type} is answered with 415 and Accept-Post"
    case(id, Role.HUB, sentence, "1", run, ours=ours)


_wrong_type("http/7", "text/plain")
_wrong_type("http/8", "application/proto")
_wrong_type("http/9", "application/grpc", ours=True)


def _wrong_method(id: str, method: str) -> None:
    async def run(lab: HubLab) -> None:
        stream = await _answer(lab, method=method)
        check(stream.status == 405, f"{method} is answered with {stream.status}")
        check((stream.headers or {}).get("allow") == "POST", f"headers {stream.headers}")

    case(id, Role.HUB, f"{method} is answered with 405 and Allow: POST", "1", run)


_wrong_method("http/10", "GET")
_wrong_method("http/11", "PUT")


def _http1(id: str, what: str, request: str) -> None:
    async def run(lab: HubLab) -> None:
        transport = await open_transport(lab.url, lab.ca_file, alpn="http/1.1")
        async with transport, patience(lab.seconds, "an HTTP/1.1 response"):
            _, authority, prefix = lab.origin
            text = request.format(path=prefix + PATH, host=authority)
            await transport.send_all(text.replace("\n", "\r\n").encode())
            status = await transport.receive_some(4096)
            check(status.startswith(b"HTTP/1.1 505"), f"the answer begins with {status[:40]!r}")

    case(id, Role.HUB, f"{what} is answered with 505", "1", run, direct=True)


_POST = "POST {path} HTTP/1.1\nHost: {host}\nContent-Length: 0\n"
_http1("http/12", "HTTP/1.1", _POST + "Content-Type: application/connect+proto\n\n")
_http1(
    "http/13",
    "HTTP/1.1 with another content type (505 is checked first)",
    _POST + "Content-Type: text/plain\n\n",
)
_http1("http/14", "HTTP/1.1 with GET (505 is checked first)", "GET {path} HTTP/1.1\nHost: {host}\n\n")


@hub("http/15", "the JSON codec carries the same session", "1")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member, codec="json") as talk:
        headers = await talk.stream.response()
        check(headers.get("content-type") == "application/connect+json", f"content-type {headers}")
        check(await lab.fence(talk, {1: 1}) == [1], "the manifest was not answered as it should")


@hub("http/16", "a gzip request body (connect-content-encoding) is accepted", "1")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member, connect_content_encoding="gzip") as talk:
        manifest = Item.SyncActionOperationManifest(op_ids=[1, 2], modnos=[1, 1])
        whole = talk.seal(item("operation_manifest", manifest).SerializeToString())
        await talk.send_envelope(gzip(whole[5:]), COMPRESSED)
        asked = await talk.expect("request_operation_data")
        check(list(asked.op_ids) == [1, 2], f"asked for {list(asked.op_ids)}")


@hub(
    "http/17",
    "an unknown encoding is answered with status 200, unimplemented, and the encodings that are known",
    "1",
)
async def _(lab: HubLab) -> None:
    async with lab.dial(connect_content_encoding="br") as talk:
        end = await talk.expect_end("unimplemented")
        check(talk.stream.status == 200, f"status {talk.stream.status}")
        check("gzip" in end.text, f"the message names no encoding: {end.text!r}")


@hub("http/18", "a compressed message without a declared encoding ends with internal", "1")
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk:
        await talk.send_envelope(gzip(KEY.SerializeToString()), COMPRESSED)
        await talk.expect_end("internal")


def _bad_flags(id: str, what: str, flags: int) -> None:
    async def run(lab: HubLab) -> None:
        async with lab.dial() as talk:
            await talk.send_envelope(b"{}" if flags & END else _public_key().SerializeToString(), flags)
            await talk.expect_end()
            check("establish_shared_secret" not in talk.items, "the hub answered it with its half")

    case(id, Role.HUB, f"{what} ends the stream with an error, at once", "1", run, ours=True)


_bad_flags("http/19", "an unknown flag (0x04)", 4)
_bad_flags("http/20", "an unknown flag (0x80)", 128)
_bad_flags("http/21", "an end-of-stream message from the client", END)


@hub("http/22", "what is declared as gzip and is none ends with an error, and nothing else", "1")
async def _(lab: HubLab) -> None:
    async with lab.dial(connect_content_encoding="gzip") as talk:
        await talk.send_envelope(b"this is not gzip", COMPRESSED)
        await talk.expect_end()
    await lab.serves()


@hub("http/23", "a client that offers gzip gets nothing compressed (it is ciphertext)", "1", ours=True)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member, connect_accept_encoding="gzip") as talk:
        await lab.fence(talk, {})
        check(not any(flags & COMPRESSED for flags in talk.flags), f"flags {talk.flags}")


@hub("http/24", "envelopes may arrive byte by byte, each in a DATA frame of its own", "1")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        manifest = Item.SyncActionOperationManifest(op_ids=[3], modnos=[1])
        for byte in talk.seal(item("operation_manifest", manifest).SerializeToString()):
            await talk.send_bytes(bytes([byte]))
        asked = await talk.expect("request_operation_data")
        check(list(asked.op_ids) == [3], f"asked for {list(asked.op_ids)}")


@hub("http/25", "several envelopes in one DATA frame are all taken, in order", "1")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        manifest = Item.SyncActionOperationManifest(op_ids=[4], modnos=[1])
        kinds = [item("heartbeat"), item("receive_resources"), item("operation_manifest", manifest)]
        await talk.send_bytes(b"".join(talk.seal(kind.SerializeToString()) for kind in kinds))
        asked = await talk.expect("request_operation_data")
        check(list(asked.op_ids) == [4], f"asked for {list(asked.op_ids)}")


@hub("http/26", "the client's END_STREAM ends the session, and the hub's END_STREAM follows", "1")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        await talk.send_bytes(b"", end=True)
        end = await talk.until_end()
        check(end.how in ("message", "end"), f"the hub ended with {end}")
        async with patience(lab.seconds, "END_STREAM"):
            await talk.stream.connection.until(lambda: talk.stream.over)


@hub("http/27", "END_STREAM in the middle of an envelope ends the stream; the hub goes on", "1")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        manifest = Item.SyncActionOperationManifest(op_ids=[5], modnos=[1])
        whole = talk.seal(item("operation_manifest", manifest).SerializeToString())
        await talk.send_bytes(whole[:-1], end=True)
        await talk.until_end()
        check("request_operation_data" not in talk.items, "half an envelope was acted upon")
    await lab.serves()


@hub("http/28", "RST_STREAM ends one session; the connection's other streams are unaffected", "1")
async def _(lab: HubLab) -> None:
    one, other = await lab.member(), await lab.member()
    async with lab.connect() as connection:
        talks = []
        for member in (one, other):
            talk = await lab.open(connection)
            await talk.exchange()
            await talk.hub_hello()
            await talk.hello(member.identity, member.instance_id)
            await talk.expect("receive_config", skip=())
            talks.append(talk)
        await talks[0].stream.abort()
        check(await lab.fence(talks[1], {1: 1}) == [1], "the other stream's manifest was not answered")


@hub("http/29", "a refused stream leaves the connection's other streams unaffected", "1")
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.connect() as connection:
        good = await lab.open(connection)
        await good.exchange()
        bad = await lab.open(connection)
        await bad.send_clear("heartbeat")
        await bad.expect_end("invalid_argument")
        await good.hub_hello()
        await good.hello(member.identity, member.instance_id)
        await good.expect("receive_config", skip=())


@hub(
    "http/30",
    "DATA for a stream whose response has ended is ignored; the connection lives",
    "HTTP.md",
    ours=True,
)
async def _(lab: HubLab) -> None:
    async with lab.connect() as connection:
        talk = await lab.open(connection)
        await talk.send_clear("heartbeat")
        await talk.expect_end("invalid_argument")
        for _ in range(20):
            await connection.write_raw(frame(h2raw.DATA, 0, talk.stream.id, envelope(b"late")))
        await connection.ping()
        again = await lab.open(connection)
        await again.exchange()


def _bad_request(id: str, what: str, changes: dict[str, str], drop: tuple[str, ...] = ()) -> None:
    async def run(lab: HubLab) -> None:
        async with lab.connect() as connection:
            stream = await connection.open(lab.headers(drop, **changes), end=True)
            async with patience(lab.seconds, "an answer or a reset"):
                await connection.until(lambda: stream.headers is not None or stream.over)
            if stream.headers is not None:
                check(stream.status >= 400, f"status {stream.status}")
        await lab.serves()

    sentence = f"{what} is refused for that stream or connection alone"
    case(id, Role.HUB, sentence, "HTTP.md", run, ours=True, direct=True)


_bad_request("http/31", "a path that is not ASCII", {"path": "/v1sync\xff\xfe"})
_bad_request("http/32", "a method that is not ASCII", {"method": "P\xd6ST"})
_bad_request("http/33", "CONNECT without a path", {"method": "CONNECT"}, (":path", ":scheme"))
_bad_request("http/34", "a request without a path", {}, (":path",))


@hub("http/35", "padded DATA frames are taken without their padding", "1", direct=True)
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk:
        key = _public_key()
        body = envelope(key.SerializeToString())
        await talk.stream.connection.write_raw(
            frame(h2raw.DATA, h2raw.PADDED_FLAG, talk.stream.id, bytes([7]) + body + bytes(7))
        )
        await talk.expect("establish_shared_secret", skip=())


@hub("http/36", "PING is answered while a stream waits for its client", "HTTP.md")
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk, patience(lab.seconds, "the answer to a PING"):
        await talk.stream.connection.ping()


@hub(
    "http/37",
    "a stream that is not read does not stop another one of its connection",
    "HTTP.md",
    ours=True,
    direct=True,
)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.connect(window=2000) as connection:
        deaf = await lab.open(connection)
        deaf.stream.credit = False
        await deaf.send_envelope(
            _public_key().SerializeToString()
        )  # the reply alone has 1.7 KB: then it stalls
        with trio.move_on_after(0.2):
            await connection.until(lambda: len(deaf.stream._data) > 0)
        talk = await lab.open(connection)
        await talk.exchange()
        await talk.hub_hello()
        await talk.hello(member.identity, member.instance_id)
        await talk.expect("receive_config", skip=())


@hub("http/38", "a session goes on after a client stopped reading for a moment", "HTTP.md", direct=True)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.connect(window=5000) as connection:
        talk = await lab.open(connection)
        await talk.exchange()
        await talk.hub_hello()
        await talk.hello(member.identity, member.instance_id)
        await talk.expect("receive_config", skip=())
        talk.stream.credit = False
        manifest = Item.SyncActionOperationManifest(op_ids=range(1, 4001), modnos=[1] * 4000)
        await talk.send("operation_manifest", manifest)  # the answer has more than the window's 5,000 bytes
        async with patience(lab.seconds, "the first bytes of a long answer"):
            await connection.until(lambda: talk.stream._owed > 2000 or talk.stream.over)
        await talk.stream.pay()
        asked = await talk.expect("request_operation_data")
        check(asked.op_ids[0] == 1, f"asked for {asked.op_ids[:5]} first")


@hub("http/39", "a header block in CONTINUATION frames is read", "1", direct=True)
async def _(lab: HubLab) -> None:
    async with lab.connect() as connection:
        stream = RawStream(connection, connection.h2.get_next_available_stream_id())
        connection.streams[stream.id] = stream
        connection.h2.send_headers(stream.id, lab.headers())
        whole = connection.h2.data_to_send()
        block = whole[9:]
        await connection.write_raw(
            frame(h2raw.HEADERS, 0, stream.id, block[:20])
            + frame(h2raw.CONTINUATION, h2raw.END_HEADERS_FLAG, stream.id, block[20:])
        )
        await AsClient(stream, lab.seconds).exchange()


@hub("http/40", "END_STREAM follows the end-of-stream message", "1")
async def _(lab: HubLab) -> None:
    async with lab.dial() as talk:
        await talk.send_clear("heartbeat")
        await talk.expect_end("invalid_argument")
        check(talk.stream.ended, "the stream was reset instead of ended")


@hub("http/41", "an optional connect-timeout-ms far in the future changes nothing", "1")
async def _(lab: HubLab) -> None:
    async with lab.keyed(connect_timeout_ms="3600000") as talk:
        check(kind_of(Item()) and talk.channel is not None, "no channel")


@hub("http/46", "END_STREAM in the middle of an envelope is no clean end: an error is said", "1", ours=True)
async def _(lab: HubLab) -> None:
    member = await lab.member()
    async with lab.session(member) as talk:
        whole = talk.seal(item("heartbeat").SerializeToString())
        await talk.send_bytes(whole[:-1], end=True)
        await talk.expect_end()


@hub("http/42", "another connect-protocol-version than 1 ends with an error", "1", ours=True)
async def _(lab: HubLab) -> None:
    async with lab.dial(connect_protocol_version="2") as talk:
        await talk.send_envelope(_public_key().SerializeToString())
        await talk.expect_end()
        check(
            "establish_shared_secret" not in talk.items, "the hub answered with its half of the key exchange"
        )


@hub("http/43", "connect-timeout-ms ends a stream when it has passed, with deadline_exceeded", "1", ours=True)
async def _(lab: HubLab) -> None:
    async with lab.dial(connect_timeout_ms="700") as talk:
        started = trio.current_time()
        await talk.expect_end("deadline_exceeded")
        check(trio.current_time() - started > 0.4, "it was ended at once")


@hub("http/44", "under the JSON codec a message that is no item ends with an error", "1")
async def _(lab: HubLab) -> None:
    async with lab.dial(codec="json") as talk:
        await talk.send_envelope(b'{"establishSharedSecret": 7')
        await talk.expect_end()
    await lab.serves()


@hub("http/45", "under the JSON codec a client pairs, and sends operations", "1")
async def _(lab: HubLab) -> None:
    member = await lab.member(codec="json")
    async with lab.session(member, codec="json") as talk:
        await talk.send("receive_operations", created(operation(member, 1, 4)))
        check(await lab.fence(talk, {1: 4, 2: 1}) == [2], "the operation is not held")


def _public_key() -> Item:
    from backrest.crypto.channel import Initiator

    key = Item.SyncEstablishSharedSecret(protocol_version=1, kem_public_key=Initiator().public_key)
    return item("establish_shared_secret", key)
