"""What the command line says of all jobs: machines, weights in the place of a pre-training, changed flags."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.checkpointing.download import is_address
from engine.errors import ConfigError
from sigma_video.command_line import did_you_mean

from .recipes import KINDS, Recipe

OURS = ("data_path", "data_root", "output_dir", "log_dir", "finetune", "eval")  # flags that the jobs themselves set
RELEASED = "released"  # of --weights


@dataclass(frozen=True)
class Override:
    """Words that are added to the commands of some recipes; `scope`: a kind, the name of a recipe, or "" for all."""

    scope: str
    words: tuple[str, ...]

    @property
    def flag(self) -> str:
        return self.words[0]

    def fits(self, recipe: Recipe) -> bool:
        return self.scope in ("", recipe.kind, recipe.name, recipe.file.stem)


def parse_override(text: str, recipes: Mapping[str, Recipe]) -> Override:
    """`epochs=1`, `pretrain.epochs=1`, `k400_vit_b.no_compile`.

    Raises:
        ConfigError: the scope is not known, or the flag is set by the jobs.
    """
    name, has_value, value = text.partition("=")
    scope, _, flag = name.rpartition(".")
    flag = flag.lstrip("-")
    scopes = [*KINDS, *recipes, *(recipe.file.stem for recipe in recipes.values())]
    if scope and scope not in scopes:
        raise ConfigError(f"--set {text}: {scope} is no kind or recipe.{did_you_mean(scope, scopes)}")
    if not flag or flag in OURS:
        raise ConfigError(f"--set {text}: {flag or 'no flag'}: the jobs set {', '.join(OURS)} themselves")
    return Override(scope, (f"--{flag}", *(value.split() if has_value else ())))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line says of all jobs.

    Attributes:
        weights: name of a recipe of pre-training -> file or address that stands in for it.
        batch_size: most clips of a GPU; None: the recipe's.
    """

    data_root: Path
    out: Path
    gpus: int = 8
    nodes: int = 1
    batch_size: int | None = None
    device: str = "cuda"
    weights: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()

    def batch_per_gpu(self, recipe: Recipe) -> dict[str, str]:
        """BATCH_SIZE that keeps the recipe's total batch on these GPUs.

        Raises:
            ConfigError: there is none.
        """
        if recipe.batch is None:
            return {}
        total, usual = recipe.batch
        ranks = self.gpus * self.nodes
        if total % ranks:
            fewer = max(number for number in range(1, ranks) if total % number == 0)
            raise ConfigError(
                f"--gpus {self.gpus} --nodes {self.nodes}: the {total} clips of {recipe.name} cannot be divided among "
                f"{ranks}: take {fewer}"
            )
        most = min(self.batch_size or usual, total // ranks)
        return {"BATCH_SIZE": str(next(size for size in range(most, 0, -1) if total // ranks % size == 0))}


def read_weights(given: Sequence[str], recipes: Mapping[str, Recipe]) -> dict[str, str]:
    """File or address that stands in for a pre-training, by the name of its recipe.

    Raises:
        ConfigError: no such recipe or file.
    """
    known = {recipe.file.stem: recipe for recipe in recipes.values() if recipe.kind == "pretrain"}
    found: dict[str, str] = {}
    for text in given:
        name, has_file, file = text.partition("=")
        if text == RELEASED:
            found = {name: recipe.released for name, recipe in known.items() if recipe.released} | found
        elif name not in known:
            near = did_you_mean(name, known)
            raise ConfigError(f"--weights {text}: {name} is no recipe of scripts/pretrain.{near}")
        elif not has_file or not (is_address(file) or Path(file).exists()):
            raise ConfigError(f"--weights {text}: {file or 'no file'}: not there; give {name}=FILE or an address")
        else:
            found[name] = file if is_address(file) else str(Path(file).resolve())
    return found
