"""What travels between ranks: objects with tensors, from rank 0 or to it; turns; what is read together."""

import argparse
import collections
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from processes import gloo_world
from runs import same

from engine.distributed import collectives
from engine.distributed.collectives import all_reduce_sum, broadcast_from_main, gather_to_main
from engine.distributed.readout import Readout
from engine.distributed.world import World, announce, main_process_first, on_main_process, wait_for
from engine.errors import ConfigError

ALONE = World(0, 1, 0, torch.device("cpu"))


def content():
    generator = torch.Generator().manual_seed(0)
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
    tensors = {str(kind): torch.randint(5, (3, 7), generator=generator).to(kind) for kind in dtypes}
    return {
        "model": collections.OrderedDict(tensors, scalar=torch.tensor(3.5), empty=torch.empty(0, 4)),
        "turned": torch.randn(5, 3, generator=generator).T,
        "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"params": [0, 1], "lr": 0.1}]},
        "rng": [["MT19937", torch.arange(624), 3, 0, 0.0], (1, 2, None)],
        "args": argparse.Namespace(model="x"),
    }


def send(world):
    arrived = []
    for bucket_bytes in (1, 100, 2**26):  # a bucket a tensor, several buckets, one
        collectives.BUCKET_BYTES = bucket_bytes
        arrived.append(broadcast_from_main(content() if world.is_main else None))
    return arrived


def test_an_object_arrives_as_it_was_sent():
    for arrived in gloo_world(send, size=3):
        assert len(arrived) == 3
        assert all(same(found, content()) and type(found["model"]) is collections.OrderedDict for found in arrived)


def largest_pickle(world):
    """Bytes of the largest object that `broadcast_from_main` pickles for 4 MB of tensors."""
    sizes, broadcast = [], dist.broadcast

    def noted(tensor, *args, **kwargs):
        sizes.append(tensor.numel() * tensor.element_size())
        return broadcast(tensor, *args, **kwargs)

    dist.distributed_c10d.broadcast = noted  # of broadcast_object_list alone
    broadcast_from_main({"weights": torch.ones(2**20)} if world.is_main else None)
    return max(sizes)


def test_tensors_are_not_pickled():
    assert max(gloo_world(largest_pickle)) < 1000


def gathered(world):
    return gather_to_main({"rank": world.rank, "much": torch.arange(10 * world.rank)}), gather_to_main("text")


def test_gathering_to_the_main_process():
    (main, texts), *others = gloo_world(gathered, size=3)
    assert same(main, [{"rank": rank, "much": torch.arange(10 * rank)} for rank in range(3)])
    assert texts == ["text"] * 3 and others == [([], []), ([], [])]
    assert gather_to_main("x") == ["x"]


def turns(world, folder):
    """Three ranks, the second and third on another node: which of the others had been there when each came."""
    world = World(world.rank, world.size, {0: 0, 1: 0, 2: 1}[world.rank], world.device)

    def work():
        before = sorted(path.name for path in folder.iterdir())
        time.sleep(0.2)  # whoever does not wait comes too early
        (folder / str(world.rank)).touch()
        return before

    return main_process_first(world, work)


def test_the_main_process_then_one_of_each_node_then_the_rest(tmp_path):
    assert gloo_world(turns, tmp_path, size=3) == [[], ["0"], ["0", "1"]]
    assert main_process_first(ALONE, lambda: 3) == 3


def refused(world):
    errors = []
    for rank in range(world.size):

        def work(rank=rank):
            if world.rank == rank:
                raise ConfigError(f"rank {world.rank} cannot")

        with pytest.raises(ConfigError) as error:
            main_process_first(world, work)
        errors.append(str(error.value))
    return errors


def test_what_one_rank_refuses_in_its_turn_all_refuse():
    assert gloo_world(refused) == [["rank 0 cannot", "rank 1 cannot"]] * 2
    with pytest.raises(ConfigError):
        main_process_first(ALONE, lambda: _raise(ConfigError("no")))


def _raise(error):
    raise error


def announced(world):
    if world.is_main:
        time.sleep(0.3)
        announce("now")
        return None
    start = time.monotonic()
    early = wait_for("never", timedelta(seconds=0.1))
    found = wait_for("now", timedelta(seconds=20))
    return early, found, time.monotonic() - start < 10


def test_announcing():
    assert gloo_world(announced) == [None, (False, True, True)]


def read_out(world):
    reduced, all_reduce = [], dist.all_reduce

    def noted(tensor, *args, **kwargs):
        reduced.append(tensor.numel())
        return all_reduce(tensor, *args, **kwargs)

    dist.all_reduce = noted
    vector, flag = torch.arange(4.0) + world.rank, torch.tensor(world.rank == 1)
    readout = Readout({"a": vector, "b": torch.tensor(2.0)}, {"rank": torch.tensor(world.rank), "flag": flag})
    vector.fill_(99)  # what comes later changes nothing
    values = readout.read()
    return reduced, {name: value.tolist() for name, value in values.items()}


def test_values_are_read_with_one_all_reduce():
    for rank, (reduced, values) in enumerate(gloo_world(read_out)):
        assert reduced == [5]
        assert values == {"a": [1.0, 3.0, 5.0, 7.0], "b": 4.0, "rank": rank, "flag": float(rank == 1)}


def test_an_answer_of_the_main_process_may_hold_tensors():
    def asked(world):
        return on_main_process(world, content)

    assert all(same(answer, content()) for answer in gloo_world(asked))
    assert all_reduce_sum(torch.ones(2)).tolist() == [1, 1]
