"""Conditions: a JMESPath expression over an event, which decides whether an endpoint is owed it.

They are evaluated while an event is published, with the database's writer waiting, so each is bounded: what could make much
out of little (lists and objects put together of parts, expressions handed to functions) is refused when a condition is read,
and an evaluation has a number of steps.

The language is https://jmespath.org/specification.html; what counts as true is said there, too: everything but null, false,
and the empty text, list and object (so 0 is true).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import jmespath
from jmespath import exceptions, functions, lexer, visitor

from marzhook.errors import ConditionError, InvalidError
from marzhook.event import JSON

MAX_LENGTH: Final = 1000
"""Characters."""
MAX_DEPTH: Final = 40
"""Of the expression's parts within each other."""
MAX_STEPS: Final = 2000
"""Parts of the expression that are looked at for one event; one within `[*]` or `[?…]` counts for each element."""

(
    LENGTH, CONTROL, UNREADABLE, TOO_DEEP, NO_LITERAL, CUT_OFF, UNKNOWN, UNEXPECTED, NO_TEXT, NOT_HERE, NO_FUNCTION,
    WRONG_NUMBER,
) = CONDITION_PROBLEMS = (
    f"it must have 1 to {MAX_LENGTH} characters",
    "it contains control characters",
    "it cannot be read",
    f"it is nested more than {MAX_DEPTH} levels deep",
    "a list in […] may only hold texts and other literals, such as ['vip', 'test']",
    "it ends too early",
    "character %(position)s: what begins there with %(found)s cannot be read, or has no end",
    "character %(position)s: %(found)s is not possible there",
    "%(name)s is the name of a key; write a text as %(text)s",
    "%(part)s is not possible here",
    "there is no function %(name)s; there are %(known)s",
    "%(name)s takes another number of arguments: %(wanted)s, not %(given)s",
)  # fmt: skip
"""What a face has its own words for."""
_PARTS: Final = frozenset(
    {
        "and_expression", "comparator", "current", "field", "filter_projection", "flatten", "function_expression", "identity",
        "index", "index_expression", "literal", "multi_select_list", "not_expression", "or_expression", "pipe", "projection",
        "slice", "subexpression", "value_projection",
    }
)  # fmt: skip
ARGUMENTS: Final = {
    "abs": 1, "avg": 1, "ceil": 1, "contains": 2, "ends_with": 2, "floor": 1, "keys": 1, "length": 1, "max": 1, "min": 1,
    "not_null": None, "reverse": 1, "sort": 1, "starts_with": 2, "sum": 1, "to_array": 1, "to_number": 1, "to_string": 1,
    "type": 1, "values": 1,
}  # fmt: skip
"""Functions, and how many arguments they take; None: any number."""
_EMPTY: Final[tuple[Any, ...]] = ("", [], {})


class Condition:
    """An expression, read once."""

    def __init__(self, expression: str) -> None:
        """Raises InvalidError, with what is wrong and where."""
        try:
            _check_quotes(expression)
            self._tree: dict[str, Any] = jmespath.compile(expression).parsed
        except exceptions.JMESPathError as error:
            raise _unreadable(error, expression) from None
        except (ValueError, RecursionError):
            raise _invalid(UNREADABLE) from None
        for part, depth in _parts(self._tree):
            _check(part, depth)

    def holds(self, event: JSON) -> bool:
        """Whether the event (its object on the wire) meets it. Raises ConditionError where that cannot be told."""
        try:
            result = _Steps().visit(self._tree, event)
        except ConditionError:
            raise
        except exceptions.JMESPathTypeError as error:
            # Without the value: the log is not for what users are called, or have in their notes.
            raise ConditionError(
                f"{error.function_name}() got {error.actual_type}, and takes {' or '.join(error.expected_types)}"
            ) from None
        except Exception as error:
            raise ConditionError(f"it cannot be evaluated ({type(error).__name__})") from None
        return result is not None and result is not False and result not in _EMPTY


class _Steps(visitor.TreeInterpreter):  # type: ignore[misc] # of a library without types
    _OPTIONS = visitor.Options(custom_functions=functions.Functions())

    def __init__(self) -> None:
        super().__init__(self._OPTIONS)
        self._left = MAX_STEPS

    def visit(self, node: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ConditionError(f"it takes more than {MAX_STEPS} steps")
        return super().visit(node, *args, **kwargs)


def _invalid(reason: str, *, told: str = "", **values: str | int) -> InvalidError:
    """`told`: what is said in English, where that is more."""
    told = told or (reason % values if values else reason)
    return InvalidError(f"condition: {told}", code="invalid_condition", reason=reason, values=values)


def check_condition(expression: object) -> str:
    """Return an expression that can be used, or raise InvalidError with what is wrong and where."""
    if not isinstance(expression, str) or not 1 <= len(expression) <= MAX_LENGTH:
        raise _invalid(LENGTH)
    if any(ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in expression):
        raise _invalid(CONTROL)
    Condition(expression)
    return expression


def _check_quotes(expression: str) -> None:
    """`status == "active"` compares two keys. Nobody means that, and nothing would ever say so."""
    compared = False
    for token in lexer.Lexer().tokenize(expression):
        if compared and token["type"] == "quoted_identifier":
            raise _invalid(NO_TEXT, name=f'"{token["value"]}"', text=f"'{token['value']}'")
        compared = token["type"] in ("eq", "ne")


def _parts(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """All parts of an expression, and how deep they are. A slice's children are numbers."""
    waiting = [(tree, 1)]
    while waiting:
        part, depth = waiting.pop()
        yield part, depth
        waiting += [(child, depth + 1) for child in part["children"] if isinstance(child, dict)]


def _check(part: dict[str, Any], depth: int) -> None:
    kind, children = part["type"], part["children"]
    if depth > MAX_DEPTH:
        raise _invalid(TOO_DEEP)
    if kind == "multi_select_list" and any(child["type"] != "literal" for child in children):
        raise _invalid(NO_LITERAL)
    if kind not in _PARTS:
        sign, told = {
            "multi_select_dict": ("{…}", "an object in {…}"),
            "expref": ("&…", "an expression as an argument (&…)"),
        }.get(kind, (kind, kind))
        raise _invalid(NOT_HERE, told=f"{told} is not possible here", part=sign)
    if kind == "function_expression":
        wanted = ARGUMENTS.get(part["value"], -1)
        if wanted == -1:
            raise _invalid(NO_FUNCTION, name=f"{part['value'][:60]}()", known=", ".join(sorted(ARGUMENTS)))
        if wanted is not None and len(children) != wanted:
            told = f"{part['value']}() takes {wanted} argument{'s' if wanted > 1 else ''}, not {len(children)}"
            raise _invalid(WRONG_NUMBER, told=told, name=f"{part['value']}()", wanted=wanted, given=len(children))


def _unreadable(error: exceptions.JMESPathError, expression: str) -> InvalidError:
    """The library's words, on one line, without the drawing of where, which is said; and ours for its kinds of error."""
    told = " ".join(str(error).split("\n")[0].removeprefix("Invalid jmespath expression: ").split())[:200]
    at = getattr(error, "lex_position", None)
    if isinstance(error, exceptions.IncompleteExpressionError):
        return _invalid(CUT_OFF, told=told)
    if not isinstance(at, int):
        return _invalid(UNREADABLE, told=told)
    told += f" (character {at + 1})"
    if isinstance(error, exceptions.LexerError):
        return _invalid(UNKNOWN, told=told, position=at + 1, found=expression[at : at + 1])
    return _invalid(UNEXPECTED, told=told, position=at + 1, found=str(error.token_value)[:60])
