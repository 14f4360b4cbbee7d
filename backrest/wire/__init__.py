"""The messages of the sync protocol, the configuration and the operation history; no logic.

Use the names exported here: ``config`` (v1.Config, Repo, Plan, Multihost, ...), ``operations``
(v1.Operation, ...), ``restic``, ``crypto``, ``service`` (admin API), ``auth``, ``sync``
(v1sync.SyncStreamItem, PeerState, ...) and ``types``. The .proto files stand beside the generated code, which
``scripts/gen-proto`` makes again; the JSON form of the messages is in codec.py.
"""

from backrest.wire.types import value_pb2 as types
from backrest.wire.v1 import authentication_pb2 as auth
from backrest.wire.v1 import config_pb2 as config
from backrest.wire.v1 import crypto_pb2 as crypto
from backrest.wire.v1 import operations_pb2 as operations
from backrest.wire.v1 import restic_pb2 as restic
from backrest.wire.v1 import service_pb2 as service
from backrest.wire.v1sync import syncservice_pb2 as sync

__all__ = ["auth", "config", "crypto", "operations", "restic", "service", "sync", "types"]
