"""Parameters as they are handed over, by papermill, by make or as text, and what is said of a wrong one."""

import ast
from typing import Any


def injected(variables: dict) -> list[str]:
    """The names that papermill's cell of parameters assigns, from the kernel's list of executed cells."""
    cells = [source for source in variables.get("In", []) if source.startswith("# Parameters\n")]
    assigned = [line for line in ast.parse(cells[-1] if cells else "").body if isinstance(line, ast.Assign)]
    return [target.id for line in assigned for target in line.targets if isinstance(target, ast.Name)]


def typed(kind: Any, name: str, value: Any) -> Any:
    """A parameter of that type: papermill and make hand over "0,1,2" and "1e-4" as text.

    Raises:
        ValueError: if it is none.
    """
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        if kind in (int, float, str):
            return kind(value)
        if kind in (tuple[int, ...], tuple[str, ...]):
            items = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
            return tuple(kind.__args__[0](item) for item in items)
        pairs = [pair.split("=") for pair in value.split(",")] if isinstance(value, str) else value
        return {key: float(number) for key, number in dict(pairs).items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"parameter {name} cannot be {value!r}: {error}") from error
