"""Templates: text that people write, with an event put into it. In Jinja's words, but of the language only what always ends.

A template is rendered on the dispatcher's one thread, so no template may take long or make much, whoever wrote it. Jinja's own
sandbox guards Python's inside and says so: it bounds neither time nor memory. Three things do here:

- What is not listed is refused when the template is read: no macros, blocks, includes or captured output, no calls and so no
  methods, no `**`. What is left are loops, conditions, `set`, filters and operators.
- Values are JSON's alone. A dot reads a key of an object, never an attribute of Python's.
- Each loop, filter, operator and output pays beforehand from the render's budget for all that it will touch. What is made
  (`~`, `join`, `replace` …) is paid for as well, so nothing can grow beyond it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final

from jinja2 import TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from marzhook.destinations.values import FILTERS, TESTS, Written, json_text
from marzhook.errors import InvalidError, RenderError

MAX_SOURCE: Final = 16 * 1024
"""Characters of a template."""
MAX_OUTPUT: Final = 512 * 1024
"""Characters that a template may make: room for the largest event, written twice."""
STEPS: Final = 20_000
"""What a render may spend: a value touched costs one, and one more for every 64 characters of it. About a microsecond each."""
MAX_BITS: Final = 1024
"""Of a whole number that is made: to multiply longer ones takes longer than their length says."""
_LOOP_ATTRIBUTES: Final = frozenset(
    {"index", "index0", "revindex", "revindex0", "first", "last", "length", "previtem", "nextitem"}
)
_LANGUAGE: Final = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign, nodes.CondExpr,
    nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword,
    nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand, nodes.Concat,
    nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos,
    nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod,
)  # fmt: skip
(
    LENGTH, CONTROL, COMPLICATED, UNREADABLE, CUT_OFF, UNEXPECTED, MISPLACED, NO_TAG, NOT_HERE, NO_CALL, NO_POWER, RECURSIVE,
    FILTER_FORM, NO_FILTER, NO_TEST, ONLY_WEBHOOKS, TOO_LONG, TOO_SLOW, NO_VALUE, NO_NUMBERS, TOO_LARGE, NO_LOOP, FAILED,
) = TEMPLATE_PROBLEMS = (
    f"it must have 1 to {MAX_SOURCE} characters",
    "it contains control characters",
    "it is too complicated",
    "it cannot be read",
    "it ends too early",
    "%(found)s is not possible there",
    "%(found)s stands where %(expected)s is expected",
    "there is no tag %(name)s",
    "%(part)s is not possible here",
    "nothing can be called; use filters, such as {{ user.note|upper }}",
    "there is no **",
    "a loop cannot be recursive",
    "filters stand behind a value, and take no *",
    "there is no filter %(name)s; there are %(known)s",
    "there is no such test; there are %(known)s",
    "only webhooks have one",
    f"it makes more than {MAX_OUTPUT} characters",
    "it takes too long: fewer or shorter loops are needed",
    "%(kind)s cannot be used as a value",
    "%(operator)s wants two numbers; ~ puts texts together",
    "a number becomes too large",
    "a loop wants a list or an object",
    "it cannot be made for this event",
)  # fmt: skip
"""What a face has its own words for."""
_SAID: Final = {nodes.Call: NO_CALL, nodes.Pow: NO_POWER}
_CUT_OFF: Final = re.compile(r"(?i)unexpected '?end of template|missing end of")
_FOUND: Final = (
    (re.compile(r"""expected token ["'](?P<expected>.+?)["'], got ["'](?P<found>.+)["']"""), MISPLACED),
    (re.compile(r"""unexpected ["'](?P<found>.+?)["'], expected ["'](?P<expected>.+)["']"""), MISPLACED),
    (re.compile(r"""unknown tag ["'](?P<name>.+?)["']"""), NO_TAG),
    (re.compile(r"""(?:[Uu]nexpected|got)(?: char)? ["'](?P<found>.+?)["'](?: at \d+)?$"""), UNEXPECTED),
)
"""Jinja's kinds of error, by its messages, the most exact first."""
_SORTS: Final = frozenset({"name", "string", "integer", "float"})
"""What Jinja expects and cannot be shown as it is written."""
_SIGNS: Final = {
    "begin of print statement": "{{", "end of print statement": "}}", "begin of statement block": "{%",
    "end of statement block": "%}", "begin of comment": "{#", "end of comment": "#}",
}  # fmt: skip
"""What Jinja has names for."""


class Template:
    """A template, compiled once. `render` may be called from several threads at a time."""

    def __init__(
        self,
        source: str,
        *,
        written: Callable[[Any], str] = json_text,
        filters: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        """`written` is how a value becomes text where it is put out (`values.py`). `filters` are further ones: of JSON values,
        without effects, and no slower than what they are given is long.

        Raises InvalidError, with the line and what is wrong there.
        """
        _check_source(source)
        environment = _Environment(written, {**FILTERS, **(filters or {})})
        try:
            tree = _Checked(environment).visit(environment.parse(source))
            self._template = environment.from_string(tree)
        except TemplateSyntaxError as error:
            raise _unreadable(error) from None
        except Exception as error:
            # What Python makes of loops within loops within loops, or of a hundred brackets; and whatever else Jinja raises.
            raise InvalidError(
                f"template: it is too complicated ({type(error).__name__}: {error})",
                code="invalid_template",
                reason=COMPLICATED,
            ) from None

    def render(self, values: Mapping[str, Any], *, steps: int = STEPS) -> str:
        """The text that these values (JSON's) make. Raises RenderError, with the line and the reason."""
        parts: list[str] = []
        size = 0
        try:
            context = self._template.new_context(dict(values))
            assert isinstance(context, _Context)
            context.left = steps
            for part in self._template.root_render_func(context):
                size += len(part)
                if size > MAX_OUTPUT:
                    raise RenderError(TOO_LONG, reason=TOO_LONG)
                parts.append(part)
        except Exception as error:
            told = str(error) if isinstance(error, RenderError) else f"{type(error).__name__}: {error}"
            ours = error if isinstance(error, RenderError) else RenderError("", reason=FAILED)
            line = self._line(error.__traceback__)
            raise RenderError(
                f"template, line {line}: {told[:300]}", reason=ours.reason, values={**ours.values, "line": line}
            ) from None
        return "".join(parts)

    def _line(self, traceback: TracebackType | None) -> int:
        line = 1
        while traceback is not None:
            if traceback.tb_frame.f_globals.get("environment") is self._template.environment:
                line = self._template.get_corresponding_lineno(traceback.tb_lineno)
            traceback = traceback.tb_next
        return line


def check_template(source: object) -> str:
    """Return a template that can be rendered, or raise InvalidError with the line and what is wrong there."""
    if not isinstance(source, str):
        raise InvalidError("template must be a text", code="invalid_template")
    Template(source)
    return source


def _check_source(source: object) -> None:
    if not isinstance(source, str) or not 1 <= len(source) <= MAX_SOURCE:
        raise InvalidError(f"template must have 1 to {MAX_SOURCE} characters", code="invalid_template", reason=LENGTH)
    if any((ord(c) < 32 and c not in "\t\r\n") or 0xD800 <= ord(c) <= 0xDFFF for c in source):
        raise InvalidError("template contains control characters", code="invalid_template", reason=CONTROL)


class _Context(Context):
    """What one render knows, and what it has left to spend."""

    left = 0

    def pay(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise RenderError(TOO_SLOW, reason=TOO_SLOW)

    def weigh(self, value: Any) -> None:
        """Pay for all that is in a value, however often the same is in it. What is no JSON is refused."""
        values = [value]
        while values:
            one = values.pop()
            self.pay(1)
            if isinstance(one, str):
                self.pay(len(one) >> 6)
            elif isinstance(one, list | tuple):
                self.pay(len(one) >> 2)
                values.extend(one)
            elif isinstance(one, dict):
                self.pay(len(one) >> 2)
                values.extend(one)
                values.extend(one.values())
            elif isinstance(one, int):
                self.pay(one.bit_length() >> 6)
            elif not (one is None or isinstance(one, float | Undefined)):
                kind = {"kind": type(one).__name__}
                raise RenderError(NO_VALUE % kind, reason=NO_VALUE, values=kind)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    context_class = _Context

    def __init__(self, written: Callable[[Any], str], filters: Mapping[str, Callable[..., Any]]) -> None:
        # Nothing is evaluated while it compiles: there is no budget then.
        super().__init__(optimized=False, trim_blocks=True, lstrip_blocks=True, cache_size=0)
        self.globals = {}
        self.filters = {name: _paid(function) for name, function in filters.items()}
        self.offered = frozenset(self.filters)
        self.filters |= {"weighed": _weighed, "looped": _looped, "concatenated": _concatenated}
        self.tests = dict(TESTS)
        self.finalize = pass_context(partial(_put_out, written))

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, LoopContext) and attribute in _LOOP_ATTRIBUTES:
            return getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, dict) and isinstance(argument, str | int):
            return obj[argument] if argument in obj else self.undefined(name=str(argument))
        if isinstance(obj, list | tuple | str) and isinstance(argument, int) and -len(obj) <= argument < len(obj):
            return obj[argument]
        # Also of what is not there: a missing user's note is missing, too.
        return self.undefined(name=str(argument)[:100])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        assert isinstance(context, _Context)
        context.weigh([left, right])
        texts = isinstance(left, str) and isinstance(right, str)
        if not (isinstance(left, int | float) and isinstance(right, int | float)) and not (texts and operator == "+"):
            raise RenderError(
                f"{operator} wants two numbers, not {_kind(left)} and {_kind(right)}; ~ puts texts together",
                reason=NO_NUMBERS,
                values={"operator": operator},
            )
        result = self.binop_table[operator](left, right)
        if isinstance(result, int) and result.bit_length() > MAX_BITS:
            raise RenderError(TOO_LARGE, reason=TOO_LARGE)
        context.weigh(result)
        return result

    def call(self, *_args: Any, **_values: Any) -> Any:
        # None is left in the tree; were there one, it would end here.
        raise RenderError(NO_CALL, reason=NO_CALL)


class _Refused(TemplateSyntaxError):
    """What Jinja knows and this language has not, in our words."""

    def __init__(self, node: nodes.Node, reason: str, **values: str) -> None:
        super().__init__(reason % values if values else reason, node.lineno)
        self.reason, self.values = reason, values


def _unreadable(error: TemplateSyntaxError) -> InvalidError:
    """What is wrong, in Jinja's words, and in ours for its kinds of error."""
    message = error.message or ""
    values: dict[str, str]
    if isinstance(error, _Refused):
        reason, values = error.reason, error.values
    elif _CUT_OFF.search(message):
        reason, values = CUT_OFF, {}
    else:
        kinds = ((pattern.search(message), words) for pattern, words in _FOUND)
        found, reason = next(((one, words) for one, words in kinds if one), (None, UNREADABLE))
        values = {name: _SIGNS.get(text, text)[:60] for name, text in found.groupdict().items()} if found else {}
        if values.get("expected") in _SORTS:
            reason = UNEXPECTED
    told = f"template, line {error.lineno}: {message}"
    return InvalidError(told, code="invalid_template", reason=reason, values={**values, "line": error.lineno})


class _Checked(NodeTransformer):
    """Refuses what the language does not have, and lets the rest pay: raises TemplateSyntaxError."""

    def __init__(self, environment: _Environment) -> None:
        self._offered, self._tests = environment.offered, environment.tests

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if type(node) not in _LANGUAGE:
            said = next((text for kind, text in _SAID.items() if isinstance(node, kind)), None)
            raise _Refused(node, said) if said else _Refused(node, NOT_HERE, part=type(node).__name__)
        return super().visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise _Refused(node, RECURSIVE)
        # Each round pays for all that is written in the loop.
        size = nodes.Const(sum(1 for _ in node.find_all(nodes.Node)), lineno=node.lineno)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "looped", [size])
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        if node.node is None or node.dyn_args is not None or node.dyn_kwargs is not None:
            raise _Refused(node, FILTER_FORM)
        if node.name not in self._offered:
            raise _Refused(node, NO_FILTER, name=node.name[:60], known=", ".join(sorted(self._offered)))
        return self.generic_visit(node)

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        if node.name not in self._tests or node.args or node.kwargs or node.dyn_args or node.dyn_kwargs:
            raise _Refused(node, NO_TEST, known=", ".join(sorted(self._tests)))
        return self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "concatenated", [])

    def _weighed(self, node: nodes.Node) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "weighed", [])

    visit_List = visit_Dict = _weighed

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self.generic_visit(node) if node.ctx != "load" else self._weighed(node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered(node.node, "weighed", [])
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filtered(node.expr, "weighed", [])
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "weighed", [])
        return node


def _filtered(node: nodes.Node, name: str, args: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(node, name, args, [], None, None, lineno=node.lineno)


@pass_context
def _weighed(context: _Context, value: Any) -> Any:
    context.weigh(value)
    return value


@pass_context
def _looped(context: _Context, value: Any, size: int) -> Any:
    if value is None or isinstance(value, Undefined):
        return ()
    if not isinstance(value, list | tuple | dict):
        raise RenderError(f"a loop wants a list or an object, not {_kind(value)}", reason=NO_LOOP)
    context.pay(len(value) * (1 + size))
    return value


@pass_context
def _concatenated(context: _Context, values: list[Any]) -> str:
    context.weigh(values)
    return "".join(
        "" if v is None or isinstance(v, Undefined) else v if isinstance(v, str) else json_text(v) for v in values
    )


def _paid(function: Callable[..., Any]) -> Callable[..., Any]:
    def filtered(context: _Context, *args: Any, **kwargs: Any) -> Any:
        context.weigh([*args, *kwargs.values()])
        result = function(*args, **kwargs)
        context.weigh(result)
        return result

    return pass_context(filtered)


def _put_out(written: Callable[[Any], str], context: _Context, value: Any) -> str:
    context.weigh(value)
    if isinstance(value, Written):
        return value
    return written(None if isinstance(value, Undefined) else value)


def _kind(value: Any) -> str:
    if value is None or isinstance(value, Undefined):
        return "nothing"
    names = {bool: "true or false", str: "a text", dict: "an object", list: "a list", tuple: "a list"}
    return names.get(type(value), "a number")
