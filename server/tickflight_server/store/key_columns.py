"""Keys of rows, read from their columns: plain integers as they are, everything else as a hash of 128 bits.

The rule of this file: work is per batch, never per row, and two rows get the same 128 bits if and only if they have the
same key (for what is hashed: but for a chance of 2⁻¹²⁷ a pair, under numbers that the process drew at random).

A *plain integer* is what ``str(n)`` gives for 0 <= n < 2⁶³: "7" is one, "007", "+7", " 7", "1e5" and "" are texts.
An entry is two 64-bit numbers ``high`` and ``low``. The partition's exchange and symbol (``pairs``) are part of it:

    plain integer   high: a bijection of the number, plus the pair times an odd number   low: the number, below 2⁶³
    anything else   high, low: multilinear hashes of pair, length and words of 4 bytes   low: highest bit set

The multilinear hash is the one of Lemire and Kaser, "Strongly universal string hashing is fast" (2013): the upper half
of a sum, modulo 2⁶⁴, of 32-bit words times random 64-bit numbers. Words of zero add nothing, so that padding is free.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Kinds = npt.NDArray[np.uint8]

NO_KEY, INTEGER, TEXT = 0, 1, 2
_DIGITS_MAX = 19  # of 2⁶³ - 1
_DIGITS_ALIKE = 18  # so many digits are below 2⁶³, whatever they are
# Of eight digits, the first in the lowest byte: pairs, fours, and all become one number each.
_EIGHT_DIGITS = tuple(
    tuple(np.uint64(n) for n in step)
    for step in (
        (10 * 256 + 1, 8, 0x00FF00FF00FF00FF),
        (100 * 65536 + 1, 16, 0x0000FFFF0000FFFF),
        (10_000 * (1 << 32) + 1, 32, 0xFFFFFFFF),
    )
)
_TEXT_BYTES_MAX = 64  # a longer text is hashed by its digest
_WORDS = _TEXT_BYTES_MAX // 4 + 1  # and its length
_LANES = 4  # of 32 bits each
_BLOCK_ROWS = 8192  # whose sums stay in the processor's cache
_TOP_BIT = np.uint64(1 << 63)
_LOW_HALF = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(32)


@dataclass(frozen=True, eq=False)
class Entries:
    """Keys as 128 bits each: two columns of equal length."""

    high: Words
    low: Words

    def __len__(self) -> int:
        return len(self.high)

    def take(self, rows: npt.NDArray[np.generic]) -> Entries:
        """Return the entries at ``rows``, numbers or a mask."""
        return Entries(self.high[rows], self.low[rows])


def join(entries: Sequence[Entries]) -> Entries:
    """Return all of ``entries``, one after the other."""
    if len(entries) == 1:
        return entries[0]
    return Entries(np.concatenate([e.high for e in entries]), np.concatenate([e.low for e in entries]))


@dataclass(frozen=True, eq=False)
class KeyRows:
    """Rows and their keys. ``kinds`` says what each key is, None that all are integers; then ``values`` holds them."""

    columns: tuple[pa.Array, ...]
    pairs: Pairs
    values: Ints
    kinds: Kinds | None

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, rows: npt.NDArray[np.intp]) -> KeyRows:
        """Return the rows with the numbers ``rows``."""
        numbers = pa.array(rows)
        columns = tuple(c.take(numbers) for c in self.columns)
        kinds = None if self.kinds is None else self.kinds[rows]
        return KeyRows(columns, self.pairs[rows], self.values[rows], kinds)

    def of_kind(self, kind: int) -> npt.NDArray[np.intp] | None:
        """Return the numbers of the rows whose key is of ``kind``, None for all rows."""
        if self.kinds is None:
            return None if kind == INTEGER else np.empty(0, np.intp)
        rows = np.flatnonzero(self.kinds == kind)
        return None if len(rows) == len(self.kinds) else rows


def key_rows(columns: Sequence[pa.Array], pairs: Pairs) -> KeyRows:
    """Return the rows whose key is in ``columns``, with the partition of each in ``pairs``.

    A single column of texts or integers may hold plain integers; several columns are always hashed. A row with a null
    in one of them has no key.
    """
    simple = tuple(_simple(c) for c in columns)
    if len(simple) == 1:
        values, kinds = _integers(simple[0])
        return KeyRows(simple, pairs, values, kinds)
    kinds = np.full(len(pairs), TEXT, np.uint8)
    for column in simple:
        if column.null_count:
            kinds[~_valid(column)] = NO_KEY
    return KeyRows(simple, pairs, np.empty(len(pairs), np.int64), kinds)


def _simple(column: pa.Array) -> pa.Array:
    """Return ``column`` as strings or 64-bit integers."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type) or pa.types.is_boolean(column.type):
        return column.cast(pa.int64())
    return column if column.type in (pa.string(), pa.int64()) else column.cast(pa.string())


def _valid(column: pa.Array) -> Mask:
    mask: Mask = column.is_valid().to_numpy(zero_copy_only=False)
    return mask


def _integers(column: pa.Array) -> tuple[Ints, Kinds | None]:
    """Return the numbers of a column's plain integers and the kinds of its keys."""
    if column.type == pa.int64():
        values = _numbers(column).copy()  # it is kept for long, the batch is not
        plain: Mask | None = values >= 0
    else:
        values, plain = _parse(column)
    if not column.null_count and (plain is None or plain.all()):
        return values, None
    kinds = (
        np.full(len(column), INTEGER, np.uint8) if plain is None else np.where(plain, INTEGER, TEXT).astype(np.uint8)
    )
    if column.null_count:
        kinds[~_valid(column)] = NO_KEY
    return values, kinds


def _numbers(column: pa.Array) -> Ints:
    """Return the values of a column of 64-bit integers; where it is null, anything."""
    if not len(column):
        return np.empty(0, np.int64)
    return np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column)]


def _text(column: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return the bytes of a column of strings, and where in them each string starts and how long it is."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data or b"", np.uint8), ends[:-1], np.diff(ends)


def _parse(column: pa.Array) -> tuple[Ints, Mask | None]:
    """Return the numbers of the plain integers among strings, and which rows these are, None for all."""
    if not len(column):
        return np.empty(0, np.int64), None
    data, starts, lengths = _text(column)
    if not len(data):
        return np.zeros(len(column), np.int64), np.zeros(len(column), bool)
    alike = _parse_alike(data, starts, lengths)
    if alike is not None and not column.null_count:
        return alike, None
    first = data[np.minimum(starts, len(data) - 1)]
    # a leading zero, a sign, a space: no plain integer; "0" is one
    likely = ((first - np.uint8(ord("1"))) < 9) | ((first == ord("0")) & (lengths == 1))
    likely &= (lengths >= 1) & (lengths <= _DIGITS_MAX)
    begin = int(starts[0])
    odd = (data[begin : int(starts[-1]) + int(lengths[-1])] - np.uint8(ord("0"))) > 9
    if likely.all() and not odd.any():
        try:
            return _numbers(column.cast(pa.int64())), None
        except pa.ArrowInvalid:
            pass  # above 2⁶³ - 1; Arrow takes long over a failure, which is why it is not just tried
    rows = np.flatnonzero(likely)
    if len(rows):
        count = np.zeros(len(odd) + 1, np.int32)
        np.cumsum(odd, out=count[1:])
        from_ = starts[rows] - begin
        rows = rows[count[from_ + lengths[rows]] == count[from_]]
    return _parse_some(column, rows)


def _parse_alike(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int32], lengths: npt.NDArray[np.int32]
) -> Ints | None:
    """Return the numbers of strings that are all plain integers of as many digits; None if they are not.

    Most batches' ids are: a counter seldom gets a digit more. Eight digits at a time are one number, which three
    multiplications turn into theirs.
    """
    width, count, begin = int(lengths[0]), len(lengths), int(starts[0])
    if not 2 <= width <= _DIGITS_ALIKE or not (lengths == width).all():
        return None
    digits = data[begin : begin + width * count] - np.uint8(ord("0"))
    if digits.max() > 9 or digits[::width].min() == 0:
        return None
    padded = np.concatenate([np.zeros(8, np.uint8), digits])
    values = np.zeros(count, np.int64)
    for end in range(width, 0, -8):  # the last eight, the eight before them, what is left
        words = np.ndarray((count,), "<u8", padded, offset=end, strides=(width,)).copy()
        if end < 8:
            words >>= np.uint64(64 - 8 * end)  # what stands before the string
            words <<= np.uint64(64 - 8 * end)
        for factor, shift, kept in _EIGHT_DIGITS:
            words *= factor
            words >>= shift
            words &= kept
        values += words.view(np.int64) * np.int64(10 ** (width - end))
    return values


def _parse_some(column: pa.Array, rows: npt.NDArray[np.intp]) -> tuple[Ints, Mask]:
    """Return the numbers and the mask of the plain integers; all of ``rows`` have digits alone, and at most 19."""
    values = np.zeros(len(column), np.int64)
    plain = np.zeros(len(column), bool)
    if not len(rows):
        return values, plain
    numbers = column.take(pa.array(rows)).cast(pa.uint64()).fill_null(0).to_numpy()  # 19 digits always fit
    fits = numbers < _TOP_BIT
    values[rows[fits]] = numbers[fits]
    plain[rows[fits]] = True
    return values, plain


class Hasher:
    """Makes entries of keys; each instance has random numbers of its own.

    Args:
        columns: how many columns a key has.
    """

    def __init__(self, columns: int) -> None:
        chance = np.random.default_rng(secrets.randbits(128))
        self._words: Words = chance.integers(0, 1 << 64, (columns, _WORDS, _LANES), np.uint64)
        self._pair: Words = chance.integers(0, 1 << 64, _LANES, np.uint64)
        self._start: Words = chance.integers(0, 1 << 64, _LANES, np.uint64)
        self._mix: Words = chance.integers(0, 1 << 64, 4, np.uint64) | np.uint64(1)
        self._secret = secrets.token_bytes(32)

    def integers(self, values: Ints, pairs: Pairs) -> Entries:
        """Return the entries of plain integers."""
        low = values.astype(np.uint64)
        high = low ^ self._mix[0]
        high *= self._mix[1]
        high ^= high >> _HALF
        high *= self._mix[2]
        high ^= high >> np.uint64(29)
        high += pairs.astype(np.uint64) * self._mix[3]
        return Entries(high, low)

    def texts(self, columns: Sequence[pa.Array], pairs: Pairs) -> Entries:
        """Return the entries of keys that are no plain integers: ``columns`` are strings or 64-bit integers."""
        rows = len(pairs)
        high, low = np.empty(rows, np.uint64), np.empty(rows, np.uint64)
        sources = [self._source(c) for c in columns]
        for start in range(0, rows, _BLOCK_ROWS):
            block = slice(start, min(start + _BLOCK_ROWS, rows))
            sums = self._start[:, None] + pairs[block].astype(np.uint64) * self._pair[:, None]
            for source, numbers in zip(sources, self._words, strict=True):
                source.add_to(sums, numbers, block)
            high[block] = (sums[0] & ~_LOW_HALF) | (sums[1] >> _HALF)
            low[block] = (sums[2] & ~_LOW_HALF) | (sums[3] >> _HALF) | _TOP_BIT
        return Entries(high, low)

    def _source(self, column: pa.Array) -> _TextWords | _NumberWords:
        if column.type == pa.int64():
            return _NumberWords(_numbers(column).view(np.uint64))
        data, firsts, lengths = _text(column)
        begin = int(firsts[0])
        data = data[begin : int(firsts[-1]) + int(lengths[-1])]
        starts: Ints = firsts.astype(np.int64) - begin
        held = lengths
        longs = np.flatnonzero(lengths > _TEXT_BYTES_MAX)
        digests = b""
        if len(longs):
            texts = [data[s : s + n].tobytes() for s, n in zip(starts[longs], lengths[longs], strict=True)]
            digests = b"".join(hashlib.blake2b(t, digest_size=16, key=self._secret).digest() for t in texts)
            held = lengths.copy()
            held[longs] = 16
            starts[longs] = len(data) + 16 * np.arange(len(longs))
        # words are read from anywhere, also behind the end of the last string
        padded = np.concatenate([data, np.frombuffer(digests + bytes(_TEXT_BYTES_MAX + 4), np.uint8)])
        return _TextWords(padded, starts, held, lengths)


@dataclass(frozen=True, eq=False)
class _NumberWords:
    """A column of numbers: two words a row."""

    values: Words

    def add_to(self, sums: Words, numbers: Words, block: slice) -> None:
        values = self.values[block]
        sums += (values & _LOW_HALF) * numbers[0][:, None]
        sums += (values >> _HALF) * numbers[1][:, None]


@dataclass(frozen=True, eq=False)
class _TextWords:
    """A column of strings: ``held`` bytes of each from ``starts`` on in ``data``; ``lengths`` is what is told of it."""

    data: npt.NDArray[np.uint8]
    starts: Ints
    held: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]

    def add_to(self, sums: Words, numbers: Words, block: slice) -> None:
        starts, held = self.starts[block], self.held[block]
        sums += self.lengths[block].astype(np.uint64) * numbers[-1][:, None]
        # every place of the bytes is the start of a little-endian word
        words = np.ndarray((len(self.data) - 3,), "<u4", self.data, strides=(1,))
        least = int(held.min())
        product = np.empty_like(sums)
        for index in range((int(held.max()) + 3) // 4):
            word = words[starts + 4 * index].astype(np.uint64)
            if 4 * index + 4 > least:
                word &= _KEPT[np.clip(held - 4 * index, 0, 4)]
            np.multiply(word, numbers[index][:, None], out=product)
            sums += product


_KEPT: Words = np.array([0, 0xFF, 0xFFFF, 0xFF_FFFF, 0xFFFF_FFFF], np.uint64)  # by how many bytes of a word are held
