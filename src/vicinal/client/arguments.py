"""What a user gave to a collection's methods, checked, and turned into the engine's terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from vicinal.client.conditions import IfVersion, to_versions
from vicinal.client.convert import to_query
from vicinal.model.change import ANY, Conditions
from vicinal.model.config import CollectionConfig
from vicinal.model.errors import DuplicateIdError, InvalidArgumentError, LimitError
from vicinal.model.filter import Expression, Filter, compile_filter
from vicinal.model.ids import PointId, decode_id, encode_id
from vicinal.model.limits import BATCH_QUERIES_MAX, EF_MAX, K_MAX
from vicinal.model.recall import check_recall
from vicinal.model.search import SearchOptions

Where: TypeAlias = str | Mapping[str, Any] | Expression | Filter


def search_options(
    k: int = 10,
    where: Where | None = None,
    ef_search: int | None = None,
    recall: float | None = None,
    exact: bool = False,
    with_payload: bool = True,
    with_vectors: bool = False,
) -> SearchOptions:
    """The options of a search. LimitError, InvalidArgumentError: one is out of range, or two contradict one another."""
    compiled = None if where is None else compile_where(where)
    if type(k) is not int or not 1 <= k <= K_MAX:
        raise out_of_range("k", k, 1, K_MAX)
    if recall is not None:
        check_recall(recall, k=k, ef_search=ef_search, exact=exact)
    if ef_search is not None:
        if exact:
            raise InvalidArgumentError("ef_search does not apply to exact=True; give one of them")
        if type(ef_search) is not int or not k <= ef_search <= EF_MAX:
            raise out_of_range("ef_search", ef_search, k, EF_MAX, " (it is at least k)")
    return SearchOptions(k, compiled, ef_search, recall, exact, with_payload, with_vectors)


def to_queries(config: CollectionConfig, query: Any) -> tuple[npt.NDArray[Any], bool]:
    """((n, columns) queries, whether a single one was given)."""
    queries, single = to_query(query, config)
    if not single and len(queries) > BATCH_QUERIES_MAX:
        raise out_of_range("number of queries", len(queries), 1, BATCH_QUERIES_MAX)
    return queries, single


def compile_where(where: Where) -> Filter:
    """The filter of any of its forms; texts are remembered."""
    return _parse(where) if isinstance(where, str) else compile_filter(where)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Filter:
    return compile_filter(text)


def id_values(ids: Any) -> Iterable[object]:
    """Python or NumPy ids from whatever column they came in."""
    if isinstance(ids, np.ndarray):
        array = cast("np.ndarray[Any, np.dtype[Any]]", ids)
        if array.ndim != 1:
            raise InvalidArgumentError(f"ids have shape {array.shape}; give one id a point")
        return array if array.dtype.kind in "iu" else array.tolist()
    if isinstance(ids, list):
        return cast("list[object]", ids)
    if isinstance(ids, str | bytes):
        raise InvalidArgumentError(f"ids is one value, {ids!r}; give a list of ids")
    for name in ("to_pylist", "to_list", "tolist"):
        if hasattr(ids, name):
            return getattr(ids, name)()
    return ids


def keys_of(ids: Any) -> list[bytes]:
    """Keys of one id or several, in order, repetitions kept."""
    if isinstance(ids, str | int) or not isinstance(ids, Iterable):
        return [encode_id(ids)]
    return [encode_id(i) for i in id_values(ids)]


def keys_and_conditions(
    ids: PointId | Iterable[PointId], if_version: IfVersion | None
) -> tuple[list[bytes], Conditions]:
    """Keys of ids, each once, and what must hold for them."""
    keys = keys_of(ids)
    if if_version is None:
        return list(dict.fromkeys(keys)), ANY
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DuplicateIdError(
            f"id {decode_id(twice)!r} stands twice; with if_version give each id once"
        )
    return keys, Conditions(versions=to_versions(if_version, len(keys)))


def check_selection(ids: object, where: object, all_points: bool, if_version: object) -> None:
    """Raise InvalidArgumentError unless points are selected in exactly one way."""
    if (ids is not None) + (where is not None) + bool(all_points) != 1:
        raise InvalidArgumentError("give exactly one of ids, where= and all=True")
    if if_version is not None and ids is None:
        raise InvalidArgumentError("if_version applies to ids; a filter may ask for fields instead")


def out_of_range(name: str, value: object, low: int, high: int, note: str = "") -> LimitError:
    """The error of a number that is none, or past its limits."""
    return LimitError(f"{name} is {value!r}; it is an int of {low} to {high}{note}")
