"""The bounds of a server's connection, and h2 set up to them.

What h2 cannot be told (floods, header blocks, settings) is in h2guard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event
from h2.settings import SettingCodes, Settings

from backrest.net import h2guard

DEFAULT_WINDOW = 65_535  # RFC 9113, 6.9.2


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The bounds of a connection. Seconds and bytes."""

    # From TCP accept to a stream opened: a connection that asks for nothing holds a file descriptor.
    first_stream_s: float = 10.0
    # After the last stream ended. Longer than Caddy's pool pauses between two uses.
    idle_s: float = 75.0
    # A peer that takes nothing of what waits for it: then the stream, or the connection, is given up.
    stall_s: float = 600.0
    # Of one address (of IPv6, a /64): a process has some 1,024 file descriptors, and a connection that asks for
    # nothing, or for what is not there, holds one for 10 or 75 s. As many machines behind one router is a lot.
    max_per_address: int = 256
    # Not counted: the proxy on this machine brings everybody. Addresses and networks; a remote proxy's belong here.
    unlimited: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    # Of all addresses together. The process lowers it to what its file descriptors allow: see net/descriptors.
    max_connections: int = 10_000
    # A proxy shares two connections among all its clients; DESIGN.md wants a thousand of them.
    max_streams: int = 2_000
    # Of all connections together: who is not let in (see net/crowd). A thousand clients that come back at once are
    # half of it, and 2,000 with full windows take what the memory allows.
    max_guest_streams: int = 2_000
    max_guest_bytes: int = 64 * 1024 * 1024
    # What a stream may send before it is let in: the handshake has 6 KiB. Afterwards as much as a round trip brings.
    guest_window: int = 16 * 1024
    stream_window: int = 1024 * 1024
    # Its credit goes back as soon as bytes are here: streams are bounded by windows of their own, and a stream that is
    # not read must not hold what the others of the connection need. So this is the bound of what is under way.
    connection_window: int = 4 * 1024 * 1024
    # As advertised and as enforced by the HPACK decoder (a small block can unpack to a large list).
    max_header_list: int = 16 * 1024


class ServerConnection(H2Connection):
    # h2 remembers how this many streams ended. Its 65,536 take 6 MB of a hostile connection; it is enough to
    # cover the frames that were under way when we reset a stream.
    MAX_CLOSED_STREAMS = 4_096

    def _receive_frame(self, frame: Any) -> list[Event]:
        # For a logger that is not there h2 makes the text of each frame, and of its bytes in hexadecimal: three
        # copies of them, more than all the rest of its work on a large frame. (h2 4.4.1, connection.py; the instance's
        # own method comes before the class's.)
        frame._body_repr = str
        return super()._receive_frame(frame)

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> Any:
        # h2 ends the whole connection, which a proxy shares, for a content-length that is wrong. The stream's own is
        # looked at in h2stream. (h2 4.4.1, stream.py: an expected length of None is not compared.)
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream._initialize_content_length = _unchecked  # type: ignore[method-assign]
        return stream

    def forget(self) -> None:
        """It is over. Its table holds its own methods: a circle, and 20 KiB until the collector finds it."""
        self._frame_dispatch_table.clear()


def _unchecked(headers: object) -> None:
    pass


def open_h2(settings: ServerSettings, stream_window: int) -> ServerConnection:
    """A server's connection whose SETTINGS and window are ready to be sent; ``stream_window`` is a new stream's."""
    connection = ServerConnection(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,  # see h2stream.build_scope
            validate_outbound_headers=False,  # see h2stream.response_headers
            normalize_outbound_headers=False,
        )
    )
    announced = {
        SettingCodes.INITIAL_WINDOW_SIZE: stream_window,
        SettingCodes.MAX_CONCURRENT_STREAMS: settings.max_streams,
        SettingCodes.MAX_FRAME_SIZE: h2guard.MAX_FRAME,
        SettingCodes.MAX_HEADER_LIST_SIZE: settings.max_header_list,
    }
    connection.local_settings = Settings(client=False, initial_values=announced)
    connection.initiate_connection()
    # Until the peer acknowledges them, its streams have HTTP/2's own window (RFC 9113, 6.9.3): one that sends before it
    # has read ours does nothing wrong.
    first = max(stream_window, DEFAULT_WINDOW)
    connection.local_settings = Settings(
        client=False, initial_values={**announced, SettingCodes.INITIAL_WINDOW_SIZE: first}
    )
    connection.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = stream_window
    # These two are otherwise raised or lowered only when the peer acknowledges the settings.
    connection.max_inbound_frame_size = h2guard.MAX_FRAME
    connection.decoder.max_header_list_size = settings.max_header_list
    connection.increment_flow_control_window(settings.connection_window - DEFAULT_WINDOW)
    return connection
