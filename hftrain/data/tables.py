"""Reader of everything that comes as Arrow tables: columnar files, `save_to_disk` folders, the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hftrain.data.readers import BATCH_ROWS, Fault, Item, decode, missing

Tables = Iterator["pa.Table | pa.RecordBatch"]


def parquet_tables(path: Path) -> Tables:
    import pyarrow.parquet

    yield from pyarrow.parquet.ParquetFile(path).iter_batches(BATCH_ROWS)


def arrow_tables(path: Path) -> Tables:
    with pa.memory_map(str(path)) as file:
        try:
            reader = pa.ipc.open_file(file)
        except pa.ArrowInvalid:
            file.seek(0)
            yield from pa.ipc.open_stream(file)
        else:
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))


def saved_tables(path: Path, split: str | None) -> Tables:
    from datasets import load_from_disk

    try:
        saved = load_from_disk(str(path))
    except FileNotFoundError:
        raise ValueError(f"{path} is a folder but was not written by save_to_disk; name a file in it") from None
    return _tables_of_split(str(path), saved, split)


def hub_tables(name: str, config_name: str | None, split: str | None) -> Tables:
    from datasets import load_dataset

    try:
        loaded = load_dataset(name, config_name)
    except Exception as error:  # the Hub client, the network and the data set's own files all raise what they like
        raise ValueError(
            f"{name!r} is no file and no folder here, and could not be loaded from the Hub: "
            f"{type(error).__name__}: {error}"
        ) from error
    return _tables_of_split(name, loaded, split)


def _tables_of_split(name: str, loaded: Any, split: str | None) -> Tables:
    from datasets import Dataset

    if not isinstance(loaded, Dataset):
        if split is None and len(loaded) == 1:
            split = next(iter(loaded))
        if split not in loaded:
            raise ValueError(f"{name} has the splits {', '.join(map(repr, loaded))}; {split!r} is none of them")
        loaded = loaded[split]
    return loaded.with_format("arrow").iter(BATCH_ROWS)


def read_tables(source: str, tables: Tables, columns: list[str]) -> Iterator[Item]:
    number = 0
    try:
        for table in tables:
            for values in zip(*(_values(source, table, column) for column in columns), strict=True):
                number += 1
                yield number, _fault_in(values) or list(values)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{source}, after row {number}: not a readable Arrow or Parquet file: {error}") from None


def _fault_in(values: Iterable[Any]) -> Fault | None:
    return next((value for value in values if isinstance(value, Fault)), None)


def _values(source: str, table: pa.Table | pa.RecordBatch, column: str) -> list[Any]:
    if column == "":  # the whole row
        columns = table.schema.names
        rows = zip(*(_values(source, table, name) for name in columns), strict=True)
        return [_fault_in(row) or dict(zip(columns, map(without_fillers, row), strict=True)) for row in rows]
    head, *rest = [column] if column in table.schema.names else column.split(".")
    try:
        array = table.column(head)
        for part in rest:
            array = pc.struct_field(array, part)
    except (KeyError, pa.ArrowException):
        raise ValueError(f"{source}: {missing(column, _flat_names(table.schema))}") from None
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        # Arrow files may hold bytes that are not UTF-8; as binary they come out one by one and can be blamed.
        return [_text_or_fault(raw, column) for raw in array.cast(pa.large_binary()).to_pylist()]
    names = _class_names(table.schema, column)
    return [_name(value, names) for value in array.to_pylist()] if names else array.to_pylist()


def without_fillers(value: Any) -> Any:
    """Without the nulls that a column of objects puts where other rows have something."""
    if isinstance(value, dict):
        return {name: without_fillers(entry) for name, entry in value.items() if entry is not None}
    return [without_fillers(entry) for entry in value] if isinstance(value, list) else value


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """Names of the classes whose numbers the column holds, alone or in lists (`datasets.ClassLabel`); [] of others."""
    told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = told.get("info", {}).get("features", {}).get(column, {})
    while isinstance(feature, dict) and "feature" in feature:
        feature = feature["feature"]
    return feature.get("names") or [] if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else []


def _name(value: Any, names: list[str]) -> Any:
    """The class's name in place of its number, in lists too; what is no number of a class stays."""
    if isinstance(value, list):
        return [_name(each, names) for each in value]
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
