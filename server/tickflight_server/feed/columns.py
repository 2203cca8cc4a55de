"""Values of one column → one Arrow array, whole columns at a time; the values that do not fit are named.

The rule of this file: a column is first tried whole, at C speed. Only when that fails is it walked value by value, and
then every value either finds a place or its row gets a reason: no value is guessed, no row falls through.

    kind       whole column                                  one value, when the whole column failed
    label      pa.array(string).dictionary_encode()          str; an enum's value; others as str()
    text       pa.array(string)                              the same
    number     float() or exact decimal128(38,18)            text is parsed; NaN and infinities are refused
    time       float seconds → microseconds, half to even    text is parsed; outside 1970..2200 is refused
    int        pa.array(int64)                               text and whole numbers are taken
    flag       pa.array(bool)                                bool()
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from enum import Enum
from itertools import accumulate, chain, repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tickflight_server.schemas import DECIMAL, TIMESTAMP, Column, NumericType

SECONDS_END = 7_258_118_400.0
"""2200-01-01 UTC: a time at or after it is a mistake of units (milliseconds, say), not a time."""

# The widest column text of a reason; a value can be arbitrarily long and the whole row is kept beside the reason.
_VALUE_CHARS_MAX = 80
_WIDE = Context(prec=200)
_SCALE = 18
_UNIT = Decimal(1).scaleb(-_SCALE)
_EXACT = Context(prec=38, traps=[Inexact, InvalidOperation])
_WHOLE_DIGITS_MAX = 20

Bad = dict[int, str]
"""Reason by row, for the rows whose value does not fit."""


class UnfitError(ValueError):
    """A value that its column cannot hold; the text says what is wrong with it."""


@dataclass(frozen=True)
class Filled:
    """A whole column: the array, null where a row is bad, and the reasons."""

    array: pa.Array
    bad: Bad


def column(spec: Column, values: Sequence[Any], numeric: NumericType) -> Filled:
    """Return ``values`` as the array of column ``spec``."""
    whole, one = _KINDS[spec.kind]
    if spec.required:
        whole, one = _present(whole), _required(one)
    kind = spec.arrow_type(numeric, memory=True)
    try:
        return Filled(whole(values, kind), {})
    except Exception:
        return _walk(spec.name, values, kind, one)


def times(spec: Column, values: Sequence[Any], instead: Sequence[Any]) -> Filled:
    """Return the column of event times: where there is none (None or 0), the time of receipt stands in.

    That is what cryptofeed's own ``BackendCallback`` does.
    """
    try:
        seconds = _seconds(values)
        missing = pc.equal(pc.fill_null(seconds, 0.0), 0.0)
        if pc.any(missing).as_py():
            seconds = pc.if_else(missing, _seconds(instead), seconds)
        return Filled(_microseconds(seconds, required=True), {})
    except Exception:
        standing_in = [_stand_in(value, other) for value, other in zip(values, instead, strict=True)]
        return _walk(spec.name, standing_in, TIMESTAMP, _required(_one_time))


def sides(name: str, rows: Sequence[Sequence[Sequence[Any]]], width: int, numeric: NumericType) -> SideFilled:
    """Return the levels of one side of many books as list arrays.

    ``rows`` holds, per book, its levels: ``(price, size)`` if ``width`` is 2, ``(id, price, size)`` if it is 3.
    """
    try:
        return SideFilled(*_levels(rows, width, numeric), {})
    except Exception:
        bad: Bad = {}
        mended: list[Sequence[Sequence[Any]]] = []
        for index, row in enumerate(rows):
            try:
                mended.append([_one_level(level, width, numeric) for level in row])
            except UnfitError as error:
                bad[index] = f"{name}: {error}"
                mended.append(())
            except TypeError:
                bad[index] = f"{name}: {_shown(row)} is not a list of levels"
                mended.append(())
        return SideFilled(*_levels(mended, width, numeric), bad)


@dataclass(frozen=True)
class SideFilled:
    """One side of many books: lists of ids (level 3 only), prices and sizes, empty where a row is bad."""

    ids: pa.ListArray | None
    prices: pa.ListArray
    sizes: pa.ListArray
    bad: Bad


def _levels(
    rows: Sequence[Sequence[Sequence[Any]]], width: int, numeric: NumericType
) -> tuple[pa.ListArray | None, pa.ListArray, pa.ListArray]:
    widths = set(map(len, chain.from_iterable(rows)))
    if widths - {width}:
        raise UnfitError(f"levels of {width} values are expected")
    flat = list(chain.from_iterable(chain.from_iterable(rows)))
    offsets = pa.array(list(accumulate(map(len, rows), initial=0)), pa.int32())
    kind = DECIMAL if numeric == "decimal" else pa.float64()
    numbers = [_whole_number(flat[start::width], kind) for start in (width - 2, width - 1)]
    if any(part.null_count for part in numbers):
        raise UnfitError("a level has no price or no size")
    ids = None
    if width == 3:
        texts = pa.array(list(map(str, flat[0::width])), pa.string())
        ids = pa.ListArray.from_arrays(offsets, texts)
    prices, sizes = (pa.ListArray.from_arrays(offsets, part) for part in numbers)
    return ids, prices, sizes


def _one_level(level: Sequence[Any], width: int, numeric: NumericType) -> tuple[Any, ...]:
    if len(level) != width:
        raise UnfitError(f"level {_shown(level)} does not have {width} values")
    kind = DECIMAL if numeric == "decimal" else pa.float64()
    price, size = (_required(_one_number)(value, kind) for value in level[-2:])
    return (price, size) if width == 2 else (_one_text(str(level[0]), pa.string()), price, size)


def clean(text: str) -> str:
    """Return ``text`` with what UTF-8 cannot hold (half of a surrogate pair) in its escaped form."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _walk(name: str, values: Iterable[Any], kind: pa.DataType, one: Callable[[Any, pa.DataType], Any]) -> Filled:
    good: list[Any] = []
    bad: Bad = {}
    for index, value in enumerate(values):
        try:
            good.append(one(value, kind))
        except UnfitError as error:
            bad[index] = f"{name}: {error}"
            good.append(None)
    array = pa.array(good, pa.string()).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(good, kind)
    return Filled(array, bad)


# Whole columns. Each raises whatever it likes when a value does not fit.


def _whole_label(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode()


def _whole_text(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.string())


def _whole_number(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind is DECIMAL:
        return _whole_decimal(values)
    try:
        array = pa.array(list(map(float, values)), pa.float64())
    except TypeError:  # some are missing
        array = pa.array([None if value is None else float(value) for value in values], pa.float64())
    if not pc.all(pc.is_finite(array)).as_py() and array.null_count < len(array):
        raise UnfitError("not finite")
    return array


def _whole_decimal(values: Sequence[Any]) -> pa.Array:
    # pyarrow (26.0.1) must not do the scaling: of a value with more than 18 digits after the point it silently makes
    # another number (1E-101 becomes 0, 77334622355505603346.8002112998089328932 becomes 9278148971317910654.125…).
    # Here a value that is not exact at this scale, or has too many digits, raises.
    scaled: list[Decimal | None]
    try:
        scaled = list(map(_EXACT.quantize, values, repeat(_UNIT)))
    except TypeError:  # some are missing
        scaled = [None if value is None else _EXACT.quantize(value, _UNIT) for value in values]
    return pa.array(scaled, DECIMAL)


def _whole_time(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    return _microseconds(_seconds(values), required=False)


def _whole_int(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if not set(map(type, values)) <= {int, type(None)}:  # pa.array would cut 1.5 to 1
        raise UnfitError("not whole numbers")
    return pa.array(values, pa.int64())


def _whole_flag(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.bool_())


def _present(
    whole: Callable[[Sequence[Any], pa.DataType], pa.Array],
) -> Callable[[Sequence[Any], pa.DataType], pa.Array]:
    def present(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
        array = whole(values, kind)
        if array.null_count:
            raise UnfitError("missing")
        if isinstance(array, pa.DictionaryArray) and "" in array.dictionary.to_pylist():
            raise UnfitError("empty")
        if pa.types.is_timestamp(array.type) and len(array) and pc.min(array).value == 0:
            raise UnfitError("no time")
        return array

    return present


def _seconds(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.float64())
    except (pa.ArrowException, TypeError):  # cryptofeed 2.4.1's playback passes the time of receipt as text
        return pa.array([value if value is None else float(value) for value in values], pa.float64())


def _microseconds(seconds: pa.Array, *, required: bool) -> pa.Array:
    """Round to the nearest microsecond, ties to even: ``round(x * 1e6)`` of Python, for a whole array."""
    if required and seconds.null_count:
        raise UnfitError("missing")
    if len(seconds) > seconds.null_count:
        if not pc.all(pc.is_finite(seconds)).as_py():
            raise UnfitError("not finite")
        bounds = pc.min_max(seconds).as_py()
        if bounds["min"] < 0 or bounds["max"] >= SECONDS_END or (required and bounds["min"] == 0):
            raise UnfitError("out of range")
    return pc.round(pc.multiply(seconds, 1e6), round_mode="half_to_even").cast(pa.int64()).cast(TIMESTAMP)


# One value. Each returns what the array takes, or raises UnfitError.


def _one_text(value: Any, kind: pa.DataType) -> str | None:
    if value is None:
        return None
    if isinstance(value, Enum):
        return _one_text(value.value, kind)
    return clean(str(value))


def _one_number(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if kind is DECIMAL:
        return _one_decimal(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UnfitError(f"{_shown(value)} is not a number") from None
    if not math.isfinite(number):
        raise UnfitError(f"{_shown(value)} is not a finite number")
    return number


def _one_decimal(value: Any) -> Decimal:
    try:
        # A float's shortest text is what its sender wrote; its exact binary expansion is not.
        number = value if isinstance(value, Decimal) else Decimal(repr(value) if isinstance(value, float) else value)
    except (InvalidOperation, TypeError, ValueError):
        raise UnfitError(f"{_shown(value)} is not a number") from None
    if not number.is_finite():
        raise UnfitError(f"{_shown(value)} is not a finite number")
    if number and number.adjusted() >= _WHOLE_DIGITS_MAX:
        raise UnfitError(f"{_shown(value)} does not fit decimal(38,{_SCALE}): over {_WHOLE_DIGITS_MAX} whole digits")
    # 200 digits are exact: at most 20 before the point here, and a longer tail differs from its rounding below.
    fixed = number.quantize(_UNIT, context=_WIDE)
    if fixed != number:
        raise UnfitError(f"{_shown(value)} does not fit decimal(38,{_SCALE}): over {_SCALE} digits after the point")
    return fixed


def _one_time(value: Any, kind: pa.DataType) -> int | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UnfitError(f"{_shown(value)} is not a time in seconds") from None
    if not math.isfinite(seconds):
        raise UnfitError(f"{_shown(value)} is not a finite time")
    if not 0 <= seconds < SECONDS_END:
        raise UnfitError(f"{_shown(value)} is outside 1970..2200 in seconds")
    return round(seconds * 1e6)


def _one_int(value: Any, kind: pa.DataType) -> int | None:
    if value is None:
        return None
    try:
        number = int(value)
        whole = isinstance(value, str) or number == value
    except (TypeError, ValueError, OverflowError):
        raise UnfitError(f"{_shown(value)} is not a whole number") from None
    if not whole:
        raise UnfitError(f"{_shown(value)} is not a whole number")
    if not -(1 << 63) <= number < 1 << 63:
        raise UnfitError(f"{_shown(value)} does not fit 64 bits")
    return number


def _one_flag(value: Any, kind: pa.DataType) -> bool | None:
    return None if value is None else bool(value)


def _required(one: Callable[[Any, pa.DataType], Any]) -> Callable[[Any, pa.DataType], Any]:
    def required(value: Any, kind: pa.DataType) -> Any:
        if one is _one_text and not isinstance(value, str):
            raise UnfitError("is missing" if value is None else f"{_shown(value)} is not text")
        found = one(value, kind)
        if found is None or found == "":
            raise UnfitError("is missing")
        if one is _one_time and found == 0:
            raise UnfitError("is missing, and so is the time of receipt")
        return found

    return required


def _stand_in(value: Any, other: Any) -> Any:
    return other if value in (None, "") or (isinstance(value, int | float) and value == 0) else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _VALUE_CHARS_MAX else text[: _VALUE_CHARS_MAX - 1] + "…"


_KINDS: dict[str, tuple[Callable[[Sequence[Any], pa.DataType], pa.Array], Callable[[Any, pa.DataType], Any]]] = {
    "label": (_whole_label, _one_text),
    "text": (_whole_text, _one_text),
    "number": (_whole_number, _one_number),
    "time": (_whole_time, _one_time),
    "int": (_whole_int, _one_int),
    "flag": (_whole_flag, _one_flag),
}
