"""Two tools for experts: a calculator over exact numbers, and a checker of one step of arithmetic.

Both read text that a model wrote. It is parsed and never run: of Python's syntax tree only numbers, ``+ - * /``, signs
and parentheses are followed, and a text of at most ``LONGEST`` characters cannot make a number that takes long.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from fractions import Fraction

from smolagents import Tool

LONGEST = 200  # characters of an expression or a step
SIGNS = str.maketrans("×÷−·", "*/-*")
NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(?:\s*([a-z]+(?: [a-z]+)*))?", re.IGNORECASE)  # and the unit behind it
LEFT = re.compile(r"\(left: ([^()]*)\)\s*$")


@dataclass(frozen=True)
class Quantity:
    """A number and the units that it may be in; None where no unit is written, which goes with every unit. The empty
    text is the unit of a plain number, as of apples per apples."""

    value: Fraction
    units: frozenset[str] | None = None


def calculate(expression: str) -> str:
    """The exact value of ``expression``, such as ``(8 - 2) * 3/4``, as a whole number, a decimal where decimals are
    written and end, or a fraction such as ``8/3``. Raises ValueError, in one sentence, for what is no arithmetic."""
    found = quantity(expression)
    if found.units is not None:
        raise ValueError(f"the calculator takes numbers without units; leave out {_named(found.units)}")
    return _text(found.value, "." in expression)


def check_step(step: str) -> str:
    """Whether one step such as ``3 * 4 = 12 apples`` or ``10 - 4 = 6 (left: 5 6 6)`` is right: ``right``, or
    ``wrong: `` and what it should be.

    Units that are written must go together: those of a sum are the same, a product has one of its factors' (3 boxes of
    4 apples are apples), a quotient that of its dividend, or none where both are the same. The result has to stand
    among the numbers that are left. Raises ValueError, in one sentence, for what is no step.
    """
    _check_length(step)
    listed = LEFT.search(step)
    sides = (step[: listed.start()] if listed else step).split("=")
    if len(sides) != 2:
        raise ValueError("a step has one equals sign, such as 3 * 4 = 12 apples")
    decimal = "." in step
    try:
        left, right = map(quantity, sides)
    except _Units as error:
        return f"wrong: {error}"
    if left.value != right.value:
        return f"wrong: {sides[0].strip()} is {_text(left.value, decimal)}, not {_text(right.value, decimal)}"
    if left.units is not None and right.units is not None and not left.units & right.units:
        return f"wrong: the left side is in {_named(left.units)}, the right side in {_named(right.units)}"
    if listed and right.value not in [quantity(number).value for number in listed[1].split()]:
        return f"wrong: {_text(right.value, decimal)} is not among the numbers left"
    return "right"


def quantity(text: str) -> Quantity:
    """The value of an expression whose numbers may have units: ``3 boxes * 4 apples``."""
    _check_length(text)
    units: dict[int, str] = {}  # by where the number stands
    written: dict[int, Fraction] = {}

    def bare(found: re.Match[str]) -> str:
        written[found.start()] = Fraction(found[1])
        if found[2]:
            units[found.start()] = " ".join(map(_singular, found[2].lower().split()))
        return "0".ljust(len(found[0]))  # the value is kept as it was written: Python's would be a float

    text = text.translate(SIGNS).strip()
    plain = NUMBER.sub(bare, text)
    try:
        tree = ast.parse(plain, mode="eval").body if plain else None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        tree = None

    def value(node: ast.expr | None) -> Quantity:
        match node:
            case ast.Constant(col_offset=at, end_col_offset=end) if at in written and end == at + 1:  # no 1_0
                return Quantity(written[at], frozenset({units[at]}) if at in units else None)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=inner):
                found = value(inner)
                return Quantity(-found.value if isinstance(node.op, ast.USub) else found.value, found.units)
            case ast.BinOp(left=a, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as op, right=b):
                return _combined(value(a), op, value(b))
        raise ValueError(f"{_short(text)} is no arithmetic; write numbers, + - * / and parentheses")

    return value(tree)


class _Units(ValueError):
    """Units that do not go together."""


def _combined(a: Quantity, op: ast.operator, b: Quantity) -> Quantity:
    if isinstance(op, ast.Add | ast.Sub):
        both = a.units if b.units is None else b.units if a.units is None else a.units & b.units
        if both is not None and not both:
            raise _Units(f"{_named(a.units or ())} and {_named(b.units or ())} do not add up")
        return Quantity(a.value + b.value if isinstance(op, ast.Add) else a.value - b.value, both)
    same = a.units is not None and b.units is not None and a.units & b.units - {""}
    if isinstance(op, ast.Mult):
        if same:
            raise _Units(f"{_named(same)} times {_named(same)} is not {_named(same)}")
        both = None if a.units is None and b.units is None else (a.units or frozenset()) | (b.units or frozenset())
        return Quantity(a.value * b.value, both)
    if b.value == 0:
        raise ValueError("division by zero")
    return Quantity(a.value / b.value, frozenset({""}) if same else a.units)


def _check_length(text: str) -> None:
    if len(text) > LONGEST:
        raise ValueError(f"the text has {len(text)} characters; write at most {LONGEST}")


def _singular(word: str) -> str:
    """Equal for a word's singular and plural."""
    for ending, single in (("ies", "y"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss")):
        if word.endswith(ending):
            return word.removesuffix(ending) + single
    return word if word.endswith("ss") else word.removesuffix("s")


def _named(units: frozenset[str] | tuple[()]) -> str:
    return " or ".join(unit or "plain numbers" for unit in sorted(units))


def _text(value: Fraction, decimal: bool) -> str:
    places = 0
    if decimal:
        rest = value.denominator
        while rest % 2 == 0 or rest % 5 == 0:
            rest = rest // 10 if rest % 10 == 0 else rest // 2 if rest % 2 == 0 else rest // 5
            places += 1
        if rest == 1 and places:
            whole = f"{abs(value * 10**places).numerator:0{places + 1}d}"
            return f"{'-' if value < 0 else ''}{whole[:-places]}.{whole[-places:]}"
    return str(value)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


# -- as tools of smolagents: what they raise becomes text that the model reads ---------------------------------


class Calculator(Tool):
    name = "calculator"
    description = "Computes an expression exactly, such as (8 - 2) * 3/4."
    inputs = {
        # EngineModel holds a model to the pattern while it writes
        "expression": {
            "type": "string",
            "description": "numbers, + - * / and parentheses",
            "pattern": r"^[0-9 .+*/()-]{1,100}$",
        }
    }
    output_type = "string"

    def forward(self, expression: str) -> str:
        return calculate(expression)


class CheckArithmetic(Tool):
    name = "check_arithmetic"
    description = "Says whether one step is right, such as 3 * 4 = 12 apples or 10 - 4 = 6 (left: 5 6 6)."
    inputs = {"step": {"type": "string", "description": "one step with its result", "maxLength": 100}}
    output_type = "string"

    def forward(self, step: str) -> str:
        return check_step(step)
