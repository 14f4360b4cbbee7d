from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SignedMessage(_message.Message):
    __slots__ = ("keyid", "payload", "signature", "timestampMillis")
    KEYID_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMPMILLIS_FIELD_NUMBER: _ClassVar[int]
    keyid: str
    payload: bytes
    signature: bytes
    timestampMillis: int
    def __init__(self, keyid: _Optional[str] = ..., payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., timestampMillis: _Optional[int] = ...) -> None: ...

class PublicKey(_message.Message):
    __slots__ = ("keyid", "ed25519pub")
    KEYID_FIELD_NUMBER: _ClassVar[int]
    ED25519PUB_FIELD_NUMBER: _ClassVar[int]
    keyid: str
    ed25519pub: str
    def __init__(self, keyid: _Optional[str] = ..., ed25519pub: _Optional[str] = ...) -> None: ...

class PrivateKey(_message.Message):
    __slots__ = ("keyid", "ed25519priv", "ed25519pub")
    KEYID_FIELD_NUMBER: _ClassVar[int]
    ED25519PRIV_FIELD_NUMBER: _ClassVar[int]
    ED25519PUB_FIELD_NUMBER: _ClassVar[int]
    keyid: str
    ed25519priv: str
    ed25519pub: str
    def __init__(self, keyid: _Optional[str] = ..., ed25519priv: _Optional[str] = ..., ed25519pub: _Optional[str] = ...) -> None: ...
