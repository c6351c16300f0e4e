"""The machines of a run: the scheduler starts one launcher on each (one task per node), which starts its own ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from llama_nas.core.errors import UserError

FIRST_PORT, PORTS = 15000, 10000  # below the ports that Linux gives to outgoing connections


@dataclass(frozen=True)
class Node:
    """This machine among those of the run. address, port: where node 0 serves the rendezvous; port 0: any free one."""

    index: int = 0
    count: int = 1
    address: str = "127.0.0.1"
    port: int = 0

    def ranks(self, total: int) -> range:
        """The ranks that run here, of `total`."""
        if total % self.count:
            raise UserError(f"config.yaml: training.ranks {total} cannot be shared out over {self.count} nodes")
        here = total // self.count
        return range(self.index * here, (self.index + 1) * here)


def this_node(count: int, environment: Mapping[str, str] = os.environ) -> Node:
    """This machine among `count`, as srun tells its tasks; raises UserError where srun did not start one per node."""
    if count == 1:
        return Node()
    try:
        started = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_STEP_NUM_NODES"])
        index, job = int(environment["SLURM_NODEID"]), int(environment["SLURM_JOB_ID"])
        address = environment["SLURM_LAUNCH_NODE_IPADDR"]  # srun runs on the first node of the job, which is node 0
    except KeyError as error:
        raise UserError(
            f"--nodes {count} (resource `nodes`): srun must start one task per node (resource `mpi`), and {error} is "
            "not set here"
        ) from None
    if started != (count, count):
        raise UserError(
            f"--nodes {count} (resource `nodes`): srun started {started[0]} tasks on {started[1]} nodes (resource "
            "`mpi`); one per node is needed"
        )
    return Node(index, count, address, FIRST_PORT + job % PORTS)
