"""HPKE: vectors of two sources, `cryptography`'s one-shot HPKE as the oracle, malformed keys named."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from crypto_vectors import P384_ORDER, expand_seed, load, mlkem_secret, recipient, unhex
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import hpke as oracle
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey, MLKEM1024PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backrest.crypto import hpke, mlkem

TRANSPORT = load("transport.json")
BASE = TRANSPORT["negative_base"]
DRAFT = load("hpke-draft.json")["vectors"][0]
INFO = b"backrest-sync-transport-v1"
LABELS = (TRANSPORT["label_i2r"].encode(), TRANSPORT["label_r2i"].encode())
NAMED_POINT = "uncompressed|not on the curve"


def negatives(*ops: str) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in TRANSPORT["negative"] if case["op"] in ops]


def exports(context: hpke.Context, labels: tuple[bytes, bytes] = LABELS) -> dict[str, str]:
    names = ("export_i2r", "export_r2i")
    return {name: context.export(label, 32).hex() for name, label in zip(names, labels, strict=True)}


def given(case: dict[str, Any]) -> dict[str, str]:
    return {name: case[name] for name in ("export_i2r", "export_r2i")}


cases = pytest.mark.parametrize("case", TRANSPORT["cases"], ids=lambda case: case["name"])


def test_suite_and_sizes_are_those_of_the_protocol() -> None:
    assert hpke.SYNC_SUITE.id.hex() == TRANSPORT["suite"]["suite_id"]
    assert TRANSPORT["info_ascii"].encode() == INFO
    assert TRANSPORT["sizes"]["public_key"] == hpke.PUBLIC_KEY_BYTES
    assert TRANSPORT["sizes"]["encapsulation"] == hpke.ENCAPSULATION_BYTES


@cases
def test_recipient_of_a_vector_exports_its_keys(case: dict[str, Any]) -> None:
    key = recipient(unhex(case["initiator_seed"]))
    assert key.public_key.hex() == case["initiator_public_key"]
    assert key.decapsulate(unhex(case["encapsulation"])).hex() == case["kem_shared_secret"]
    assert exports(hpke.setup_recipient(key, unhex(case["encapsulation"]), INFO)) == given(case)


@cases
def test_seed_of_a_vector_gives_both_private_keys(case: dict[str, Any]) -> None:
    mlkem_seed, scalar = expand_seed(unhex(case["initiator_seed"]))
    assert mlkem_seed.hex() == case["mlkem_seed_dz"]
    assert scalar == int(case["p384_scalar"], 16)


@cases
def test_kem_secret_of_a_vector_combines_from_its_parts(case: dict[str, Any]) -> None:
    secret = hpke.combine(
        unhex(case["mlkem_shared_secret"]),
        unhex(case["p384_shared_x"]),
        unhex(case["encapsulation"])[-97:],
        unhex(case["initiator_public_key"])[-97:],
    )
    assert secret.hex() == case["kem_shared_secret"]


@pytest.mark.parametrize(
    "case", [case for case in TRANSPORT["cases"] if case["deterministic_responder"]], ids=lambda c: c["name"]
)
def test_sender_with_the_randomness_of_a_vector_sends_its_encapsulation(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ciphertext = unhex(case["encapsulation"])[: mlkem.CIPHERTEXT_BYTES]
    monkeypatch.setattr(mlkem, "encapsulate", lambda _: (ciphertext, unhex(case["mlkem_shared_secret"])))
    ephemeral = ec.derive_private_key(int(case["responder_p384_ephemeral_scalar"], 16), ec.SECP384R1())
    encapsulation, secret = hpke._encapsulate(unhex(case["initiator_public_key"]), ephemeral)
    assert encapsulation.hex() == case["encapsulation"]
    assert secret.hex() == case["kem_shared_secret"]
    assert exports(hpke.key_schedule(hpke.SYNC_SUITE, secret, INFO)) == given(case)


def test_published_vector_from_seed_to_records_and_exports() -> None:
    suite = hpke.Suite(DRAFT["kdf_id"], DRAFT["aead_id"], hashes.SHA384())
    assert suite.id.hex() == DRAFT["suite_id"]
    seed = unhex(DRAFT["skRm"])
    key = recipient(seed)
    assert key.public_key.hex() == DRAFT["pkRm"]
    shared_secret = key.decapsulate(unhex(DRAFT["enc"]))
    assert shared_secret.hex() == DRAFT["shared_secret"]
    info = unhex(DRAFT["info"])
    context = hpke.key_schedule(suite, shared_secret, info)
    assert context.exporter_secret.hex() == DRAFT["exporter_secret"]
    for export in DRAFT["exports"]:
        value = context.export(unhex(export["exporter_context"]), export["L"])
        assert value.hex() == export["exported_value"]
    record_key, base_nonce = record_keys(suite, shared_secret, info)
    assert (record_key.hex(), base_nonce.hex()) == (DRAFT["key"], DRAFT["base_nonce"])
    for record in DRAFT["encryptions"]:
        sealed = AESGCM(record_key).encrypt(unhex(record["nonce"]), unhex(record["pt"]), unhex(record["aad"]))
        assert sealed.hex() == record["ct"]


def record_keys(suite: hpke.Suite, shared_secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """HPKE's own record key and base nonce, which only an outside check needs."""
    secret, context = hpke.schedule_secret(suite, shared_secret, info)
    return (
        hpke.labeled_expand(suite, secret, b"key", context, 32),
        hpke.labeled_expand(suite, secret, b"base_nonce", context, 12),
    )


ORACLE = oracle.Suite(oracle.KEM.MLKEM1024_P384, oracle.KDF.HKDF_SHA256, oracle.AEAD.AES_256_GCM)


def test_one_shot_message_of_the_other_library_opens_with_our_schedule() -> None:
    key = hpke.RecipientKey.generate()
    public = oracle.MLKEM1024P384PublicKey(
        MLKEM1024PublicKey.from_public_bytes(key.public_key[:1568]),
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), key.public_key[1568:]),
    )
    message = ORACLE.encrypt(b"from the oracle", public, INFO)
    encapsulation, ciphertext = message[: hpke.ENCAPSULATION_BYTES], message[hpke.ENCAPSULATION_BYTES :]
    record_key, nonce = record_keys(hpke.SYNC_SUITE, key.decapsulate(encapsulation), INFO)
    assert AESGCM(record_key).decrypt(nonce, ciphertext, None) == b"from the oracle"


def test_message_made_with_our_schedule_opens_in_the_other_library() -> None:
    mlkem_key = MLKEM1024PrivateKey.from_seed_bytes(bytes(range(64)))
    p384_key = ec.generate_private_key(ec.SECP384R1())
    ours = hpke.RecipientKey(mlkem_secret(bytes(range(64))), p384_key)
    encapsulation, secret = hpke._encapsulate(ours.public_key, ec.generate_private_key(ec.SECP384R1()))
    record_key, nonce = record_keys(hpke.SYNC_SUITE, secret, INFO)
    message = encapsulation + AESGCM(record_key).encrypt(nonce, b"from us", None)
    assert ORACLE.decrypt(message, oracle.MLKEM1024P384PrivateKey(mlkem_key, p384_key), INFO) == b"from us"


def test_two_sides_export_the_same_and_two_sessions_do_not() -> None:
    def session() -> tuple[dict[str, str], dict[str, str]]:
        key = hpke.RecipientKey.generate()
        encapsulation, sender = hpke.setup_sender(key.public_key, INFO)
        return exports(sender), exports(hpke.setup_recipient(key, encapsulation, INFO))

    (one, same), (other, _) = session(), session()
    assert one == same != other
    assert one["export_i2r"] != one["export_r2i"]


@pytest.mark.parametrize("case", negatives("decapsulate"))
def test_negative_encapsulation_fails_or_gives_other_keys(case: dict[str, Any]) -> None:
    key = recipient(unhex(BASE["initiator_seed"]))
    encapsulation = unhex(case["encapsulation"])
    if case["expect"] == "different-keys":
        found = exports(hpke.setup_recipient(key, encapsulation, INFO))
        assert found == given(case)
        assert found != given(BASE)
        return
    assert case["expect"] == "error"
    named = NAMED_POINT if len(encapsulation) == hpke.ENCAPSULATION_BYTES else "bytes instead of 1665"
    with pytest.raises(ValueError, match=f"encapsulation.*({named})"):
        hpke.setup_recipient(key, encapsulation, INFO)


@pytest.mark.parametrize("case", negatives("parse-public-key"))
def test_negative_public_key_fails_at_the_part_it_names(case: dict[str, Any]) -> None:
    public_key = unhex(case["public_key"])
    if case["expect"] == "ok":
        encapsulation, _ = hpke.setup_sender(public_key, INFO)
        assert len(encapsulation) == hpke.ENCAPSULATION_BYTES
        return
    if len(public_key) != hpke.PUBLIC_KEY_BYTES:
        named = "public key has [0-9]+ bytes instead of 1665"
    elif "-mlkem-" in case["name"]:
        named = "ML-KEM-1024 public key has a coefficient out of range"
    else:
        named = f"point of the public key.*({NAMED_POINT})"
    with pytest.raises(ValueError, match=named):
        hpke.setup_sender(public_key, INFO)


@pytest.mark.parametrize("case", negatives("export"))
def test_other_info_or_label_gives_the_other_keys_of_the_vector(case: dict[str, Any]) -> None:
    key = recipient(unhex(BASE["initiator_seed"]))
    context = hpke.setup_recipient(key, unhex(case["encapsulation"]), unhex(case["info"]))
    found = exports(context, (case["label_i2r"].encode(), case["label_r2i"].encode()))
    assert found == given(case)
    assert found != given(BASE)


@pytest.mark.parametrize("case", negatives("other-suite"))
def test_other_suite_gives_other_keys(case: dict[str, Any]) -> None:
    secret = recipient(unhex(BASE["initiator_seed"])).decapsulate(unhex(case["encapsulation"]))
    assert exports(hpke.key_schedule(hpke.SYNC_SUITE, secret, INFO)) == given(BASE) != given(case)
    if case["kdf_id"] == 0x0011:  # SHAKE256 has a schedule of one stage, which this program does not know
        return
    algorithm = {1: hashes.SHA256(), 2: hashes.SHA384()}[case["kdf_id"]]
    suite = hpke.Suite(case["kdf_id"], case["aead_id"], algorithm)
    assert exports(hpke.key_schedule(suite, secret, INFO)) == given(case)


def test_every_negative_operation_has_its_test() -> None:
    here = {"decapsulate", "parse-public-key", "export", "other-suite"}
    elsewhere = {"transcript", "aead-open", "verify-handshake"}
    assert {case["op"] for case in TRANSPORT["negative"]} == here | elsewhere


def test_compressed_point_of_the_right_length_is_refused() -> None:
    public_key = hpke.RecipientKey.generate().public_key
    compressed = b"\x02" + public_key[1569 : 1569 + 48] + bytes(48)
    with pytest.raises(ValueError, match="uncompressed"):
        hpke.setup_sender(public_key[:1568] + compressed, INFO)


@pytest.mark.parametrize("scalar", [0, P384_ORDER])
def test_number_that_is_no_private_key_is_refused(scalar: int) -> None:
    with pytest.raises(ValueError, match=r"private|Invalid EC key"):
        hpke.RecipientKey.from_private(mlkem_secret(bytes(64)), scalar)


@pytest.mark.parametrize("length", [0, -1, 255 * 32 + 1])
def test_export_of_an_impossible_length_is_refused(length: int) -> None:
    _, context = hpke.setup_sender(hpke.RecipientKey.generate().public_key, INFO)
    with pytest.raises(ValueError, match="cannot be derived"):
        context.export(b"label", length)
    assert len(context.export(b"label", 255 * 32)) == 255 * 32


def test_nothing_secret_is_in_a_repr() -> None:
    key = hpke.RecipientKey.generate()
    _, context = hpke.setup_sender(key.public_key, INFO)
    assert repr(key) == "RecipientKey(...)"
    assert repr(context.exporter_secret) not in repr(context)
    assert "exporter_secret" not in repr(context)
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.exporter_secret = b""  # type: ignore[misc]
