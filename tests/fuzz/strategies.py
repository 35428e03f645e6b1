"""Hypothesis strategies made of msgspec types: what a peer may send, as the types alone say it."""

from functools import cache
from typing import Any

import msgspec.inspect as mi
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
FAR = 2**53
BEYOND = 1e9
"""Numbers that no type bounds are drawn up to these: they are for people and clocks."""


@cache
def of(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy of the plain values (dicts, lists, numbers) that stand for a `kind`."""
    return _of(mi.type_info(kind))


def _of(info: Any) -> st.SearchStrategy[Any]:
    match info:
        case mi.StructType():
            return _struct(info)
        case mi.UnionType():
            return st.one_of([_of(one) for one in info.types])
        case mi.LiteralType():
            return st.sampled_from(list(info.values))
        case mi.IntType():
            return _int(info)
        case mi.FloatType():
            low, high = _first(info.ge, info.gt, -BEYOND), _first(info.le, info.lt, BEYOND)
            return st.floats(low, high, exclude_min=info.gt is not None, exclude_max=info.lt is not None)
        case mi.StrType():
            return _str(info)
        case mi.VarTupleType() | mi.ListType():
            most = min(_first(info.max_length, 3), 3)
            return st.lists(_of(info.item_type), min_size=info.min_length or 0, max_size=most)
        case mi.TupleType():
            return st.tuples(*[_of(one) for one in info.item_types]).map(list)
        case mi.DictType():
            return st.dictionaries(_of(info.key_type), _of(info.value_type), max_size=3)
        case mi.NoneType():
            return st.none()
        case mi.BoolType():
            return st.booleans()
        case mi.BytesType():
            return st.binary(max_size=20)
        case mi.Metadata():
            return _of(info.type)
    raise AssertionError(f"no strategy for {info}")


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _int(info: mi.IntType) -> st.SearchStrategy[int]:
    low, high, step = _first(info.ge, -FAR), _first(info.le, FAR), info.multiple_of or 1
    return st.integers(-(-low // step), high // step).map(lambda n: n * step)


def _str(info: mi.StrType) -> st.SearchStrategy[str]:
    if info.pattern is None:
        return TEXT.filter(lambda text: len(text) >= (info.min_length or 0))
    most = _first(info.max_length, FAR)
    found = st.from_regex(info.pattern, fullmatch=True)
    return found.filter(lambda text: (info.min_length or 0) <= len(text) <= most)


def _struct(info: mi.StructType) -> st.SearchStrategy[Any]:
    if info.array_like:
        return st.tuples(*[_of(field.type) for field in info.fields]).map(list)
    needed = {f.encode_name: _of(f.type) for f in info.fields if f.required}
    others = {f.encode_name: _of(f.type) for f in info.fields if not f.required}
    if info.tag is not None:
        needed[info.tag_field or "type"] = st.just(info.tag)
    return st.fixed_dictionaries(needed, optional=others)
