"""Column types of JSON records: found value by value, and joined to one that keeps every value.

Whole numbers, fractions, truth values, text and lists of them have types of their own. Objects, and
values that share no type, are kept as JSON: each with the keys that it has, 5 as 5 where others are
2.5.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from datasets import List, Value

from colm.data.exact_json import ExactJson

#: Lists in lists that get types of their own; Arrow reads no more than 64.
MOST_LISTS = 8
_WHOLE_NUMBERS = range(-(2**63), 2**63)


class Shape(NamedTuple):
    """What values are: a kind, and in how many lists.

    Attributes:
        kind: ``""`` for nothing but nulls, the name of a type of Arrow's, or ``"json"``.
        lists: 0 for a plain value, 1 for a list of them.
    """

    kind: str
    lists: int = 0

    @property
    def feature(self) -> Any:
        """The column type; nothing but nulls is text.

        Example:
            >>> Shape("int64", 1).feature
            List(Value('int64'))
        """
        feature: Any = ExactJson() if self.kind == "json" else Value(self.kind or "string")
        for _ in range(self.lists):
            feature = List(feature)
        return feature


NOTHING = Shape("")
_JSON = Shape("json")
_SCALARS = {
    type(None): NOTHING,
    bool: Shape("bool"),
    int: Shape("int64"),
    float: Shape("float64"),
    str: Shape("string"),
    dict: _JSON,
}


def infer_shape(value: Any, lists: int = 0) -> Shape:
    """Return the shape of a JSON value.

    Args:
        value: What ``json`` returned.
        lists: In how many lists it stands already.

    Returns:
        Its shape.

    Example:
        >>> infer_shape([[1], []]), infer_shape([1, 2.5]), infer_shape({"a": 1})
        (Shape(kind='int64', lists=2), Shape(kind='json', lists=1), Shape(kind='json', lists=0))
    """
    if not isinstance(value, list):
        return (
            _JSON if type(value) is int and value not in _WHOLE_NUMBERS else _SCALARS[type(value)]
        )
    if lists == MOST_LISTS:
        return _JSON
    inner = _items_shape(value, lists + 1)
    return Shape(inner.kind, inner.lists + 1)


def join(shapes: Iterable[Shape]) -> Shape:
    """Return the shape that keeps values of all of these shapes as they are.

    Args:
        shapes: Shapes of the values of a column.

    Returns:
        Their shape where they share one, else JSON, in as many lists as they share.

    Example:
        >>> join([Shape("int64"), Shape("float64")]), join([Shape("", 1), Shape("string", 2)])
        (Shape(kind='json', lists=0), Shape(kind='string', lists=2))
    """
    joined = NOTHING
    for shape in shapes:
        joined = _join_two(joined, shape)
    return joined


def _join_two(one: Shape, other: Shape) -> Shape:
    if one == other:
        return one
    # A null may stand for a list, and an empty list holds no items to differ from.
    if not one.kind and one.lists <= other.lists:
        return other
    if not other.kind and other.lists <= one.lists:
        return one
    return Shape("json", min(one.lists, other.lists))


def _items_shape(items: list[Any], lists: int) -> Shape:
    """The shape that all items of a list share; long lists of numbers are not gone through."""
    kinds = set(map(type, items))
    if list in kinds:
        return join(infer_shape(item, lists) for item in items)
    whole = [item for item in items if type(item) is int] if len(kinds) > 1 else items
    if int in kinds and not (min(whole) in _WHOLE_NUMBERS and max(whole) in _WHOLE_NUMBERS):
        return _JSON
    return join(_SCALARS[kind] for kind in kinds)
