"""Reader of Arrow tables: columnar files, `save_to_disk` folders, the Hub."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hftrain.config.errors import NO_INTERNET
from hftrain.data.lines import Fault, decode
from hftrain.data.readers import BATCH_ROWS, Item, missing, top
from hftrain.data.unread import Unread

Tables = Iterator["pa.Table | pa.RecordBatch"]
BATCH_BYTES = 1 << 26  # of a batch, where its rows are large


def parquet_tables(path: Path) -> Tables:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
    rows = file.metadata.num_rows * BATCH_BYTES // max(1, size)  # of pictures a few
    yield from file.iter_batches(max(1, min(BATCH_ROWS, rows)))


def arrow_tables(path: Path) -> Tables:
    with pa.memory_map(str(path)) as file:
        try:
            reader = pa.ipc.open_file(file)
        except pa.ArrowInvalid:
            file.seek(0)
            yield from pa.ipc.open_stream(file)
        else:
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))


SAVED = ("dataset_info.json", "dataset_dict.json")  # a folder of save_to_disk has one of them


def is_saved(folder: Path) -> bool:
    """Whether save_to_disk wrote `folder`."""
    return any((folder / name).is_file() for name in SAVED)


def saved_splits(folder: Path) -> list[str]:
    """Splits of a folder of save_to_disk; [] for a single data set without splits."""
    described = _read_json(folder / SAVED[1]) if (folder / SAVED[1]).is_file() else {"splits": []}
    try:
        return [_inside(folder, split) for split in described["splits"]]
    except (KeyError, TypeError):
        raise ValueError(f"{folder / SAVED[1]} is damaged: it lists no splits") from None


def saved_tables(folder: Path, split: str | None) -> Tables:
    """The tables of a split. Raises: ValueError, the folder is damaged, or names files outside itself."""
    from datasets import load_from_disk

    for part in [folder / name for name in saved_splits(folder)] or [folder]:
        try:
            for file in _read_json(part / "state.json")["_data_files"]:
                _inside(part, file["filename"])
        except (KeyError, TypeError):
            raise ValueError(f"{part / 'state.json'} is damaged: it lists no data files") from None
    try:
        saved = load_from_disk(str(folder))
    except (OSError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{folder}, written by save_to_disk, is damaged: {error}") from None
    return _tables_of_split(str(folder), saved, split)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _inside(folder: Path, name: str) -> str:
    """The path of `name` in `folder`. Raises: ValueError, it is outside of the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{folder} names the file {name!r}, which is outside of it and is not read")
    return name


def hub_tables(name: str, config_name: str | None, split: str | None) -> Tables:
    from datasets import load_dataset

    try:
        loaded = load_dataset(name, config_name)
    except Exception as error:  # the Hub client, the network and the data set's own files all raise what they like
        raise ValueError(
            f"{name!r} is not a local file or folder and could not be loaded from the Hub{NO_INTERNET}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return _tables_of_split(name, loaded, split)


def _tables_of_split(name: str, loaded: Any, split: str | None) -> Tables:
    from datasets import Dataset

    if not isinstance(loaded, Dataset):
        if split is None and len(loaded) == 1:
            split = next(iter(loaded))
        if split not in loaded:
            names = ", ".join(map(repr, loaded))
            if split is None:
                raise ValueError(f"{name} has the splits {names}: set dataset_name to it to read each as its split")
            raise ValueError(f"{name} has no split {split!r}, but {names}")
        loaded = loaded[split]
    return loaded.with_format("arrow").iter(BATCH_ROWS)


def read_tables(source: str, tables: Tables, columns: list[str], unread: Unread | None = None) -> Iterator[Item]:
    number = 0
    try:
        for table in (part for whole in tables for part in _parts(whole)):
            if unread is not None:
                filled = {name: len(table) - table.column(name).null_count for name in table.schema.names}
                unread.take_in(
                    {name: rows for name, rows in filled.items() if rows and name not in top(columns)}, source
                )
            for values in zip(*(_values(source, table, column) for column in columns), strict=True):
                number += 1
                yield number, _fault_in(values) or list(values)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) and not isinstance(error, pa.ArrowException):
            raise ValueError(f"{source} cannot be read: {error.strerror}") from None  # type: ignore[union-attr]
        raise ValueError(f"{source}, after row {number}: not a readable Arrow or Parquet file: {error}") from None


def _parts(table: pa.Table | pa.RecordBatch) -> Iterator[pa.Table | pa.RecordBatch]:
    """A batch as parts that fit into memory as Python's objects."""
    rows = max(1, len(table) * BATCH_BYTES // max(1, table.nbytes))
    yield from (table.slice(start, rows) for start in range(0, max(1, len(table)), rows))


def _fault_in(values: Iterable[Any]) -> Fault | None:
    return next((value for value in values if isinstance(value, Fault)), None)


def _values(source: str, table: pa.Table | pa.RecordBatch, column: str) -> list[Any]:
    if column == "":  # the whole row
        columns = table.schema.names
        rows = zip(*(_values(source, table, name) for name in columns), strict=True)
        return [_fault_in(row) or dict(zip(columns, map(without_fillers, row), strict=True)) for row in rows]
    head, *nested = [column] if column in table.schema.names else column.split(".")
    try:
        array = table.column(head)
        for part in nested:
            array = pc.struct_field(array, part)
    except (KeyError, pa.ArrowException):
        raise ValueError(f"{source}: {missing(column, _flat_names(table.schema))}") from None
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        # Arrow files may contain bytes that are not UTF-8; read as binary, the bad row can be named.
        return [_text_or_fault(raw, column) for raw in array.cast(pa.large_binary()).to_pylist()]
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return [_text_or_bytes(raw) for raw in array.to_pylist()]
    names = _class_names(table.schema, column)
    if names:
        return [_name(value, names) for value in array.to_pylist()]
    convert = _identity if _has_json_values(array.type) else _as_json_value
    try:
        return [convert(value) for value in array.to_pylist()]
    except UnicodeDecodeError:
        return [_value_or_fault(scalar, column, convert) for scalar in array]


def _has_json_values(kind: pa.DataType) -> bool:
    """Whether JSON has values of this type."""
    if pa.types.is_struct(kind):
        return all(_has_json_values(field.type) for field in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _has_json_values(kind.value_type)
    number = pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)
    return number or pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def _identity(value: object) -> Any:
    return value


def _as_json_value(value: object) -> Any:
    """The value as JSON: whole decimals as integers, dates and times in ISO 8601, others as text; bytes stay bytes if
    they are not text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {name: _as_json_value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        if value and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):  # a map
            return {str(name): _as_json_value(inner) for name, inner in value}
        return [_as_json_value(inner) for inner in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return _text_or_bytes(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else str(value)


def _text_or_bytes(raw: bytes | None) -> str | bytes | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return raw


def _value_or_fault(scalar: pa.Scalar, column: str, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(scalar.as_py())
    except UnicodeDecodeError as error:
        return Fault(f"column {column!r}: invalid UTF-8: {error.reason}")


def without_fillers(value: object) -> Any:
    """The value without the nulls that fill keys of other rows in a column of objects."""
    if isinstance(value, dict):
        return {name: without_fillers(entry) for name, entry in value.items() if entry is not None}
    return [without_fillers(entry) for entry in value] if isinstance(value, list) else value


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """Names of the classes whose numbers the column holds, alone or in lists (`datasets.ClassLabel`), otherwise []."""
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = described.get("info", {}).get("features", {}).get(column, {})
    while isinstance(feature, dict) and "feature" in feature:
        feature = feature["feature"]
    return feature.get("names") or [] if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else []


def _name(value: object, names: list[str]) -> Any:
    """The name of the class in place of its number, also in lists; other values stay."""
    if isinstance(value, list):
        return [_name(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _text_or_fault(raw: bytes | None, column: str) -> str | Fault | None:
    try:
        return None if raw is None else decode(raw)
    except Fault as fault:
        return Fault(f"column {column!r}: {fault}")


def _flat_names(fields: Iterable[pa.Field], prefix: str = "") -> Iterator[str]:
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _flat_names(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name
