"""Exports trained models as files that need none of this code: PyTorch programs and ONNX.

Letters: B clips, C channels, T H W frames and pixels, N tokens, D width, K classes.
"""

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ..registry import ModelError
from ..sigma import Sigma
from ..vit import VideoTransformer

# Relative to the largest absolute output. float32 kernels of another library differ by about 1e-6 per layer.
TOLERANCE = 1e-3
_INPUT = "clip"
_Run = Callable[[torch.Tensor], torch.Tensor]


def export_torch(model: nn.Module, file: str, *, dynamic_batch: bool) -> dict[str, Any]:
    """Save the model's graph and weights for `torch.export.load(file).module()`, and check that file.

    Args:
        model: a classifier: clips (B, 3, T, H, W), float32 and ImageNet-normalised, to logits (B, K); or a pre-training
            model, of which the encoder is exported: clips to tokens (B, N, D), all visible.
        file: usually ends in `.pt2`. PyTorch reads it in the version that wrote it; later ones may not.
        dynamic_batch: B is free; else it is 1.

    Returns:
        Facts for the user: `format`, `file`, `input` and `output` (name and shape, free sizes as "batch"),
        `checked_batches`, and `largest_difference` of the saved model's outputs to the model's own.

    Raises:
        ModelError: not such a model; the file cannot be written; or its outputs are not the model's.
    """
    network, output = _network(model)
    program = torch.export.export(network, _example(network, dynamic_batch), dynamic_shapes=_shapes(dynamic_batch))
    program.example_inputs = None  # they would be saved too
    with _quiet():
        _write(lambda: torch.export.save(program, file), file)
        run: _Run = torch.export.load(file).module()
    return _report("torch.export", file, network, output, run, dynamic_batch=dynamic_batch)


def export_onnx(model: nn.Module, file: str, *, dynamic_batch: bool) -> dict[str, Any]:
    """Save the model as ONNX, and check that file in onnxruntime on the CPU.

    Arguments, returned facts and errors are those of `export_torch`; besides, the facts hold the `opset`, and
    ModelError is raised where a package for ONNX is not installed. Weights of over 2 GB go into `file` + ".data".
    """
    try:
        import onnx  # noqa: F401  (PyTorch's exporter uses it and onnxscript)
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"ONNX export needs packages that are not installed ({error}): pip install onnx onnxscript onnxruntime"
        ) from error
    network, output = _network(model)
    with _quiet():
        program = torch.onnx.export(
            network,
            _example(network, dynamic_batch),
            input_names=[_INPUT],
            output_names=[output],
            dynamic_shapes=_shapes(dynamic_batch),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # only the older exporter returns None
    _write(lambda: program.save(file), file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(clip_BCTHW: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run([output], {_INPUT: clip_BCTHW.numpy()})[0])

    facts = _report("onnx", file, network, output, run, dynamic_batch=dynamic_batch)
    return {**facts, "opset": program.model.opset_imports[""]}


def _network(model: nn.Module) -> tuple[VideoTransformer, str]:
    """A copy of what is exported, in float32 on the CPU and without dropout, and the name of its output."""
    exported, output = (model.encoder, "tokens") if isinstance(model, Sigma) else (model, "logits")
    if not isinstance(exported, VideoTransformer):
        raise ModelError(f"a {type(model).__name__} cannot be exported: classifiers and pre-training models can")
    network = copy.deepcopy(exported).to("cpu", torch.float32).eval().requires_grad_(False)
    network.use_checkpoint = False  # it would only save memory of a backward pass
    return network, output


def _example(network: VideoTransformer, dynamic_batch: bool) -> tuple[torch.Tensor]:
    # A batch of 1 would be specialised as a constant.
    return (_clips(network, 2 if dynamic_batch else 1),)


def _clips(network: VideoTransformer, batch: int) -> torch.Tensor:
    return torch.randn(batch, *network.clip_shape, generator=torch.Generator().manual_seed(batch))


def _shapes(dynamic_batch: bool) -> tuple[dict[int, Any]] | None:
    return ({0: torch.export.Dim("batch")},) if dynamic_batch else None


def _write(save: Callable[[], Any], file: str) -> None:
    try:
        save()
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{file}: cannot be written: {str(error).splitlines()[0]}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress a warning of PyTorch about its own code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec", FutureWarning)
        yield


def _report(
    kind: str, file: str, network: VideoTransformer, output: str, run: _Run, *, dynamic_batch: bool
) -> dict[str, Any]:
    batches = [1, 3] if dynamic_batch else [1]
    batch = "batch" if dynamic_batch else 1
    difference, shape = 0.0, torch.Size()
    for size in batches:
        clip_BCTHW = _clips(network, size)
        expected, found = network(clip_BCTHW), run(clip_BCTHW)
        shape = expected.shape[1:]
        difference = max(difference, _difference(file, expected, found))
    return {
        "format": kind,
        "file": file,
        "input": (_INPUT, (batch, *network.clip_shape)),
        "output": (output, (batch, *shape)),
        "checked_batches": batches,
        "largest_difference": difference,
    }


def _difference(file: str, expected: torch.Tensor, found: torch.Tensor) -> float:
    """Largest absolute difference; raises ModelError if it is more than rounding."""
    if found.shape != expected.shape:
        raise ModelError(f"{file}: output shape {tuple(found.shape)} instead of {tuple(expected.shape)}: do not use it")
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if not difference <= TOLERANCE * largest:  # also for NaN
        raise ModelError(
            f"{file}: its outputs differ from the model's by up to {difference:.3g}, at values of up to {largest:.3g}: "
            "do not use it"
        )
    return difference
