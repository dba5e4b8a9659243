"""Every public name of magenta/mt3 is here, with its signature.

`tests/support/public_names.txt` lists them. Ours may have further keyword parameters
and fields with defaults, after the original's.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import note_seq
import numpy as np
import pytest
import seqio
from flax import linen as nn

import gin
from mt3 import decoding

LIST = pathlib.Path(__file__).parent / "support" / "public_names.txt"
MISSING = inspect.Parameter.empty


def entries() -> dict[str, list[str]]:
    """The lines of each module; those of a class follow it, indented."""
    found: dict[str, list[str]] = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line.startswith("module "):
            lines = found.setdefault(line.removeprefix("module "), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return found


ENTRIES = entries()
NAMES = [
    (module, number, " ".join(line.split("(")[0].split()[:2]))
    for module, lines in ENTRIES.items()
    for number, line in enumerate(lines)
    if not line.startswith(" ")
]


def parameters(text: str) -> list[tuple[str, str | None, bool]]:
    """Names, sources of the defaults, and whether by keyword only, of `f(...)`."""
    (function,) = ast.parse(f"def {text}: ...").body
    arguments = function.args
    plain = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    found = [(a.arg, d, False) for a, d in zip(plain, defaults, strict=True)]
    if arguments.vararg:
        found.append((arguments.vararg.arg, None, False))
    found += [
        (a.arg, d, True)
        for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return [(name, d and ast.unparse(d), only) for name, d, only in found]


def evaluate(source: str, module: Any) -> Any:
    """The value of a default."""
    names = {
        **{name: getattr(module, name) for name in dir(module)},
        "dataclasses": dataclasses,
        "decoding": decoding,
        "gin": gin,
        "jnp": jnp,
        "nn": nn,
        "note_seq": note_seq,
        "seqio": seqio,
        "spectrograms": importlib.import_module("mt3.spectrograms"),
        "vocabularies": importlib.import_module("mt3.vocabularies"),
    }
    return eval(source, names)  # noqa: S307


def is_same(found: Any, wanted: Any) -> bool:
    """Whether two defaults are equal; initialisers, whether they draw the same."""
    if found is wanted:
        return True
    if callable(wanted) and callable(found) and not isinstance(wanted, type):
        key, shape = jax.random.key(0), (6, 8)
        draws = [np.asarray(f(key, shape, jnp.float32)) for f in (found, wanted)]
        return np.array_equal(*draws)
    if isinstance(wanted, np.ndarray | jax.Array):
        return np.array_equal(found, wanted)
    if wanted is jnp.float32:
        return jnp.dtype(found) == jnp.float32
    return type(found) is type(wanted) and found == wanted


def check_parameters(found: list[Any], wanted: str, module: Any) -> None:
    """Compares `inspect.Parameter`s with the text of a signature."""
    expected = parameters(wanted)
    names = [p.name for p in found]
    assert names[: len(expected)] == [name for name, _, _ in expected]
    for parameter, (_, default, only) in zip(found, expected, strict=False):
        assert (parameter.kind is parameter.KEYWORD_ONLY) == only, parameter
        if default is None:
            assert parameter.default is MISSING, parameter
        else:
            assert is_same(parameter.default, evaluate(default, module)), parameter
    for parameter in found[len(expected) :]:
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        assert variable or parameter.default is not MISSING, parameter


def check_fields(cls: type, wanted: list[str], module: Any) -> None:
    """Compares the fields of a dataclass with lines such as `size = 3`."""
    names = [line.split(" = ")[0] for line in wanted]
    if not dataclasses.is_dataclass(cls):
        found = list(inspect.signature(cls).parameters.values())
        check_parameters(found, f"f({', '.join(wanted)})", module)
        return
    found = list(dataclasses.fields(cls))
    if issubclass(cls, nn.Module):
        found = [field for field in found if field.name not in ("parent", "name")]
    assert [field.name for field in found][: len(names)] == names
    for field, line in zip(found, wanted, strict=False):
        _, _, source = line.partition(" = ")
        if not source:
            assert field.default is dataclasses.MISSING, line
            assert field.default_factory is dataclasses.MISSING, line
            continue
        default = evaluate(source, module)
        if isinstance(default, dataclasses.Field):
            assert field.init == default.init, line
            if default.init:
                factory = field.default_factory
                if factory is dataclasses.MISSING:  # A descriptor makes it.
                    value = getattr(cls(), field.name)
                else:
                    value = factory()
                assert value == default.default_factory(), line
        else:
            assert is_same(field.default, default), line
    for field in found[len(names) :]:
        defaults = (field.default, field.default_factory)
        assert defaults != (dataclasses.MISSING, dataclasses.MISSING), field


def test_the_list_is_whole():
    assert len(ENTRIES) == 18
    assert len(NAMES) == 163


@pytest.mark.parametrize(
    ("name", "number", "line"), NAMES, ids=[f"{m}: {line}" for m, _, line in NAMES]
)
def test_name(name, number, line):
    module = importlib.import_module(f"mt3.{name}")
    lines = ENTRIES[name]
    kind, text = lines[number].split(" ", 1)
    found = getattr(module, text.split("(")[0])
    if kind == "def":
        check_parameters(
            list(inspect.signature(found).parameters.values()), text, module
        )
    if kind != "class":
        return
    members = []
    for member in lines[number + 1 :]:
        if not member.startswith(" "):
            break
        members.append(member.strip().split(" ", 1))
    fields = [text for kind, text in members if kind == "field"]
    if fields:
        check_fields(found, fields, module)
    for kind, text in members:
        if kind == "property":
            value = inspect.getattr_static(found, text)
            assert isinstance(value, property) or not callable(value), text
        elif kind == "def":
            method = getattr(found, text.split("(")[0])
            _, *rest = inspect.signature(method).parameters.values()
            check_parameters(rest, text, module)
