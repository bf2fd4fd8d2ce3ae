"""The method that a pre-training command trains, in words: what the plan of a run calls it."""

import math

from .objectives import OBJECTIVES, ObjectiveConfig
from .targets import TARGETS, TargetConfig

_SWAPPED = {
    "mlp": "SIGMA-MLP",
    "dino_v1": "SIGMA-DINO",
    "dino_v2": "SIGMA with DINOv2",
    "timm": "SIGMA with an image teacher",
    "video": "SIGMA with a video teacher",
}
_DEFAULT = TargetConfig().target_type


def uses_prototypes(targets: TargetConfig, objective: ObjectiveConfig) -> bool:
    """Whether the loss compares assignments to prototypes."""
    return OBJECTIVES[objective.name_for(targets.target_type)].uses_prototypes


def freezes_projection(targets: TargetConfig, epochs: float) -> bool:
    """Whether there is a projection network that a run of so many epochs does not train."""
    held = targets.mlp_preloading or targets.freeze_projection_epochs >= epochs
    return TARGETS[targets.target_type].projects and bool(held)


def method_name(targets: TargetConfig, objective: ObjectiveConfig, *, epochs: float = math.inf) -> str:
    """What papers and PRETRAIN.md call this combination of targets and loss, in a run of so many epochs."""
    kind, loss = targets.target_type, objective.name_for(targets.target_type)
    frozen = freezes_projection(targets, epochs)
    if loss == "SWAV":
        name = _SWAPPED.get(kind, f"swapped prediction with {_features(targets, frozen)}")
        return f"{name}, projection frozen" if frozen else name
    if loss != "L2":
        return f"{OBJECTIVES[loss].described} on {_features(targets, frozen)}"
    if kind == "pixel" and targets.normalize_target:
        return "VideoMAE"
    projected = TARGETS[kind].projects
    return f"regression onto {_features(targets, frozen)}" + (", which collapses" if projected and not frozen else "")


def _features(targets: TargetConfig, frozen: bool) -> str:
    """The target features, for the name of a method."""
    row = TARGETS[targets.target_type]
    if row.projects:
        return f"a {'frozen' if frozen else 'trained'} projection"
    if targets.uses_teacher:
        return targets.teacher_name
    return row.described if targets.normalize_target else f"raw {row.described}"


def describe_method(targets: TargetConfig, objective: ObjectiveConfig, *, epochs: float = math.inf) -> dict[str, str]:
    """Rows of the plan of a run: the method with its loss, and what is predicted at the masked positions."""
    loss = objective.name_for(targets.target_type)
    how = OBJECTIVES[loss].described
    if uses_prototypes(targets, objective):
        how += f" of {objective.num_prototypes} prototypes"
    other = "; --target_type pixel trains VideoMAE" if targets.target_type == _DEFAULT else ""
    name = f"{method_name(targets, objective, epochs=epochs)} ({how}, --loss_func {loss}{other})"
    return {"method": name, "targets": describe_targets(targets, epochs=epochs)}


def describe_targets(targets: TargetConfig, *, epochs: float = math.inf) -> str:
    """What is predicted at the masked positions, in words."""
    kind, row = targets.target_type, TARGETS[targets.target_type]
    if row.projects:
        first = targets.freeze_projection_epochs
        source = f"trained jointly from epoch {first} on" if first else "trained jointly"
        if freezes_projection(targets, epochs):
            source = "frozen in all epochs"
        if targets.mlp_preloading:
            source = f"taken from {targets.mlp_preloading} and frozen"
        return f"{row.described} through a projection MLP, {source} (--target_type {kind})"
    if targets.uses_teacher:
        weights = f", weights of {targets.teacher_weights}" if targets.teacher_weights else ""
        return f"features of a frozen {targets.teacher_name}{weights} (--target_type {kind})"
    features = f"{row.described}, standardised per tubelet" if targets.normalize_target else f"raw {row.described}"
    return f"{features} (--target_type {kind})"
