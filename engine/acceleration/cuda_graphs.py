"""CUDA graphs of the transformer blocks: one launch for a block's pass instead of one for each of its kernels.

A training step launches more than a thousand kernels. With a small batch or model, that takes the host longer than it
takes the GPU to run them. A captured pass is replayed on the memory that it was captured on, so everything in it has
one address and one shape: a call with another shape, or without gradients, takes the block itself.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..config import TrainingConfig
from ..distributed.ddp import AMP_DTYPES
from ..distributed.world import World
from ..errors import ConfigError

WARM_UP_PASSES = 3  # before a capture: torch compiles, libraries choose their kernels


class CapturedBlock:
    """Forward and backward pass of a block, captured. The output of one block is the input of the next, uncopied.

    Attributes:
        x: the input that the graphs read.
        y: the output that they write.
        parameters: of the block, those that are trained.
        number: of forward passes so far.
    """

    def __init__(self, block: nn.Module, x: torch.Tensor, pool: Any) -> None:
        self.x = x
        self.parameters = [parameter for parameter in block.parameters() if parameter.requires_grad]
        self.number = 0
        self.forward_graph, self.backward_graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward_graph, pool=pool):
            self.y = block(x)

    def capture_backward(self, grad_y: torch.Tensor, pool: Any) -> torch.Tensor | None:
        """Capture the backward pass for a gradient that will lie in `grad_y`. Returns where the input's will lie."""
        self.grad_y = grad_y
        inputs = [*([self.x] if self.x.requires_grad else []), *self.parameters]
        with torch.cuda.graph(self.backward_graph, pool=pool):
            found = torch.autograd.grad(self.y, inputs, grad_y)
        self.grad_x = found[0] if self.x.requires_grad else None
        self.gradients = found[-len(self.parameters) :] if self.parameters else ()
        self.y = self.y.detach()  # what the backward pass needed is in the graphs' memory
        return self.grad_x


class _Replay(torch.autograd.Function):
    """A captured block in the step. `copies`: gradients leave the graph's memory, where the next replay writes."""

    @staticmethod
    def forward(ctx: Any, captured: CapturedBlock, copies: bool, x: torch.Tensor, *_: nn.Parameter) -> torch.Tensor:
        if x.data_ptr() != captured.x.data_ptr():
            captured.x.copy_(x)
        captured.forward_graph.replay()
        captured.number += 1
        ctx.captured, ctx.copies, ctx.number = captured, copies, captured.number
        return captured.y.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: torch.Tensor) -> tuple[Any, ...]:
        captured: CapturedBlock = ctx.captured
        if ctx.number != captured.number:
            raise RuntimeError("a captured block has run again since the forward pass that this gradient belongs to")
        if grad_y.data_ptr() != captured.grad_y.data_ptr():
            captured.grad_y.copy_(grad_y)
        captured.backward_graph.replay()
        gradients = [gradient.clone() if ctx.copies else gradient.detach() for gradient in captured.gradients]
        return None, None, None if captured.grad_x is None else captured.grad_x.detach(), *gradients


def capture_stacks(
    config: TrainingConfig,
    world: World,
    stacks: Mapping[str, tuple[Iterable[nn.Module], int]],
    *,
    clips: int,
    use_checkpoint: bool,
) -> None:
    """With `--cuda_graphs`, capture these blocks on this rank.

    Args:
        stacks: blocks by the name of their network, with the number of tokens.
        clips: in a batch, with the masks of each counted.
        use_checkpoint: whether activations are computed again in the backward pass.

    Raises:
        ConfigError: the blocks cannot be captured.
    """
    if not config.run.cuda_graphs:
        return
    if world.device.type != "cuda":
        raise ConfigError("--cuda_graphs needs a GPU: leave the flag out")
    if use_checkpoint:
        raise ConfigError("--cuda_graphs is not for --use_checkpoint: leave one of them out")
    amp, copies = config.run.amp_on(world.device), config.optim.update_freq > 1
    for name, (blocks, num_tokens) in stacks.items():
        if not all(any(p.requires_grad for p in block.parameters()) for block in blocks):
            raise ConfigError(
                f"--cuda_graphs is for blocks that are trained, and the {name} has frozen ones: leave it out"
            )
        try:
            capture_blocks(blocks, (clips, num_tokens), amp=amp, copies=copies)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"--cuda_graphs: the blocks of the {name} cannot be captured ({reason}): leave it out"
            ) from error


def capture_blocks(blocks: Iterable[nn.Module], batch: tuple[int, int], *, amp: str, copies: bool) -> None:
    """Capture training passes of a stack of blocks, which then replay them; in place, parameters keep their names.

    Call it on a GPU before the model is wrapped in DDP, with blocks that are compiled already or stay as they are.
    Random numbers go on from where they were.

    Args:
        blocks: the output of one is the input of the next.
        batch: clips and tokens; the input is (B, N, D) in float32 and needs a gradient.
        amp: a key of AMP_DTYPES.
        copies: needed where gradients are accumulated over several passes.
    """
    stack: list[Any] = list(blocks)
    if not stack:
        return
    device, width = stack[0].norm1.weight.device, stack[0].norm1.normalized_shape[0]
    # Casts of weights belong into the graphs: the cache of autocast would keep some of them outside.
    autocast = torch.autocast("cuda", dtype=AMP_DTYPES[amp], enabled=amp != "none", cache_enabled=False)
    with torch.random.fork_rng(devices=[device]), autocast:
        x = torch.zeros(*batch, width, device=device, requires_grad=True)
        _warm_up(stack, x)
        captured = _capture(stack, x)
    for block, graphs in zip(stack, captured, strict=True):
        # What calling a module runs in place of its `forward`, as Module.compile sets it; copies of the module lose it.
        block._compiled_call_impl = _replaying(block, graphs, copies)
    torch.cuda.empty_cache()  # of the warm-up, whose stream ends here


def _warm_up(stack: list[nn.Module], x: torch.Tensor) -> None:
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(WARM_UP_PASSES):
            for block in stack:
                y = block(x)
                inputs = [x, *(parameter for parameter in block.parameters() if parameter.requires_grad)]
                torch.autograd.grad(y, inputs, torch.zeros_like(y))
    torch.cuda.synchronize()


def _capture(stack: list[nn.Module], x: torch.Tensor) -> list[CapturedBlock]:
    """All in one pool of memory, in the order in which they run in a step: it is used again as in a step."""
    pool = torch.cuda.graph_pool_handle()
    captured: list[CapturedBlock] = []
    for block in stack:
        captured.append(CapturedBlock(block, x, pool))
        x = captured[-1].y.detach().requires_grad_()
    gradient = torch.zeros_like(captured[-1].y)
    for graphs in reversed(captured):
        found = graphs.capture_backward(gradient, pool)
        assert found is not None  # every input needs a gradient
        gradient = found
    return captured


def _replaying(block: nn.Module, captured: CapturedBlock, copies: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    compiled = block._compiled_call_impl or block._call_impl
    shape, dtype = captured.x.shape, captured.x.dtype

    def call(x: torch.Tensor) -> torch.Tensor:
        if block.training and torch.is_grad_enabled() and x.shape == shape and x.dtype == dtype:
            return _Replay.apply(captured, copies, x, *captured.parameters)
        return compiled(x)

    return call
