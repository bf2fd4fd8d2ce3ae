"""The bridge between option classes and command lines: flags from fields, and fields from what was parsed.

How a field is spelled, by entries of its metadata (`sigma_video.options.option`):

- `names`: all spellings, instead of `--NAME`.
- `metavar`: what its value is called in the help.
- `switch`: for a bool. "on" (default): `--NAME` turns it on; "pair": `--NAME` and `--no-NAME`; "value": `--NAME True`;
  "optional value": that, or `--NAME` alone.
- `off`: another flag, which turns it off; `off_help`: its help (none: it is not shown).
- `hidden`: true for a flag that the help does not show.

The help ends with the default, unless the field's own text gives it or there is nothing to show.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from sigma_video.options import flag_of

T = TypeVar("T")
_WORDS = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}


def on_off(text: str) -> bool:
    """Value of a flag that the released scripts spell `--flag True`."""
    if text.lower() not in _WORDS:
        raise argparse.ArgumentTypeError(f"{text!r}: use True or False")
    return _WORDS[text.lower()]


def build_parser(cls: type) -> argparse.ArgumentParser:
    """The command line of a configuration: a group of flags for each of its option classes."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=(cls.__doc__ or "").strip())
    add_flags(parser, cls)
    return parser


def parse(cls: type[T], argv: Sequence[str] | None = None) -> T:
    """A configuration from a command line; `argv` None: that of this process.

    Raises:
        OptionError: values, or combinations of them, that no run can use.
        SystemExit: no such flag, or a value of the wrong type (argparse says which).
    """
    return from_args(cls, build_parser(cls).parse_args(argv))


def add_flags(parser: argparse.ArgumentParser, cls: type) -> None:
    """Add the flags of a configuration, a class whose fields are option classes made by `group`, or single options."""
    kinds = typing.get_type_hints(cls)
    for part in dataclasses.fields(cls):
        kind = kinds[part.name]
        if not dataclasses.is_dataclass(kind):
            _add_flag(parser, part, kind, {})
            continue
        group = parser.add_argument_group(part.metadata["title"])
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.metadata.get("help") and flag_of(field) not in part.metadata["without"]:
                _add_flag(group, field, hints[field.name], part.metadata["defaults"])


def from_args(cls: type[T], namespace: argparse.Namespace) -> T:
    """A configuration from parsed flags.

    Raises:
        OptionError: values, or combinations of them, that no run can use.
    """
    return _make(cls, {name: tuple(v) if isinstance(v, list) else v for name, v in vars(namespace).items()})


def _make(cls: type[T], given: dict[str, Any]) -> T:
    """The class with what is given of its fields, by flag; classes among its fields are made likewise."""
    kinds = typing.get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(kinds[field.name]):
            values[field.name] = _make(kinds[field.name], given)
        elif flag_of(field) in given:
            values[field.name] = given[flag_of(field)]
    return cls(**values)


def _add_flag(group: argparse._ActionsContainer, field: dataclasses.Field, hint: Any, defaults: dict[str, Any]) -> None:
    meta, name = field.metadata, flag_of(field)
    default = defaults.get(name, field.default)
    names = meta.get("names", (f"--{name}",))
    text = argparse.SUPPRESS if meta.get("hidden") else meta["help"] + _shown(default, meta["help"])
    options: dict[str, Any] = {"dest": name, "help": text}
    if default is dataclasses.MISSING:
        options["required"] = True
    else:
        options["default"] = list(default) if isinstance(default, tuple) else default
    options |= _spelling(hint, meta)
    group.add_argument(*names, **options)
    if "off" in meta:
        text = meta.get("off_help", argparse.SUPPRESS)
        group.add_argument(meta["off"], action="store_false", dest=name, default=default, help=text)


def _shown(default: Any, text: str) -> str:
    """The default as the end of a help text; nothing where there is none, or where the text names it."""
    if default in (dataclasses.MISSING, None, "") or isinstance(default, bool) or "default" in text:
        return ""
    values = default if isinstance(default, tuple | list) else (default,)
    words = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return f" (default: {' '.join(words)})"


def _spelling(hint: Any, meta: Any) -> dict[str, Any]:
    """argparse's action, type and number of values for a field of this type."""
    kind = _without_none(hint)
    if kind is bool:
        switch = meta.get("switch", "on")
        if switch == "on":
            return {"action": "store_true"}
        if switch == "pair":
            return {"action": argparse.BooleanOptionalAction}
        optional = {"nargs": "?", "const": True} if switch == "optional value" else {}
        return {"type": on_off, "metavar": "True|False", **optional}
    spelling: dict[str, Any] = {name: meta[name] for name in ("choices", "metavar") if meta.get(name) is not None}
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        spelling["nargs"] = "+" if items[-1] is Ellipsis else len(items)
        kind = items[0]
    return {"type": kind, **spelling}


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint
