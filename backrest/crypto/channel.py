"""The encrypted channel: after the key exchange every item is a record, in order, or the session is over.

The client is the HPKE recipient (`Initiator`), the hub the sender (`respond`). Each direction has its own
AES-256-GCM key and its own counter from 0. A nonce is never used twice with a key: the keys are new with each
connection, only `seal` moves the sending counter, and it refuses to wrap. The receiver takes exactly the next
nonce, which catches what was replayed, reordered or dropped before any decryption; the tag catches what was
altered, and a record of the other direction (another key, so nothing can be reflected).

No associated data: the position is in the nonce, the direction in the key, the key exchange in both keys.
A channel has one owner: seal and open are not for two threads at a time.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backrest.crypto import hpke

TRANSPORT_VERSION = 1
NONCE_BYTES = 12  # four zero bytes, then the counter, 64 bits big-endian: together a number of 12 bytes
TAG_BYTES = 16

_INFO = b"backrest-sync-transport-v1"
_TO_RESPONDER = b"backrest-sync-session-key/v1/initiator-to-responder"
_TO_INITIATOR = b"backrest-sync-session-key/v1/responder-to-initiator"
_TRANSCRIPT_LABEL = b"backrest-sync-transport-transcript/v1\x00"
_KEY_BYTES = 32
_COUNTERS = (
    1 << 64
)  # the last nonce is this less one; at a million records a second that is 580,000 years off
_DEAD = _COUNTERS + 1  # the receiving counter of a channel that has refused a record


class ChannelError(ValueError):
    """A record was refused (or cannot be made). ``reason`` is "nonce", "tag", "counter" or "closed"."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Channel:
    """Seals what goes out and opens what comes in. Having refused one record it refuses all that follow."""

    __slots__ = ("_decrypt", "_encrypt", "_received", "_sent", "transcript")

    transcript: bytes

    def __init__(
        self, send_key: bytes, receive_key: bytes, transcript: bytes, *, sent: int = 0, received: int = 0
    ) -> None:
        self.transcript = transcript
        self._encrypt = AESGCM(send_key).encrypt
        self._decrypt = AESGCM(receive_key).decrypt
        self._sent = sent
        self._received = received

    @classmethod
    def from_keys(
        cls, send_key: bytes, receive_key: bytes, transcript: bytes, *, sent: int = 0, received: int = 0
    ) -> Channel:
        """Make a channel in mid-life from known keys: for vectors and captured sessions only.

        Two channels that send under one key and reach the same counter would reuse a nonce, which gives
        both plaintexts and the power to forge away.
        """
        return cls(send_key, receive_key, transcript, sent=sent, received=received)

    def seal(self, plaintext: bytes) -> tuple[bytes, bytes]:
        """Return (nonce, ciphertext with its tag) of the next record; ChannelError when no nonce is left."""
        counter = self._sent
        if counter >= _COUNTERS:
            raise ChannelError("counter", "the sending counter is used up: a nonce must not be used twice")
        self._sent = counter + 1
        nonce = counter.to_bytes(NONCE_BYTES, "big")
        return nonce, self._encrypt(nonce, plaintext, None)

    def open(self, nonce: bytes, ciphertext: bytes) -> bytes:
        """Return the plaintext of the next record; ChannelError otherwise, and from then on always."""
        counter = self._received
        if counter >= _COUNTERS:
            raise self._refusal(nonce)
        if nonce != counter.to_bytes(NONCE_BYTES, "big"):
            raise self._refusal(nonce)
        try:
            plaintext = self._decrypt(nonce, ciphertext, None)
        except InvalidTag:
            self._received = _DEAD
            raise ChannelError("tag", f"record {counter} does not open: altered, or other keys") from None
        self._received = counter + 1
        return plaintext

    def _refusal(self, nonce: bytes) -> ChannelError:
        counter, self._received = self._received, _DEAD
        if counter == _DEAD:
            return ChannelError("closed", "the channel has refused a record before and takes no more")
        if counter == _COUNTERS:
            return ChannelError("counter", "the receiving counter is used up")
        if len(nonce) != NONCE_BYTES:
            return ChannelError("nonce", f"record {counter} has a nonce of {len(nonce)} bytes")
        shown = int.from_bytes(nonce, "big")
        if shown < counter:
            return ChannelError("nonce", f"record {shown} has come again where record {counter} is due")
        return ChannelError("nonce", f"record {counter} is missing or its nonce is wrong")

    def __repr__(self) -> str:
        return f"Channel(sent={self._sent}, received={self._received})"


class Initiator:
    """The client's half of the key exchange: send ``public_key``, then ``finish`` with the hub's answer."""

    __slots__ = ("_key", "public_key")

    public_key: bytes

    def __init__(self, key: hpke.RecipientKey | None = None) -> None:
        """Draw a fresh key (the rule: one connection, one key), or take a known one (vectors)."""
        self._key: hpke.RecipientKey | None = key or hpke.RecipientKey.generate()
        self.public_key = self._key.public_key

    def finish(self, encapsulation: bytes) -> Channel:
        """Return the channel; ValueError if malformed. The private key is gone either way."""
        key, self._key = self._key, None
        if key is None:
            raise RuntimeError("this key exchange is over: a private key is used once")
        context = hpke.setup_recipient(key, encapsulation, _INFO)
        return Channel(
            context.export(_TO_RESPONDER, _KEY_BYTES),
            context.export(_TO_INITIATOR, _KEY_BYTES),
            transcript(TRANSPORT_VERSION, self.public_key, encapsulation),
        )

    def __repr__(self) -> str:
        return f"Initiator(finished={self._key is None})"


def respond(public_key: bytes) -> tuple[bytes, Channel]:
    """The hub's half: return (encapsulation to send, channel); ValueError for a malformed public key."""
    encapsulation, context = hpke.setup_sender(public_key, _INFO)
    channel = Channel(
        context.export(_TO_INITIATOR, _KEY_BYTES),
        context.export(_TO_RESPONDER, _KEY_BYTES),
        transcript(TRANSPORT_VERSION, public_key, encapsulation),
    )
    return encapsulation, channel


def transcript(version: int, public_key: bytes, encapsulation: bytes) -> bytes:
    """Return the 32 bytes that stand for this key exchange; both sides sign them (identity.py).

    A man in the middle who makes one exchange with each side gets two transcripts, and cannot pass a
    signature over the one off as a signature over the other.
    """
    digest = hashlib.sha256(_TRANSCRIPT_LABEL + version.to_bytes(4, "big"))
    for part in (public_key, encapsulation):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()
