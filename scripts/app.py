"""A page in the browser that shows what a checkpoint makes of a video: `python scripts/app.py CHECKPOINT`.

Drop or record a video: the five most likely classes by name, what the encoder sees under a mask and VideoMAE's
reconstruction, prototypes (SIGMA), clusters, principal components of the tokens, attention. What the checkpoint cannot
show is left out with a word. Needs the package gradio (extra `app`). The page is reached from this computer alone
unless --host says otherwise; videos are deleted as soon as they were looked at, and nothing is sent anywhere.
"""

import argparse
import importlib
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sigma_video.compat  # noqa: F401  (before anything that imports torchvision)
from engine.errors import ConfigError, user_errors
from models import ModelError
from scripts.data.jobs import positive
from scripts.predict import parse_seconds
from scripts.webapp.answers import Limits, load_answers
from sigma_video.command_line import CommandLine

LARGEST_PORT = 65535


def parser() -> CommandLine:
    """The command line."""
    options = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoint", metavar="CHECKPOINT", help="a model in any format of WEIGHTS.md")
    options.add_argument("--port", type=positive, default=7860, help="of the page (default: 7860)")
    options.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: of all networks (default: 127.0.0.1)"
    )
    options.add_argument("--max_mb", type=positive, default=100, help="largest video in MB (default: 100)")
    options.add_argument(
        "--max_seconds", type=parse_seconds, default=60.0, metavar="SECONDS", help="longest video (default: 60)"
    )
    options.add_argument("--sampling_rate", type=positive, metavar="N", help="every N-th frame (default: as trained)")
    options.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options.add_argument("--trust_checkpoint", action="store_true", help="unpickle objects too: they can run any code")
    return options


def import_page() -> ModuleType:
    """The module of the page; raises ConfigError where Gradio is missing."""
    try:
        return importlib.import_module("scripts.webapp.page")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the page needs the package {error.name}: install the extra `app` (INSTALL.md), or pip install gradio"
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """A socket for the page; raises ConfigError where there can be none."""
    if port > LARGEST_PORT:
        raise ConfigError(f"--port {port}: from 1 to {LARGEST_PORT}")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            raise ConfigError(f"--host {host}: no address of this computer") from error
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}): give another --port, or --host"
        ) from error


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the page as Ctrl-C does: its files are deleted
    with user_errors(ModelError, interrupted="stopped; its files are deleted"):
        args = parser().parse_args(argv)
        page = import_page()
        with listen(args.host, args.port) as listening:
            limits = Limits(args.max_mb, args.max_seconds)
            answers = load_answers(
                args.checkpoint,
                limits,
                device=args.device,
                trust=args.trust_checkpoint,
                sampling_rate=args.sampling_rate,
            )
            shown = f"[{args.host}]" if ":" in args.host else args.host
            print(
                f"http://{shown}:{args.port} shows what {args.checkpoint} makes of a video; Ctrl-C ends it", flush=True
            )
            page.serve(answers, listening)


if __name__ == "__main__":
    main()
