from backrest.wire.v1 import crypto_pb2 as _crypto_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Config(_message.Message):
    __slots__ = ("modno", "version", "instance", "repos", "plans", "auth", "multihost")
    MODNO_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    REPOS_FIELD_NUMBER: _ClassVar[int]
    PLANS_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    MULTIHOST_FIELD_NUMBER: _ClassVar[int]
    modno: int
    version: int
    instance: str
    repos: _containers.RepeatedCompositeFieldContainer[Repo]
    plans: _containers.RepeatedCompositeFieldContainer[Plan]
    auth: Auth
    multihost: Multihost
    def __init__(self, modno: _Optional[int] = ..., version: _Optional[int] = ..., instance: _Optional[str] = ..., repos: _Optional[_Iterable[_Union[Repo, _Mapping]]] = ..., plans: _Optional[_Iterable[_Union[Plan, _Mapping]]] = ..., auth: _Optional[_Union[Auth, _Mapping]] = ..., multihost: _Optional[_Union[Multihost, _Mapping]] = ...) -> None: ...

class Multihost(_message.Message):
    __slots__ = ("identity", "known_hosts", "authorized_clients", "pairing_tokens")
    class Peer(_message.Message):
        __slots__ = ("instance_id", "keyid", "permissions", "instance_url", "initial_pairing_secret")
        INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
        KEYID_FIELD_NUMBER: _ClassVar[int]
        PERMISSIONS_FIELD_NUMBER: _ClassVar[int]
        INSTANCE_URL_FIELD_NUMBER: _ClassVar[int]
        INITIAL_PAIRING_SECRET_FIELD_NUMBER: _ClassVar[int]
        instance_id: str
        keyid: str
        permissions: _containers.RepeatedCompositeFieldContainer[Multihost.Permission]
        instance_url: str
        initial_pairing_secret: str
        def __init__(self, instance_id: _Optional[str] = ..., keyid: _Optional[str] = ..., permissions: _Optional[_Iterable[_Union[Multihost.Permission, _Mapping]]] = ..., instance_url: _Optional[str] = ..., initial_pairing_secret: _Optional[str] = ...) -> None: ...
    class PairingToken(_message.Message):
        __slots__ = ("secret", "label", "created_at_unix", "expires_at_unix", "max_uses", "uses", "permissions")
        SECRET_FIELD_NUMBER: _ClassVar[int]
        LABEL_FIELD_NUMBER: _ClassVar[int]
        CREATED_AT_UNIX_FIELD_NUMBER: _ClassVar[int]
        EXPIRES_AT_UNIX_FIELD_NUMBER: _ClassVar[int]
        MAX_USES_FIELD_NUMBER: _ClassVar[int]
        USES_FIELD_NUMBER: _ClassVar[int]
        PERMISSIONS_FIELD_NUMBER: _ClassVar[int]
        secret: str
        label: str
        created_at_unix: int
        expires_at_unix: int
        max_uses: int
        uses: int
        permissions: _containers.RepeatedCompositeFieldContainer[Multihost.Permission]
        def __init__(self, secret: _Optional[str] = ..., label: _Optional[str] = ..., created_at_unix: _Optional[int] = ..., expires_at_unix: _Optional[int] = ..., max_uses: _Optional[int] = ..., uses: _Optional[int] = ..., permissions: _Optional[_Iterable[_Union[Multihost.Permission, _Mapping]]] = ...) -> None: ...
    class Permission(_message.Message):
        __slots__ = ("type", "scopes")
        class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            PERMISSION_UNKNOWN: _ClassVar[Multihost.Permission.Type]
            PERMISSION_READ_OPERATIONS: _ClassVar[Multihost.Permission.Type]
            PERMISSION_READ_CONFIG: _ClassVar[Multihost.Permission.Type]
            PERMISSION_READ_WRITE_CONFIG: _ClassVar[Multihost.Permission.Type]
            PERMISSION_RECEIVE_SHARED_REPOS: _ClassVar[Multihost.Permission.Type]
        PERMISSION_UNKNOWN: Multihost.Permission.Type
        PERMISSION_READ_OPERATIONS: Multihost.Permission.Type
        PERMISSION_READ_CONFIG: Multihost.Permission.Type
        PERMISSION_READ_WRITE_CONFIG: Multihost.Permission.Type
        PERMISSION_RECEIVE_SHARED_REPOS: Multihost.Permission.Type
        TYPE_FIELD_NUMBER: _ClassVar[int]
        SCOPES_FIELD_NUMBER: _ClassVar[int]
        type: Multihost.Permission.Type
        scopes: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, type: _Optional[_Union[Multihost.Permission.Type, str]] = ..., scopes: _Optional[_Iterable[str]] = ...) -> None: ...
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    KNOWN_HOSTS_FIELD_NUMBER: _ClassVar[int]
    AUTHORIZED_CLIENTS_FIELD_NUMBER: _ClassVar[int]
    PAIRING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    identity: _crypto_pb2.PrivateKey
    known_hosts: _containers.RepeatedCompositeFieldContainer[Multihost.Peer]
    authorized_clients: _containers.RepeatedCompositeFieldContainer[Multihost.Peer]
    pairing_tokens: _containers.RepeatedCompositeFieldContainer[Multihost.PairingToken]
    def __init__(self, identity: _Optional[_Union[_crypto_pb2.PrivateKey, _Mapping]] = ..., known_hosts: _Optional[_Iterable[_Union[Multihost.Peer, _Mapping]]] = ..., authorized_clients: _Optional[_Iterable[_Union[Multihost.Peer, _Mapping]]] = ..., pairing_tokens: _Optional[_Iterable[_Union[Multihost.PairingToken, _Mapping]]] = ...) -> None: ...

class Repo(_message.Message):
    __slots__ = ("id", "uri", "guid", "password", "env", "flags", "prune_policy", "check_policy", "hooks", "auto_unlock", "auto_initialize", "command_prefix", "shared", "origin_instance_id", "forget_policy")
    ID_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    GUID_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    PRUNE_POLICY_FIELD_NUMBER: _ClassVar[int]
    CHECK_POLICY_FIELD_NUMBER: _ClassVar[int]
    HOOKS_FIELD_NUMBER: _ClassVar[int]
    AUTO_UNLOCK_FIELD_NUMBER: _ClassVar[int]
    AUTO_INITIALIZE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_PREFIX_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    FORGET_POLICY_FIELD_NUMBER: _ClassVar[int]
    id: str
    uri: str
    guid: str
    password: str
    env: _containers.RepeatedScalarFieldContainer[str]
    flags: _containers.RepeatedScalarFieldContainer[str]
    prune_policy: PrunePolicy
    check_policy: CheckPolicy
    hooks: _containers.RepeatedCompositeFieldContainer[Hook]
    auto_unlock: bool
    auto_initialize: bool
    command_prefix: CommandPrefix
    shared: bool
    origin_instance_id: str
    forget_policy: ForgetPolicy
    def __init__(self, id: _Optional[str] = ..., uri: _Optional[str] = ..., guid: _Optional[str] = ..., password: _Optional[str] = ..., env: _Optional[_Iterable[str]] = ..., flags: _Optional[_Iterable[str]] = ..., prune_policy: _Optional[_Union[PrunePolicy, _Mapping]] = ..., check_policy: _Optional[_Union[CheckPolicy, _Mapping]] = ..., hooks: _Optional[_Iterable[_Union[Hook, _Mapping]]] = ..., auto_unlock: _Optional[bool] = ..., auto_initialize: _Optional[bool] = ..., command_prefix: _Optional[_Union[CommandPrefix, _Mapping]] = ..., shared: _Optional[bool] = ..., origin_instance_id: _Optional[str] = ..., forget_policy: _Optional[_Union[ForgetPolicy, _Mapping]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("id", "repo", "paths", "excludes", "iexcludes", "schedule", "retention", "hooks", "backup_flags", "skip_if_unchanged")
    ID_FIELD_NUMBER: _ClassVar[int]
    REPO_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDES_FIELD_NUMBER: _ClassVar[int]
    IEXCLUDES_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    HOOKS_FIELD_NUMBER: _ClassVar[int]
    BACKUP_FLAGS_FIELD_NUMBER: _ClassVar[int]
    SKIP_IF_UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    id: str
    repo: str
    paths: _containers.RepeatedScalarFieldContainer[str]
    excludes: _containers.RepeatedScalarFieldContainer[str]
    iexcludes: _containers.RepeatedScalarFieldContainer[str]
    schedule: Schedule
    retention: RetentionPolicy
    hooks: _containers.RepeatedCompositeFieldContainer[Hook]
    backup_flags: _containers.RepeatedScalarFieldContainer[str]
    skip_if_unchanged: bool
    def __init__(self, id: _Optional[str] = ..., repo: _Optional[str] = ..., paths: _Optional[_Iterable[str]] = ..., excludes: _Optional[_Iterable[str]] = ..., iexcludes: _Optional[_Iterable[str]] = ..., schedule: _Optional[_Union[Schedule, _Mapping]] = ..., retention: _Optional[_Union[RetentionPolicy, _Mapping]] = ..., hooks: _Optional[_Iterable[_Union[Hook, _Mapping]]] = ..., backup_flags: _Optional[_Iterable[str]] = ..., skip_if_unchanged: _Optional[bool] = ...) -> None: ...

class CommandPrefix(_message.Message):
    __slots__ = ("io_nice", "cpu_nice")
    class IONiceLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        IO_DEFAULT: _ClassVar[CommandPrefix.IONiceLevel]
        IO_BEST_EFFORT_LOW: _ClassVar[CommandPrefix.IONiceLevel]
        IO_BEST_EFFORT_HIGH: _ClassVar[CommandPrefix.IONiceLevel]
        IO_IDLE: _ClassVar[CommandPrefix.IONiceLevel]
    IO_DEFAULT: CommandPrefix.IONiceLevel
    IO_BEST_EFFORT_LOW: CommandPrefix.IONiceLevel
    IO_BEST_EFFORT_HIGH: CommandPrefix.IONiceLevel
    IO_IDLE: CommandPrefix.IONiceLevel
    class CPUNiceLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CPU_DEFAULT: _ClassVar[CommandPrefix.CPUNiceLevel]
        CPU_HIGH: _ClassVar[CommandPrefix.CPUNiceLevel]
        CPU_LOW: _ClassVar[CommandPrefix.CPUNiceLevel]
    CPU_DEFAULT: CommandPrefix.CPUNiceLevel
    CPU_HIGH: CommandPrefix.CPUNiceLevel
    CPU_LOW: CommandPrefix.CPUNiceLevel
    IO_NICE_FIELD_NUMBER: _ClassVar[int]
    CPU_NICE_FIELD_NUMBER: _ClassVar[int]
    io_nice: CommandPrefix.IONiceLevel
    cpu_nice: CommandPrefix.CPUNiceLevel
    def __init__(self, io_nice: _Optional[_Union[CommandPrefix.IONiceLevel, str]] = ..., cpu_nice: _Optional[_Union[CommandPrefix.CPUNiceLevel, str]] = ...) -> None: ...

class RetentionPolicy(_message.Message):
    __slots__ = ("policy_keep_last_n", "policy_time_bucketed", "policy_keep_all")
    class TimeBucketedCounts(_message.Message):
        __slots__ = ("hourly", "daily", "weekly", "monthly", "yearly", "keep_last_n")
        HOURLY_FIELD_NUMBER: _ClassVar[int]
        DAILY_FIELD_NUMBER: _ClassVar[int]
        WEEKLY_FIELD_NUMBER: _ClassVar[int]
        MONTHLY_FIELD_NUMBER: _ClassVar[int]
        YEARLY_FIELD_NUMBER: _ClassVar[int]
        KEEP_LAST_N_FIELD_NUMBER: _ClassVar[int]
        hourly: int
        daily: int
        weekly: int
        monthly: int
        yearly: int
        keep_last_n: int
        def __init__(self, hourly: _Optional[int] = ..., daily: _Optional[int] = ..., weekly: _Optional[int] = ..., monthly: _Optional[int] = ..., yearly: _Optional[int] = ..., keep_last_n: _Optional[int] = ...) -> None: ...
    POLICY_KEEP_LAST_N_FIELD_NUMBER: _ClassVar[int]
    POLICY_TIME_BUCKETED_FIELD_NUMBER: _ClassVar[int]
    POLICY_KEEP_ALL_FIELD_NUMBER: _ClassVar[int]
    policy_keep_last_n: int
    policy_time_bucketed: RetentionPolicy.TimeBucketedCounts
    policy_keep_all: bool
    def __init__(self, policy_keep_last_n: _Optional[int] = ..., policy_time_bucketed: _Optional[_Union[RetentionPolicy.TimeBucketedCounts, _Mapping]] = ..., policy_keep_all: _Optional[bool] = ...) -> None: ...

class ForgetPolicy(_message.Message):
    __slots__ = ("schedule", "retention")
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    schedule: Schedule
    retention: RetentionPolicy
    def __init__(self, schedule: _Optional[_Union[Schedule, _Mapping]] = ..., retention: _Optional[_Union[RetentionPolicy, _Mapping]] = ...) -> None: ...

class PrunePolicy(_message.Message):
    __slots__ = ("schedule", "max_unused_bytes", "max_unused_percent")
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    MAX_UNUSED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_UNUSED_PERCENT_FIELD_NUMBER: _ClassVar[int]
    schedule: Schedule
    max_unused_bytes: int
    max_unused_percent: float
    def __init__(self, schedule: _Optional[_Union[Schedule, _Mapping]] = ..., max_unused_bytes: _Optional[int] = ..., max_unused_percent: _Optional[float] = ...) -> None: ...

class CheckPolicy(_message.Message):
    __slots__ = ("schedule", "structure_only", "read_data_subset_percent")
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    STRUCTURE_ONLY_FIELD_NUMBER: _ClassVar[int]
    READ_DATA_SUBSET_PERCENT_FIELD_NUMBER: _ClassVar[int]
    schedule: Schedule
    structure_only: bool
    read_data_subset_percent: float
    def __init__(self, schedule: _Optional[_Union[Schedule, _Mapping]] = ..., structure_only: _Optional[bool] = ..., read_data_subset_percent: _Optional[float] = ...) -> None: ...

class Schedule(_message.Message):
    __slots__ = ("disabled", "cron", "maxFrequencyDays", "maxFrequencyHours", "clock")
    class Clock(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CLOCK_DEFAULT: _ClassVar[Schedule.Clock]
        CLOCK_LOCAL: _ClassVar[Schedule.Clock]
        CLOCK_UTC: _ClassVar[Schedule.Clock]
        CLOCK_LAST_RUN_TIME: _ClassVar[Schedule.Clock]
    CLOCK_DEFAULT: Schedule.Clock
    CLOCK_LOCAL: Schedule.Clock
    CLOCK_UTC: Schedule.Clock
    CLOCK_LAST_RUN_TIME: Schedule.Clock
    DISABLED_FIELD_NUMBER: _ClassVar[int]
    CRON_FIELD_NUMBER: _ClassVar[int]
    MAXFREQUENCYDAYS_FIELD_NUMBER: _ClassVar[int]
    MAXFREQUENCYHOURS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    disabled: bool
    cron: str
    maxFrequencyDays: int
    maxFrequencyHours: int
    clock: Schedule.Clock
    def __init__(self, disabled: _Optional[bool] = ..., cron: _Optional[str] = ..., maxFrequencyDays: _Optional[int] = ..., maxFrequencyHours: _Optional[int] = ..., clock: _Optional[_Union[Schedule.Clock, str]] = ...) -> None: ...

class Hook(_message.Message):
    __slots__ = ("conditions", "on_error", "action_command", "action_webhook", "action_discord", "action_gotify", "action_slack", "action_shoutrrr", "action_healthchecks", "action_telegram")
    class Condition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CONDITION_UNKNOWN: _ClassVar[Hook.Condition]
        CONDITION_ANY_ERROR: _ClassVar[Hook.Condition]
        CONDITION_SNAPSHOT_START: _ClassVar[Hook.Condition]
        CONDITION_SNAPSHOT_END: _ClassVar[Hook.Condition]
        CONDITION_SNAPSHOT_ERROR: _ClassVar[Hook.Condition]
        CONDITION_SNAPSHOT_WARNING: _ClassVar[Hook.Condition]
        CONDITION_SNAPSHOT_SUCCESS: _ClassVar[Hook.Condition]
        CONDITION_SNAPSHOT_SKIPPED: _ClassVar[Hook.Condition]
        CONDITION_PRUNE_START: _ClassVar[Hook.Condition]
        CONDITION_PRUNE_ERROR: _ClassVar[Hook.Condition]
        CONDITION_PRUNE_SUCCESS: _ClassVar[Hook.Condition]
        CONDITION_CHECK_START: _ClassVar[Hook.Condition]
        CONDITION_CHECK_ERROR: _ClassVar[Hook.Condition]
        CONDITION_CHECK_SUCCESS: _ClassVar[Hook.Condition]
        CONDITION_FORGET_START: _ClassVar[Hook.Condition]
        CONDITION_FORGET_ERROR: _ClassVar[Hook.Condition]
        CONDITION_FORGET_SUCCESS: _ClassVar[Hook.Condition]
    CONDITION_UNKNOWN: Hook.Condition
    CONDITION_ANY_ERROR: Hook.Condition
    CONDITION_SNAPSHOT_START: Hook.Condition
    CONDITION_SNAPSHOT_END: Hook.Condition
    CONDITION_SNAPSHOT_ERROR: Hook.Condition
    CONDITION_SNAPSHOT_WARNING: Hook.Condition
    CONDITION_SNAPSHOT_SUCCESS: Hook.Condition
    CONDITION_SNAPSHOT_SKIPPED: Hook.Condition
    CONDITION_PRUNE_START: Hook.Condition
    CONDITION_PRUNE_ERROR: Hook.Condition
    CONDITION_PRUNE_SUCCESS: Hook.Condition
    CONDITION_CHECK_START: Hook.Condition
    CONDITION_CHECK_ERROR: Hook.Condition
    CONDITION_CHECK_SUCCESS: Hook.Condition
    CONDITION_FORGET_START: Hook.Condition
    CONDITION_FORGET_ERROR: Hook.Condition
    CONDITION_FORGET_SUCCESS: Hook.Condition
    class OnError(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ON_ERROR_IGNORE: _ClassVar[Hook.OnError]
        ON_ERROR_CANCEL: _ClassVar[Hook.OnError]
        ON_ERROR_FATAL: _ClassVar[Hook.OnError]
        ON_ERROR_RETRY_1MINUTE: _ClassVar[Hook.OnError]
        ON_ERROR_RETRY_10MINUTES: _ClassVar[Hook.OnError]
        ON_ERROR_RETRY_EXPONENTIAL_BACKOFF: _ClassVar[Hook.OnError]
    ON_ERROR_IGNORE: Hook.OnError
    ON_ERROR_CANCEL: Hook.OnError
    ON_ERROR_FATAL: Hook.OnError
    ON_ERROR_RETRY_1MINUTE: Hook.OnError
    ON_ERROR_RETRY_10MINUTES: Hook.OnError
    ON_ERROR_RETRY_EXPONENTIAL_BACKOFF: Hook.OnError
    class Command(_message.Message):
        __slots__ = ("command",)
        COMMAND_FIELD_NUMBER: _ClassVar[int]
        command: str
        def __init__(self, command: _Optional[str] = ...) -> None: ...
    class Webhook(_message.Message):
        __slots__ = ("webhook_url", "method", "template")
        class Method(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            UNKNOWN: _ClassVar[Hook.Webhook.Method]
            GET: _ClassVar[Hook.Webhook.Method]
            POST: _ClassVar[Hook.Webhook.Method]
        UNKNOWN: Hook.Webhook.Method
        GET: Hook.Webhook.Method
        POST: Hook.Webhook.Method
        WEBHOOK_URL_FIELD_NUMBER: _ClassVar[int]
        METHOD_FIELD_NUMBER: _ClassVar[int]
        TEMPLATE_FIELD_NUMBER: _ClassVar[int]
        webhook_url: str
        method: Hook.Webhook.Method
        template: str
        def __init__(self, webhook_url: _Optional[str] = ..., method: _Optional[_Union[Hook.Webhook.Method, str]] = ..., template: _Optional[str] = ...) -> None: ...
    class Discord(_message.Message):
        __slots__ = ("webhook_url", "template")
        WEBHOOK_URL_FIELD_NUMBER: _ClassVar[int]
        TEMPLATE_FIELD_NUMBER: _ClassVar[int]
        webhook_url: str
        template: str
        def __init__(self, webhook_url: _Optional[str] = ..., template: _Optional[str] = ...) -> None: ...
    class Gotify(_message.Message):
        __slots__ = ("base_url", "token", "template", "title_template", "priority")
        BASE_URL_FIELD_NUMBER: _ClassVar[int]
        TOKEN_FIELD_NUMBER: _ClassVar[int]
        TEMPLATE_FIELD_NUMBER: _ClassVar[int]
        TITLE_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
        PRIORITY_FIELD_NUMBER: _ClassVar[int]
        base_url: str
        token: str
        template: str
        title_template: str
        priority: int
        def __init__(self, base_url: _Optional[str] = ..., token: _Optional[str] = ..., template: _Optional[str] = ..., title_template: _Optional[str] = ..., priority: _Optional[int] = ...) -> None: ...
    class Slack(_message.Message):
        __slots__ = ("webhook_url", "template")
        WEBHOOK_URL_FIELD_NUMBER: _ClassVar[int]
        TEMPLATE_FIELD_NUMBER: _ClassVar[int]
        webhook_url: str
        template: str
        def __init__(self, webhook_url: _Optional[str] = ..., template: _Optional[str] = ...) -> None: ...
    class Shoutrrr(_message.Message):
        __slots__ = ("shoutrrr_url", "template")
        SHOUTRRR_URL_FIELD_NUMBER: _ClassVar[int]
        TEMPLATE_FIELD_NUMBER: _ClassVar[int]
        shoutrrr_url: str
        template: str
        def __init__(self, shoutrrr_url: _Optional[str] = ..., template: _Optional[str] = ...) -> None: ...
    class Healthchecks(_message.Message):
        __slots__ = ("webhook_url", "template")
        WEBHOOK_URL_FIELD_NUMBER: _ClassVar[int]
        TEMPLATE_FIELD_NUMBER: _ClassVar[int]
        webhook_url: str
        template: str
        def __init__(self, webhook_url: _Optional[str] = ..., template: _Optional[str] = ...) -> None: ...
    class Telegram(_message.Message):
        __slots__ = ("bot_token", "chat_id", "template")
        BOT_TOKEN_FIELD_NUMBER: _ClassVar[int]
        CHAT_ID_FIELD_NUMBER: _ClassVar[int]
        TEMPLATE_FIELD_NUMBER: _ClassVar[int]
        bot_token: str
        chat_id: str
        template: str
        def __init__(self, bot_token: _Optional[str] = ..., chat_id: _Optional[str] = ..., template: _Optional[str] = ...) -> None: ...
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    ON_ERROR_FIELD_NUMBER: _ClassVar[int]
    ACTION_COMMAND_FIELD_NUMBER: _ClassVar[int]
    ACTION_WEBHOOK_FIELD_NUMBER: _ClassVar[int]
    ACTION_DISCORD_FIELD_NUMBER: _ClassVar[int]
    ACTION_GOTIFY_FIELD_NUMBER: _ClassVar[int]
    ACTION_SLACK_FIELD_NUMBER: _ClassVar[int]
    ACTION_SHOUTRRR_FIELD_NUMBER: _ClassVar[int]
    ACTION_HEALTHCHECKS_FIELD_NUMBER: _ClassVar[int]
    ACTION_TELEGRAM_FIELD_NUMBER: _ClassVar[int]
    conditions: _containers.RepeatedScalarFieldContainer[Hook.Condition]
    on_error: Hook.OnError
    action_command: Hook.Command
    action_webhook: Hook.Webhook
    action_discord: Hook.Discord
    action_gotify: Hook.Gotify
    action_slack: Hook.Slack
    action_shoutrrr: Hook.Shoutrrr
    action_healthchecks: Hook.Healthchecks
    action_telegram: Hook.Telegram
    def __init__(self, conditions: _Optional[_Iterable[_Union[Hook.Condition, str]]] = ..., on_error: _Optional[_Union[Hook.OnError, str]] = ..., action_command: _Optional[_Union[Hook.Command, _Mapping]] = ..., action_webhook: _Optional[_Union[Hook.Webhook, _Mapping]] = ..., action_discord: _Optional[_Union[Hook.Discord, _Mapping]] = ..., action_gotify: _Optional[_Union[Hook.Gotify, _Mapping]] = ..., action_slack: _Optional[_Union[Hook.Slack, _Mapping]] = ..., action_shoutrrr: _Optional[_Union[Hook.Shoutrrr, _Mapping]] = ..., action_healthchecks: _Optional[_Union[Hook.Healthchecks, _Mapping]] = ..., action_telegram: _Optional[_Union[Hook.Telegram, _Mapping]] = ...) -> None: ...

class Auth(_message.Message):
    __slots__ = ("disabled", "users")
    DISABLED_FIELD_NUMBER: _ClassVar[int]
    USERS_FIELD_NUMBER: _ClassVar[int]
    disabled: bool
    users: _containers.RepeatedCompositeFieldContainer[User]
    def __init__(self, disabled: _Optional[bool] = ..., users: _Optional[_Iterable[_Union[User, _Mapping]]] = ...) -> None: ...

class User(_message.Message):
    __slots__ = ("name", "password_bcrypt")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_BCRYPT_FIELD_NUMBER: _ClassVar[int]
    name: str
    password_bcrypt: str
    def __init__(self, name: _Optional[str] = ..., password_bcrypt: _Optional[str] = ...) -> None: ...
