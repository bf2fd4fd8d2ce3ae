"""Collectives: sums of tensors, and objects that hold tensors, from rank 0 to all or from all to rank 0."""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

BUCKET_BYTES = 64 * 2**20  # of one broadcast: the device memory that sending a file takes
_CONTAINERS = (dict, OrderedDict, list, tuple)  # in which tensors are looked for


class _AllReduceSum:
    """Sum over all ranks, in place; the tensor itself with one process. Sinkhorn also begins sums and awaits them."""

    @property
    def num_ranks(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        if dist.is_initialized():
            dist.all_reduce(tensor)
        return tensor

    def start(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin; what is returned waits and returns the sum. With NCCL the current stream waits, not the host."""
        work = dist.all_reduce(tensor, async_op=True) if dist.is_initialized() else None

        def wait() -> torch.Tensor:
            if work is not None:
                work.wait()
            return tensor

        return wait


all_reduce_sum = _AllReduceSum()


def gather_objects(obj: Any) -> list[Any]:
    """All-gather of picklable objects, in rank order. Every rank unpickles all of them: for small and rare ones."""
    if not dist.is_initialized():
        return [obj]
    objects: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(objects, obj)
    return objects


def gather_to_main(obj: Any) -> list[Any]:
    """Picklable objects of all ranks, in rank order, on rank 0; [] on the others, which unpickle nothing.

    The bytes travel in an all-gather: NCCL's gather would open a connection from rank 0 to every other rank. Tensors
    arrive contiguous, in host memory.
    """
    if not dist.is_initialized():
        return [obj]
    device, num_ranks = _device(), dist.get_world_size()
    tensors: list[torch.Tensor] = []
    described = _describe(obj, tensors)  # pickle would wrap each tensor in an archive of its own
    message = pickle.dumps((described, [_bytes_of(tensor).numpy().tobytes() for tensor in tensors]))
    own = torch.frombuffer(bytearray(message), dtype=torch.uint8).to(device)
    sizes = torch.empty(num_ranks, 1, dtype=torch.int64, device=device)
    dist.all_gather(list(sizes), torch.tensor([len(own)], device=device))
    lengths = sizes.flatten().tolist()
    padded = torch.zeros(max(lengths), dtype=torch.uint8, device=device)
    padded[: len(own)] = own
    rows = torch.empty(num_ranks, len(padded), dtype=torch.uint8, device=device)
    dist.all_gather(list(rows), padded)
    if dist.get_rank() != 0:
        return []
    gathered = zip(rows.cpu(), lengths, strict=True)
    return [_unpack(row[:length].numpy().tobytes()) for row, length in gathered]


def _unpack(message: bytes) -> Any:
    """The object of a rank from its message in `gather_to_main`."""
    described, contents = pickle.loads(message)
    sent: list[_Sent] = []
    _collect(described, sent)
    joined = torch.frombuffer(bytearray(b"".join(contents) or b"-"), dtype=torch.uint8)
    return _rebuild(described, iter(_split(joined[: sum(map(len, contents))], sent)))


@dataclass(frozen=True)
class _Sent:
    """Stands for a tensor in an object that is broadcast."""

    dtype: torch.dtype
    shape: torch.Size

    @property
    def num_bytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


def broadcast_from_main(obj: Any) -> Any:
    """`obj` of rank 0 on every rank, which may pass None: any picklable object.

    Tensors in its dictionaries, lists and tuples are sent as they are, many at a time, instead of being pickled; they
    arrive contiguous, in host memory.
    """
    if not dist.is_initialized():
        return obj
    tensors: list[torch.Tensor] = []
    described = [_describe(obj, tensors) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(described, src=0)
    sent: list[_Sent] = []
    _collect(described[0], sent)
    arrived = _send(tensors, sent)
    return obj if dist.get_rank() == 0 else _rebuild(described[0], arrived)


def _device() -> torch.device:
    """Where the process group wants its tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _describe(value: Any, tensors: list[torch.Tensor]) -> Any:
    """`value` with a _Sent in the place of each tensor, which is appended to `tensors`."""
    if type(value) is torch.Tensor and value.layout == torch.strided:
        tensors.append(value)
        return _Sent(value.dtype, value.shape)
    if type(value) in _CONTAINERS:
        return _map(value, lambda item: _describe(item, tensors))
    return value


def _collect(value: Any, sent: list[_Sent]) -> None:
    """Append every _Sent of a description, in the order of `_describe`."""
    if isinstance(value, _Sent):
        sent.append(value)
    elif type(value) in _CONTAINERS:
        for item in value.values() if isinstance(value, Mapping) else value:
            _collect(item, sent)


def _rebuild(value: Any, arrived: Iterator[torch.Tensor]) -> Any:
    if isinstance(value, _Sent):
        return next(arrived)
    return _map(value, lambda item: _rebuild(item, arrived)) if type(value) in _CONTAINERS else value


def _map(value: Any, function: Any) -> Any:
    """`function` of each item of a dictionary, list or tuple."""
    if isinstance(value, Mapping):
        return type(value)((key, function(item)) for key, item in value.items())  # type: ignore[call-arg]
    return type(value)(function(item) for item in value)


def _send(tensors: list[torch.Tensor], sent: list[_Sent]) -> Iterator[torch.Tensor]:
    """Broadcast the tensors of rank 0 in buckets; returns those that arrived, none on rank 0."""
    arrived: list[torch.Tensor] = []
    device, is_main, first = _device(), dist.get_rank() == 0, 0
    while first < len(sent):
        last, num_bytes = first, 0
        while last < len(sent) and (last == first or num_bytes + sent[last].num_bytes <= BUCKET_BYTES):
            num_bytes, last = num_bytes + sent[last].num_bytes, last + 1
        if is_main:
            flat = torch.cat([_bytes_of(tensor) for tensor in tensors[first:last]]).to(device)
        else:
            flat = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        if num_bytes:
            dist.broadcast(flat, src=0)
        if not is_main:
            arrived += _split(flat.cpu(), sent[first:last])
        first = last
    return iter(arrived)


def _split(flat: torch.Tensor, sent: list[_Sent]) -> list[torch.Tensor]:
    """The tensors whose bytes lie in `flat`, copied: a view has to begin at a multiple of its type's size."""
    parts = flat.split([what.num_bytes for what in sent])
    return [part.clone().view(what.dtype).view(what.shape) for part, what in zip(parts, sent, strict=True)]


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
