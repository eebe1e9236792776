"""CRC-32C (Castagnoli), the checksum of TFRecord files.

The CRC without its initial and final inversion is linear over bits: the CRC of A followed by B is that of A, advanced
over as many zero bytes as B has, xor that of B. So a long message is cut into lanes of equal length, all lanes are
computed at once, and neighbours are joined pair by pair. Parameters: RFC 3720, appendix B.4.
"""

from __future__ import annotations

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78  # reflected
LANE = 256  # bytes
SHORT = 1024  # bytes; shorter messages are computed byte by byte
_INVERTED = 0xFFFFFFFF


@functools.cache
def _table() -> np.ndarray:
    """(256,) uint32: the CRC of each byte, without inversion."""
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(POLYNOMIAL), crc >> 1)
    return crc


def crc32c(data: bytes | memoryview) -> int:
    """The CRC-32C of some bytes: 0xE3069283 for b"123456789"."""
    if len(data) < SHORT:
        table, crc = _table().tolist(), _INVERTED
        for byte in data:
            crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
        return crc ^ _INVERTED
    num_lanes = 1 << (-(-len(data) // LANE) - 1).bit_length()
    padded = np.zeros(num_lanes * LANE, np.uint8)  # leading zero bytes do not change the CRC without inversion
    message = padded[len(padded) - len(data) :]
    message[:] = np.frombuffer(data, np.uint8)
    message[:4] ^= 255  # the initial inversion
    columns = np.ascontiguousarray(padded.reshape(num_lanes, LANE).T)  # (LANE, lanes)
    table, crcs = _table(), np.zeros(num_lanes, np.uint32)
    for column in columns:
        crcs = table[(crcs ^ column) & 255] ^ (crcs >> 8)
    level = 0
    while len(crcs) > 1:
        crcs = _apply(_advance(level), crcs[0::2]) ^ crcs[1::2]
        level += 1
    return int(crcs[0]) ^ _INVERTED


@functools.cache
def _advance(level: int) -> np.ndarray:
    """(4, 256) uint32: tables that advance a CRC over LANE * 2**level zero bytes, one for each of its bytes."""
    units = np.uint32(1) << np.arange(32, dtype=np.uint32)  # (32,), one bit each
    if level == 0:
        table = _table()
        for _ in range(LANE):
            units = table[units & 255] ^ (units >> 8)
    else:
        half = _advance(level - 1)
        units = _apply(half, _apply(half, units))
    values = np.arange(256)
    bits = (values[:, None] >> np.arange(8)) & 1  # (256, 8)
    terms = np.where(bits[None].astype(bool), units.reshape(4, 1, 8), np.uint32(0))  # (4, 256, 8)
    return np.bitwise_xor.reduce(terms, axis=2)


def _apply(tables: np.ndarray, crcs: np.ndarray) -> np.ndarray:
    """The linear map of (4, 256) tables on (N,) uint32."""
    low = tables[0][crcs & 255] ^ tables[1][(crcs >> 8) & 255]
    return np.asarray(low ^ tables[2][(crcs >> 16) & 255] ^ tables[3][crcs >> 24])
