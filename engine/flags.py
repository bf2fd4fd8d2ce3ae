"""The bridge between option classes and command lines: flags from fields, and fields from what was parsed.

How a field is spelled, by entries of its metadata (`sigma_video.options.option`):

- `names`: all spellings, instead of `--NAME`.
- `metavar`: what its value is called in the help.
- `switch`: for a bool. "on" (default): `--NAME` turns it on; "pair": `--NAME` and `--no-NAME`; "value": `--NAME True`;
  "optional value": that, or `--NAME` alone.
- `const`: its value where the flag is given alone.
- `off`: another flag, which turns it off; `off_help`: its help (none: it is not shown).
- `hidden`: true for a flag that the help does not show.

The help ends with the default, unless the field's own text gives it. A configuration class may also have:

- `essential`: flags that the help shows first;
- `released`: the flags of the released code that are accepted without effect;
- `completed(values)`: a class method that fills in what some flags say of others, before anything is checked.
"""

import argparse
import dataclasses
import shutil
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sigma_video.command_line import CommandLine
from sigma_video.options import flag_of

from .released_flags import add_released_flags

T = TypeVar("T")
_NOT_GIVEN = object()
_WORDS = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}


def on_off(text: str) -> bool:
    """Value of a flag that the released scripts spell `--flag True`."""
    if text.lower() not in _WORDS:
        raise argparse.ArgumentTypeError(f"{text!r}: use True or False")
    return _WORDS[text.lower()]


def build_parser(cls: type) -> CommandLine:
    """The command line of a configuration: a group of flags for each of its option classes."""
    parser = CommandLine(
        description=(cls.__doc__ or "").strip(),
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=_help_width()),
    )
    add_flags(parser, cls)
    add_released_flags(parser, getattr(cls, "released", ()))
    required = " ".join(f"{action.option_strings[0]} {action.metavar}" for action in parser._actions if action.required)
    parser.usage = f"%(prog)s {required} [FLAG VALUE ...]"
    return parser


def _help_width() -> int:
    return min(shutil.get_terminal_size().columns, 120) - 2


def parse(cls: type[T], argv: Sequence[str] | None = None) -> T:
    """A configuration from a command line; `argv` None: that of this process.

    A configuration that has `noted` gets notes on the flags that were given.

    Raises:
        OptionError: values, or combinations of them, that no run can use.
        SystemExit: no such flag, or a value of the wrong type (one line says which).
    """
    parser = build_parser(cls)
    defaults = {action.dest: action.default for action in parser._actions if action.default is not argparse.SUPPRESS}
    namespace = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(defaults, _NOT_GIVEN)))
    given = {name for name, value in vars(namespace).items() if value is not _NOT_GIVEN}
    for name in defaults.keys() - given:
        setattr(namespace, name, defaults[name])
    config = from_args(cls, namespace)
    return config.noted(given) if hasattr(config, "noted") else config


def add_flags(parser: argparse.ArgumentParser, cls: type) -> None:
    """Add the flags of a configuration, a class whose fields are option classes made by `group`, or single options."""
    essential: Sequence[str] = getattr(cls, "essential", ())
    first = parser.add_argument_group("the flags that matter most") if essential else parser
    found = [(part.metadata.get("title", ""), *flag) for part, *flag in _fields(cls)]
    for name in essential:
        for _, *flag in found:
            if flag_of(flag[0]) == name:
                _add_flag(first, *flag)
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for title, *flag in found:
        if flag_of(flag[0]) not in essential:
            if title not in groups:
                groups[title] = parser.add_argument_group(title)
            _add_flag(groups[title], *flag)


def _fields(cls: type) -> Iterator[tuple[dataclasses.Field, dataclasses.Field, Any, dict[str, Any]]]:
    """Of every flag: the part of the configuration that it belongs to, its field, type, and the part's defaults."""
    kinds = typing.get_type_hints(cls)
    for part in dataclasses.fields(cls):
        kind = kinds[part.name]
        if not dataclasses.is_dataclass(kind):
            if part.metadata.get("help"):
                yield part, part, kind, {}
            continue
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if field.metadata.get("help") and flag_of(field) not in part.metadata["without"]:
                yield part, field, hints[field.name], part.metadata["defaults"]


def from_args(cls: type[T], namespace: argparse.Namespace) -> T:
    """A configuration from parsed flags.

    Raises:
        OptionError: values, or combinations of them, that no run can use.
    """
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in vars(namespace).items()}
    complete = getattr(cls, "completed", None)
    return _make(cls, values if complete is None else complete(values))


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
        text = f"{meta['off_help']} (the opposite of {names[0]})" if "off_help" in meta else argparse.SUPPRESS
        group.add_argument(meta["off"], action="store_false", dest=name, default=default, help=text)


def _shown(default: Any, text: str) -> str:
    """The default as the end of a help text; nothing where the text names it."""
    if "default" in text:
        return ""
    if default is dataclasses.MISSING:
        return " (required)"
    if default is None or default == "":
        return " (default: none)"
    if isinstance(default, bool):
        return f" (default: {'on' if default else 'off'})"
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
    if spelling.keys().isdisjoint(("choices", "metavar")):
        items = typing.get_args(kind) or (kind,)
        spelling["metavar"] = {int: "N", float: "X"}.get(items[0], "TEXT")
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        spelling["nargs"] = "+" if items[-1] is Ellipsis else len(items)
        kind = items[0]
    if "const" in meta:
        spelling |= {"nargs": "?", "const": meta["const"]}
    return {"type": kind, **spelling}


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint
