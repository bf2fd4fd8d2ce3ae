"""Who holds the lock of an output folder: what `run.lock` says, and whether that process runs. Imports no torch."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "run.lock"
STALE_AFTER = 60.0  # seconds: six counts missed; a client of NFS sees a change within three
_ENTRIES = {"host", "pid", "started", "process_start", "space", "folder", "job", "token", "beats"}


def read_holder(path: Path) -> dict[str, Any]:
    """What a lock file says; {} if it is not there, or not whole yet."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.keys() >= _ENTRIES else {}


def describe_holder(holder: Mapping[str, Any]) -> str:
    """A holder in words."""
    if not holder:
        return "an unknown process"
    return f"process {holder['pid']} on {holder['host']}, started {holder['started']},"


def process_start(pid: int) -> int | None:
    """When a process of this machine began, in ticks since the machine started; None if it has ended.

    Without /proc: 0 for a process that runs.
    """
    if not Path("/proc/self/stat").exists():
        return 0 if _exists(pid) else None
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def process_space() -> str:
    """What the numbers of processes belong to: the start of the machine, and the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
