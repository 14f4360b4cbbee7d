from backrest.wire.types import value_pb2 as _value_pb2
from backrest.wire.v1 import config_pb2 as _config_pb2
from backrest.wire.v1 import restic_pb2 as _restic_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OperationEventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_UNKNOWN: _ClassVar[OperationEventType]
    EVENT_CREATED: _ClassVar[OperationEventType]
    EVENT_UPDATED: _ClassVar[OperationEventType]
    EVENT_DELETED: _ClassVar[OperationEventType]

class OperationStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNKNOWN: _ClassVar[OperationStatus]
    STATUS_PENDING: _ClassVar[OperationStatus]
    STATUS_INPROGRESS: _ClassVar[OperationStatus]
    STATUS_SUCCESS: _ClassVar[OperationStatus]
    STATUS_WARNING: _ClassVar[OperationStatus]
    STATUS_ERROR: _ClassVar[OperationStatus]
    STATUS_SYSTEM_CANCELLED: _ClassVar[OperationStatus]
    STATUS_USER_CANCELLED: _ClassVar[OperationStatus]
EVENT_UNKNOWN: OperationEventType
EVENT_CREATED: OperationEventType
EVENT_UPDATED: OperationEventType
EVENT_DELETED: OperationEventType
STATUS_UNKNOWN: OperationStatus
STATUS_PENDING: OperationStatus
STATUS_INPROGRESS: OperationStatus
STATUS_SUCCESS: OperationStatus
STATUS_WARNING: OperationStatus
STATUS_ERROR: OperationStatus
STATUS_SYSTEM_CANCELLED: OperationStatus
STATUS_USER_CANCELLED: OperationStatus

class OperationList(_message.Message):
    __slots__ = ("operations",)
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    def __init__(self, operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ("id", "original_id", "modno", "flow_id", "original_flow_id", "repo_id", "repo_guid", "plan_id", "instance_id", "original_instance_keyid", "snapshot_id", "status", "unix_time_start_ms", "unix_time_end_ms", "display_message", "logref", "operation_backup", "operation_index_snapshot", "operation_forget", "operation_prune", "operation_restore", "operation_stats", "operation_run_hook", "operation_check", "operation_run_command")
    ID_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_ID_FIELD_NUMBER: _ClassVar[int]
    MODNO_FIELD_NUMBER: _ClassVar[int]
    FLOW_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_FLOW_ID_FIELD_NUMBER: _ClassVar[int]
    REPO_ID_FIELD_NUMBER: _ClassVar[int]
    REPO_GUID_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_INSTANCE_KEYID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    UNIX_TIME_START_MS_FIELD_NUMBER: _ClassVar[int]
    UNIX_TIME_END_MS_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LOGREF_FIELD_NUMBER: _ClassVar[int]
    OPERATION_BACKUP_FIELD_NUMBER: _ClassVar[int]
    OPERATION_INDEX_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FORGET_FIELD_NUMBER: _ClassVar[int]
    OPERATION_PRUNE_FIELD_NUMBER: _ClassVar[int]
    OPERATION_RESTORE_FIELD_NUMBER: _ClassVar[int]
    OPERATION_STATS_FIELD_NUMBER: _ClassVar[int]
    OPERATION_RUN_HOOK_FIELD_NUMBER: _ClassVar[int]
    OPERATION_CHECK_FIELD_NUMBER: _ClassVar[int]
    OPERATION_RUN_COMMAND_FIELD_NUMBER: _ClassVar[int]
    id: int
    original_id: int
    modno: int
    flow_id: int
    original_flow_id: int
    repo_id: str
    repo_guid: str
    plan_id: str
    instance_id: str
    original_instance_keyid: str
    snapshot_id: str
    status: OperationStatus
    unix_time_start_ms: int
    unix_time_end_ms: int
    display_message: str
    logref: str
    operation_backup: OperationBackup
    operation_index_snapshot: OperationIndexSnapshot
    operation_forget: OperationForget
    operation_prune: OperationPrune
    operation_restore: OperationRestore
    operation_stats: OperationStats
    operation_run_hook: OperationRunHook
    operation_check: OperationCheck
    operation_run_command: OperationRunCommand
    def __init__(self, id: _Optional[int] = ..., original_id: _Optional[int] = ..., modno: _Optional[int] = ..., flow_id: _Optional[int] = ..., original_flow_id: _Optional[int] = ..., repo_id: _Optional[str] = ..., repo_guid: _Optional[str] = ..., plan_id: _Optional[str] = ..., instance_id: _Optional[str] = ..., original_instance_keyid: _Optional[str] = ..., snapshot_id: _Optional[str] = ..., status: _Optional[_Union[OperationStatus, str]] = ..., unix_time_start_ms: _Optional[int] = ..., unix_time_end_ms: _Optional[int] = ..., display_message: _Optional[str] = ..., logref: _Optional[str] = ..., operation_backup: _Optional[_Union[OperationBackup, _Mapping]] = ..., operation_index_snapshot: _Optional[_Union[OperationIndexSnapshot, _Mapping]] = ..., operation_forget: _Optional[_Union[OperationForget, _Mapping]] = ..., operation_prune: _Optional[_Union[OperationPrune, _Mapping]] = ..., operation_restore: _Optional[_Union[OperationRestore, _Mapping]] = ..., operation_stats: _Optional[_Union[OperationStats, _Mapping]] = ..., operation_run_hook: _Optional[_Union[OperationRunHook, _Mapping]] = ..., operation_check: _Optional[_Union[OperationCheck, _Mapping]] = ..., operation_run_command: _Optional[_Union[OperationRunCommand, _Mapping]] = ...) -> None: ...

class OperationEvent(_message.Message):
    __slots__ = ("keep_alive", "created_operations", "updated_operations", "deleted_operations")
    KEEP_ALIVE_FIELD_NUMBER: _ClassVar[int]
    CREATED_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    DELETED_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    keep_alive: _value_pb2.Empty
    created_operations: OperationList
    updated_operations: OperationList
    deleted_operations: _value_pb2.Int64List
    def __init__(self, keep_alive: _Optional[_Union[_value_pb2.Empty, _Mapping]] = ..., created_operations: _Optional[_Union[OperationList, _Mapping]] = ..., updated_operations: _Optional[_Union[OperationList, _Mapping]] = ..., deleted_operations: _Optional[_Union[_value_pb2.Int64List, _Mapping]] = ...) -> None: ...

class OperationBackup(_message.Message):
    __slots__ = ("last_status", "errors", "dry_run")
    LAST_STATUS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    last_status: _restic_pb2.BackupProgressEntry
    errors: _containers.RepeatedCompositeFieldContainer[_restic_pb2.BackupProgressError]
    dry_run: bool
    def __init__(self, last_status: _Optional[_Union[_restic_pb2.BackupProgressEntry, _Mapping]] = ..., errors: _Optional[_Iterable[_Union[_restic_pb2.BackupProgressError, _Mapping]]] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class OperationIndexSnapshot(_message.Message):
    __slots__ = ("snapshot", "forgot")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    FORGOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: _restic_pb2.ResticSnapshot
    forgot: bool
    def __init__(self, snapshot: _Optional[_Union[_restic_pb2.ResticSnapshot, _Mapping]] = ..., forgot: _Optional[bool] = ...) -> None: ...

class OperationForget(_message.Message):
    __slots__ = ("forget", "policy")
    FORGET_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    forget: _containers.RepeatedCompositeFieldContainer[_restic_pb2.ResticSnapshot]
    policy: _config_pb2.RetentionPolicy
    def __init__(self, forget: _Optional[_Iterable[_Union[_restic_pb2.ResticSnapshot, _Mapping]]] = ..., policy: _Optional[_Union[_config_pb2.RetentionPolicy, _Mapping]] = ...) -> None: ...

class OperationPrune(_message.Message):
    __slots__ = ("output", "output_logref")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_LOGREF_FIELD_NUMBER: _ClassVar[int]
    output: str
    output_logref: str
    def __init__(self, output: _Optional[str] = ..., output_logref: _Optional[str] = ...) -> None: ...

class OperationCheck(_message.Message):
    __slots__ = ("output", "output_logref")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_LOGREF_FIELD_NUMBER: _ClassVar[int]
    output: str
    output_logref: str
    def __init__(self, output: _Optional[str] = ..., output_logref: _Optional[str] = ...) -> None: ...

class OperationRunCommand(_message.Message):
    __slots__ = ("command", "output_logref", "output_size_bytes")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_LOGREF_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    command: str
    output_logref: str
    output_size_bytes: int
    def __init__(self, command: _Optional[str] = ..., output_logref: _Optional[str] = ..., output_size_bytes: _Optional[int] = ...) -> None: ...

class OperationRestore(_message.Message):
    __slots__ = ("path", "target", "last_status")
    PATH_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    LAST_STATUS_FIELD_NUMBER: _ClassVar[int]
    path: str
    target: str
    last_status: _restic_pb2.RestoreProgressEntry
    def __init__(self, path: _Optional[str] = ..., target: _Optional[str] = ..., last_status: _Optional[_Union[_restic_pb2.RestoreProgressEntry, _Mapping]] = ...) -> None: ...

class OperationStats(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: _restic_pb2.RepoStats
    def __init__(self, stats: _Optional[_Union[_restic_pb2.RepoStats, _Mapping]] = ...) -> None: ...

class OperationRunHook(_message.Message):
    __slots__ = ("parent_op", "name", "output_logref", "condition")
    PARENT_OP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_LOGREF_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    parent_op: int
    name: str
    output_logref: str
    condition: _config_pb2.Hook.Condition
    def __init__(self, parent_op: _Optional[int] = ..., name: _Optional[str] = ..., output_logref: _Optional[str] = ..., condition: _Optional[_Union[_config_pb2.Hook.Condition, str]] = ...) -> None: ...
