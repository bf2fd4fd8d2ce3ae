"""Command lines whose errors are one line: a misspelt flag or name gets the nearest right one."""

import argparse
import difflib
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .terminal import printable

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"  # what word processors and web pages make of a hyphen
_SHORT = re.compile(r"-[A-Za-z]\w*")


def this_python() -> str:
    """What starts this Python in a command that is suggested: a path inside the current folder, as pages have it."""
    python, folder = Path(sys.executable), Path.cwd()
    if python.is_relative_to(folder):
        return str(python.relative_to(folder))
    return "python" if shutil.which("python") == sys.executable else sys.executable


def did_you_mean(name: str, names: Iterable[str], *, aliases: Mapping[str, str] = MappingProxyType({})) -> str:
    """` Did you mean X?` for the names that are nearest to a misspelt one, '' if none is near.

    Case, hyphens, underscores and blanks do not count; nor does what is missing at the end.

    Args:
        aliases: other spelling -> the name that it stands for.
    """
    by_key: dict[str, str] = {}
    for spelling, known in [*((known, known) for known in names), *aliases.items()]:
        by_key.setdefault(_key(spelling), known)
    key = _key(name)
    if key in by_key:
        near = [by_key[key]]
    else:
        close = difflib.get_close_matches(key, by_key, n=2, cutoff=0.7)
        longer = [known for known in by_key if len(key) > 2 and known.startswith(key)]
        near = list(dict.fromkeys(by_key[other] for other in close or longer[:2]))
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


class CommandLine(argparse.ArgumentParser):
    """An `ArgumentParser` without abbreviations, whose errors are one line, without the usage."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; unknown flags are reported before flags that are missing, which they may stand for."""
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            self._check_flag(word)
        parsed, unused = self.parse_known_args(words, namespace)
        if unused:
            self._refuse(unused[0], words)
        return parsed

    def error(self, message: str) -> Any:
        """One line on stderr, with control characters of what was given as escapes, and exit code 2."""
        self.exit(2, f"error: {printable(_shortened(message))}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's own check of `choices`, with the nearest ones."""
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            near = did_you_mean(str(value), names)
            raise argparse.ArgumentError(action, f"'{value}': choose from {', '.join(names)}.{near}")

    @property
    def _flags(self) -> set[str]:
        return {name for action in self._actions for name in action.option_strings}

    def _check_flag(self, word: str) -> None:
        name, flags = word.partition("=")[0], self._flags
        if name in flags or name == "--":
            return
        if word[:1] and word[0] in _DASHES:
            plain = "--" + word.lstrip(_DASHES + "-")
            self.error(
                f"'{word}' begins with a typographic dash, as web pages have them: type {plain.partition('=')[0]}"
            )
        is_flag = name.startswith("--") and not re.search(r"\s", name)
        if not is_flag and (not _SHORT.fullmatch(name) or name[:2] in flags or _is_number(name)):
            return
        near = did_you_mean(name, sorted(flags))
        self.error(f"unknown flag {name}.{near or ' --help lists all flags.'}")

    def _refuse(self, word: str, words: Sequence[str]) -> None:
        """End with an error about a word that belongs to no flag."""
        if not word.strip():
            self.error("a blank argument: is there a blank behind the backslash at the end of a line?")
        before = words[words.index(word) - 1] if words.index(word) else ""
        if before in self._flags and self._takes_no_value(before):
            self.error(f"{before} takes no value: leave out '{word}'")
        self.error(f"'{word}' belongs to no flag: a value follows its flag, as in --data_path FILE")

    def _takes_no_value(self, flag: str) -> bool:
        return any(flag in action.option_strings and action.nargs == 0 for action in self._actions)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shortened(text: str) -> str:
    """One line of bearable length."""
    line = " ".join(text.split())
    return line if len(line) <= 600 else f"{line[:400]} ... {line[-100:]}"
