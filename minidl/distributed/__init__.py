"""Train with many processes: `mpiexec -n 4 python train.py`, on one machine or several.

| to | use |
| --- | --- |
| know the rank and the number of ranks | `world()` |
| sum, gather or send tensors and state | `World.all_reduce`, `all_gather`, `broadcast` |
| train on shares of each batch | `DataParallel`, `World.mean`, `DataLoader(..., world=world)` |
| divide the optimiser's state among the ranks | `ShardedOptimizer` |
| normalise by the whole batch | `synchronize_batch_norm`, `nn.BatchNorm2d(..., world=world)` |

`training.fit(..., world=world)` does the rest: it prints and saves on rank 0, and stops all ranks.
"""

from minidl.distributed.batch_norm import synchronize_batch_norm as synchronize_batch_norm
from minidl.distributed.exchange import RanksDifferError as RanksDifferError
from minidl.distributed.parallel import DataParallel as DataParallel
from minidl.distributed.sharded import ShardedOptimizer as ShardedOptimizer
from minidl.distributed.world import World as World
from minidl.distributed.world import world as world
