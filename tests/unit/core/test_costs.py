"""Costs of layers: a table reads back as written, and one that is of something else is refused."""

from pathlib import Path

import pytest
from tests.support.spaces import small_space

from llama_nas.core.artifacts import read_json, write_json
from llama_nas.core.costs import LayerCosts
from llama_nas.core.errors import UserError

SPACE = small_space([2, 4], [8, 4])
COSTS = LayerCosts("latency", without=0.1 + 0.2, of_block=(0.03, 0.02))


@pytest.fixture
def table(tmp_path) -> Path:
    """A table of latencies on SPACE."""
    path = tmp_path / "latency.json"
    COSTS.write(path, SPACE, {"machine": "a fast one"})
    return path


def test_a_table_reads_back_with_every_digit(table):
    assert LayerCosts.read("latency", table, SPACE) == COSTS


def test_a_table_says_what_it_is_of_and_how_it_was_measured(table):
    written = read_json(table)
    assert (written["cost"], written["unit"], written["machine"]) == ("latency", "s", "a fast one")
    assert written["blocks"] == [{"mlp_width": 8}, {"mlp_width": 4}]
    assert written["shape"]["num_hidden_layers"] == 4


def test_a_table_serves_every_space_of_its_shape_and_blocks(table):
    assert LayerCosts.read("latency", table, small_space([1, 3, 4], [8, 4])) == COSTS


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (small_space([2, 3], [8, 4]), "was measured on a model of another shape; run `llama-nas measure-costs` again"),
        (small_space([2, 4], [8, 2]), "was measured on other blocks than the space's; run `llama-nas measure-costs`"),
        (small_space([2, 4], [8]), "was measured on other blocks than the space's"),
    ],
)
def test_a_table_of_another_model_or_other_blocks_is_refused(table, space, message):
    with pytest.raises(UserError, match=rf"latency\.json: {message}"):
        LayerCosts.read("latency", table, space)


def test_a_table_of_another_cost_is_refused(table):
    with pytest.raises(UserError, match=r"latency\.json: is a table of latency, not of size"):
        LayerCosts.read("size", table, SPACE)


@pytest.mark.parametrize("costs", [(0.03, 0.0), (-0.01, 0.02)])
def test_a_layer_that_takes_no_time_is_noise(tmp_path, costs):
    LayerCosts("latency", 0.1, costs).write(tmp_path / "noise.json", SPACE, {})
    with pytest.raises(UserError, match=r"noise\.json: a layer that takes .* s is noise; delete the file and measure"):
        LayerCosts.read("latency", tmp_path / "noise.json", SPACE)


@pytest.mark.parametrize("missing", ["cost", "without", "of_block", "blocks", "shape"])
def test_a_file_that_lacks_a_key_is_refused_in_one_line(table, missing):
    write_json(table, {key: value for key, value in read_json(table).items() if key != missing})
    with pytest.raises(UserError, match=rf"latency\.json: not a table of layer costs \('{missing}'\)") as raised:
        LayerCosts.read("latency", table, SPACE)
    assert "\n" not in str(raised.value)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: not found"):
        LayerCosts.read("latency", tmp_path / "none.json", SPACE)
