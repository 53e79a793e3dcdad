"""Say in words how two tables or texts differ that should be the same."""

from collections.abc import Sequence
from io import StringIO
from itertools import zip_longest

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

TOLERANCE = 1e-9  # between a figure and the same one computed again, in the unit of its table
SHOWN = 5  # of a kind are told one by one


def of_tables(name: str, key: list[str], kept: pd.DataFrame, again: pd.DataFrame) -> list[str]:
    """The rows and figures in which a table is not what it is when it is computed again.

    Args:
        name: of its file.
        key: the columns that tell its rows apart.
    """
    again = pd.read_csv(StringIO(again.to_csv(index=False)))
    said = [f"{name} has no column {column}" for column in again if column not in kept]
    said += [f"{name} has a column {column}, which nothing computes" for column in kept if column not in again]
    if not set(key) <= set(kept):
        return few(said)
    if (twice := kept.duplicated(key)).any():
        return few([*said, f"{name} has two rows {words(kept[twice][key].iloc[0])}"])
    kept, again = kept.set_index(key), again.set_index(key)
    said += [f"{name} lacks the row {words(row)}" for row in again.index[~again.index.isin(kept.index)]]
    extra = kept.index[~kept.index.isin(again.index)]
    said += [f"{name} has a row {words(row)}, which nothing computes" for row in extra]
    again = again[again.index.isin(kept.index)]
    kept = kept.reindex(again.index)
    for column in (column for column in again if column in kept):
        for row in again.index[~_same(kept[column], again[column])]:
            values = f"{kept.at[row, column]}, computed again {again.at[row, column]}"
            said.append(f"{name}: {column} of {words(row)} is {values}")
    return few(said)


def of_texts(name: str, kept: bytes, again: str) -> list[str]:
    """The first line that differs."""
    there, here = (text.replace("\r\n", "\n").split("\n") for text in (kept.decode("utf-8", "replace"), again))
    for number, (a, b) in enumerate(zip_longest(there, here, fillvalue=""), start=1):
        if a != b:
            return [f"{name}: line {number} is {a[:160]!r}, computed again {b[:160]!r}"]
    return []


def few(said: Sequence[str]) -> list[str]:
    """The first ones, and how many there are besides."""
    return [*said[:SHOWN], *([f"… and {len(said) - SHOWN} more of this table"] if len(said) > SHOWN else [])]


def words(key: Sequence) -> str:
    """What tells a row from others."""
    return ", ".join(map(str, key))


def _same(kept: pd.Series, again: pd.Series) -> np.ndarray:
    """(n,) bool: numbers within the tolerance, all else to the letter."""
    if not is_numeric_dtype(again) or is_bool_dtype(again):
        return (kept.astype(str) == again.astype(str)).to_numpy()
    numbers = pd.to_numeric(kept, errors="coerce")
    close = np.isclose(numbers.astype(float), again.astype(float), rtol=0, atol=TOLERANCE, equal_nan=True)
    return close & (numbers.isna() == kept.isna()).to_numpy()
