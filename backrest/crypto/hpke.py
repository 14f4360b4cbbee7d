"""HPKE (RFC 9180), base mode, up to the exporter: two sides share a secret nobody else can export from.

The KEM is the hybrid MLKEM1024-P384, id 0x0051: whoever wants the secret must break ML-KEM-1024 *and* ECDH
on P-384. A public key is 1665 bytes, ML-KEM's 1568 and an uncompressed point of 97; an encapsulation has the
same layout. The suite of the sync protocol is HKDF-SHA256 with AES-256-GCM; another one exists only to check
this code against a published vector.

What is not here: HPKE's own seal and open. The channel exports a key for each direction instead
(channel.py), so the schedule's `key` and `base_nonce` are never derived. No psk, no authenticated modes: who
the peers are is proved by the handshake inside (identity.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backrest.crypto import mlkem

POINT_BYTES = 97  # 04, then x and y of 48 bytes each
PUBLIC_KEY_BYTES = mlkem.PUBLIC_KEY_BYTES + POINT_BYTES
ENCAPSULATION_BYTES = mlkem.CIPHERTEXT_BYTES + POINT_BYTES

_KEM_ID = 0x0051  # not 0x0050, which a comment in the reference's schema says: that is another KEM
_KEM_LABEL = b"MLKEM1024-P384"
_MODE_BASE = b"\x00"
_CURVE = ec.SECP384R1()
_ECDH = ec.ECDH()


@dataclass(frozen=True, slots=True)
class Suite:
    """Which KDF and AEAD the key schedule is bound to; ``hash_bytes`` is Nh, the length of its secrets."""

    kdf_id: int
    aead_id: int
    algorithm: hashes.HashAlgorithm

    @property
    def hash_bytes(self) -> int:
        return self.algorithm.digest_size

    @property
    def id(self) -> bytes:
        ids = (_KEM_ID, self.kdf_id, self.aead_id)
        return b"HPKE" + b"".join(number.to_bytes(2, "big") for number in ids)


SYNC_SUITE = Suite(kdf_id=0x0001, aead_id=0x0002, algorithm=hashes.SHA256())  # HKDF-SHA256, AES-256-GCM


@dataclass(frozen=True, slots=True)
class Context:
    """One side of an HPKE context: it exports, and that is all (RFC 9180, 5.3)."""

    suite: Suite
    exporter_secret: bytes = field(repr=False)

    def export(self, context: bytes, length: int) -> bytes:
        """Return ``length`` secret bytes that belong to ``context``; ValueError beyond 255 hash lengths."""
        return labeled_expand(self.suite, self.exporter_secret, b"sec", context, length)


class RecipientKey:
    """The recipient's private key. It is for one encapsulation: drop it afterwards.

    A key that lived longer would let whoever steals it later read every recorded session. (Python cannot
    overwrite the bytes; that nothing refers to them any more is what can be done.)
    """

    __slots__ = ("_mlkem_secret", "_p384", "public_key")

    public_key: bytes

    def __init__(self, mlkem_secret: bytes, p384: ec.EllipticCurvePrivateKey) -> None:
        self._mlkem_secret = mlkem_secret
        self._p384 = p384
        self.public_key = mlkem.public_of(mlkem_secret) + _point_of(p384)

    @classmethod
    def generate(cls) -> RecipientKey:
        _, secret = mlkem.keypair()
        return cls(secret, ec.generate_private_key(_CURVE))

    @classmethod
    def from_private(cls, mlkem_secret: bytes, p384_scalar: int) -> RecipientKey:
        """Make a known key from its parts (vectors); ValueError if one of them is not a private key."""
        return cls(mlkem_secret, ec.derive_private_key(p384_scalar, _CURVE))

    def decapsulate(self, encapsulation: bytes) -> bytes:
        """Return the KEM's shared secret (32 bytes); raises ValueError for a malformed encapsulation."""
        ciphertext, point = _split(encapsulation, "encapsulation")
        ephemeral = _parse_point(point, "encapsulation")
        return combine(
            mlkem.decapsulate(self._mlkem_secret, ciphertext),
            self._p384.exchange(_ECDH, ephemeral),
            point,
            self.public_key[-POINT_BYTES:],
        )

    def __repr__(self) -> str:
        return "RecipientKey(...)"


def setup_sender(public_key: bytes, info: bytes) -> tuple[bytes, Context]:
    """Return (encapsulation, context) for the holder of ``public_key``; ValueError if that is malformed."""
    encapsulation, shared_secret = _encapsulate(public_key, ec.generate_private_key(_CURVE))
    return encapsulation, key_schedule(SYNC_SUITE, shared_secret, info)


def setup_recipient(key: RecipientKey, encapsulation: bytes, info: bytes) -> Context:
    """Return the context that the sender of ``encapsulation`` has; raises ValueError if it is malformed.

    A forged encapsulation with the right form raises nothing and leads to other keys (mlkem.py says why).
    """
    return key_schedule(SYNC_SUITE, key.decapsulate(encapsulation), info)


def key_schedule(suite: Suite, shared_secret: bytes, info: bytes) -> Context:
    """RFC 9180, 5.1, in base mode: from the KEM's shared secret to the exporter secret."""
    secret, context = schedule_secret(suite, shared_secret, info)
    return Context(suite, labeled_expand(suite, secret, b"exp", context, suite.hash_bytes))


def schedule_secret(suite: Suite, shared_secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Return (secret, key_schedule_context), from which everything else is expanded."""
    psk_id_hash = labeled_extract(suite, b"", b"psk_id_hash", b"")
    info_hash = labeled_extract(suite, b"", b"info_hash", info)
    return labeled_extract(suite, shared_secret, b"secret", b""), _MODE_BASE + psk_id_hash + info_hash


def labeled_extract(suite: Suite, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return HKDF.extract(suite.algorithm, salt, b"HPKE-v1" + suite.id + label + ikm)


def labeled_expand(suite: Suite, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    if not 0 < length <= 255 * suite.hash_bytes:
        raise ValueError(f"{length} bytes cannot be derived: from 1 to 255 times {suite.hash_bytes}")
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite.id + label + info
    return HKDFExpand(suite.algorithm, length, labeled).derive(prk)


def combine(mlkem_secret: bytes, ecdh_x: bytes, ephemeral_point: bytes, recipient_point: bytes) -> bytes:
    """The hybrid KEM's shared secret: SHA3-256 over both secrets, both points and the KEM's name.

    The points are in it because ECDH alone gives the same x for a point and its negative; ML-KEM's ciphertext
    is not, because ML-KEM's own secret is already bound to it.
    """
    together = mlkem_secret + ecdh_x + ephemeral_point + recipient_point + _KEM_LABEL
    return hashlib.sha3_256(together).digest()


def _encapsulate(public_key: bytes, ephemeral: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    mlkem_public, point = _split(public_key, "public key")
    recipient = _parse_point(point, "public key")
    ciphertext, mlkem_secret = mlkem.encapsulate(mlkem_public)
    ephemeral_point = _point_of(ephemeral)
    shared_secret = combine(mlkem_secret, ephemeral.exchange(_ECDH, recipient), ephemeral_point, point)
    return ciphertext + ephemeral_point, shared_secret


def _split(hybrid: bytes, what: str) -> tuple[bytes, bytes]:
    """Cut ML-KEM's part from the point. The two lengths are equal for a key and for an encapsulation."""
    if len(hybrid) != PUBLIC_KEY_BYTES:
        raise ValueError(f"the {what} has {len(hybrid)} bytes instead of {PUBLIC_KEY_BYTES}")
    return bytes(hybrid[:-POINT_BYTES]), bytes(hybrid[-POINT_BYTES:])


def _parse_point(point: bytes, what: str) -> ec.EllipticCurvePublicKey:
    """Take an uncompressed point on the curve and no other form of it.

    The library would also take hybrid ones (06, 07), and compressed ones if they came with the right length:
    a second spelling of one point is a second transcript for one key. A point off the curve would leak the
    private key (invalid curve attack); the library refuses it, and so x = p and the point at infinity.
    """
    if point[0] != 0x04:
        raise ValueError(f"the P-384 point of the {what} is not in the uncompressed form")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point)
    except ValueError as error:
        raise ValueError(f"the P-384 point of the {what} is not on the curve") from error


def _point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
