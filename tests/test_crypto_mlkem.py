"""ML-KEM: agrees with two other implementations, and notices a library that has gone wrong."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from crypto_vectors import load, mlkem_secret, unhex
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey, MLKEM1024PublicKey

from backrest.crypto import mlkem


@pytest.mark.parametrize("case", load("mlkem-expanded.json")["cases"], ids=lambda case: case["name"])
def test_seed_expands_as_in_the_vector(case: dict[str, str]) -> None:
    assert mlkem_secret(unhex(case["mlkem_seed_dz"])).hex() == case["mlkem_dk_expanded"]


@pytest.mark.parametrize("case", load("transport.json")["cases"], ids=lambda case: case["name"])
def test_vector_ciphertext_decapsulates_to_the_vector_secret(case: dict[str, Any]) -> None:
    secret = mlkem_secret(unhex(case["mlkem_seed_dz"]))
    ciphertext = unhex(case["encapsulation"])[: mlkem.CIPHERTEXT_BYTES]
    assert mlkem.decapsulate(secret, ciphertext).hex() == case["mlkem_shared_secret"]


def test_what_we_encapsulate_the_other_library_decapsulates() -> None:
    theirs = MLKEM1024PrivateKey.generate()
    ciphertext, secret = mlkem.encapsulate(theirs.public_key().public_bytes_raw())
    assert theirs.decapsulate(ciphertext) == secret


def test_what_the_other_library_encapsulates_we_decapsulate() -> None:
    public, secret_key = mlkem.keypair()
    secret, ciphertext = MLKEM1024PublicKey.from_public_bytes(public).encapsulate()
    assert mlkem.decapsulate(secret_key, ciphertext) == secret


def test_both_libraries_make_the_same_key_of_a_seed() -> None:
    seed = bytes(range(64))
    theirs = MLKEM1024PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()
    assert mlkem.public_of(mlkem_secret(seed)) == theirs


def test_sizes_are_those_of_fips_203() -> None:
    public, secret_key = mlkem.keypair()
    ciphertext, secret = mlkem.encapsulate(public)
    assert (len(public), len(secret_key), len(ciphertext), len(secret)) == (1568, 3168, 1568, 32)
    assert mlkem.public_of(secret_key) == public


def test_forged_ciphertext_gives_the_rejection_secret_of_fips_203() -> None:
    public, secret_key = mlkem.keypair()
    ciphertext, secret = mlkem.encapsulate(public)
    forged = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])
    expected = hashlib.shake_256(secret_key[-32:] + forged).digest(32)
    assert mlkem.decapsulate(secret_key, forged) == expected != secret


@pytest.mark.parametrize("length", [0, 1567, 1569])
def test_wrong_length_is_a_value_error(length: int) -> None:
    _, secret_key = mlkem.keypair()
    with pytest.raises(ValueError, match=f"public key has 1568 bytes, this one {length}"):
        mlkem.encapsulate(bytes(length))
    with pytest.raises(ValueError, match=f"ciphertext has 1568 bytes, this one {length}"):
        mlkem.decapsulate(secret_key, bytes(length))
    with pytest.raises(ValueError, match="secret key has 3168 bytes"):
        mlkem.decapsulate(secret_key[:-1], bytes(1568))
    with pytest.raises(ValueError, match="secret key has 3168 bytes"):
        mlkem.public_of(secret_key[:-1])


def test_coefficient_beyond_the_modulus_is_refused() -> None:
    public, _ = mlkem.keypair()
    with pytest.raises(ValueError, match="coefficient out of range"):
        mlkem.encapsulate(b"\x01\xed" + public[2:])  # 0xd01 = 3329, little-endian in 12 bits


def test_damaged_secret_key_is_refused() -> None:
    _, secret_key = mlkem.keypair()
    with pytest.raises(ValueError, match="does not hang together"):
        mlkem.decapsulate(secret_key[:2000] + bytes([secret_key[2000] ^ 1]) + secret_key[2001:], bytes(1568))


def test_self_test_passes_with_the_installed_library() -> None:
    mlkem.self_test()


class Faulty:
    """The library with one function that has gone wrong."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.real: Any = vars(mlkem)["_library"]
        self.fixed = self.real.keygen()
        self.repeated = self.real.encaps(self.fixed[0])

    def keygen(self) -> tuple[bytes, bytes]:
        if self.fault == "keys":
            return self.real.keygen()[0], self.real.keygen()[1]
        fresh: tuple[bytes, bytes] = self.fixed if self.fault == "repeats" else self.real.keygen()
        return fresh

    def encaps(self, public: bytes) -> tuple[bytes, bytes]:
        made: tuple[bytes, bytes] = self.repeated if self.fault == "repeats" else self.real.encaps(public)
        return made

    def decaps(self, secret: bytes, ciphertext: bytes) -> bytes:
        if self.fault == "raises":
            raise OSError("no such instruction")
        if self.fault == "constant":
            return bytes(32)
        result: bytes = self.real.decaps(secret, ciphertext)
        rejection = hashlib.shake_256(secret[-32:] + ciphertext).digest(32)
        if self.fault == "no rejection" and result == rejection:
            return bytes(32)
        return result


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("constant", "failed at a known ciphertext"),
        ("no rejection", "failed at a forged ciphertext"),
        ("keys", "failed at a fresh key pair"),
        ("repeats", "failed at its randomness"),
        ("raises", "could not run: no such instruction"),
    ],
)
def test_self_test_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch, fault: str, sentence: str) -> None:
    monkeypatch.setattr(mlkem, "_library", Faulty(fault))
    with pytest.raises(RuntimeError, match=sentence):
        mlkem.self_test()
