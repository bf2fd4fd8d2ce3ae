"""Options as fields of frozen dataclasses: default, help, choices and valid values stand in one place.

Each part of the project keeps its options beside the code that uses them; `engine/flags.py` makes command-line flags of
them. Nothing here knows of a command line.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .command_line import did_you_mean


class OptionError(ValueError):
    """A value, or a combination of values, that no run can use; the message names the flag and the remedy."""


@dataclass(frozen=True)
class Rule:
    """What every value of an option must satisfy, and how to say so. NaN satisfies no comparison."""

    is_valid: Callable[[Any], bool]
    text: str


SMALLEST, LARGEST = 2.0**-126, 2.0**127  # of the numbers that float32 holds to full precision; the rest is 0 or Inf
AT_LEAST_ONE = Rule(lambda value: value >= 1, "must be at least 1")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "must be 0 or more")
POSITIVE = Rule(lambda value: value > 0, "must be positive")
BETWEEN_0_AND_1 = Rule(lambda value: 0 < value < 1, "must lie between 0 and 1")
FRACTION = Rule(lambda value: 0 <= value <= 1, "must be between 0 and 1")
RATE = Rule(lambda value: 0 <= value < 1, "must be at least 0 and below 1")


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    rule: Rule | None = None,
    choices: Sequence[Any] | None = None,
    flag: str = "",
    **bridge: Any,
) -> Any:
    """A field of an `Options` class.

    Args:
        default: its value where the command line does not name it; none: the field has to be given.
        help: text of its flag; a field without one makes no flag, and takes the value of the flag of its name where
            another class declares that.
        rule: what a value, or each item of a tuple, must satisfy; None as a value always passes.
        choices: the only values allowed.
        flag: name of its flag, if that differs from the field's.
        bridge: how the flag is spelled; see `engine.flags`.
    """
    metadata = {"help": help, "rule": rule, "choices": choices, "flag": flag, **bridge}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def group(title: str, *, without: Sequence[str] = (), **defaults: Any) -> Any:
    """A field of a configuration that holds an `Options` class.

    Args:
        title: of its group of flags.
        without: flags that this configuration leaves out: their fields keep their defaults.
        defaults: by flag, in place of the class's own.
    """
    return dataclasses.field(metadata={"title": title, "without": tuple(without), "defaults": defaults})


def flag_of(field: dataclasses.Field) -> str:
    """The name of a field's flag, without dashes."""
    return field.metadata.get("flag") or field.name


@dataclass(frozen=True)
class Options:
    """Base of all option classes: checks every field's choices and rule when it is made."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check(field, getattr(self, field.name))

    def ignored(self) -> dict[str, str]:
        """Flags that have no effect beside the other values, and why: said where the command line has them."""
        return {}

    def _check(self, field: dataclasses.Field, given: Any) -> None:
        """Raise OptionError for a value that is not allowed."""
        if given is None:
            return
        values = given if isinstance(given, tuple) else (given,)
        rule, choices = field.metadata.get("rule"), field.metadata.get("choices")
        shown = f"--{flag_of(field)} {' '.join(map(str, values))}"
        if not all(is_finite(value) for value in values if isinstance(value, float)):
            raise OptionError(f"{shown}: must be a number that float32 can hold")
        if choices is not None and given not in choices:
            names = [str(choice) for choice in choices]
            near = did_you_mean(str(given), names)
            raise OptionError(f"{shown}: choose from {', '.join(names)}{'.' + near if near else ''}")
        if rule is not None and not all(map(rule.is_valid, values)):
            raise OptionError(f"{shown}: {rule.text}")


def is_finite(value: float) -> bool:
    """Whether a number is one in float32 too: neither NaN nor Inf there, nor 0 where it is not 0 here."""
    return math.isfinite(value) and (value == 0 or SMALLEST <= abs(value) <= LARGEST)


def recorded(config: Any) -> dict[str, Any]:
    """Every option below a configuration by the name of its flag, as run records and checkpoints hold them."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            left_out = field.metadata.get("without", ())
            values |= {name: item for name, item in recorded(value).items() if name not in left_out}
        elif field.metadata.get("help"):
            values[flag_of(field)] = list(value) if isinstance(value, tuple) else value
    return values


def ignored(config: Any) -> dict[str, str]:
    """What the option classes below a configuration, and the configuration itself, say has no effect; see `Options`."""
    parts = [getattr(config, field.name) for field in dataclasses.fields(config)]
    found: dict[str, str] = {}
    for part in (*(part for part in parts if isinstance(part, Options)), config):
        if hasattr(part, "ignored"):
            found |= part.ignored()
    return found
