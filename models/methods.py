"""The method that a pre-training command trains, in words: what the plan of a run calls it."""

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


def method_name(targets: TargetConfig, objective: ObjectiveConfig) -> str:
    """What papers and PRETRAIN.md call this combination of targets and loss."""
    kind = targets.target_type
    if uses_prototypes(targets, objective):
        name = _SWAPPED.get(kind, f"swapped prediction with {kind} features")
        return f"{name}, projection frozen" if targets.mlp_preloading else name
    if kind == "pixel":
        return "VideoMAE" if targets.normalize_target else "regression onto raw pixels"
    if targets.uses_teacher:
        return f"regression onto {targets.teacher_name}"
    frozen = bool(targets.mlp_preloading)
    return f"regression onto a {'frozen' if frozen else 'trained'} projection" + ("" if frozen else ", which collapses")


def describe_method(targets: TargetConfig, objective: ObjectiveConfig) -> dict[str, str]:
    """Rows of the plan: the method with its loss, and what is predicted at the masked positions."""
    loss = objective.name_for(targets.target_type)
    if uses_prototypes(targets, objective):
        how = f"swapped prediction of {objective.num_prototypes} prototypes, --loss_func {loss}"
    else:
        how = f"squared error, --loss_func {loss}"
    other = "; --target_type pixel trains VideoMAE" if targets.target_type == _DEFAULT else ""
    return {"method": f"{method_name(targets, objective)} ({how}{other})", "targets": describe_targets(targets)}


def describe_targets(targets: TargetConfig) -> str:
    """What is predicted at the masked positions, in words."""
    kind = targets.target_type
    if TARGETS[kind].projects:
        source = f"taken from {targets.mlp_preloading} and frozen" if targets.mlp_preloading else "trained jointly"
        return f"standardised pixels through a projection MLP, {source} (--target_type {kind})"
    if targets.uses_teacher:
        weights = f", weights of {targets.teacher_weights}" if targets.teacher_weights else ""
        return f"features of a frozen {targets.teacher_name}{weights} (--target_type {kind})"
    pixels = "pixels, standardised per tubelet" if targets.normalize_target else "raw pixels"
    return f"{pixels} (--target_type {kind})"
