"""How the kernels over prototype scores read a row, and how many programs share the rows.

A row of scores stays in the registers of one thread block: it is read once, in its own precision, and everything else
is float32. A fixed number of programs divides the rows among them, so results are deterministic.

Letters: G problems side by side, S samples, K prototypes.
"""

import math

import torch

from .support import num_processors

MAX_PROTOTYPES = 16384  # a longer row does not fit into the registers of a thread block
COLUMNS_PER_WARP = 1024  # 32 per thread
COLUMNS_PER_PROCESSOR = 16384  # of the rows that a multiprocessor has the registers for at a time
MOST_BLOCKS = 8  # on a multiprocessor, of short rows
SMALLEST_BLOCK = 128  # columns: one for each thread of four warps, so that no two warps hold the same column
VECTOR = 8  # columns that a thread loads at once, 16 bytes of float16


def padded(num_prototypes: int) -> int:
    """Columns to allocate for a row of scores, so that every row begins where a vector may."""
    return -(-num_prototypes // VECTOR) * VECTOR


def empty_rows(like: torch.Tensor, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    """An array (..., K) whose rows are `padded`; the padding, behind each row, holds nothing."""
    return like.new_empty(*shape[:-1], padded(shape[-1]), dtype=dtype)[..., : shape[-1]]


def in_rows(scores: torch.Tensor) -> torch.Tensor:
    """Scores (..., K) as the kernels read them: contiguous, or as of `empty_rows`. Anything else is copied."""
    *outer, prototypes = scores.shape
    width = padded(prototypes)
    strides = [width, 1]
    for size in outer[:0:-1]:
        strides.insert(0, strides[0] * size)
    end = scores.storage_offset() + math.prod(outer) * width
    is_padded = list(scores.stride()) == strides and end <= scores.untyped_storage().nbytes() // scores.itemsize
    return scores if is_padded else scores.reshape(-1).view(scores.shape)


def row_options(scores: torch.Tensor) -> dict[str, int]:
    """Constants of a kernel over the rows of (..., S, K) scores of `in_rows`; each combination is compiled once."""
    prototypes = scores.shape[-1]
    row_stride = scores.stride(-2) if scores.stride(-2) == padded(prototypes) else prototypes
    block = SMALLEST_BLOCK
    while block < prototypes:
        block *= 2
    return {
        "num_prototypes": prototypes,
        "row_stride": row_stride,
        "BLOCK_K": block,
        "num_warps": max(4, block // COLUMNS_PER_WARP),
        "enable_fp_fusion": True,  # a multiplication and an addition as one: a sixth fewer instructions
    }


def num_programs(samples: int, groups: int, block: int, device: torch.device, *, leave_room: bool = False) -> int:
    """Programs among which the rows of a problem are divided: as many as run at a time.

    Args:
        samples: rows of each problem.
        groups: problems of one launch.
        block: columns of a program.
        device: that runs it.
        leave_room: one program less on every eighth multiprocessor, where a kernel of the communication library fits.
    """
    processors = num_processors(device)
    resident = processors * max(1, min(MOST_BLOCKS, COLUMNS_PER_PROCESSOR // block))
    if leave_room:
        resident -= processors // 8
    return max(1, min(samples, resident // groups))
