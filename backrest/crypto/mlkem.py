"""ML-KEM-1024 (FIPS 203) as three functions; which library does it is known here only.

Behind them is pqcrypto 1.0.0, a young library that nobody has audited: `self_test` must pass before the
first session, and the tests hold the one of `cryptography` against it, in both directions. A secret key is
the expanded one of FIPS 203 (decryption key, public key, its hash, z).

A ciphertext of the right length always decapsulates (implicit rejection): a forged one gives another secret
and no error, so that nobody can learn from an error which ciphertexts are valid. The first record that is
opened with the resulting keys fails instead.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode
from typing import cast

from pqcrypto.kem import ml_kem_1024 as _library  # type: ignore[import-untyped]  # ships no types

PUBLIC_KEY_BYTES = 1568
SECRET_KEY_BYTES = 3168
CIPHERTEXT_BYTES = 1568
SHARED_SECRET_BYTES = 32


def keypair() -> tuple[bytes, bytes]:
    """Return a fresh (public key, secret key)."""
    return cast("tuple[bytes, bytes]", _library.keygen())


def encapsulate(public_key: bytes) -> tuple[bytes, bytes]:
    """Return (ciphertext, shared secret) for the holder of ``public_key``.

    Raises ValueError for a wrong length, and for a coefficient of 3329 or more (FIPS 203, 7.2): two
    encodings of one key must not exist.
    """
    _check(len(public_key), PUBLIC_KEY_BYTES, "public key")
    try:
        return cast("tuple[bytes, bytes]", _library.encaps(bytes(public_key)))
    except ValueError as error:
        raise ValueError("the ML-KEM-1024 public key has a coefficient out of range") from error


def decapsulate(secret_key: bytes, ciphertext: bytes) -> bytes:
    """Return the shared secret of ``ciphertext``; raises ValueError for a wrong length or a damaged key."""
    _check(len(secret_key), SECRET_KEY_BYTES, "secret key")
    _check(len(ciphertext), CIPHERTEXT_BYTES, "ciphertext")
    try:
        return cast("bytes", _library.decaps(bytes(secret_key), bytes(ciphertext)))
    except ValueError as error:
        raise ValueError("the ML-KEM-1024 secret key does not hang together") from error


def public_of(secret_key: bytes) -> bytes:
    """Return the public key that an expanded secret key contains."""
    _check(len(secret_key), SECRET_KEY_BYTES, "secret key")
    return secret_key[1536 : 1536 + PUBLIC_KEY_BYTES]


def _check(length: int, wanted: int, what: str) -> None:
    if length != wanted:
        raise ValueError(f"an ML-KEM-1024 {what} has {wanted} bytes, this one {length}")


def self_test() -> None:
    """Check the library against known answers, in about a millisecond; RuntimeError says what was wrong.

    Four checks, since each misses what another one sees: a known ciphertext (fixed by another
    implementation) catches a KEM that agrees only with itself, the forged one catches a missing comparison
    after re-encryption (a chosen-ciphertext attack would read the key), the round trip catches a broken
    generation of keys or ciphertexts, and the last one randomness that stands still.
    """
    from backrest.crypto import _mlkem_answer as answer  # needed once in the life of a process

    secret_key = b64decode(answer.DECAPSULATION_KEY)
    ciphertext = b64decode(answer.CIPHERTEXT)
    # FIPS 203, 6.3: what a forged ciphertext must give is SHAKE256(z || ciphertext), z ends the secret key.
    forged = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    rejection = hashlib.shake_256(secret_key[-32:] + forged).digest(SHARED_SECRET_BYTES)
    try:
        known = decapsulate(secret_key, ciphertext)
        rejected = decapsulate(secret_key, forged)
        public, secret = keypair()
        first, sent = encapsulate(public)
        second, _ = encapsulate(public)
        received = decapsulate(secret, first)
    except Exception as error:
        raise RuntimeError(f"the ML-KEM-1024 self-test could not run: {error}") from error
    for wrong, what in (
        (not hmac.compare_digest(known, b64decode(answer.SHARED)), "a known ciphertext"),
        (not hmac.compare_digest(rejected, rejection), "a forged ciphertext"),
        (not hmac.compare_digest(sent, received), "a fresh key pair"),
        (first == second, "its randomness (it repeats itself)"),
    ):
        if wrong:
            raise RuntimeError(
                f"the ML-KEM-1024 self-test failed at {what}: the installed pqcrypto cannot be trusted here"
            )
