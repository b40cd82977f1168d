"""The grammar of PTX, as far as inline assembly uses it: scopes, declarations, labels, predicates, operands."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .header import split


@dataclass(frozen=True)
class Number:  # of an operand of the inline assembly: %3
    index: int


@dataclass(frozen=True)
class Register:
    name: str


@dataclass(frozen=True)
class Special:  # %%cluster_ctarank
    name: str


@dataclass(frozen=True)
class Immediate:
    value: int


@dataclass(frozen=True)
class Sink:  # _
    pass


@dataclass(frozen=True)
class Pair:  # d|p
    first: Term
    second: Term


@dataclass(frozen=True)
class Vector:  # {a, b}
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Address:  # [a], or of a tensor [map, {coordinates}]
    terms: tuple[Term, ...]


Term = Number | Register | Special | Immediate | Sink | Pair | Vector | Address


@dataclass(frozen=True)
class Guard:
    register: str
    negated: bool


@dataclass(frozen=True)
class Instruction:
    opcode: str  # up to the first modifier
    modifiers: tuple[str, ...]
    terms: tuple[Term, ...]
    guard: Guard | None

    @property
    def name(self) -> str:
        return ".".join((self.opcode, *self.modifiers))


@dataclass(frozen=True)
class Program:
    instructions: tuple[Instruction, ...]
    registers: dict[str, str]  # declared: name to type
    labels: dict[str, int]  # name to the instruction that follows


def parse_term(text: str, registers: dict[str, str]) -> Term:
    if text == "_":
        return Sink()
    if text[0] in "{[":
        assert text[-1] == {"{": "}", "[": "]"}[text[0]], text
        terms = tuple(parse_term(part, registers) for part in split(text[1:-1], ","))
        return Vector(terms) if text[0] == "{" else Address(terms)
    if "|" in text:
        first, second = text.split("|")
        return Pair(parse_term(first, registers), parse_term(second, registers))
    if re.fullmatch(r"%\d+", text):
        return Number(int(text[1:]))
    if re.fullmatch(r"%%\w+", text):
        return Special(text[2:])
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)", text):
        return Immediate(int(text, 0))
    assert text in registers, f"{text!r} is not declared"
    return Register(text)


def parse(text: str) -> Program:
    """Raises AssertionError where it is not PTX, or not PTX that is known here."""
    text = text.strip()
    if text.startswith("{"):
        assert text.endswith("}"), text
        text = text[1:-1]
    instructions: list[Instruction] = []
    registers: dict[str, str] = {}
    labels: dict[str, int] = {}
    *statements, rest = split(text, ";")
    assert rest == "", f"no semicolon behind {rest!r}"
    for statement in statements:
        while label := re.match(r"(\w+):(?!:)\s*", statement):
            labels[label.group(1)] = len(instructions)
            statement = statement[label.end() :]
        if declaration := re.fullmatch(r"\.reg \.(\w+) (\w+)", statement):
            registers[declaration.group(2)] = declaration.group(1)
            continue
        guard = re.match(r"@(!?)(\w+)\s+", statement)
        if guard:
            assert registers.get(guard.group(2)) == "pred", f"{guard.group(2)} is no predicate"
            statement = statement[guard.end() :]
        name, _, operands = statement.partition(" ")
        opcode, *modifiers = name.split(".")
        terms: tuple[Term, ...] = ()
        if opcode == "bra":
            assert operands.strip() in labels, f"no label {operands!r}"
            modifiers = [operands.strip()]
        elif operands:
            terms = tuple(parse_term(part, registers) for part in split(operands, ","))
        instructions.append(
            Instruction(opcode, tuple(modifiers), terms, Guard(guard.group(2), bool(guard.group(1))) if guard else None)
        )
    return Program(tuple(instructions), registers, labels)
