"""A column type that keeps a JSON value as it was written: its keys, their order, its numbers.

Arrow's structs give every record the keys of all others, as nulls. The ``Json`` of ``datasets``
does not, but its parser takes 1.84 for 1.8399999999999999, keeps ten digits of a number, and takes
the text "05" for a number.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
from datasets import Features, Json, LargeList, List
from datasets.features import features as feature_types


@dataclass
class ExactJson(Json):
    """Type of a column, or of the items of a list, that holds any JSON value.

    Values are kept as JSON text; whoever reads the column gets them as Python's ``json`` reads
    them. What ``datasets`` itself does with such a column, in exports and in maps of others, it
    does as with its own type.

    Example:
        >>> kept = ExactJson().encode_example({"b": 1, "a": "05"})
        >>> kept, ExactJson().decode_example(kept)
        ('{"b": 1, "a": "05"}', {'b': 1, 'a': '05'})
    """

    pa_type: ClassVar[pa.DataType] = pa.string()
    _type: str = field(default="ExactJson", init=False, repr=False)

    def __call__(self) -> pa.DataType:
        """Return the Arrow type that values are kept in."""
        return self.pa_type

    def encode_example(self, value: Any) -> str | None:
        """Return the text that stands for a value; nothing stands for nothing."""
        return None if value is None else json.dumps(value, ensure_ascii=False)

    def decode_example(self, text: str, **_: object) -> Any:
        """Return the value of a text; what is no JSON is text that a map put there."""
        try:
            return json.loads(text)
        except ValueError:
            return text

    def cast_storage(self, storage: pa.Array) -> pa.Array:
        """Return the texts of an array: texts are JSON already, anything else is written as JSON.

        Args:
            storage: Texts, JSON, or values of any type.

        Returns:
            Array of texts.
        """
        if isinstance(storage, pa.ExtensionArray):
            storage = storage.storage
        if pa.types.is_string(storage.type):
            return storage
        if pa.types.is_large_string(storage.type) or pa.types.is_null(storage.type):
            return storage.cast(self.pa_type)
        return pa.array([self.encode_example(value) for value in storage.to_pylist()], self.pa_type)


def exact_features(features: Features) -> Features:
    """Return column types in which this module's type stands for the ``Json`` of ``datasets``.

    Args:
        features: Types of all columns.

    Returns:
        The same types but for that one, at any depth.

    Example:
        >>> exact_features(Features({"messages": List(Json())}))["messages"].feature == ExactJson()
        True
    """
    return Features({column: _exact(feature) for column, feature in features.items()})


def arrow_table(features: Features, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
    """Return columns of values as Arrow keeps them.

    What a map returns comes in this form: ``datasets`` would go over the JSON once more.

    Args:
        features: Types of the columns.
        columns: The values of each, one a record.

    Returns:
        Table with JSON text wherever the type is this module's.

    Example:
        >>> features = Features({"messages": List(ExactJson())})
        >>> arrow_table(features, {"messages": [[{"a": 1}, None], None]}).to_pylist()
        [{'messages': ['{"a": 1}', None]}, {'messages': None}]
    """
    schema = features.arrow_schema
    arrays = []
    for column, feature in features.items():
        store = _storing(feature)
        values = columns[column]
        stored = values if store is None else [store(value) for value in values]
        arrays.append(pa.array(stored, schema.field(column).type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _storing(feature: Any) -> Callable[[Any], Any] | None:
    """What turns a value of a type into what is kept of it; ``None`` where that is the same."""
    if isinstance(feature, ExactJson):
        return feature.encode_example
    if isinstance(feature, List | LargeList):
        store = _storing(feature.feature)
        if store is not None:
            return lambda items: None if items is None else [store(item) for item in items]
    if isinstance(feature, Mapping):
        stores = {name: _storing(inner) for name, inner in feature.items()}
        if any(stores.values()):
            return lambda record: (
                None
                if record is None
                else {k: s(record.get(k)) if s else record.get(k) for k, s in stores.items()}
            )
    return None


def _exact(feature: Any) -> Any:
    if isinstance(feature, Json):
        return ExactJson(decode=feature.decode)
    if isinstance(feature, Mapping):
        return {name: _exact(inner) for name, inner in feature.items()}
    if isinstance(feature, LargeList):
        return LargeList(_exact(feature.feature))
    if isinstance(feature, List):
        return List(_exact(feature.feature), length=feature.length)
    return feature


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Registering a type is called experimental.
    feature_types.register_feature(ExactJson, "ExactJson")
