"""The machines of a run, as SLURM tells them."""

import re

import pytest

from llama_nas.core.errors import UserError
from llama_nas.training.nodes import Node, this_node


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "one task per node (resource `mpi`), and 'SLURM_STEP_NUM_TASKS' is not set here"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}, "srun started 4 tasks on 2 nodes"),
    ],
)
def test_a_launch_that_is_not_one_task_per_node_is_one_line(told, message):
    rest = {"SLURM_NODEID": "0", "SLURM_JOB_ID": "1", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}
    with pytest.raises(UserError, match=re.escape(message)):
        this_node(2, told | rest)


def test_ranks_are_shared_out_over_the_nodes():
    assert [list(Node(index, 2).ranks(4)) for index in (0, 1)] == [[0, 1], [2, 3]]
    with pytest.raises(UserError, match=r"training\.ranks 3 cannot be shared out over 2 nodes"):
        Node(0, 2).ranks(3)
