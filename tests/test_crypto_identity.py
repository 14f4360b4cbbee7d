"""Identities and handshakes: vectors, Go's reading of base64, small orders, and each refusal by its name."""

from __future__ import annotations

from typing import Any

import pytest
from crypto_vectors import load, unhex
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format

from backrest.crypto.identity import (
    HANDSHAKE_VERSION,
    Identity,
    PeerIdentity,
    decode_public_key,
    handshake_digest,
    is_keyid,
    is_small_order,
    keyid_of,
    make_handshake,
    signature_holds,
    verify_handshake,
)
from backrest.wire import config as wire_config
from backrest.wire import crypto as wire_crypto
from backrest.wire import sync as wire_sync

Handshake = wire_sync.SyncStreamItem.SyncActionHandshake
TRANSPORT = load("transport.json")
IDENTITY = load("identity.json")
TRANSCRIPT = bytes(range(32))
P = 2**255 - 19

sides = pytest.mark.parametrize("side", ["initiator_identity", "responder_identity"])
cases = pytest.mark.parametrize("case", TRANSPORT["cases"], ids=lambda case: case["name"])


def all_identities() -> list[dict[str, str]]:
    found = list(IDENTITY["identities"])
    for case in TRANSPORT["cases"]:
        found += [case["initiator_identity"], case["responder_identity"]]
    return [*found, TRANSPORT["negative_base"]["identity"], TRANSPORT["negative_base"]["other_identity"]]


@pytest.mark.parametrize("vector", all_identities(), ids=lambda vector: vector["keyid"][8:16])
def test_identity_of_a_vector_has_its_key_id_and_texts(vector: dict[str, str]) -> None:
    identity = Identity.from_seed(unhex(vector["ed25519_seed"]))
    assert identity.public_key.hex() == vector["ed25519_pub"]
    assert identity.keyid == vector["keyid"] == keyid_of(identity.public_key)
    assert is_keyid(identity.keyid)
    proto = identity.to_proto()
    assert proto.ed25519priv == vector["ed25519_priv_raw_std_base64"]
    assert proto.ed25519pub == vector["ed25519_pub_raw_std_base64"] == identity.public_proto().ed25519pub
    assert proto.keyid == vector["keyid"] == identity.public_proto().keyid
    assert Identity.from_proto(proto).to_proto() == proto


@pytest.mark.parametrize("vector", IDENTITY["public_key_text"], ids=lambda vector: vector["name"])
def test_public_key_text_is_read_as_go_reads_it(vector: dict[str, Any]) -> None:
    if vector["go_accepts"]:
        assert decode_public_key(vector["text"]).hex() == vector["decoded"]
        assert keyid_of(decode_public_key(vector["text"])) == vector["keyid"]
        return
    with pytest.raises(ValueError, match=r"the public key (is empty|is not|has)"):
        decode_public_key(vector["text"])


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n\r\n"])
def test_line_ends_are_skipped_wherever_they_stand(end: str) -> None:
    text = IDENTITY["public_key_text"][0]["text"]
    for at in (0, 1, 20, len(text)):
        assert decode_public_key(text[:at] + end + text[at:]) == decode_public_key(text)


@pytest.mark.parametrize("wrong", ["\t", "\x0b", "\x00", " ", "=", "-", "_", "é", "\u2028", "\uff21", "\x85"])
def test_no_other_character_is_skipped(wrong: str) -> None:
    text = IDENTITY["public_key_text"][0]["text"]
    for at in (0, 20, len(text)):
        for candidate in (text[:at] + wrong + text[at:], text[:at] + wrong + text[at + 1 :]):
            with pytest.raises(ValueError, match="not unpadded standard base64"):
                decode_public_key(candidate)


@pytest.mark.parametrize("text", ["\r\n", "A", "AAAAA"])
def test_impossible_length_of_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"empty|not unpadded"):
        decode_public_key(text)


@pytest.mark.parametrize("name", ["hub", "client"])
def test_captured_configuration_has_a_usable_identity(name: str) -> None:
    config = json_format.ParseDict(load(f"captures/{name}-config.json"), wire_config.Config())
    identity = Identity.from_proto(config.multihost.identity)
    assert identity.to_proto() == config.multihost.identity


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("ed25519priv", "", "private key is empty"),
        ("ed25519priv", "AAAA", "private key has 3 bytes instead of 32"),
        ("ed25519priv", "sEcReT=", "private key is not unpadded standard base64"),
        ("ed25519priv", "A" * 43, "public key does not belong to its private key"),
        ("ed25519pub", "", "public key is empty"),
        ("ed25519pub", "A" * 43, "public key does not belong to its private key"),
        ("ed25519pub", "!", "public key is not unpadded standard base64"),
        ("keyid", "", "key id should be ed25519"),
        ("keyid", "ed25519.other", "key id should be ed25519"),
    ],
)
def test_identity_that_does_not_fit_together_is_refused_without_showing_it(
    field: str, value: str, sentence: str
) -> None:
    proto = Identity.generate().to_proto()
    private = proto.ed25519priv
    setattr(proto, field, value)
    with pytest.raises(ValueError, match=sentence) as caught:
        Identity.from_proto(proto)
    assert private not in str(caught.value)
    assert "sEcReT" not in str(caught.value)


def test_seed_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="has 32 bytes, this one 31"):
        Identity.from_seed(bytes(31))


def test_private_key_and_pairing_secret_are_not_in_a_repr() -> None:
    identity = Identity.generate()
    assert repr(identity) == f"Identity({identity.keyid})"
    assert "hush" not in repr(PeerIdentity(identity.keyid, identity.public_key, "a", "hush"))


@cases
@sides
def test_handshake_of_a_vector_is_made_and_verified(case: dict[str, Any], side: str) -> None:
    vector, transcript = case[side], unhex(case["transcript"])
    secret, instance = vector["pairing_secret"], vector["instance_id"]
    assert handshake_digest(3, instance, secret, transcript).hex() == vector["bind_input"]
    identity = Identity.from_seed(unhex(vector["ed25519_seed"]))
    handshake = make_handshake(identity, instance, secret, transcript)
    assert handshake.signature.hex() == vector["signature"]
    peer = verify_handshake(handshake, transcript, own_keyid=Identity.generate().keyid)
    assert peer == PeerIdentity(vector["keyid"], identity.public_key, instance, secret)


def negative_handshakes() -> list[Any]:
    found = [case for case in TRANSPORT["negative"] if case["op"] == "verify-handshake"]
    return [pytest.param(case, id=case["name"]) for case in found]


def handshake_of(case: dict[str, Any]) -> Handshake:
    public_key = unhex(case["ed25519_pub"])
    text = wire_crypto.PublicKey(keyid=keyid_of(public_key), ed25519pub=text_of(public_key))
    return Handshake(
        protocol_version=case["protocol_version"],
        public_key=text,
        instance_id=case["instance_id"],
        pairing_secret=case["pairing_secret"],
        signature=unhex(case["signature"]),
    )


def text_of(public_key: bytes) -> str:
    from base64 import b64encode

    return b64encode(public_key).decode().rstrip("=")


@pytest.mark.parametrize("case", negative_handshakes())
def test_digest_and_signature_of_a_negative_are_judged_as_in_go(case: dict[str, Any]) -> None:
    digest = handshake_digest(
        case["protocol_version"], case["instance_id"], case["pairing_secret"], unhex(case["transcript"])
    )
    assert digest.hex() == case["bind_input"]
    holds = signature_holds(unhex(case["ed25519_pub"]), unhex(case["signature"]), digest)
    assert holds == case["go_valid"] == (case["expect"] == "ok")


@pytest.mark.parametrize("case", negative_handshakes())
def test_negative_handshake_is_refused_by_the_check_it_names(case: dict[str, Any]) -> None:
    refusals = {
        "sig-version-negative": "handshake has version -1, not 3",
        "sig-small-order-key-identity": "key has small order",
        "sig-noncanonical-identity-key": "key has small order",
        "sig-reflected": "shows our own key",
    }
    own = keyid_of(unhex(case["ed25519_pub"])) if case["name"] == "sig-reflected" else ""
    handshake, transcript = handshake_of(case), unhex(case["transcript"])
    if case["name"] == "sig-valid":
        assert verify_handshake(handshake, transcript).instance_id == "alice"
        return
    with pytest.raises(ValueError, match=refusals.get(case["name"], "signature of the peer's handshake")):
        verify_handshake(handshake, transcript, own_keyid=own)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda h: setattr(h, "protocol_version", 2), "version 2, not 3"),
        (lambda h: setattr(h, "protocol_version", 2**62), "version 4611686018427387904, not 3"),
        (lambda h: h.ClearField("protocol_version"), "version 0, not 3"),
        (lambda h: h.ClearField("public_key"), "no public key"),
        (lambda h: setattr(h.public_key, "ed25519pub", ""), "no public key"),
        (lambda h: setattr(h.public_key, "ed25519pub", "AAAA"), "public key has 3 bytes"),
        (lambda h: setattr(h.public_key, "keyid", ""), "key id does not belong to its public key"),
        (lambda h: setattr(h.public_key, "keyid", keyid_of(b"other")), "key id does not belong"),
        (lambda h: h.ClearField("instance_id"), "no instance id"),
        (lambda h: setattr(h, "instance_id", "eve"), "signature"),
        (lambda h: setattr(h, "pairing_secret", "other"), "signature"),
        (lambda h: setattr(h, "signature", bytes(64)), "signature"),
        (lambda h: h.ClearField("signature"), "signature"),
    ],
)
def test_handshake_with_one_fault_is_refused_by_name(change: Any, sentence: str) -> None:
    handshake = make_handshake(Identity.generate(), "laptop", "hush", TRANSCRIPT)
    verify_handshake(handshake, TRANSCRIPT)
    change(handshake)
    with pytest.raises(ValueError, match=sentence) as caught:
        verify_handshake(handshake, TRANSCRIPT)
    assert "hush" not in str(caught.value)


def test_handshake_of_another_connection_is_refused() -> None:
    handshake = make_handshake(Identity.generate(), "laptop", "", TRANSCRIPT)
    with pytest.raises(ValueError, match="does not hold for this connection"):
        verify_handshake(handshake, bytes(32))


def test_instance_and_secret_cannot_trade_bytes() -> None:
    assert handshake_digest(3, "ab", "c", TRANSCRIPT) != handshake_digest(3, "a", "bc", TRANSCRIPT)
    assert HANDSHAKE_VERSION == 3


def torsion_points() -> set[tuple[int, int]]:
    """The eight points of small order, found with curve arithmetic and not with the constants of the code."""
    d = -121665 * pow(121666, -1, P) % P

    def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        product = d * a[0] * b[0] * a[1] * b[1] % P
        x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + product, -1, P) % P
        return x, (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P) % P

    order = 2**252 + 27742317777372353535851937790883648493
    found: set[tuple[int, int]] = set()
    y = 1
    while len(found) < 8:
        y += 1
        square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if x * x % P != square:
            x = x * pow(2, (P - 1) // 4, P) % P
        if x * x % P != square:
            continue  # no point of the curve has this y
        point, scalar, total = (x, y), order, (0, 1)
        while scalar:
            if scalar & 1:
                total = add(total, point)
            point, scalar = add(point, point), scalar >> 1
        found.add(total)
    return found


def test_every_spelling_of_every_small_order_point_is_recognized() -> None:
    points = torsion_points()
    spellings = {
        (y | sign << 255).to_bytes(32, "little")
        for _, canonical in points
        for y in (canonical, canonical + P)
        if y < 2**255
        for sign in (0, 1)
    }
    assert len(points) == 8
    assert len(spellings) == 14
    assert all(is_small_order(spelling) for spelling in spellings)


def test_ordinary_keys_are_not_of_small_order() -> None:
    for _ in range(20):
        assert not is_small_order(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    for y in (2, 3, P - 2, P + 2, 2**255 - 1):
        assert not is_small_order(y.to_bytes(32, "little"))
    with pytest.raises(ValueError, match="has 32 bytes, this one 31"):
        is_small_order(bytes(31))


@pytest.mark.parametrize(
    "text", ["", "ed25519.", "ed25519." + "A" * 42, "25519." + "A" * 43, "ed25519." + "+" * 43]
)
def test_what_cannot_be_a_key_id(text: str) -> None:
    assert not is_keyid(text)
    assert not is_keyid("ed25519." + "A" * 43 + "\n")
