"""Writes weights as a Hugging Face folder to publish: `python scripts/publish.py CHECKPOINT FOLDER --results output/x`.

FOLDER gets what `convert_checkpoint.py --to hf` writes, of a pre-trained model its decoder as well, and a card with
licence, base model, data, recipe and the results of these very weights. Nothing is uploaded without --push.
"""

import argparse
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback; see `user_errors`

import sigma_video.compat  # noqa: F401  (before anything that imports torchvision)
from datasets.catalogue import CATALOGUE
from datasets.errors import AnnotationError
from engine.checkpointing.download import hash_of_weights, is_address
from engine.checkpointing.files import newest_weights
from engine.checkpointing.read_weights import DEFAULT_KEY
from engine.errors import ConfigError, user_errors
from models import ModelError
from scripts.convert_checkpoint import Given, check_output, read_content
from scripts.licences import one_licence
from scripts.publish_card import complete, labels, slug
from scripts.publish_hub import RULE, connect, is_repository, upload
from scripts.table_records import Record, read_records
from scripts.weight_files import Content, check_written, new_place, summary, write_huggingface
from scripts.zoo_rows import Zoo, read_zoo
from sigma_video.command_line import CommandLine, did_you_mean

PUBLIC = CATALOGUE.keys() - {"custom"}  # data sets whose names say something to others
WHOLE = "pretraining.safetensors"  # encoder, decoder and the rest, where transformers holds the encoder alone


def parser() -> CommandLine:
    """Command line of this script."""
    made = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("checkpoint", metavar="CHECKPOINT", help="file, folder or address")
    made.add_argument("folder", type=Path, metavar="FOLDER", help="to write; must not exist")
    made.add_argument("--results", type=Path, nargs="+", default=[], metavar="DIR", help="with results in or below it")
    made.add_argument("--name", default="", metavar="ORG/NAME", help="of the repository; default: FOLDER's, as a title")
    made.add_argument("--licence", default="", help="of these weights; default: that of those they come from")
    made.add_argument("--base_model", default="", metavar="NAME", help="they come from: of the zoo, or ORG/NAME")
    made.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="trained on; default: as recorded")
    made.add_argument("--class_names", default="", metavar="FILE", help="one name per line, in label order")
    made.add_argument("--model_key", default=DEFAULT_KEY, help="keys of the weights in a .pth file")
    made.add_argument("--num_frames", type=int, help="frames per clip, if the file does not record it")
    made.add_argument("--input_size", type=int, help="height and width of a clip, if the file does not record them")
    made.add_argument("--trust_checkpoint", action="store_true", help="run the code that CHECKPOINT may hold")
    made.add_argument("--push", action="store_true", help="upload FOLDER to huggingface.co as a new repository --name")
    return made


def check(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not work, before anything is read."""
    check_output(args.folder, target="hf", dynamic_batch=False)
    if args.push and not args.name:
        raise ConfigError("--push: as what? Give --name ORG/NAME")
    if args.name and not is_repository(args.name):
        raise ConfigError(f"--name {args.name}: a repository is ORG/NAME, {RULE}")
    for name in args.datasets:
        if not is_repository(slug(name), needs_owner=False):
            raise ConfigError(f"--datasets {name!r}: the hub takes NAME or ORG/NAME, {RULE}")
    if args.results and args.model_key != DEFAULT_KEY:
        raise ConfigError("--results are of the weights that a test takes: leave out --model_key, or --results")


def base_of(name: str, zoo: Zoo) -> str:
    """The repository of a base model; "" if none is given. Raises ConfigError for what can be none."""
    if name in zoo.rows:
        return zoo.rows[name].repository
    if name and not is_repository(name):
        known = did_you_mean(name, zoo.rows) or " `scripts/zoo.py list` names them."
        raise ConfigError(f"--base_model {name}: neither in the zoo nor ORG/NAME.{known}")
    return name


def licence_of(recorded: str, *, given: str, base_model: str, zoo: Zoo) -> str:
    """The licence of the weights; "" if nobody says it.

    Args:
        recorded: of the weights that they come from, as the checkpoint says.
        given: as the user says.

    Raises:
        ConfigError: these and that of the base model are not all the same.
    """
    in_zoo = {f"--base_model {base_model}, in the zoo": zoo.licence_of(base_model)}
    return one_licence(given, {"as the checkpoint records": recorded, **in_zoo})


def records_of(checkpoint: str, folders: Sequence[Path]) -> list[Record]:
    """The results that were measured with these weights, by their hash.

    Raises:
        ConfigError: there is none.
    """
    if not folders:
        return []
    newest = None if is_address(checkpoint) or not Path(checkpoint).is_dir() else newest_weights(Path(checkpoint))
    digest = hash_of_weights(str(newest or checkpoint))
    found = read_records(folders)
    own = [record for record in found if record.checkpoint == digest]
    if not own:
        raise ConfigError(
            f"--results: none of the {len(found)} results is of {newest or checkpoint} (SHA-256 {digest[:12]}...): "
            "test these weights, or leave --results out"
        )
    if len(own) < len(found):
        print(f"results: {len(own)} of {len(found)} are of these weights; the others are left out")
    for record in own:
        if not math.isfinite(record.value):
            raise ConfigError(
                f"--results: {record.metric} is {record.value}: test these weights again, or leave it out"
            )
    return [record for record in own if record.metric != "loss"]


def write(args: argparse.Namespace, content: Content, records: Sequence[Record], base_model: str) -> None:
    """Write FOLDER, whole or not at all."""
    name = args.name or args.folder.name
    data_set = content.args.get("data_set")
    data = args.datasets or ([data_set] if isinstance(data_set, str) and data_set in PUBLIC else [])
    with new_place(args.folder) as place:
        written = write_huggingface(content, place, metrics=labels(records), whole=WHOLE)
        complete(place / "README.md", name=name, base_model=base_model, datasets=data, records=records)
        check_written(place, written)
        names = ", ".join(sorted(file.name for file in place.iterdir()))
    print(f"{args.folder}: written and read back: {summary(written)}\nin it: {names}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with user_errors(ModelError, AnnotationError):
        args = parser().parse_args(argv)
        check(args)
        zoo = read_zoo()
        base_model = base_of(args.base_model, zoo)
        hub = connect(args.name) if args.push else None
        given = Given(args.class_names, "", args.num_frames, args.input_size)
        content = read_content(args.checkpoint, given, model_key=args.model_key, trust=args.trust_checkpoint)
        licence = licence_of(content.licence, given=args.licence, base_model=args.base_model, zoo=zoo)
        if not licence:
            print("note: no licence is known: ask whoever made the weights that these come from", file=sys.stderr)
        content.licence = licence
        records = records_of(args.checkpoint, args.results)
        write(args, content, records, base_model)
        if hub:
            print(upload(hub, args.folder, args.name))


if __name__ == "__main__":
    main()
