"""The string hashes that Keras' lookups and hashing layers use through TensorFlow, in plain Python."""

from collections.abc import Sequence
from functools import lru_cache
from struct import unpack, unpack_from

Salt = tuple[int, int]

_MASK = 2**64 - 1
_K0, _K1, _K2 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F
_CAT = 0xC6A4A7935BD1E995


@lru_cache(maxsize=65536)  # the same words come again and again, and each costs some microseconds
def fingerprint64(data: bytes) -> int:
    """FarmHash's 64-bit fingerprint, which ``tf.strings.to_hash_bucket_fast`` takes modulo the number of buckets.

    Source: google/farmhash, farmhashna::Hash64 in src/farmhash.cc.

    >>> fingerprint64(b"") == 0x9AE16A3B2F90404F
    True
    """
    length = len(data)
    if length <= 16:
        return _hash_to_16(data)
    if length <= 64:
        return _hash_to_32(data) if length <= 32 else _hash_to_64(data)
    return _hash_long(data)


def fingerprint_cat64(first: int, second: int) -> int:
    """Two fingerprints as one, as ``tf.sparse.cross_hashed`` chains them.

    Source: tensorflow/core/platform/fingerprint.h, FingerprintCat64.
    """
    result = first ^ _CAT
    result ^= _mix(second * _CAT & _MASK) * _CAT & _MASK
    result = result * _CAT & _MASK
    return _mix(_mix(result) * _CAT & _MASK)


def siphash64(data: bytes, key: tuple[int, int]) -> int:
    """SipHash-2-4 under a key of two 64-bit numbers, which ``tf.strings.to_hash_bucket_strong`` takes modulo the buckets.

    Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012, section 2.

    >>> hex(siphash64(bytes(range(15)), (0x0706050403020100, 0x0F0E0D0C0B0A0908)))  # appendix A of the paper
    '0xa129ca6149be45e5'
    """
    first, second = key[0] & _MASK, key[1] & _MASK
    state = (first ^ 0x736F6D6570736575, second ^ 0x646F72616E646F6D, first ^ 0x6C7967656E657261, second ^ 0x7465646279746573)
    whole = len(data) // 8 * 8
    last = data[whole:] + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for word in unpack(f"<{whole // 8 + 1}Q", data[:whole] + last):
        v0, v1, v2, v3 = _sip_rounds(*state[:3], state[3] ^ word, rounds=2)
        state = (v0 ^ word, v1, v2, v3)
    v0, v1, v2, v3 = _sip_rounds(state[0], state[1], state[2] ^ 0xFF, state[3], rounds=4)
    return v0 ^ v1 ^ v2 ^ v3


def hash_text(text: str, salt: Salt | None) -> int:
    """The hash that a Keras layer takes modulo its bins: SipHash if it has a salt, else FarmHash."""
    return fingerprint64(text.encode()) if salt is None else siphash64(text.encode(), salt)


def read_salt(values: Sequence[int] | None) -> Salt | None:
    """The salt that a list of two numbers holds.

    Raises:
        ValueError: It holds something else.
    """
    if values is None:
        return None
    first, second = map(int, values)
    return first, second


def _sip_rounds(v0: int, v1: int, v2: int, v3: int, *, rounds: int) -> tuple[int, int, int, int]:
    for _ in range(rounds):
        v0 = v0 + v1 & _MASK
        v1 = _left(v1, 13) ^ v0
        v0 = _left(v0, 32)
        v2 = v2 + v3 & _MASK
        v3 = _left(v3, 16) ^ v2
        v0 = v0 + v3 & _MASK
        v3 = _left(v3, 21) ^ v0
        v2 = v2 + v1 & _MASK
        v1 = _left(v1, 17) ^ v2
        v2 = _left(v2, 32)
    return v0, v1, v2, v3


def _left(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK


def _right(value: int, bits: int) -> int:
    value &= _MASK
    return (value >> bits | value << (64 - bits)) & _MASK


def _mix(value: int) -> int:
    return value ^ value >> 47


def _fetch(data: bytes, position: int) -> int:
    word: int = unpack_from("<Q", data, position)[0]
    return word


def _join(first: int, second: int, factor: int) -> int:
    """Two 64-bit numbers as one: HashLen16 in the source."""
    inner = ((first ^ second) & _MASK) * factor & _MASK
    inner ^= inner >> 47
    outer = ((second ^ inner) & _MASK) * factor & _MASK
    outer ^= outer >> 47
    return outer * factor & _MASK


def _hash_to_16(data: bytes) -> int:
    length = len(data)
    factor = _K2 + length * 2
    if length >= 8:
        first, last = _fetch(data, 0) + _K2, _fetch(data, length - 8)
        return _join(_right(last, 37) * factor + first, (_right(first, 25) + last) * factor, factor)
    if length >= 4:
        (first,), (last,) = unpack_from("<I", data), unpack_from("<I", data, length - 4)
        return _join(length + (first << 3), last, factor)
    if length:
        y, z = data[0] + (data[length >> 1] << 8), length + (data[-1] << 2)
        return _mix((y * _K2 ^ z * _K0) & _MASK) * _K2 & _MASK
    return _K2


def _hash_to_32(data: bytes) -> int:
    length = len(data)
    factor = _K2 + length * 2
    a, b = _fetch(data, 0) * _K1, _fetch(data, 8)
    c, d = _fetch(data, length - 8) * factor, _fetch(data, length - 16) * _K2
    return _join(_right(a + b, 43) + _right(c, 30) + d, a + _right(b + _K2, 18) + c, factor)


def _hash_to_64(data: bytes) -> int:
    length = len(data)
    factor = _K2 + length * 2
    a, b = _fetch(data, 0) * _K2, _fetch(data, 8)
    c, d = _fetch(data, length - 8) * factor, _fetch(data, length - 16) * _K2
    y = _right(a + b, 43) + _right(c, 30) + d & _MASK
    z = _join(y, a + _right(b + _K2, 18) + c, factor)
    e, f = _fetch(data, 16) * factor, _fetch(data, 24)
    g, h = (y + _fetch(data, length - 32)) * factor, (z + _fetch(data, length - 24)) * factor
    return _join(_right(e + f, 43) + _right(g, 30) + h, e + _right(f + a, 18) + g, factor)


def _weak_hash(data: bytes, position: int, a: int, b: int) -> tuple[int, int]:
    """WeakHashLen32WithSeeds in the source."""
    w, x, y, z = unpack_from("<QQQQ", data, position)
    a = a + w
    b = _right(b + a + z, 21)
    c = a
    a = a + x + y
    b = b + _right(a, 44)
    return a + z & _MASK, b + c & _MASK


def _hash_long(data: bytes) -> int:
    length, seed = len(data), 81
    x, y = seed * _K2 + _fetch(data, 0), (seed * _K1 + 113) & _MASK
    z = _mix((y * _K2 + 113) & _MASK) * _K2 & _MASK
    v, w = (0, 0), (0, 0)
    for position in range(0, (length - 1) // 64 * 64, 64):
        x = _right(x + y + v[0] + _fetch(data, position + 8), 37) * _K1
        y = _right(y + v[1] + _fetch(data, position + 48), 42) * _K1
        x ^= w[1]
        y += v[0] + _fetch(data, position + 40)
        z = _right(z + w[0], 33) * _K1
        v = _weak_hash(data, position, v[1] * _K1, x + w[0])
        w = _weak_hash(data, position + 32, z + w[1], y + _fetch(data, position + 16))
        x, y, z = z & _MASK, y & _MASK, x & _MASK
    factor = _K1 + ((z & 0xFF) << 1)
    position = length - 64
    w = (w[0] + (length - 1 & 63), w[1])
    v = (v[0] + w[0], v[1])
    w = (w[0] + v[0], w[1])
    x = _right(x + y + v[0] + _fetch(data, position + 8), 37) * factor
    y = _right(y + v[1] + _fetch(data, position + 48), 42) * factor
    x ^= w[1] * 9
    y += v[0] * 9 + _fetch(data, position + 40)
    z = _right(z + w[0], 33) * factor
    v = _weak_hash(data, position, v[1] * factor, x + w[0])
    w = _weak_hash(data, position + 32, z + w[1], y + _fetch(data, position + 16))
    x, y, z = z & _MASK, y & _MASK, x & _MASK
    return _join(_join(v[0], w[0], factor) + _mix(y) * _K0 + z, _join(v[1], w[1], factor) + x, factor)
