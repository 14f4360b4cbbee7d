"""The suite checks its own cryptography first: what it shares with this program must not be wrong in both.

One recorded session made by an independent implementation (conformance/vectors/transport.json): key exchange,
exports, transcript, records, the handshake's bind input and signature.
"""

from __future__ import annotations

import json
from pathlib import Path

from backrest.crypto import mlkem
from backrest.crypto.channel import Initiator, transcript
from backrest.crypto.hpke import RecipientKey
from backrest.crypto.identity import Identity, handshake_digest, keyid_of, signature_holds

VECTORS = Path(__file__).parent / "vectors"


def check() -> None:
    """RuntimeError says what does not fit."""
    mlkem.self_test()
    case = json.loads((VECTORS / "transport.json").read_text())["cases"][0]
    expanded = json.loads((VECTORS / "mlkem-expanded.json").read_text())
    secret = next(one["mlkem_dk_expanded"] for one in expanded["cases"] if one["name"] == case["name"])
    key = RecipientKey.from_private(bytes.fromhex(secret), int(case["p384_scalar"], 16))
    encapsulation = bytes.fromhex(case["encapsulation"])
    _same(key.public_key.hex(), case["initiator_public_key"], "public key")
    channel = Initiator(key).finish(encapsulation)
    bound = transcript(1, key.public_key, encapsulation)
    _same(bound.hex(), case["transcript"], "transcript")
    for message in case["messages_i2r"]:
        nonce, ciphertext = channel.seal(bytes.fromhex(message["plaintext"]))
        _same(nonce.hex() + ciphertext.hex(), message["nonce"] + message["ciphertext"], "record to the hub")
    for message in case["messages_r2i"]:
        opened = channel.open(bytes.fromhex(message["nonce"]), bytes.fromhex(message["ciphertext"]))
        _same(opened.hex(), message["plaintext"], "record to the client")
    for side in ("initiator_identity", "responder_identity"):
        who = case[side]
        public = bytes.fromhex(who["ed25519_pub"])
        digest = handshake_digest(3, who["instance_id"], who["pairing_secret"], bound)
        _same(digest.hex(), who["bind_input"], "bind input")
        _same(keyid_of(public), who["keyid"], "key id")
        _same(
            Identity.from_seed(bytes.fromhex(who["ed25519_seed"])).sign(digest).hex(),
            who["signature"],
            "signature",
        )
        if not signature_holds(public, bytes.fromhex(who["signature"]), digest):
            raise RuntimeError("a known signature does not verify")


def _same(got: str, wanted: str, what: str) -> None:
    if got != wanted:
        raise RuntimeError(
            f"the suite's own cryptography is wrong: its {what} is not that of the known session"
        )
