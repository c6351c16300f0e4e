"""What only happens at a real model's shape: ids of several groups, many layers on an axis, sizes in GB."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from llama_nas.analysis import patterns
from llama_nas.analysis.cards import write_cards
from llama_nas.analysis.contenders import FULL, MEMBER
from llama_nas.core.artifacts import read_table
from llama_nas.core.judgement import Metric
from llama_nas.core.units import format_bytes
from llama_nas.exports.card import Provenance, model_card, quantized_card
from llama_nas.exports.export import describe
from llama_nas.exports.forms import FOLDERS, network_path

PARAMETERS = {32: 6_738_415_616, 80: 68_976_648_192}  # of Llama 2 7B and 70B
IDS = {
    32: (
        "00000000-00000000-00000000-00000000",
        "01010101-01010101-01010101-0101xxxx",
        "11111111-11111111-11111111-11111111",
        "11111111-11111111-11111111-xxxxxxxx",
    ),
    80: (
        "-".join(["00000000"] * 10),
        "-".join([*["01010101"] * 8, "010101xx", "xxxxxxxx"]),
        "-".join(["11111111"] * 10),
        "-".join([*["11111111"] * 7, "1111xxxx", "xxxxxxxx", "xxxxxxxx"]),
    ),
}


@pytest.fixture(scope="module", params=[32, 80], ids=["32 layers", "80 layers"])
def run(request, make_real_run, tmp_path_factory):
    """A run with all its tables, its figures and its page."""
    run = make_real_run(tmp_path_factory.mktemp("real"), request.param)
    run.report()
    return run


@pytest.fixture
def ids(run) -> tuple[str, ...]:
    """The full network, one of mixed widths, the one of narrow layers, and the smallest."""
    return IDS[run.space.num_layers]


def test_the_summary_has_whole_ids_and_the_models_published_sizes(run, ids):
    path = run.results / "summary/arc_easy.csv"
    table = read_table(path)
    lines = path.read_text().splitlines()[1:]
    assert all(sum(f",{subnet_id}," in line for line in lines) == 2 for subnet_id in ids)
    assert set(table.loc[table["role"] == FULL, "model"]) == {ids[0]}
    assert set(table.loc[table["role"] == MEMBER, "model"]) == set(ids[1:])
    rows = table[table["precision"] == "fp16"].set_index("model")
    assert rows.loc[ids[0], "parameters"] == rows.loc["pretrained", "parameters"] == PARAMETERS[run.space.num_layers]
    for subnet_id in ids:
        kept = len(subnet_id.replace("-", "").replace("x", ""))
        assert rows.loc[subnet_id, "layers"] == kept
        assert rows.loc[subnet_id, "parameters"] == run.parameters(subnet_id)
        assert rows.loc[subnet_id, "size_bytes"] == 2 * run.parameters(subnet_id)
    assert list(rows.index[rows["recommended"]]) == [ids[2]]


def test_every_figure_is_drawn(run):
    paths = [*run.figures("arc_easy"), *run.pattern_figures("arc_easy")]
    names = [path.stem.removeprefix("arc_easy_") for path in paths]
    assert names == ["front", "quantized", "speed", "progress", "depths", "blocks"]
    for path in paths:
        svg = path.read_text()
        assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert svg.count("<path") > 20
    for path in paths[:2]:
        assert "<!-- size of the weights (GB) -->" in path.read_text()


def test_the_figure_of_blocks_has_few_ticks_for_its_many_layers(run, monkeypatch):
    maps = read_table(run.results / "patterns/arc_easy_blocks.csv")
    monkeypatch.setattr(patterns, "svg", lambda figure: figure)
    panels = patterns.maps_drawing(maps, Metric("acc", True), "t").axes
    layers = run.space.num_layers
    ticks = panels[-1].get_xticks()
    assert 8 <= len(ticks) <= 20 and ticks[0] == 1 and layers - (ticks[1] - ticks[0]) < ticks[-1] <= layers
    assert [len(panel.containers[0]) for panel in panels] == list(run.space.depths)
    wide, narrow = run.space.blocks
    assert [bars.get_label() for bars in panels[-1].containers] == [str(wide), str(narrow)]


def test_the_figure_of_depths_knows_every_depth(run, monkeypatch):
    counts = read_table(run.results / "patterns/arc_easy_layers.csv")
    monkeypatch.setattr(patterns, "svg", lambda figure: figure)
    (axes,) = patterns.layers_drawing(counts, Metric("acc", True), "t").axes
    assert [bars.get_label() for bars in axes.containers] == [f"{depth} layers" for depth in run.space.depths]


def test_cards_are_named_by_the_whole_id_and_say_it(run, ids, tmp_path):
    folders = []
    for subnet_id in ids:
        record = describe(subnet_id, run.space.parse(subnet_id), run.space.shape, [], "hf")
        card = model_card(json.loads(json.dumps(record)), Provenance(), FOLDERS["hf"].loading(record))
        for form, text in (("hf", card), ("int8", quantized_card(card, subnet_id, "int8", "LLM.int8"))):
            folder = run.results / network_path(subnet_id, form)
            folder.mkdir(exist_ok=True)
            (folder / "README.md").write_text(text)
            folders.append(folder)
    write_cards(tmp_path / "cards", models=folders, summaries=[run.results / "summary/arc_easy.csv"])
    names = {f"{subnet_id}{end}.md" for subnet_id in ids for end in ("", "-int8")}
    assert {path.name for path in (tmp_path / "cards").iterdir()} == names
    for subnet_id in ids:
        text = (tmp_path / f"cards/{subnet_id}.md").read_text()
        kept = [str(layer) for layer, code in enumerate(subnet_id.replace("-", "")) if code != "x"]
        assert f"# Sub-network `{subnet_id}`\n" in text and f"layers: numbers {', '.join(kept)} of the base" in text
        assert f"| FP16 | {format_bytes(2 * run.parameters(subnet_id))} |" in text
        assert f"| INT8 | {format_bytes(run.int8_bytes(subnet_id))} |" in text


def test_the_page_is_one_file_that_needs_no_network(run):
    page = (run.results / "summary.html").read_text()
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of SVG, never fetched
    assert not re.search(r"<(link|iframe|img|object|embed)\b|@import|\bsrc=", page)
    assert all(target.startswith(("#", "data:text/csv;")) for target in re.findall(r'href="([^"]*)"', page))


def test_the_page_has_whole_ids_where_they_may_wrap(run, ids):
    """A browser may break them anywhere; what is copied from the page has no break in it."""
    page = (run.results / "summary.html").read_text()
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    rules = {name.strip(): body for name, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style)}
    assert "overflow-wrap: anywhere" in rules["code"] and "white-space" not in rules["code"]
    assert "white-space: nowrap" in rules["td"] and "white-space: normal" in rules["td:first-child"]
    for subnet_id in ids[1:]:
        assert page.count(f"<td><code>{subnet_id}</code>") >= 3  # of the front, its benchmarks and its speeds
        assert f"<code>snakemake --cores all results/networks/{subnet_id}/hf</code>" in page
    assert re.search(rf'<td data-label="network"><div>\s*<code>{ids[2]}</code>', page)
    assert not re.search(r"[01x]{8}-?(&shy;|<wbr>|\s+)-?[01x]{8}", page)
