"""Parse parameters as papermill and make hand them over, often as text, and say what is wrong with them."""

import ast
from collections.abc import Collection, Iterator
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, PositiveFloat, ValidationError

from wsol_utils.common.checks import one_of

T = TypeVar("T")


def injected(variables: dict) -> list[str]:
    """The names that papermill's cell of parameters assigns, from the kernel's list of executed cells."""
    cells = [source for source in variables.get("In", []) if source.startswith("# Parameters\n")]
    assigned = [line for line in ast.parse(cells[-1] if cells else "").body if isinstance(line, ast.Assign)]
    return [target.id for line in assigned for target in line.targets if isinstance(target, ast.Name)]


def among(what: str, choices: Collection[str]) -> AfterValidator:
    """A name must be one of these; an empty one stands for the usual one."""

    def check(name: str) -> str:
        if name:
            one_of(what, name, choices)
        return name

    return AfterValidator(check)


def pairs(value: Any) -> Any:
    """ "gap=1,wgap=2" -> {"gap": "1", "wgap": "2"}; what is no text stays as it is.

    Raises:
        ValueError: if a part of the text is no pair.
    """
    return dict(pair.split("=") for pair in value.split(",")) if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """ "0,1,2" -> ["0", "1", "2"]; a number alone is a list of one."""
    return value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value


def _nested(value: Any) -> Any:
    """ "has.side=24" -> {"has": {"side": 24}}; what is no literal of Python's stays text."""
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
Rates = Annotated[dict[str, PositiveFloat], BeforeValidator(pairs)]
Options = Annotated[dict[str, dict[str, Any]], BeforeValidator(_nested)]


def told(error: ValidationError) -> Iterator[str]:
    """Each thing that is wrong with a configuration, in a line."""
    for wrong in error.errors():
        name, *part = wrong["loc"] or ("",)
        where = f" for {part[0]}" if part and isinstance(part[0], str) else ""
        about = f"parameter {name} cannot be {wrong['input']!r}{where}: "
        said = wrong["msg"].removeprefix("Value error, ")
        yield said if said.startswith(("unknown ", "parameter ")) or not name else about + said
