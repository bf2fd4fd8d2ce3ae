"""The one licence of weights, of what is recorded and what is given. Used by convert_checkpoint.py and publish.py."""

import re
from collections.abc import Mapping

from engine.errors import ConfigError

NOT_STATED = "none stated"


def one_licence(given: str, sources: Mapping[str, str]) -> str:
    """The licence that all name that name one, as the first of the sources writes it; "" if none does.

    Args:
        given: on the command line; "" if it was not.
        sources: where a licence stands -> the licence; "", "unknown" and NOT_STATED are none.

    Raises:
        ConfigError: two are not the same.
    """
    known = {where: " ".join(licence.split()) for where, licence in sources.items() if is_known(licence)}
    if not known:
        return " ".join(given.split())
    (first, licence), *rest = known.items()
    for where, other in rest:
        if not _same(licence, other):
            raise ConfigError(
                f"two licences: {licence} ({first}) and {other} ({where}): weights go on under that of those they come "
                "from, so one of the two is not where they come from"
            )
    if given and not _same(licence, given):
        raise ConfigError(
            f"--licence {given}: these weights are under {licence} ({first}), and go on under it: leave --licence out"
        )
    return licence


def is_known(licence: str) -> bool:
    """Whether this names a licence."""
    return licence.strip().lower() not in ("", "unknown", NOT_STATED)


def _same(one: str, other: str) -> bool:
    """But for capitals, spaces and the word itself: `CC BY-NC 4.0` is `cc-by-nc-4.0`, `MIT License` is `mit`."""

    def plain(licence: str) -> str:
        words = re.sub(r"[\W_]+", "-", licence.lower()).strip("-")
        return re.sub(r"^the-|-licen[cs]e\b", "", words)

    return plain(one) == plain(other)
