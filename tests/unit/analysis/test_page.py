"""The page in a real browser: Debian's Chromium, headless, without network, as wide as a phone and as a screen."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from llama_nas.core import judgement as judging
from llama_nas.core.artifacts import read_table
from llama_nas.core.judgement import in_sequence, recommended, verdict
from llama_nas.core.space import SearchSpace

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
OPTIONS += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000"]
# The page in a frame of a given width; what a script of ours finds out about it becomes the outer page's title.
FRAME = """<!DOCTYPE html><body style="margin:0"><iframe id="page" src="summary.html" width="{width}" height="900"
style="border:0" {sandbox}></iframe><script>page.onload = () => {{
  const document_ = page.contentDocument, body = document_.body, width = {width};
  const right = element => element.getBoundingClientRect().right;
  document.title = JSON.stringify((() => {{ {script} }})());
}};</script>"""
LAYOUT = """
  const closed = document_.documentElement.scrollWidth, answer = document_.getElementById("answer");
  const cut = [...answer.querySelectorAll("*")].filter(e => right(e) > right(answer) + 1).map(e => e.outerHTML);
  for (const evidence of body.querySelectorAll("details")) evidence.open = true;
  const loose = [...body.querySelectorAll("*")]
    .filter(e => !e.closest(".scroll, svg") && right(e) > width + 1).map(e => e.tagName);
  const small = [...body.querySelectorAll("p, li, td, figcaption, dd, small, code")]
    .filter(e => parseFloat(page.contentWindow.getComputedStyle(e).fontSize) < 11.5).length;
  const narrow = [...body.querySelectorAll("p, li, figcaption, dd")]
    .filter(e => e.getBoundingClientRect().width < 200).map(e => e.innerText);
  return {closed, open: document_.documentElement.scrollWidth, answer: right(answer), cut, loose, small, narrow,
    cards: page.contentWindow.getComputedStyle(answer.querySelector("td")).display,
    requests: page.contentWindow.performance.getEntriesByType("resource").map(e => e.name),
    letters: body.innerText.length};
"""
ASK = """
  const form = document_.getElementById("budget"), answers = [];
  const read = () => [...form.querySelectorAll("li")].map(line => [line.dataset.network, line.innerText]);
  answers.push(read());
  for (const [size, precision, drop] of %s) {
    Object.assign(form.elements.size, {value: size});
    Object.assign(form.elements.precision, {value: precision});
    Object.assign(form.elements.drop, {value: drop});
    form.elements.drop.dispatchEvent(new Event("input", {bubbles: true}));
    answers.push(read());
  }
  return answers;
"""
WITHOUT_SCRIPTS = """
  return {box: getComputedStyle(document_.getElementById("budget")).display, text: body.innerText};
"""

if BROWSER is None:
    pytest.skip("SKIPPED FOR LACK OF A BROWSER: apt install chromium", allow_module_level=True)


@pytest.fixture(scope="module", params=["toy", "80 layers"])
def folder(request, make_run, make_real_run, tmp_path_factory) -> Path:
    """The page of a small run with two tasks, and one whose subnet ids have 89 characters."""
    root = tmp_path_factory.mktemp("page")
    if request.param == "toy":
        run = make_run(root)
        run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
        run.add_task("winogrande", run.scores(0.80, 0.70, 0.68, 0.40), chance=0.5)
    else:
        run = make_real_run(root, 80)
    run.report()
    return run.results


def browse(folder: Path, *options: str) -> str:
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [BROWSER, *OPTIONS, profile, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def framed(folder: Path, width: int, script: str, sandbox: str = "") -> tuple[Path, Any]:
    """A file with the page in a frame, and what the script returns there."""
    frame = folder / f"frame{width}.html"
    frame.write_text(FRAME.format(width=width, script=script, sandbox=sandbox))
    page = browse(folder, "--dump-dom", f"--window-size={max(width, 500)},900", frame.as_uri())
    return frame, json.loads(html.unescape(re.search(r"<title>(.*?)</title>", page, re.S)[1]))


@pytest.mark.parametrize(("width", "cards"), [(390, "block"), (1200, "table-cell")])
def test_the_page_fits_its_window_and_asks_for_nothing(folder, width, cards):
    """Folded and unfolded; on a phone the rows of the answer are cards."""
    frame, found = framed(folder, width, LAYOUT)
    assert found["letters"] > 2000
    assert found["closed"] <= width and found["open"] <= width and found["answer"] <= width
    assert found["cut"] == [] and found["loose"] == [] and found["narrow"] == [] and found["small"] == 0
    assert found["cards"] == cards
    assert found["requests"] == []
    shot = folder / f"shot{width}.png"
    browse(folder, f"--screenshot={shot}", f"--window-size={max(width, 500)},900", frame.as_uri())
    pixels = matplotlib.image.imread(shot)[..., :3]
    ink = (pixels.min(axis=2) < 0.6).mean()
    assert 0.01 < ink < 0.5, "the window is empty or dark"


def by_the_rule(folder: Path, task: str, size: float, precision: str, drop: float) -> str:
    """The network that core/judgement.py recommends among those that fit, the full one if none passes; or none."""
    space = SearchSpace.read(folder / "space.json")
    table = read_table(folder / f"search/{task}/judgement.csv")
    sequence = judging.tested(table)
    alone = [verdict(row.difference, row.lower, drop) for row in sequence.itertuples()]
    judged = dict(zip(sequence["subnet_id"], in_sequence(alone), strict=True))
    fits = [id for id in table["subnet_id"] if space.shape.size_bytes(space.parse(id), precision) <= size]
    front = [id for id in table.loc[table["on_front"], "subnet_id"][::-1] if id in fits]
    place = recommended([judged[id] for id in front])
    full = space.id(space.full)
    return front[place] if place is not None else full if full in fits else ""


def test_the_budget_box_answers_by_the_rule(folder):
    space = SearchSpace.read(folder / "space.json")
    tasks = sorted(path.parent.name for path in folder.glob("search/*/judgement.csv"))
    largest, unit = space.shape.size_bytes(space.full), 1e9 if space.num_layers == 80 else 1e6
    questions = [
        (share * largest / unit, precision, points)
        for share in (0.1, 0.4, 0.7, 1.001)
        for precision in ("fp16", "int8", "nf4")
        for points in (0.5, 1, 5, 30)
    ]
    _, (opening, *answers) = framed(folder, 1200, ASK % json.dumps(questions))
    for (size, precision, points), lines in zip(questions, answers, strict=True):
        for task, (network, text) in zip(tasks, lines, strict=True):
            assert network == by_the_rule(folder, task, size * unit, precision, points / 100), (size, precision, points)
            form = "hf" if precision == "fp16" else precision
            assert text.startswith(f"{task}: ") and (f"results/networks/{network}/{form}" in text) == bool(network)
    assert len({network for lines in answers for network, _ in lines}) >= 3
    assert {name for name, _ in opening} == {
        read_table(folder / f"search/{task}/judgement.csv").query("recommended")["subnet_id"].iloc[0] for task in tasks
    }


def test_without_scripts_only_the_box_is_missing(folder):
    _, found = framed(folder, 1200, WITHOUT_SCRIPTS, 'sandbox="allow-same-origin"')
    assert found["box"] == "none" and "lacks the box that stood here, and nothing else" in found["text"]
    assert "Which network to take" in found["text"] and "snakemake --cores all" in found["text"]


def test_figures_are_drawn(folder):
    """The first figure of a task, alone in a window: white ground, the red star of the base, blue points."""
    text = (folder / "summary.html").read_text()
    svg = re.search(r'<figure>\s*(<svg role="img" aria-label="arc_easy: front".*?</svg>)', text, re.S)[1]
    (folder / "figure.html").write_text(f"<body style='margin:0'><div style='width:640px'>{svg}</div>")
    browse(folder, f"--screenshot={folder / 'figure.png'}", "--window-size=640,640", (folder / "figure.html").as_uri())
    pixels = matplotlib.image.imread(folder / "figure.png")[..., :3]
    for color in ((0, 0x72, 0xB2), (0xD0, 0, 0)):
        assert (np.abs(pixels - np.array(color) / 255).max(axis=2) < 0.1).sum() > 30
