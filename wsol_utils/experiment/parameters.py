"""Parse parameters, which papermill and make often give as text, and say what is wrong with them."""

import ast
from collections.abc import Collection, Iterator
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, PositiveFloat, ValidationError

from wsol_utils.common.checks import one_of
from wsol_utils.network import pooling

T = TypeVar("T")


def injected(variables: dict) -> list[str]:
    """The names that papermill's cell of parameters assigns, from the kernel's list of executed cells."""
    cells = [source for source in variables.get("In", []) if source.startswith("# Parameters\n")]
    assigned = [line for line in ast.parse(cells[-1] if cells else "").body if isinstance(line, ast.Assign)]
    return [target.id for line in assigned for target in line.targets if isinstance(target, ast.Name)]


def among(what: str, choices: Collection[str]) -> AfterValidator:
    """Accept one of these names, or "" for the usual one."""

    def check(name: str) -> str:
        if name:
            one_of(what, name, choices)
        return name

    return AfterValidator(check)


def pairs(value: Any) -> Any:
    """Read "gap=1,wgap=2" as {"gap": "1", "wgap": "2"}; other types stay as they are.

    Raises:
        ValueError: if a part of the text is no pair.
    """
    return dict(pair.split("=") for pair in value.split(",")) if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """Read "0,1,2" as ["0", "1", "2"], and 4 as [4]."""
    return value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value


def _nested(value: Any) -> Any:
    """Read "has.side=24" as {"has": {"side": 24}}; what is no Python literal stays text."""
    if not isinstance(value, str):
        return value
    found: dict[str, dict[str, Any]] = {}
    for key, text in pairs(value).items():
        name, option = key.split(".")
        try:
            typed = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            typed = text
        found.setdefault(name, {})[option] = typed
    return found


Listed = Annotated[tuple[T, ...], BeforeValidator(_listed)]
Pooling = Annotated[str, among("pooling", pooling.POOLINGS)]
Rates = Annotated[dict[Pooling, PositiveFloat], BeforeValidator(pairs)]
Options = Annotated[dict[str, dict[str, Any]], BeforeValidator(_nested)]


def told(error: ValidationError) -> Iterator[str]:
    """Say everything that is wrong with a configuration, one message each."""
    for wrong in error.errors():
        name, *part = wrong["loc"] or ("",)
        where = f" for {part[0]}" if part and isinstance(part[0], str) else ""
        message = wrong["msg"].removeprefix("Value error, ")
        complete = message.startswith(("unknown ", "parameter ")) or not name
        yield message if complete else f"parameter {name} cannot be {wrong['input']!r}{where}: {message}"
