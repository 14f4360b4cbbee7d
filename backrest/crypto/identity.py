"""Who a peer is: an Ed25519 key, its key id, and the handshake that proves the key inside a channel.

The key id is `ed25519.` and the unpadded base64url of SHA-256 over the 32 raw bytes of the public key; it is
always derived from the key, never believed. In messages and in the configuration keys are unpadded *standard*
base64, read as Go's decoder reads it. What is signed binds the transcript of the key exchange, so a handshake
is worth nothing on any other connection. It names no role: whoever sends a handshake back to its signer has
one that verifies, so every verifier says which key is its own.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode, urlsafe_b64encode
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from backrest.wire import crypto as wire_crypto
from backrest.wire import sync as wire_sync

HANDSHAKE_VERSION = 3

_LABEL = b"backrest-sync-handshake/v1\x00"
_KEY_BYTES = 32
_KEYID = re.compile(r"ed25519\.[A-Za-z0-9_-]{43}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*")
_LINE_ENDS = str.maketrans("", "", "\r\n")

# The eight points of small order on edwards25519 have five y-coordinates: 1 (neutral), -1 (order 2), 0 (order
# 4) and two of order 8. The sign of x and y + p, where it still fits 255 bits, spell the same points again.
_P = 2**255 - 19
_Y_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y = frozenset((0, 1, _P - 1, _Y_ORDER_8, _P - _Y_ORDER_8))


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a verified handshake says: the key is proved, the rest is the key holder's word."""

    keyid: str
    public_key: bytes
    instance_id: str
    pairing_secret: str = field(repr=False)


class Identity:
    """This instance's own key pair."""

    __slots__ = ("_key", "keyid", "public_key")

    keyid: str
    public_key: bytes

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        self.keyid = keyid_of(self.public_key)

    @classmethod
    def generate(cls) -> Identity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """Make the key pair of a 32-byte seed; ValueError for another length."""
        if len(seed) != _KEY_BYTES:
            raise ValueError(f"an Ed25519 seed has {_KEY_BYTES} bytes, this one {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def from_proto(cls, proto: wire_crypto.PrivateKey) -> Identity:
        """Read the identity of a configuration; ValueError if its three parts do not fit together.

        A key id or public key that does not belong to the private key would have every peer refuse us, with
        no hint here: so that is said at the start, and nothing is repaired silently.
        """
        identity = cls.from_seed(_decode(proto.ed25519priv, "private key"))
        if _decode(proto.ed25519pub, "public key") != identity.public_key:
            raise ValueError("the identity's public key does not belong to its private key")
        if proto.keyid != identity.keyid:
            raise ValueError(f"the identity's key id should be {identity.keyid}, not {proto.keyid!r}")
        return identity

    def to_proto(self) -> wire_crypto.PrivateKey:
        """Return the identity as the configuration keeps it: with the private key."""
        return wire_crypto.PrivateKey(
            keyid=self.keyid,
            ed25519priv=_encode(self._key.private_bytes_raw()),
            ed25519pub=_encode(self.public_key),
        )

    def public_proto(self) -> wire_crypto.PublicKey:
        return wire_crypto.PublicKey(keyid=self.keyid, ed25519pub=_encode(self.public_key))

    def sign(self, digest: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature over ``digest`` (as the message: no prehash mode)."""
        return self._key.sign(digest)

    def __repr__(self) -> str:
        return f"Identity({self.keyid})"


def keyid_of(public_key: bytes) -> str:
    digest = hashlib.sha256(public_key).digest()
    return "ed25519." + urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def is_keyid(text: str) -> bool:
    """Could ``text`` be a key id? (A token whose beginning was not copied has none.)"""
    return _KEYID.fullmatch(text) is not None


def decode_public_key(text: str) -> bytes:
    """Read a public key from a message or a configuration; ValueError unless Go would take it too."""
    return _decode(text, "public key")


def handshake_digest(version: int, instance_id: str, pairing_secret: str, transcript: bytes) -> bytes:
    """Return the 32 bytes that a handshake's signature is over. ``version`` is a signed 64-bit number."""
    parts = (instance_id.encode(), pairing_secret.encode(), transcript)
    # Lengths before contents: otherwise "ab" + "c" and "a" + "bc" would share a signature.
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(_LABEL + version.to_bytes(8, "big", signed=True) + framed).digest()


def make_handshake(
    identity: Identity, instance_id: str, pairing_secret: str, transcript: bytes
) -> wire_sync.SyncStreamItem.SyncActionHandshake:
    """Return our handshake for the channel with this transcript. The hub gives no pairing secret."""
    digest = handshake_digest(HANDSHAKE_VERSION, instance_id, pairing_secret, transcript)
    return wire_sync.SyncStreamItem.SyncActionHandshake(
        protocol_version=HANDSHAKE_VERSION,
        public_key=identity.public_proto(),
        instance_id=instance_id,
        pairing_secret=pairing_secret,
        signature=identity.sign(digest),
    )


def verify_handshake(
    handshake: wire_sync.SyncStreamItem.SyncActionHandshake, transcript: bytes, *, own_keyid: str = ""
) -> PeerIdentity:
    """Return who sent ``handshake`` over the channel with this transcript; ValueError names what failed.

    ``own_keyid`` is the receiver's: a handshake with that key is our own, sent back (a reflection). That
    it verifies says only who the peer is, not that it may come in.
    """
    if handshake.protocol_version != HANDSHAKE_VERSION:
        raise ValueError(
            f"the peer's handshake has version {handshake.protocol_version}, not {HANDSHAKE_VERSION}"
        )
    if not handshake.HasField("public_key") or not handshake.public_key.ed25519pub:
        raise ValueError("the peer's handshake has no public key")
    public_key = decode_public_key(handshake.public_key.ed25519pub)
    keyid = keyid_of(public_key)
    if handshake.public_key.keyid != keyid:
        raise ValueError("the peer's key id does not belong to its public key")
    if keyid == own_keyid:
        raise ValueError(
            "the peer shows our own key: a reflected handshake, or an identity copied to two machines"
        )
    if not handshake.instance_id:
        raise ValueError("the peer's handshake has no instance id")
    if is_small_order(public_key):
        raise ValueError("the peer's key has small order: anybody could sign with it")
    digest = handshake_digest(HANDSHAKE_VERSION, handshake.instance_id, handshake.pairing_secret, transcript)
    if not signature_holds(public_key, handshake.signature, digest):
        raise ValueError("the signature of the peer's handshake does not hold for this connection")
    return PeerIdentity(keyid, public_key, handshake.instance_id, handshake.pairing_secret)


def signature_holds(public_key: bytes, signature: bytes, digest: bytes) -> bool:
    """Check an Ed25519 signature and nothing else; False also for bytes that are no key or no signature."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, digest)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_small_order(public_key: bytes) -> bool:
    """Is this one of the keys, in any spelling, under which a signature can hold for every message?

    The reference accepts them. A peer with such a key has proved nothing: whoever knows the trick is "it".
    """
    if len(public_key) != _KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has {_KEY_BYTES} bytes, this one {len(public_key)}")
    y = int.from_bytes(public_key, "little") & (2**255 - 1)  # the top bit is the sign of x
    return y % _P in _SMALL_ORDER_Y


def _encode(raw: bytes) -> str:
    return b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(text: str, what: str) -> bytes:
    """Read 32 bytes of unpadded standard base64 as Go does, so that both programs agree who a peer is.

    Line ends are skipped wherever they stand, and bits left over at the end are ignored; padding, the URL
    alphabet and spaces are refused. The error never shows the text: it may be a private key.
    """
    text = text.translate(_LINE_ENDS)
    if not text:
        raise ValueError(f"the {what} is empty")
    if _BASE64.fullmatch(text) is None or len(text) % 4 == 1:
        raise ValueError(f"the {what} is not unpadded standard base64")
    raw = b64decode(text + "=" * (-len(text) % 4))
    if len(raw) != _KEY_BYTES:
        raise ValueError(f"the {what} has {len(raw)} bytes instead of {_KEY_BYTES}")
    return raw
