"""A black-box conformance suite for both roles of the sync protocol; see ``python -m conformance --help``.

It knows an implementation by what it sends and by nothing else. Of this project it uses the messages
(backrest.wire) and the cryptography (backrest.crypto, checked against conformance/vectors before each run), so
that a fault elsewhere cannot hide by being on both sides.
"""
