"""Bytes in, bytes out: the hybrid KEM and HPKE, the encrypted channel, identities, pairing tokens.

Nothing here knows of sockets, files, clocks or sessions. `cryptography` and `pqcrypto` are imported in this
package and nowhere else. What a peer sends wrong raises ValueError (ChannelError for a record) with a text
that names the check and holds no secret; `protocol` turns it into the end of that peer's session.
"""
