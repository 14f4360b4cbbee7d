from backrest.wire.v1 import config_pb2 as _config_pb2
from backrest.wire.v1 import crypto_pb2 as _crypto_pb2
from backrest.wire.v1 import operations_pb2 as _operations_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ConnectionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONNECTION_STATE_UNKNOWN: _ClassVar[ConnectionState]
    CONNECTION_STATE_PENDING: _ClassVar[ConnectionState]
    CONNECTION_STATE_CONNECTED: _ClassVar[ConnectionState]
    CONNECTION_STATE_DISCONNECTED: _ClassVar[ConnectionState]
    CONNECTION_STATE_RETRY_WAIT: _ClassVar[ConnectionState]
    CONNECTION_STATE_ERROR_AUTH: _ClassVar[ConnectionState]
    CONNECTION_STATE_ERROR_PROTOCOL: _ClassVar[ConnectionState]
    CONNECTION_STATE_ERROR_INTERNAL: _ClassVar[ConnectionState]
CONNECTION_STATE_UNKNOWN: ConnectionState
CONNECTION_STATE_PENDING: ConnectionState
CONNECTION_STATE_CONNECTED: ConnectionState
CONNECTION_STATE_DISCONNECTED: ConnectionState
CONNECTION_STATE_RETRY_WAIT: ConnectionState
CONNECTION_STATE_ERROR_AUTH: ConnectionState
CONNECTION_STATE_ERROR_PROTOCOL: ConnectionState
CONNECTION_STATE_ERROR_INTERNAL: ConnectionState

class SyncStateStreamRequest(_message.Message):
    __slots__ = ("subscribe",)
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    subscribe: bool
    def __init__(self, subscribe: _Optional[bool] = ...) -> None: ...

class PeerState(_message.Message):
    __slots__ = ("peer_instance_id", "peer_keyid", "state", "status_message", "known_plans", "known_repos", "remote_config", "last_heartbeat_millis")
    PEER_INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_KEYID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATUS_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_PLANS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_REPOS_FIELD_NUMBER: _ClassVar[int]
    REMOTE_CONFIG_FIELD_NUMBER: _ClassVar[int]
    LAST_HEARTBEAT_MILLIS_FIELD_NUMBER: _ClassVar[int]
    peer_instance_id: str
    peer_keyid: str
    state: ConnectionState
    status_message: str
    known_plans: _containers.RepeatedCompositeFieldContainer[PlanMetadata]
    known_repos: _containers.RepeatedCompositeFieldContainer[RepoMetadata]
    remote_config: RemoteConfig
    last_heartbeat_millis: int
    def __init__(self, peer_instance_id: _Optional[str] = ..., peer_keyid: _Optional[str] = ..., state: _Optional[_Union[ConnectionState, str]] = ..., status_message: _Optional[str] = ..., known_plans: _Optional[_Iterable[_Union[PlanMetadata, _Mapping]]] = ..., known_repos: _Optional[_Iterable[_Union[RepoMetadata, _Mapping]]] = ..., remote_config: _Optional[_Union[RemoteConfig, _Mapping]] = ..., last_heartbeat_millis: _Optional[int] = ...) -> None: ...

class AuthenticateRequest(_message.Message):
    __slots__ = ("instance_id",)
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    instance_id: _crypto_pb2.SignedMessage
    def __init__(self, instance_id: _Optional[_Union[_crypto_pb2.SignedMessage, _Mapping]] = ...) -> None: ...

class GetOperationMetadataResponse(_message.Message):
    __slots__ = ("op_ids", "modnos")
    OP_IDS_FIELD_NUMBER: _ClassVar[int]
    MODNOS_FIELD_NUMBER: _ClassVar[int]
    op_ids: _containers.RepeatedScalarFieldContainer[int]
    modnos: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, op_ids: _Optional[_Iterable[int]] = ..., modnos: _Optional[_Iterable[int]] = ...) -> None: ...

class LogDataEntry(_message.Message):
    __slots__ = ("log_id", "owner_opid", "expiration_ts_unix", "chunk")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_OPID_FIELD_NUMBER: _ClassVar[int]
    EXPIRATION_TS_UNIX_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    owner_opid: int
    expiration_ts_unix: int
    chunk: bytes
    def __init__(self, log_id: _Optional[str] = ..., owner_opid: _Optional[int] = ..., expiration_ts_unix: _Optional[int] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class SetAvailableResourcesRequest(_message.Message):
    __slots__ = ("repos", "plans")
    REPOS_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    repos: _containers.RepeatedCompositeFieldContainer[PlanMetadata]
    plans: _containers.RepeatedCompositeFieldContainer[RepoMetadata]
    def __init__(self, repos: _Optional[_Iterable[_Union[PlanMetadata, _Mapping]]] = ..., plans: _Optional[_Iterable[_Union[RepoMetadata, _Mapping]]] = ...) -> None: ...

class RepoMetadata(_message.Message):
    __slots__ = ("id", "guid")
    ID_FIELD_NUMBER: _ClassVar[int]
    GUID_FIELD_NUMBER: _ClassVar[int]
    id: str
    guid: str
    def __init__(self, id: _Optional[str] = ..., guid: _Optional[str] = ...) -> None: ...

class PlanMetadata(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class SetConfigRequest(_message.Message):
    __slots__ = ("plans", "repos", "repos_to_delete", "plans_to_delete")
    PLANS_FIELD_NUMBER: _ClassVar[int]
    REPOS_FIELD_NUMBER: _ClassVar[int]
    REPOS_TO_DELETE_FIELD_NUMBER: _ClassVar[int]
    PLANS_TO_DELETE_FIELD_NUMBER: _ClassVar[int]
    plans: _containers.RepeatedCompositeFieldContainer[_config_pb2.Plan]
    repos: _containers.RepeatedCompositeFieldContainer[_config_pb2.Repo]
    repos_to_delete: _containers.RepeatedScalarFieldContainer[str]
    plans_to_delete: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, plans: _Optional[_Iterable[_Union[_config_pb2.Plan, _Mapping]]] = ..., repos: _Optional[_Iterable[_Union[_config_pb2.Repo, _Mapping]]] = ..., repos_to_delete: _Optional[_Iterable[str]] = ..., plans_to_delete: _Optional[_Iterable[str]] = ...) -> None: ...

class SetRemoteClientConfigRequest(_message.Message):
    __slots__ = ("peer_keyid", "repos", "plans", "repos_to_delete", "plans_to_delete")
    PEER_KEYID_FIELD_NUMBER: _ClassVar[int]
    REPOS_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    REPOS_TO_DELETE_FIELD_NUMBER: _ClassVar[int]
    PLANS_TO_DELETE_FIELD_NUMBER: _ClassVar[int]
    peer_keyid: str
    repos: _containers.RepeatedCompositeFieldContainer[_config_pb2.Repo]
    plans: _containers.RepeatedCompositeFieldContainer[_config_pb2.Plan]
    repos_to_delete: _containers.RepeatedScalarFieldContainer[str]
    plans_to_delete: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, peer_keyid: _Optional[str] = ..., repos: _Optional[_Iterable[_Union[_config_pb2.Repo, _Mapping]]] = ..., plans: _Optional[_Iterable[_Union[_config_pb2.Plan, _Mapping]]] = ..., repos_to_delete: _Optional[_Iterable[str]] = ..., plans_to_delete: _Optional[_Iterable[str]] = ...) -> None: ...

class SetRemoteClientConfigResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RemoteConfig(_message.Message):
    __slots__ = ("modno", "version", "repos", "plans")
    MODNO_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPOS_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    modno: int
    version: int
    repos: _containers.RepeatedCompositeFieldContainer[_config_pb2.Repo]
    plans: _containers.RepeatedCompositeFieldContainer[_config_pb2.Plan]
    def __init__(self, modno: _Optional[int] = ..., version: _Optional[int] = ..., repos: _Optional[_Iterable[_Union[_config_pb2.Repo, _Mapping]]] = ..., plans: _Optional[_Iterable[_Union[_config_pb2.Plan, _Mapping]]] = ...) -> None: ...

class AuthorizationToken(_message.Message):
    __slots__ = ("public_key", "instance_id")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    public_key: _crypto_pb2.PublicKey
    instance_id: _crypto_pb2.SignedMessage
    def __init__(self, public_key: _Optional[_Union[_crypto_pb2.PublicKey, _Mapping]] = ..., instance_id: _Optional[_Union[_crypto_pb2.SignedMessage, _Mapping]] = ...) -> None: ...

class SyncStreamItem(_message.Message):
    __slots__ = ("signed_message", "handshake", "heartbeat", "operation_manifest", "receive_operations", "request_operation_data", "receive_config", "set_config", "request_resources", "receive_resources", "request_log", "receive_log_data", "throttle", "establish_shared_secret", "encrypted")
    class RepoConnectionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CONNECTION_STATE_UNKNOWN: _ClassVar[SyncStreamItem.RepoConnectionState]
        CONNECTION_STATE_PENDING: _ClassVar[SyncStreamItem.RepoConnectionState]
        CONNECTION_STATE_CONNECTED: _ClassVar[SyncStreamItem.RepoConnectionState]
        CONNECTION_STATE_UNAUTHORIZED: _ClassVar[SyncStreamItem.RepoConnectionState]
        CONNECTION_STATE_NOT_FOUND: _ClassVar[SyncStreamItem.RepoConnectionState]
    CONNECTION_STATE_UNKNOWN: SyncStreamItem.RepoConnectionState
    CONNECTION_STATE_PENDING: SyncStreamItem.RepoConnectionState
    CONNECTION_STATE_CONNECTED: SyncStreamItem.RepoConnectionState
    CONNECTION_STATE_UNAUTHORIZED: SyncStreamItem.RepoConnectionState
    CONNECTION_STATE_NOT_FOUND: SyncStreamItem.RepoConnectionState
    class SyncActionHandshake(_message.Message):
        __slots__ = ("protocol_version", "public_key", "instance_id", "pairing_secret", "signature")
        PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
        PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
        INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
        PAIRING_SECRET_FIELD_NUMBER: _ClassVar[int]
        SIGNATURE_FIELD_NUMBER: _ClassVar[int]
        protocol_version: int
        public_key: _crypto_pb2.PublicKey
        instance_id: str
        pairing_secret: str
        signature: bytes
        def __init__(self, protocol_version: _Optional[int] = ..., public_key: _Optional[_Union[_crypto_pb2.PublicKey, _Mapping]] = ..., instance_id: _Optional[str] = ..., pairing_secret: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...
    class SyncActionEncrypted(_message.Message):
        __slots__ = ("nonce", "ciphertext")
        NONCE_FIELD_NUMBER: _ClassVar[int]
        CIPHERTEXT_FIELD_NUMBER: _ClassVar[int]
        nonce: bytes
        ciphertext: bytes
        def __init__(self, nonce: _Optional[bytes] = ..., ciphertext: _Optional[bytes] = ...) -> None: ...
    class SyncActionHeartbeat(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class SyncActionReceiveConfig(_message.Message):
        __slots__ = ("config",)
        CONFIG_FIELD_NUMBER: _ClassVar[int]
        config: RemoteConfig
        def __init__(self, config: _Optional[_Union[RemoteConfig, _Mapping]] = ...) -> None: ...
    class SyncActionSetConfig(_message.Message):
        __slots__ = ("repos", "plans", "repos_to_delete", "plans_to_delete")
        REPOS_FIELD_NUMBER: _ClassVar[int]
        PLANS_FIELD_NUMBER: _ClassVar[int]
        REPOS_TO_DELETE_FIELD_NUMBER: _ClassVar[int]
        PLANS_TO_DELETE_FIELD_NUMBER: _ClassVar[int]
        repos: _containers.RepeatedCompositeFieldContainer[_config_pb2.Repo]
        plans: _containers.RepeatedCompositeFieldContainer[_config_pb2.Plan]
        repos_to_delete: _containers.RepeatedScalarFieldContainer[str]
        plans_to_delete: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, repos: _Optional[_Iterable[_Union[_config_pb2.Repo, _Mapping]]] = ..., plans: _Optional[_Iterable[_Union[_config_pb2.Plan, _Mapping]]] = ..., repos_to_delete: _Optional[_Iterable[str]] = ..., plans_to_delete: _Optional[_Iterable[str]] = ...) -> None: ...
    class SyncActionRequestResources(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class SyncActionReceiveResources(_message.Message):
        __slots__ = ("repos", "plans")
        REPOS_FIELD_NUMBER: _ClassVar[int]
        PLANS_FIELD_NUMBER: _ClassVar[int]
        repos: _containers.RepeatedCompositeFieldContainer[RepoMetadata]
        plans: _containers.RepeatedCompositeFieldContainer[PlanMetadata]
        def __init__(self, repos: _Optional[_Iterable[_Union[RepoMetadata, _Mapping]]] = ..., plans: _Optional[_Iterable[_Union[PlanMetadata, _Mapping]]] = ...) -> None: ...
    class SyncActionConnectRepo(_message.Message):
        __slots__ = ("repo_id",)
        REPO_ID_FIELD_NUMBER: _ClassVar[int]
        repo_id: str
        def __init__(self, repo_id: _Optional[str] = ...) -> None: ...
    class SyncActionOperationManifest(_message.Message):
        __slots__ = ("op_ids", "modnos")
        OP_IDS_FIELD_NUMBER: _ClassVar[int]
        MODNOS_FIELD_NUMBER: _ClassVar[int]
        op_ids: _containers.RepeatedScalarFieldContainer[int]
        modnos: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, op_ids: _Optional[_Iterable[int]] = ..., modnos: _Optional[_Iterable[int]] = ...) -> None: ...
    class SyncActionRequestOperationData(_message.Message):
        __slots__ = ("op_ids",)
        OP_IDS_FIELD_NUMBER: _ClassVar[int]
        op_ids: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, op_ids: _Optional[_Iterable[int]] = ...) -> None: ...
    class SyncActionReceiveOperations(_message.Message):
        __slots__ = ("event",)
        EVENT_FIELD_NUMBER: _ClassVar[int]
        event: _operations_pb2.OperationEvent
        def __init__(self, event: _Optional[_Union[_operations_pb2.OperationEvent, _Mapping]] = ...) -> None: ...
    class SyncActionRequestLog(_message.Message):
        __slots__ = ("log_id",)
        LOG_ID_FIELD_NUMBER: _ClassVar[int]
        log_id: str
        def __init__(self, log_id: _Optional[str] = ...) -> None: ...
    class SyncActionReceiveLogData(_message.Message):
        __slots__ = ("log_id", "owner_opid", "expiration_ts_unix", "chunk", "error_message")
        LOG_ID_FIELD_NUMBER: _ClassVar[int]
        OWNER_OPID_FIELD_NUMBER: _ClassVar[int]
        EXPIRATION_TS_UNIX_FIELD_NUMBER: _ClassVar[int]
        CHUNK_FIELD_NUMBER: _ClassVar[int]
        ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
        log_id: str
        owner_opid: int
        expiration_ts_unix: int
        chunk: bytes
        error_message: str
        def __init__(self, log_id: _Optional[str] = ..., owner_opid: _Optional[int] = ..., expiration_ts_unix: _Optional[int] = ..., chunk: _Optional[bytes] = ..., error_message: _Optional[str] = ...) -> None: ...
    class SyncActionThrottle(_message.Message):
        __slots__ = ("delay_ms",)
        DELAY_MS_FIELD_NUMBER: _ClassVar[int]
        delay_ms: int
        def __init__(self, delay_ms: _Optional[int] = ...) -> None: ...
    class SyncEstablishSharedSecret(_message.Message):
        __slots__ = ("protocol_version", "kem_public_key", "kem_encapsulation")
        PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
        KEM_PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
        KEM_ENCAPSULATION_FIELD_NUMBER: _ClassVar[int]
        protocol_version: int
        kem_public_key: bytes
        kem_encapsulation: bytes
        def __init__(self, protocol_version: _Optional[int] = ..., kem_public_key: _Optional[bytes] = ..., kem_encapsulation: _Optional[bytes] = ...) -> None: ...
    SIGNED_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HANDSHAKE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    OPERATION_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_OPERATION_DATA_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_CONFIG_FIELD_NUMBER: _ClassVar[int]
    SET_CONFIG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_RESOURCES_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_RESOURCES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_LOG_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_LOG_DATA_FIELD_NUMBER: _ClassVar[int]
    THROTTLE_FIELD_NUMBER: _ClassVar[int]
    ESTABLISH_SHARED_SECRET_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    signed_message: _crypto_pb2.SignedMessage
    handshake: SyncStreamItem.SyncActionHandshake
    heartbeat: SyncStreamItem.SyncActionHeartbeat
    operation_manifest: SyncStreamItem.SyncActionOperationManifest
    receive_operations: SyncStreamItem.SyncActionReceiveOperations
    request_operation_data: SyncStreamItem.SyncActionRequestOperationData
    receive_config: SyncStreamItem.SyncActionReceiveConfig
    set_config: SyncStreamItem.SyncActionSetConfig
    request_resources: SyncStreamItem.SyncActionRequestResources
    receive_resources: SyncStreamItem.SyncActionReceiveResources
    request_log: SyncStreamItem.SyncActionRequestLog
    receive_log_data: SyncStreamItem.SyncActionReceiveLogData
    throttle: SyncStreamItem.SyncActionThrottle
    establish_shared_secret: SyncStreamItem.SyncEstablishSharedSecret
    encrypted: SyncStreamItem.SyncActionEncrypted
    def __init__(self, signed_message: _Optional[_Union[_crypto_pb2.SignedMessage, _Mapping]] = ..., handshake: _Optional[_Union[SyncStreamItem.SyncActionHandshake, _Mapping]] = ..., heartbeat: _Optional[_Union[SyncStreamItem.SyncActionHeartbeat, _Mapping]] = ..., operation_manifest: _Optional[_Union[SyncStreamItem.SyncActionOperationManifest, _Mapping]] = ..., receive_operations: _Optional[_Union[SyncStreamItem.SyncActionReceiveOperations, _Mapping]] = ..., request_operation_data: _Optional[_Union[SyncStreamItem.SyncActionRequestOperationData, _Mapping]] = ..., receive_config: _Optional[_Union[SyncStreamItem.SyncActionReceiveConfig, _Mapping]] = ..., set_config: _Optional[_Union[SyncStreamItem.SyncActionSetConfig, _Mapping]] = ..., request_resources: _Optional[_Union[SyncStreamItem.SyncActionRequestResources, _Mapping]] = ..., receive_resources: _Optional[_Union[SyncStreamItem.SyncActionReceiveResources, _Mapping]] = ..., request_log: _Optional[_Union[SyncStreamItem.SyncActionRequestLog, _Mapping]] = ..., receive_log_data: _Optional[_Union[SyncStreamItem.SyncActionReceiveLogData, _Mapping]] = ..., throttle: _Optional[_Union[SyncStreamItem.SyncActionThrottle, _Mapping]] = ..., establish_shared_secret: _Optional[_Union[SyncStreamItem.SyncEstablishSharedSecret, _Mapping]] = ..., encrypted: _Optional[_Union[SyncStreamItem.SyncActionEncrypted, _Mapping]] = ...) -> None: ...
