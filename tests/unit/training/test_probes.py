"""Which networks are probed, and on which rows."""

import dataclasses

from llama_nas.training import worker
from llama_nas.training.data import load_rows
from llama_nas.training.probes import held_out, probe_networks


def test_probes_hold_out_whole_passes_of_all_ranks(config):
    probing = dataclasses.replace(config, probe_every=5)
    assert held_out(config, 1000) == 0
    assert [held_out(probing, rows) for rows in (20, 57, 1000, 10**6)] == [4, 4, 100, 256]
    rows = load_rows(config.rows, config.base)
    assert worker.batch_order(probing, rows).rows == 16 and worker.batch_order(config, rows).rows == 20


def test_probe_networks_are_each_depth_wide_and_narrow(space):
    ids = [space.id(subnet) for subnet in probe_networks(space)]
    assert ids == ["0000", "1111", "000x", "111x", "00xx", "11xx"]


def test_the_full_network_is_probed_in_a_space_that_does_not_list_its_depth(space):
    without_full = dataclasses.replace(space, kept=space.kept[:2])
    ids = [without_full.id(subnet) for subnet in probe_networks(without_full)]
    assert ids == ["0000", "000x", "111x", "00xx", "11xx"]


def test_the_narrow_probes_have_the_smallest_block_wherever_it_is_listed(space):
    reordered = dataclasses.replace(space, blocks=(*space.blocks, dataclasses.replace(space.blocks[1], mlp_width=36)))
    assert {reordered.id(subnet)[:2] for subnet in probe_networks(reordered)} == {"00", "11"}
