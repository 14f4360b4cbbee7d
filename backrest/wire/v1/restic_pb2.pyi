from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ResticSnapshot(_message.Message):
    __slots__ = ("id", "unix_time_ms", "hostname", "username", "tree", "parent", "paths", "tags", "summary")
    ID_FIELD_NUMBER: _ClassVar[int]
    UNIX_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    id: str
    unix_time_ms: int
    hostname: str
    username: str
    tree: str
    parent: str
    paths: _containers.RepeatedScalarFieldContainer[str]
    tags: _containers.RepeatedScalarFieldContainer[str]
    summary: SnapshotSummary
    def __init__(self, id: _Optional[str] = ..., unix_time_ms: _Optional[int] = ..., hostname: _Optional[str] = ..., username: _Optional[str] = ..., tree: _Optional[str] = ..., parent: _Optional[str] = ..., paths: _Optional[_Iterable[str]] = ..., tags: _Optional[_Iterable[str]] = ..., summary: _Optional[_Union[SnapshotSummary, _Mapping]] = ...) -> None: ...

class SnapshotSummary(_message.Message):
    __slots__ = ("files_new", "files_changed", "files_unmodified", "dirs_new", "dirs_changed", "dirs_unmodified", "data_blobs", "tree_blobs", "data_added", "total_files_processed", "total_bytes_processed", "total_duration")
    FILES_NEW_FIELD_NUMBER: _ClassVar[int]
    FILES_CHANGED_FIELD_NUMBER: _ClassVar[int]
    FILES_UNMODIFIED_FIELD_NUMBER: _ClassVar[int]
    DIRS_NEW_FIELD_NUMBER: _ClassVar[int]
    DIRS_CHANGED_FIELD_NUMBER: _ClassVar[int]
    DIRS_UNMODIFIED_FIELD_NUMBER: _ClassVar[int]
    DATA_BLOBS_FIELD_NUMBER: _ClassVar[int]
    TREE_BLOBS_FIELD_NUMBER: _ClassVar[int]
    DATA_ADDED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FILES_PROCESSED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_PROCESSED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_DURATION_FIELD_NUMBER: _ClassVar[int]
    files_new: int
    files_changed: int
    files_unmodified: int
    dirs_new: int
    dirs_changed: int
    dirs_unmodified: int
    data_blobs: int
    tree_blobs: int
    data_added: int
    total_files_processed: int
    total_bytes_processed: int
    total_duration: float
    def __init__(self, files_new: _Optional[int] = ..., files_changed: _Optional[int] = ..., files_unmodified: _Optional[int] = ..., dirs_new: _Optional[int] = ..., dirs_changed: _Optional[int] = ..., dirs_unmodified: _Optional[int] = ..., data_blobs: _Optional[int] = ..., tree_blobs: _Optional[int] = ..., data_added: _Optional[int] = ..., total_files_processed: _Optional[int] = ..., total_bytes_processed: _Optional[int] = ..., total_duration: _Optional[float] = ...) -> None: ...

class ResticSnapshotList(_message.Message):
    __slots__ = ("snapshots",)
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[ResticSnapshot]
    def __init__(self, snapshots: _Optional[_Iterable[_Union[ResticSnapshot, _Mapping]]] = ...) -> None: ...

class BackupProgressEntry(_message.Message):
    __slots__ = ("status", "summary")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    status: BackupProgressStatusEntry
    summary: BackupProgressSummary
    def __init__(self, status: _Optional[_Union[BackupProgressStatusEntry, _Mapping]] = ..., summary: _Optional[_Union[BackupProgressSummary, _Mapping]] = ...) -> None: ...

class BackupProgressStatusEntry(_message.Message):
    __slots__ = ("percent_done", "total_files", "total_bytes", "files_done", "bytes_done", "current_file")
    PERCENT_DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FILES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FILE_FIELD_NUMBER: _ClassVar[int]
    percent_done: float
    total_files: int
    total_bytes: int
    files_done: int
    bytes_done: int
    current_file: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, percent_done: _Optional[float] = ..., total_files: _Optional[int] = ..., total_bytes: _Optional[int] = ..., files_done: _Optional[int] = ..., bytes_done: _Optional[int] = ..., current_file: _Optional[_Iterable[str]] = ...) -> None: ...

class BackupProgressSummary(_message.Message):
    __slots__ = ("files_new", "files_changed", "files_unmodified", "dirs_new", "dirs_changed", "dirs_unmodified", "data_blobs", "tree_blobs", "data_added", "total_files_processed", "total_bytes_processed", "total_duration", "snapshot_id")
    FILES_NEW_FIELD_NUMBER: _ClassVar[int]
    FILES_CHANGED_FIELD_NUMBER: _ClassVar[int]
    FILES_UNMODIFIED_FIELD_NUMBER: _ClassVar[int]
    DIRS_NEW_FIELD_NUMBER: _ClassVar[int]
    DIRS_CHANGED_FIELD_NUMBER: _ClassVar[int]
    DIRS_UNMODIFIED_FIELD_NUMBER: _ClassVar[int]
    DATA_BLOBS_FIELD_NUMBER: _ClassVar[int]
    TREE_BLOBS_FIELD_NUMBER: _ClassVar[int]
    DATA_ADDED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FILES_PROCESSED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_PROCESSED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_DURATION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    files_new: int
    files_changed: int
    files_unmodified: int
    dirs_new: int
    dirs_changed: int
    dirs_unmodified: int
    data_blobs: int
    tree_blobs: int
    data_added: int
    total_files_processed: int
    total_bytes_processed: int
    total_duration: float
    snapshot_id: str
    def __init__(self, files_new: _Optional[int] = ..., files_changed: _Optional[int] = ..., files_unmodified: _Optional[int] = ..., dirs_new: _Optional[int] = ..., dirs_changed: _Optional[int] = ..., dirs_unmodified: _Optional[int] = ..., data_blobs: _Optional[int] = ..., tree_blobs: _Optional[int] = ..., data_added: _Optional[int] = ..., total_files_processed: _Optional[int] = ..., total_bytes_processed: _Optional[int] = ..., total_duration: _Optional[float] = ..., snapshot_id: _Optional[str] = ...) -> None: ...

class BackupProgressError(_message.Message):
    __slots__ = ("item", "during", "message")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    DURING_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    item: str
    during: str
    message: str
    def __init__(self, item: _Optional[str] = ..., during: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class RestoreProgressEntry(_message.Message):
    __slots__ = ("message_type", "seconds_elapsed", "total_bytes", "bytes_restored", "total_files", "files_restored", "percent_done")
    MESSAGE_TYPE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_ELAPSED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_RESTORED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FILES_FIELD_NUMBER: _ClassVar[int]
    FILES_RESTORED_FIELD_NUMBER: _ClassVar[int]
    PERCENT_DONE_FIELD_NUMBER: _ClassVar[int]
    message_type: str
    seconds_elapsed: float
    total_bytes: int
    bytes_restored: int
    total_files: int
    files_restored: int
    percent_done: float
    def __init__(self, message_type: _Optional[str] = ..., seconds_elapsed: _Optional[float] = ..., total_bytes: _Optional[int] = ..., bytes_restored: _Optional[int] = ..., total_files: _Optional[int] = ..., files_restored: _Optional[int] = ..., percent_done: _Optional[float] = ...) -> None: ...

class RepoStats(_message.Message):
    __slots__ = ("total_size", "total_uncompressed_size", "compression_ratio", "total_blob_count", "snapshot_count")
    TOTAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_UNCOMPRESSED_SIZE_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_RATIO_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BLOB_COUNT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_COUNT_FIELD_NUMBER: _ClassVar[int]
    total_size: int
    total_uncompressed_size: int
    compression_ratio: float
    total_blob_count: int
    snapshot_count: int
    def __init__(self, total_size: _Optional[int] = ..., total_uncompressed_size: _Optional[int] = ..., compression_ratio: _Optional[float] = ..., total_blob_count: _Optional[int] = ..., snapshot_count: _Optional[int] = ...) -> None: ...
