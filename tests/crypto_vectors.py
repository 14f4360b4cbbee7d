"""The vectors as data, and what a vector needs that a live session does not: a key made from its seed.

pqcrypto imports no seeds, so the expansion of FIPS 203 (algorithms 13 and 16) stands here, in plain Python,
checked against mlkem-expanded.json. It is slow (some 20 ms) and not constant in time: for tests only.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from backrest.crypto import hpke

VECTORS = Path(__file__).parent.parent / "conformance" / "vectors"

# A busy machine is no failure: what is tested is the result and never the time.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

P384_ORDER = (
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
)

_Q, _N, _K = 3329, 256, 4
_ZETAS = [pow(17, int(f"{i:07b}"[::-1], 2), _Q) for i in range(128)]


@cache
def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


def expand_seed(seed: bytes) -> tuple[bytes, int]:
    """Return (ML-KEM's d and z, the P-384 scalar) of a 32-byte recipient seed.

    One SHAKE256 stream over the seed: 64 bytes, then candidates of 48 until one is a private key.
    """
    stream = hashlib.shake_256(seed).digest(64 + 48 * 8)
    for start in range(64, len(stream), 48):
        scalar = int.from_bytes(stream[start : start + 48], "big")
        if 0 < scalar < P384_ORDER:
            return stream[:64], scalar
    raise AssertionError("eight candidates in a row out of range")


def recipient(seed: bytes) -> hpke.RecipientKey:
    mlkem_seed, scalar = expand_seed(seed)
    return hpke.RecipientKey.from_private(mlkem_secret(mlkem_seed), scalar)


@cache
def mlkem_secret(seed: bytes) -> bytes:
    """ML-KEM-1024's expanded secret key of the 64 bytes d and z."""
    d, z = seed[:32], seed[32:]
    expanded = hashlib.sha3_512(d + bytes([_K])).digest()
    rho, sigma = expanded[:32], expanded[32:]
    secret = [_ntt(_small(sigma, i)) for i in range(_K)]
    public = []
    for i in range(_K):
        total = _ntt(_small(sigma, _K + i))
        for j in range(_K):
            product = _multiply(_uniform(rho, j, i), secret[j])
            total = [(a + b) % _Q for a, b in zip(total, product, strict=True)]
        public.append(total)
    encapsulation_key = b"".join(map(_encode, public)) + rho
    return (
        b"".join(map(_encode, secret)) + encapsulation_key + hashlib.sha3_256(encapsulation_key).digest() + z
    )


def _uniform(rho: bytes, j: int, i: int) -> list[int]:
    stream = hashlib.shake_128(rho + bytes([j, i])).digest(1344)  # enough but for a chance of 2^-100
    values: list[int] = []
    for at in range(0, len(stream), 3):
        b0, b1, b2 = stream[at : at + 3]
        values += [value for value in (b0 | (b1 & 15) << 8, b1 >> 4 | b2 << 4) if value < _Q]
    return values[:_N]


def _small(sigma: bytes, counter: int) -> list[int]:
    bits = int.from_bytes(hashlib.shake_256(sigma + bytes([counter])).digest(128), "little")
    digits = [bits >> 4 * i & 15 for i in range(_N)]
    return [((d & 1) + (d >> 1 & 1) - (d >> 2 & 1) - (d >> 3 & 1)) % _Q for d in digits]


def _ntt(f: list[int]) -> list[int]:
    f, k, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, _N, 2 * length):
            zeta = _ZETAS[k]
            k += 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % _Q
                f[j + length], f[j] = (f[j] - t) % _Q, (f[j] + t) % _Q
        length //= 2
    return f


def _multiply(f: list[int], g: list[int]) -> list[int]:
    result = []
    for i in range(_N // 2):
        gamma = pow(17, 2 * int(f"{i:07b}"[::-1], 2) + 1, _Q)
        (a0, a1), (b0, b1) = f[2 * i : 2 * i + 2], g[2 * i : 2 * i + 2]
        result += [(a0 * b0 + a1 * b1 * gamma) % _Q, (a0 * b1 + a1 * b0) % _Q]
    return result


def _encode(f: list[int]) -> bytes:
    return sum(value << 12 * i for i, value in enumerate(f)).to_bytes(384, "little")
