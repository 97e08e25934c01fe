"""Train with many processes: `mpiexec -n 4 python train.py`, on one machine or several.

Each process, called a rank, runs the same program and has the same weights. In each step, every
rank takes its share of the batch, and `backward` sums the ranks' gradients while it computes them:

    world = distributed.world()
    parallel = distributed.DataParallel(model, world)
    for images, labels in data.DataLoader(x, y, batch_size=64, drop_last=True, world=world):
        loss = world.mean(F.cross_entropy(model(images), labels), len(labels))
        adam.zero_grad()
        loss.backward()
        adam.step()

Weights and losses equal those of one process with the same batches, up to rounding. Without
`mpiexec`, or without MPI, the same program runs as a world of one rank.

| to | use |
| --- | --- |
| get the rank and the number of ranks | `world()` |
| sum, gather or send tensors and state | `World.all_reduce`, `all_gather`, `broadcast` |
| train on shares of each batch | `DataParallel`, `World.mean`, `DataLoader(..., world=world)` |
| divide the optimiser's state among the ranks | `ShardedOptimizer` |
| normalise by the whole batch | `synchronize_batch_norm`, `nn.BatchNorm2d(..., world=world)` |

`training.fit(..., world=world)` runs this loop and measures over all ranks; it prints and saves on
rank 0, resumes on any number of ranks, and stops all of them at Ctrl-C.

If a rank fails, its traceback is shown under its rank, and the other ranks end too. If ranks make
different calls, all raise the same error, which lists each rank's call. `python -m minidl` shows
which MPI it finds.
"""

from minidl.distributed.batch_norm import synchronize_batch_norm as synchronize_batch_norm
from minidl.distributed.exchange import RanksDifferError as RanksDifferError
from minidl.distributed.parallel import DataParallel as DataParallel
from minidl.distributed.sharded import ShardedOptimizer as ShardedOptimizer
from minidl.distributed.world import World as World
from minidl.distributed.world import world as world
