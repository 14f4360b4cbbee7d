from backrest.wire.types import value_pb2 as _value_pb2
from backrest.wire.v1 import config_pb2 as _config_pb2
from backrest.wire.v1 import operations_pb2 as _operations_pb2
from backrest.wire.v1 import restic_pb2 as _restic_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BackupRequest(_message.Message):
    __slots__ = ("value", "dry_run")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    value: str
    dry_run: bool
    def __init__(self, value: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class ScheduleTaskResponse(_message.Message):
    __slots__ = ("operation_id",)
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    operation_id: int
    def __init__(self, operation_id: _Optional[int] = ...) -> None: ...

class OpSelector(_message.Message):
    __slots__ = ("ids", "instance_id", "original_instance_keyid", "repo_guid", "plan_id", "snapshot_id", "flow_id", "modno_gte")
    IDS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_INSTANCE_KEYID_FIELD_NUMBER: _ClassVar[int]
    REPO_GUID_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    FLOW_ID_FIELD_NUMBER: _ClassVar[int]
    MODNO_GTE_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    instance_id: str
    original_instance_keyid: str
    repo_guid: str
    plan_id: str
    snapshot_id: str
    flow_id: int
    modno_gte: int
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., instance_id: _Optional[str] = ..., original_instance_keyid: _Optional[str] = ..., repo_guid: _Optional[str] = ..., plan_id: _Optional[str] = ..., snapshot_id: _Optional[str] = ..., flow_id: _Optional[int] = ..., modno_gte: _Optional[int] = ...) -> None: ...

class SetupSftpRequest(_message.Message):
    __slots__ = ("host", "port", "username", "password")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: str
    username: str
    password: str
    def __init__(self, host: _Optional[str] = ..., port: _Optional[str] = ..., username: _Optional[str] = ..., password: _Optional[str] = ...) -> None: ...

class SetupSftpResponse(_message.Message):
    __slots__ = ("public_key", "key_path", "known_hosts_path", "error")
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_PATH_FIELD_NUMBER: _ClassVar[int]
    KNOWN_HOSTS_PATH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    public_key: str
    key_path: str
    known_hosts_path: str
    error: str
    def __init__(self, public_key: _Optional[str] = ..., key_path: _Optional[str] = ..., known_hosts_path: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class CheckRepoExistsRequest(_message.Message):
    __slots__ = ("repo",)
    REPO_FIELD_NUMBER: _ClassVar[int]
    repo: _config_pb2.Repo
    def __init__(self, repo: _Optional[_Union[_config_pb2.Repo, _Mapping]] = ...) -> None: ...

class CheckRepoExistsResponse(_message.Message):
    __slots__ = ("exists", "error", "host_key_untrusted")
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    HOST_KEY_UNTRUSTED_FIELD_NUMBER: _ClassVar[int]
    exists: bool
    error: str
    host_key_untrusted: bool
    def __init__(self, exists: _Optional[bool] = ..., error: _Optional[str] = ..., host_key_untrusted: _Optional[bool] = ...) -> None: ...

class AddRepoRequest(_message.Message):
    __slots__ = ("repo",)
    REPO_FIELD_NUMBER: _ClassVar[int]
    repo: _config_pb2.Repo
    def __init__(self, repo: _Optional[_Union[_config_pb2.Repo, _Mapping]] = ...) -> None: ...

class DoRepoTaskRequest(_message.Message):
    __slots__ = ("repo_id", "task")
    class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TASK_NONE: _ClassVar[DoRepoTaskRequest.Task]
        TASK_INDEX_SNAPSHOTS: _ClassVar[DoRepoTaskRequest.Task]
        TASK_PRUNE: _ClassVar[DoRepoTaskRequest.Task]
        TASK_CHECK: _ClassVar[DoRepoTaskRequest.Task]
        TASK_STATS: _ClassVar[DoRepoTaskRequest.Task]
        TASK_UNLOCK: _ClassVar[DoRepoTaskRequest.Task]
        TASK_FORGET: _ClassVar[DoRepoTaskRequest.Task]
    TASK_NONE: DoRepoTaskRequest.Task
    TASK_INDEX_SNAPSHOTS: DoRepoTaskRequest.Task
    TASK_PRUNE: DoRepoTaskRequest.Task
    TASK_CHECK: DoRepoTaskRequest.Task
    TASK_STATS: DoRepoTaskRequest.Task
    TASK_UNLOCK: DoRepoTaskRequest.Task
    TASK_FORGET: DoRepoTaskRequest.Task
    REPO_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    repo_id: str
    task: DoRepoTaskRequest.Task
    def __init__(self, repo_id: _Optional[str] = ..., task: _Optional[_Union[DoRepoTaskRequest.Task, str]] = ...) -> None: ...

class ClearHistoryRequest(_message.Message):
    __slots__ = ("selector", "only_failed")
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    ONLY_FAILED_FIELD_NUMBER: _ClassVar[int]
    selector: OpSelector
    only_failed: bool
    def __init__(self, selector: _Optional[_Union[OpSelector, _Mapping]] = ..., only_failed: _Optional[bool] = ...) -> None: ...

class ForgetRequest(_message.Message):
    __slots__ = ("repo_id", "plan_id", "snapshot_id")
    REPO_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    repo_id: str
    plan_id: str
    snapshot_id: str
    def __init__(self, repo_id: _Optional[str] = ..., plan_id: _Optional[str] = ..., snapshot_id: _Optional[str] = ...) -> None: ...

class ListSnapshotsRequest(_message.Message):
    __slots__ = ("repo_id", "plan_id")
    REPO_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    repo_id: str
    plan_id: str
    def __init__(self, repo_id: _Optional[str] = ..., plan_id: _Optional[str] = ...) -> None: ...

class GetOperationsRequest(_message.Message):
    __slots__ = ("selector", "last_n")
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    LAST_N_FIELD_NUMBER: _ClassVar[int]
    selector: OpSelector
    last_n: int
    def __init__(self, selector: _Optional[_Union[OpSelector, _Mapping]] = ..., last_n: _Optional[int] = ...) -> None: ...

class RestoreSnapshotRequest(_message.Message):
    __slots__ = ("plan_id", "repo_id", "snapshot_id", "path", "target")
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    REPO_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    plan_id: str
    repo_id: str
    snapshot_id: str
    path: str
    target: str
    def __init__(self, plan_id: _Optional[str] = ..., repo_id: _Optional[str] = ..., snapshot_id: _Optional[str] = ..., path: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class ListSnapshotFilesRequest(_message.Message):
    __slots__ = ("repo_id", "snapshot_id", "path")
    REPO_ID_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    repo_id: str
    snapshot_id: str
    path: str
    def __init__(self, repo_id: _Optional[str] = ..., snapshot_id: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class ListSnapshotFilesResponse(_message.Message):
    __slots__ = ("path", "entries")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    path: str
    entries: _containers.RepeatedCompositeFieldContainer[LsEntry]
    def __init__(self, path: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[LsEntry, _Mapping]]] = ...) -> None: ...

class LogDataRequest(_message.Message):
    __slots__ = ("ref",)
    REF_FIELD_NUMBER: _ClassVar[int]
    ref: str
    def __init__(self, ref: _Optional[str] = ...) -> None: ...

class GetDownloadURLRequest(_message.Message):
    __slots__ = ("op_id", "file_path")
    OP_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_PATH_FIELD_NUMBER: _ClassVar[int]
    op_id: int
    file_path: str
    def __init__(self, op_id: _Optional[int] = ..., file_path: _Optional[str] = ...) -> None: ...

class LsEntry(_message.Message):
    __slots__ = ("name", "type", "path", "uid", "gid", "size", "mode", "mtime", "atime", "ctime")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    MTIME_FIELD_NUMBER: _ClassVar[int]
    ATIME_FIELD_NUMBER: _ClassVar[int]
    CTIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    path: str
    uid: int
    gid: int
    size: int
    mode: int
    mtime: str
    atime: str
    ctime: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., path: _Optional[str] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., size: _Optional[int] = ..., mode: _Optional[int] = ..., mtime: _Optional[str] = ..., atime: _Optional[str] = ..., ctime: _Optional[str] = ...) -> None: ...

class RunCommandRequest(_message.Message):
    __slots__ = ("repo_id", "command")
    REPO_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    repo_id: str
    command: str
    def __init__(self, repo_id: _Optional[str] = ..., command: _Optional[str] = ...) -> None: ...

class RunCommandResponse(_message.Message):
    __slots__ = ("operation_id",)
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    operation_id: int
    def __init__(self, operation_id: _Optional[int] = ...) -> None: ...

class RemoveRepoRequest(_message.Message):
    __slots__ = ("repo_id",)
    REPO_ID_FIELD_NUMBER: _ClassVar[int]
    repo_id: str
    def __init__(self, repo_id: _Optional[str] = ...) -> None: ...

class CancelOperationRequest(_message.Message):
    __slots__ = ("operation_id",)
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    operation_id: int
    def __init__(self, operation_id: _Optional[int] = ...) -> None: ...

class SummaryDashboardResponse(_message.Message):
    __slots__ = ("repo_summaries", "plan_summaries", "config_path", "data_path")
    class Summary(_message.Message):
        __slots__ = ("id", "backups_failed_30days", "backups_warning_last_30days", "backups_success_last_30days", "bytes_scanned_last_30days", "bytes_added_last_30days", "total_snapshots", "bytes_scanned_avg", "bytes_added_avg", "next_backup_time_ms", "recent_backups", "protected_bytes", "history_last_30days")
        ID_FIELD_NUMBER: _ClassVar[int]
        BACKUPS_FAILED_30DAYS_FIELD_NUMBER: _ClassVar[int]
        BACKUPS_WARNING_LAST_30DAYS_FIELD_NUMBER: _ClassVar[int]
        BACKUPS_SUCCESS_LAST_30DAYS_FIELD_NUMBER: _ClassVar[int]
        BYTES_SCANNED_LAST_30DAYS_FIELD_NUMBER: _ClassVar[int]
        BYTES_ADDED_LAST_30DAYS_FIELD_NUMBER: _ClassVar[int]
        TOTAL_SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
        BYTES_SCANNED_AVG_FIELD_NUMBER: _ClassVar[int]
        BYTES_ADDED_AVG_FIELD_NUMBER: _ClassVar[int]
        NEXT_BACKUP_TIME_MS_FIELD_NUMBER: _ClassVar[int]
        RECENT_BACKUPS_FIELD_NUMBER: _ClassVar[int]
        PROTECTED_BYTES_FIELD_NUMBER: _ClassVar[int]
        HISTORY_LAST_30DAYS_FIELD_NUMBER: _ClassVar[int]
        id: str
        backups_failed_30days: int
        backups_warning_last_30days: int
        backups_success_last_30days: int
        bytes_scanned_last_30days: int
        bytes_added_last_30days: int
        total_snapshots: int
        bytes_scanned_avg: int
        bytes_added_avg: int
        next_backup_time_ms: int
        recent_backups: SummaryDashboardResponse.BackupChart
        protected_bytes: int
        history_last_30days: _containers.RepeatedCompositeFieldContainer[SummaryDashboardResponse.DayStatusBucket]
        def __init__(self, id: _Optional[str] = ..., backups_failed_30days: _Optional[int] = ..., backups_warning_last_30days: _Optional[int] = ..., backups_success_last_30days: _Optional[int] = ..., bytes_scanned_last_30days: _Optional[int] = ..., bytes_added_last_30days: _Optional[int] = ..., total_snapshots: _Optional[int] = ..., bytes_scanned_avg: _Optional[int] = ..., bytes_added_avg: _Optional[int] = ..., next_backup_time_ms: _Optional[int] = ..., recent_backups: _Optional[_Union[SummaryDashboardResponse.BackupChart, _Mapping]] = ..., protected_bytes: _Optional[int] = ..., history_last_30days: _Optional[_Iterable[_Union[SummaryDashboardResponse.DayStatusBucket, _Mapping]]] = ...) -> None: ...
    class BackupChart(_message.Message):
        __slots__ = ("flow_id", "timestamp_ms", "duration_ms", "status", "bytes_added")
        FLOW_ID_FIELD_NUMBER: _ClassVar[int]
        TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
        DURATION_MS_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        BYTES_ADDED_FIELD_NUMBER: _ClassVar[int]
        flow_id: _containers.RepeatedScalarFieldContainer[int]
        timestamp_ms: _containers.RepeatedScalarFieldContainer[int]
        duration_ms: _containers.RepeatedScalarFieldContainer[int]
        status: _containers.RepeatedScalarFieldContainer[_operations_pb2.OperationStatus]
        bytes_added: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, flow_id: _Optional[_Iterable[int]] = ..., timestamp_ms: _Optional[_Iterable[int]] = ..., duration_ms: _Optional[_Iterable[int]] = ..., status: _Optional[_Iterable[_Union[_operations_pb2.OperationStatus, str]]] = ..., bytes_added: _Optional[_Iterable[int]] = ...) -> None: ...
    class DayStatusBucket(_message.Message):
        __slots__ = ("timestamp_ms", "bytes_added", "bytes_scanned", "status_counts", "overdue")
        TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
        BYTES_ADDED_FIELD_NUMBER: _ClassVar[int]
        BYTES_SCANNED_FIELD_NUMBER: _ClassVar[int]
        STATUS_COUNTS_FIELD_NUMBER: _ClassVar[int]
        OVERDUE_FIELD_NUMBER: _ClassVar[int]
        timestamp_ms: int
        bytes_added: int
        bytes_scanned: int
        status_counts: _containers.RepeatedCompositeFieldContainer[SummaryDashboardResponse.StatusAndCount]
        overdue: bool
        def __init__(self, timestamp_ms: _Optional[int] = ..., bytes_added: _Optional[int] = ..., bytes_scanned: _Optional[int] = ..., status_counts: _Optional[_Iterable[_Union[SummaryDashboardResponse.StatusAndCount, _Mapping]]] = ..., overdue: _Optional[bool] = ...) -> None: ...
    class StatusAndCount(_message.Message):
        __slots__ = ("count", "status")
        COUNT_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        count: int
        status: _operations_pb2.OperationStatus
        def __init__(self, count: _Optional[int] = ..., status: _Optional[_Union[_operations_pb2.OperationStatus, str]] = ...) -> None: ...
    REPO_SUMMARIES_FIELD_NUMBER: _ClassVar[int]
    PLAN_SUMMARIES_FIELD_NUMBER: _ClassVar[int]
    CONFIG_PATH_FIELD_NUMBER: _ClassVar[int]
    DATA_PATH_FIELD_NUMBER: _ClassVar[int]
    repo_summaries: _containers.RepeatedCompositeFieldContainer[SummaryDashboardResponse.Summary]
    plan_summaries: _containers.RepeatedCompositeFieldContainer[SummaryDashboardResponse.Summary]
    config_path: str
    data_path: str
    def __init__(self, repo_summaries: _Optional[_Iterable[_Union[SummaryDashboardResponse.Summary, _Mapping]]] = ..., plan_summaries: _Optional[_Iterable[_Union[SummaryDashboardResponse.Summary, _Mapping]]] = ..., config_path: _Optional[str] = ..., data_path: _Optional[str] = ...) -> None: ...

class GeneratePairingTokenRequest(_message.Message):
    __slots__ = ("label", "ttl_seconds", "max_uses", "permissions")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MAX_USES_FIELD_NUMBER: _ClassVar[int]
    PERMISSIONS_FIELD_NUMBER: _ClassVar[int]
    label: str
    ttl_seconds: int
    max_uses: int
    permissions: _containers.RepeatedCompositeFieldContainer[_config_pb2.Multihost.Permission]
    def __init__(self, label: _Optional[str] = ..., ttl_seconds: _Optional[int] = ..., max_uses: _Optional[int] = ..., permissions: _Optional[_Iterable[_Union[_config_pb2.Multihost.Permission, _Mapping]]] = ...) -> None: ...

class GeneratePairingTokenResponse(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...
