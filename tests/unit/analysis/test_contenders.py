"""What a summary compares; and a checkpoint of another method on its way to the table, the figures and the page."""

import re
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from llama_nas.analysis import figures
from llama_nas.analysis.contenders import BASE, FULL, MEMBER, OTHER, OURS, ROLES, of_role, read_contenders
from llama_nas.core.errors import UserError

SLICED = "slicegpt-0.25"
CONFIG = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
LAYER = 4 * 48**2 + 3 * 48 * 100  # entries of a layer's matrices
PARAMETERS = 2 * 512 * 48 + 48 + 4 * (LAYER + 2 * 48)
INT8_BYTES = 4 * (LAYER + 4 * (4 * 48 + 2 * 100 + 48)) + 2 * (PARAMETERS - 4 * LAYER)


def scores_of(name: str, value: float) -> dict:
    return {(name, "fp16"): value, (name, "int8"): value - 0.01}


@pytest.fixture
def compared(run, tmp_path):
    """A run with a checkpoint of another method that is smaller and better than every network of the search."""
    run.add_contender(SLICED, CONFIG, tmp_path / "elsewhere")
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40) | scores_of(SLICED, 0.95))
    return run


def contenders_of(run) -> dict:
    return read_contenders([f"{name}={folder}" for name, folder in run.contenders.items()], run.space)


def test_roles_labels_and_sizes(compared):
    found = contenders_of(compared)
    full, medium, small = compared.full, compared.medium, compared.small
    assert {name: contender.role for name, contender in found.items()} == {
        "pretrained": BASE,
        full: FULL,
        medium: MEMBER,
        small: MEMBER,
        SLICED: OTHER,
    }
    assert list(found) == ["pretrained", full, medium, small, SLICED] and set(ROLES) == {BASE, OTHER, *OURS}
    labels = ["pre-trained base", "full-size super-network", medium, small, SLICED]
    assert [contender.label for contender in found.values()] == labels
    for name, network in (("pretrained", full), (full, full), (medium, medium), (small, small)):
        assert found[name].parameters == compared.parameters(network)
        assert found[name].size_bytes("fp16") == 2 * compared.parameters(network)
        assert found[name].size_bytes("int8") == compared.int8_bytes(network)
    sliced = found[SLICED]
    assert (sliced.network.layers, sliced.parameters) == (4, PARAMETERS)
    assert (sliced.size_bytes("fp16"), sliced.size_bytes("int8")) == (2 * PARAMETERS, INT8_BYTES)
    assert compared.parameters(small) > PARAMETERS


def test_rows_are_chosen_by_role():
    table = pd.DataFrame({"role": [BASE, FULL, MEMBER, OTHER, MEMBER], "model": list("abcde")})
    assert list(of_role(table, *OURS)["model"]) == ["b", "c", "e"]
    assert list(of_role(table, OTHER)["model"]) == ["d"]


def test_what_is_no_contender_is_named(compared, tmp_path):
    with pytest.raises(UserError, match=f"--contenders '{SLICED}': expected NAME=FOLDER"):
        read_contenders([SLICED], compared.space)
    with pytest.raises(UserError, match=r"nowhere/config\.json: not found"):
        read_contenders([f"{SLICED}={tmp_path / 'nowhere'}"], compared.space)
    del compared.contenders[SLICED]
    with pytest.raises(UserError, match=f"--contenders: {SLICED} is missing, --benchmarks has a result of it"):
        compared.summarize("arc_easy")


def test_another_method_has_rows_without_what_only_the_super_networks_have(compared):
    table = compared.summarize("arc_easy")
    rows = table[table["model"] == SLICED].set_index("precision")
    assert list(rows.index) == ["fp16", "int8"] and list(table["model"].tail(2)) == [SLICED] * 2
    assert set(rows["role"]) == {OTHER} and set(rows["label"]) == {SLICED}
    assert not rows["recommended"].any() and not rows["on_front"].any()
    assert rows[["finetuning_difference", "search_difference"]].isna().all(axis=None)
    assert list(rows["precision_difference"]) == pytest.approx([0.0, -0.01])
    assert list(rows["value_difference"]) == pytest.approx([0.35, 0.34])
    assert list(rows["difference"]) == pytest.approx([0.35, 0.34]) and set(rows["verdict"]) == {"shown"}
    assert list(rows["layers"]) == [4, 4] and list(rows["parameters"]) == [PARAMETERS] * 2
    assert list(rows["size_bytes"]) == [2 * PARAMETERS, INT8_BYTES]
    base_bytes = 2 * compared.parameters(compared.full)
    assert list(rows["size_ratio"]) == pytest.approx([base_bytes / size for size in rows["size_bytes"]])
    assert list(rows["tokens_per_second"]) == [1000.0, 500.0]


def test_the_rows_of_all_others_are_what_they_are_without_it(compared):
    """It is the smallest and the best, and yet neither recommended nor a reference."""
    table = compared.summarize("arc_easy")
    for path in (compared.results / "benchmarks").glob(f"*/*/{SLICED}.json"):
        path.unlink()
    alone = compared.summarize("arc_easy")
    pd.testing.assert_frame_equal(table[table["model"] != SLICED], alone)
    assert set(alone.loc[alone["recommended"], "model"]) == {compared.full}  # the others lose two points and more


def test_figures_name_it_and_draw_it_apart_from_the_networks_of_the_search(compared, monkeypatch):
    compared.add_contender("shortened-6", CONFIG, compared.results / "shortened")
    others = scores_of(SLICED, 0.95) | scores_of("shortened-6", 0.85)
    compared.add_task("arc_easy", compared.scores(0.60, 0.70, 0.58, 0.40) | others)
    table = compared.summarize("arc_easy")
    for path in compared.figures("arc_easy")[:3]:
        svg = path.read_text()
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert f"<!-- {SLICED}, FP16 -->" in svg and "<!-- shortened-6, FP16 -->" in svg  # what a path is the text of

    monkeypatch.setattr(figures, "svg", lambda figure: figure)
    evaluations = pd.read_csv(compared.results / "search/arc_easy/round_2/evaluations.csv")
    axes = figures.quantized_figure(table, evaluations, evaluations, "GB").axes[0]
    at = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    for name, value in ((SLICED, 95.0), ("shortened-6", 85.0)):
        assert at[f"{name}, FP16"].get_xydata().tolist() == [[2 * PARAMETERS / 1e6, value]]
    assert len({at[f"{name}, FP16"].get_marker() for name in (SLICED, "shortened-6")}) == 2
    ours = sorted(2 * compared.parameters(name) / 1e6 for name in (compared.full, compared.medium, compared.small))
    assert sorted(at["exported, FP16"].get_xdata()) == ours
    joined = [line for line in axes.lines if line.get_linestyle() == "-" and line.get_color() == figures.BLUE]
    assert [list(line.get_xdata()) for line in joined] == [ours]  # better than all, it would be the whole front


def test_the_page_names_it_and_never_takes_it_for_a_network_of_the_search(compared):
    page = compared.report()
    assert f"<td>{SLICED}</td>" in page and f"<code>{SLICED}" not in page
    assert f"networks/{SLICED}" not in page and f"cards/{SLICED}" not in page
    parts = re.split(r"<h2>|<summary>", page)
    answer = page.split('<p class="note">Recommended is')[0]
    assert SLICED not in answer and "95.0" not in answer and f"<code>{compared.full}</code>" in answer
    (front,) = (part for part in parts if part.startswith("All 3 networks of the front"))
    assert SLICED not in front and compared.medium in front
    (benchmarks,) = (part for part in parts if part.startswith("Benchmarks by stock lm-eval"))
    rows = [row for row in re.findall(r"<tr.*?</tr>", benchmarks, re.S) if SLICED in row]
    assert [re.search(r"\d\d\.\d ± 2\.0 %", row)[0] for row in rows] == ["95.0 ± 2.0 %", "94.0 ± 2.0 %"]
    assert not any("pick" in row for row in rows)
