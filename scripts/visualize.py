"""Pictures of what a checkpoint makes of videos: `python scripts/visualize.py CHECKPOINT VIDEO --output_dir DIR`.

masks       what the encoder sees in pre-training; of VideoMAE, the hidden tubelets as predicted
clusters    k-means over the encoder's tokens, as colours over the video
attention   attention rollout
components  first three principal components of the tokens as colours
prototypes  SIGMA: the prototype of every tubelet, as colours over the video, and a sheet of 25 nearest tubelets of each
histogram   SIGMA: how many tubelets each prototype has

A PNG sheet and an mp4 for each video; what a checkpoint cannot show is said in one line.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import torch

from datasets.errors import AnnotationError, DecodeError
from datasets.lists.formats.table import LIST_FORMATS
from engine.errors import ConfigError, as_config_error, user_errors
from models import ModelError
from scripts.data.jobs import positive
from scripts.visualization.clips import Clips, Sampling, find_videos, read_clips, spread
from scripts.visualization.files import new_folder, write_film, write_picture
from scripts.visualization.gallery import Gallery, collect
from scripts.visualization.load import load_subject
from scripts.visualization.overlays import MOST_COLOURS
from scripts.visualization.pictures import KINDS, OF_PROTOTYPES, Drawn, draw, show_prototypes, why_missing
from scripts.visualization.prototype_sheets import histogram, overview, prototype_sheet
from scripts.visualization.subject import Subject
from sigma_video.command_line import CommandLine

PICTURES = (*KINDS, *OF_PROTOTYPES)
PLAYED = 0.5  # speed of films: a clip is short


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoint", metavar="CHECKPOINT", help="weights in any format that WEIGHTS.md lists")
    options.add_argument("videos", metavar="VIDEO|FOLDER|LIST", help="a video, a folder of videos, or a list of them")
    options.add_argument("--output_dir", required=True, metavar="DIR", help="folder of the pictures")
    options.add_argument("--pictures", nargs="+", choices=PICTURES, metavar="KIND", help="which (default: all)")
    options.add_argument("--num_videos", type=positive, default=4, help="that get pictures of their own (default: 4)")
    options.add_argument(
        "--search_videos", type=positive, default=100, help="searched for the prototypes' tubelets (default: 100)"
    )
    options.add_argument(
        "--clips", type=int, default=1, help="in a row around the middle of a video; 0: all of it (default: 1)"
    )
    options.add_argument("--clusters", type=int, default=6, metavar="K", help="of k-means (default: 6)")
    options.add_argument("--prototypes", type=int, nargs="+", metavar="NUMBER", help="whose sheets are drawn")
    options.add_argument(
        "--num_prototypes", type=positive, default=8, help="sheets of as many most used ones (default: 8)"
    )
    options.add_argument("--nearest", type=positive, default=25, help="tubelets in a prototype's sheet (default: 25)")
    options.add_argument("--per_clip", type=positive, metavar="N", help="at most N of them from one clip")
    options.add_argument("--sampling_rate", type=positive, help="every n-th frame (default: as in the training)")
    options.add_argument("--seed", type=int, default=0, help="of masks and k-means (default: 0)")
    options.add_argument("--data_root", default="", metavar="FOLDER", help="what a list's relative paths start from")
    options.add_argument("--list_format", default="auto", choices=LIST_FORMATS, help="of a list (default: auto)")
    options.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options.add_argument("--trust_checkpoint", action="store_true", help="unpickle objects too: they can run any code")
    return options


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for values that do not work."""
    if not 2 <= args.clusters <= MOST_COLOURS:
        raise ConfigError(f"--clusters {args.clusters}: from 2 to {MOST_COLOURS}, which have colours of their own")
    if args.clips < 0:
        raise ConfigError(f"--clips {args.clips}: must be 0 (the whole video) or more")
    if args.seed < 0:
        raise ConfigError(f"--seed {args.seed}: must be 0 or more")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: there is no GPU here; give cpu or leave it out")


def chosen_pictures(args: argparse.Namespace, subject: Subject) -> list[str]:
    """The kinds to draw; a line on standard output for each that this checkpoint cannot show.

    Raises:
        ConfigError: none is left, or there is no such prototype.
    """
    kinds = []
    for kind in args.pictures or PICTURES:
        if reason := why_missing(kind, subject):
            print(f"no {kind}: {Path(args.checkpoint).name}: {reason}")
        else:
            kinds.append(kind)
    if not kinds:
        raise ConfigError(f"--pictures {' '.join(args.pictures)}: {args.checkpoint} can show none of these")
    number = 0 if subject.prototypes is None else len(subject.prototypes)
    for prototype in args.prototypes or ():
        if not 0 <= prototype < number:
            raise ConfigError(f"--prototypes {prototype}: {args.checkpoint} has {number} prototypes, numbered from 0")
    return kinds


def save(drawn: Drawn, folder: Path, kind: str, clips: Clips) -> None:
    """Write a sheet and a film."""
    write_picture(drawn.sheet, folder / f"{kind}.png")
    write_film(drawn.film, folder / f"{kind}.mp4", rate=PLAYED * clips.rate)
    print(f"drew {folder / kind}.png and .mp4", flush=True)


def draw_prototypes(gallery: Gallery, args: argparse.Namespace, subject: Subject) -> None:
    """The overview, and a sheet for each of some prototypes."""
    output, digits = Path(args.output_dir), len(str(len(gallery.shares) - 1))
    wanted = args.prototypes or gallery.most_used(args.num_prototypes)
    write_picture(overview(gallery, subject, wanted), output / "prototypes.png")
    for prototype in wanted:
        sheet = prototype_sheet(gallery, subject, prototype)
        write_picture(sheet, output / "prototypes" / f"{prototype:0{digits}d}.png")
    print(f"drew {output / 'prototypes.png'} and {len(wanted)} sheets in {output / 'prototypes'}", flush=True)


def read_all(args: argparse.Namespace, sampling: Sampling, number: int) -> list[Clips]:
    """The clips of the chosen videos; a line for each that cannot be decoded.

    Raises:
        ConfigError: none can be.
    """
    found = find_videos(args.videos, root=args.data_root, list_format=args.list_format)
    read, bad = [], []
    for path, span in spread(found, number):
        try:
            read.append(read_clips(path, span, sampling))
        except DecodeError as error:
            bad.append(str(error))
    if not read:
        raise ConfigError(f"{args.videos}: no video of it can be decoded; the first: {bad[0]}")
    for message in bad:
        print(f"left out: {message}")
    return read


def visualize(args: argparse.Namespace) -> None:
    """From options to pictures."""
    check(args)
    subject, sampling = load_subject(
        args.checkpoint,
        trust=args.trust_checkpoint,
        device=args.device,
        clusters=args.clusters,
        seed=args.seed,
        num_clips=args.clips,
        sampling_rate=args.sampling_rate,
    )
    kinds = chosen_pictures(args, subject)
    uses_prototypes = bool(set(kinds) & set(OF_PROTOTYPES))
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    number = max(args.num_videos, args.search_videos if uses_prototypes else 0)
    videos = read_all(args, sampling, number)
    gallery = collect(subject, videos, num_nearest=args.nearest, per_clip=args.per_clip) if uses_prototypes else None
    taken: set[str] = set()
    for place in spread(range(len(videos)), args.num_videos):
        clips, folder = videos[place], new_folder(output, videos[place].name, taken)
        for kind in kinds:
            with as_config_error():
                if kind in KINDS:
                    save(draw(kind, subject, clips), folder, kind, clips)
                elif kind == "prototypes" and gallery is not None:
                    save(show_prototypes(gallery, subject, place), folder, kind, clips)
    if gallery is not None and "prototypes" in kinds:
        draw_prototypes(gallery, args, subject)
    if gallery is not None and "histogram" in kinds:
        write_picture(histogram(gallery, subject), output / "histogram.png")
        print(f"drew {output / 'histogram.png'}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with user_errors(AnnotationError, DecodeError, ModelError):
        visualize(parser().parse_args(argv))


if __name__ == "__main__":
    main()
