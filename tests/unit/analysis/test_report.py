"""The one-page report: what it says, that it needs no network, and the same bytes from another process."""

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest

from llama_nas.analysis.figures import FIGURES
from llama_nas.analysis.report import inline_svg, write_report
from llama_nas.analysis.summary import summarize
from llama_nas.cli import main
from llama_nas.core.errors import UserError


def test_report_opens_with_the_answer(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    run.add_task("winogrande", run.scores(0.80, 0.70, 0.68, 0.40), chance=0.5)
    page = run.page_text()
    medium, small = run.medium, run.small
    ratio = f"{run.parameters(run.full) / run.parameters(run.medium):.2f}"
    int8_ratio = f"{2 * run.parameters(run.full) / run.int8_bytes(run.medium):.2f}"
    size = f"{2 * run.parameters(run.medium) / 1e6:.3g} MB ({2 * run.parameters(run.medium) / 2**20:.3g} MiB)"
    base_size = f"{2 * run.parameters(run.full) / 1e6:.3g} MB ({2 * run.parameters(run.full) / 2**20:.3g} MiB)"
    assert page.startswith(
        f"Which network to take arc_easy: take {medium} – {ratio}× smaller than the base: {size} against {base_size} "
        "in FP16; prefill 1.25×, decode 1.25× as fast; acc 58.0 ± 2.0 % against 60.0 ± 2.0 % (within noise). "
        f"INT8: {int8_ratio}× smaller"
    )
    assert (
        f"57.0 ± 2.0 % (within noise). Checkpoint: results/networks/{medium}/hf, its model card: "
        f"results/cards/{medium}.md INT8: results/networks/{medium}/int8, its model card: "
        f"results/cards/{medium}-int8.md" in page
    )
    assert (
        f"winogrande: every exported network is significantly worse than the base; the best of them is {run.full}, "
        in page
    )
    assert "the same size as the base" in page
    assert "smallest exported network whose FP16 score is not significantly worse" in page
    assert "arc_easy up to 5.7 points;" in page  # 2 * sqrt(2) * 2.0
    # the gain split of the taken network: fine-tuning +10, search -12, INT8 -1
    assert f"{medium} +10.0 points better −12.0 points worse −1.0 points within noise" in page
    assert "2,000 requests: the largest difference of a log-likelihood is 3.1e-06 per token, 0 of 500 items" in page
    assert "noise of chance" not in page
    # the speed table: tokens/s, against the base, of the limit; for prefill, decode, saturated decode
    assert f"{medium} FP16 1,250 1.25 31 % 125 1.25 31 % 500 1.25 31 %" in page
    assert f"{small} FP16 – – – – – – – – –" in page
    assert "cpu, 2 threads: prefill 8 x 128 tokens, decode 1 x 16 tokens after 128, decode 16 x 16 tokens" in page


def test_the_predictors_of_the_rounds_are_rows_from_round_2_on(run):
    """Each with the quality of its own round's new networks, which a later round may not have."""
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    run.add_round("arc_easy", 3, {"kendall_tau": -0.25, "mae": 0.01, "rows": 7})
    run.add_round("arc_easy", 4, None)
    page = run.page_text()
    rows = "2 50 ridge 0.72 0.61 48 3 100 ridge 0.73 −0.25 7 4 150 ridge 0.74 – –"
    assert f"Kendall τ, the round's new networks new networks predicted {rows} τ is 1" in page


def test_a_search_without_a_predictor_has_no_section_about_one(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    run.add_round("arc_easy", 2, None, fits=False)
    assert "predictor" not in run.page_text()


def test_report_compares_as_the_papers_tables_do(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.72, 0.58))
    page = run.page_text().split("Fronts in numbers")[1].split("As in the paper")[0]
    size_text = "{:.3g} MB ({:.3g} MiB)"
    for label, model, value in (
        ("pre-trained base FP16", run.full, "60.0"),
        ("full-size super-network FP16", run.full, "70.0"),
        ("best exported FP16", run.medium, "72.0"),
        ("recommended FP16", run.small, "58.0"),
    ):
        size = size_text.format(2 * run.parameters(model) / 1e6, 2 * run.parameters(model) / 2**20)
        assert f"{label} {size} {value} ± 2.0 %" in page
    size = size_text.format(run.int8_bytes(run.small) / 1e6, run.int8_bytes(run.small) / 2**20)
    assert f"recommended INT8 {size} 57.0 ± 2.0 % within noise" in page


def test_report_says_what_the_run_was_made_with_and_cost(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    page = run.page_text().split("Provenance and cost")[1]
    digest = hashlib.sha256(b"supernet").hexdigest()
    assert f"super-network, sha256 of model.safetensors{digest}" in page and "seed of the run7" in page
    assert "finetune 1 90 s 2.8 min 2.00 GiB" in page
    assert "evaluate 2 3.3 h 0 s 0.50 GiB" in page  # processor time not measured
    assert "all stages 3 3.4 h 2.8 min 2.00 GiB" in page
    (run.results / "timings/jobs/finetune.tsv").unlink()
    for path in run.results.glob("timings/jobs/evaluate/*"):
        path.unlink()
    assert "Summed over the jobs" not in run.page_text()


def test_nf4_is_one_more_column(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40) | {(m, "nf4"): 0.5 for m in (run.full, run.medium)})
    page = run.page_text()
    assert f"NF4: results/networks/{run.medium}/nf4" in page and "NF4 − FP16" in page
    assert "50.0 ± 2.0 % worse" in page


def test_report_says_where_nothing_can_be_learnt(run):
    run.add_task("arc_challenge", run.scores(0.27, 0.26, 0.25, 0.24), limit=100, subtasks=["arc_a", "arc_b"])
    agreement = run.results / "agreement/arc_challenge.json"
    agreement.write_text(
        json.dumps(json.loads(agreement.read_text()) | {"agrees": False, "flipped_items": [{"item": 3}] * 7})
    )
    page = run.page_text()
    assert "The base itself is within noise of chance (25.0 %)" in page
    assert "No: the search optimised another number" in page and "7 of 500 items" in page
    assert "arc_challenge: arc_a arc_b" in page and "500 (the first 100 of each subtask)" in page
    assert "2,000, 17 of them cut" in page and "INT8 outlier threshold6.0" in page


def test_report_escapes_and_needs_no_network(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40), versions={"lm_eval": "<script>alert(1)</script>"})
    run.add_task("winogrande", run.scores(0.60, 0.70, 0.58, 0.40))
    page = run.report()
    assert "<script" not in page and "lm_eval &lt;script&gt;" in page
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of SVG, never fetched
    assert not re.search(r"<(script|link|iframe|img|object|embed)\b|@import|\bsrc=", page)
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', page))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', page)) <= set(ids)


def test_inline_svg_keeps_references_in_one_piece():
    svg = '<?xml version="1.0"?>\n<svg><path id="a"/><use xlink:href="#a" clip-path="url(#b)"/><g id="b"/></svg>'
    assert inline_svg(svg, "t", 'a "b"') == (
        '<svg role="img" aria-label="a &#34;b&#34;"><path id="t-a"/>'
        '<use xlink:href="#t-a" clip-path="url(#t-b)"/><g id="t-b"/></svg>'
    )


def test_same_bytes_from_another_process_without_torch(run, tmp_path):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    run.report()
    inputs, page_inputs = run.summarize_inputs("arc_easy"), run.report_inputs()
    again = tmp_path / "again"
    svgs = [again / path.name for path in run.figures("arc_easy")]
    commands = [
        ["summarize", *_options(inputs), "--output", again / "s.csv", "--figures", *svgs],
        ["write-report", *_options(page_inputs), "--output", again / "summary.html"],
    ]
    program = (
        "import sys, json; from llama_nas.cli import main\n"
        "codes = [main(command) for command in json.loads(sys.argv[1])]\n"
        "assert codes == [0, 0] and not {'torch', 'seaborn'} & set(sys.modules), codes"
    )
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nfont.size: 30\n")  # the user's own taste has no say
    environment = os.environ | {"PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path), "LC_ALL": "C"}
    text_commands = json.dumps([[str(word) for word in command] for command in commands])
    subprocess.run([sys.executable, "-c", program, text_commands], check=True, env=environment)
    for name, original in (
        ("s.csv", "summary/arc_easy.csv"),
        *((path.name, f"figures/{path.name}") for path in svgs),
        ("summary.html", "summary.html"),
    ):
        assert (again / name).read_bytes() == (run.results / original).read_bytes()


def _options(values: dict) -> list:
    words: list = []
    for key, value in values.items():
        words += [f"--{key}", *(value if isinstance(value, list | tuple) else [value])]
    return words


def test_bad_inputs_are_named(run, capsys):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    inputs = run.summarize_inputs("arc_easy")
    outputs = {"output": run.results / "s.csv", "figures": [run.results / f"{name}.svg" for name in FIGURES]}
    without_full = [path for path in inputs["benchmarks"] if path.stem != run.full]
    with pytest.raises(UserError, match=f"arc_easy/fp16/{run.full}.json is needed"):
        summarize(**outputs, **inputs | {"benchmarks": without_full})
    with pytest.raises(UserError, match="8 pairs of model and precision"):
        summarize(**outputs, **inputs | {"benchmarks": [*inputs["benchmarks"], inputs["benchmarks"][0]]})

    other = run.results / f"benchmarks/arc_easy/fp16/{run.small}.json"
    record = json.loads(other.read_text())
    other.write_text(json.dumps(record | {"items": 100}))
    with pytest.raises(UserError, match=r"100 items, but the compiled task has 500"):
        run.summarize("arc_easy")
    other.write_text(json.dumps(record | {"metrics": {"acc_norm": 0.5}}))
    with pytest.raises(UserError, match="metrics has no 'acc'; it has acc_norm"):
        run.summarize("arc_easy")
    other.write_text(json.dumps(record))
    assert not outputs["output"].exists() and not any(path.exists() for path in outputs["figures"])

    run.add_task("winogrande", run.scores(0.60, 0.70, 0.58, 0.40))
    run.report()
    pages = run.report_inputs()
    with pytest.raises(UserError, match="is about task 'arc_easy'"):
        write_report(run.results / "p.html", **pages | {"agreements": pages["agreements"][::-1]})
    with pytest.raises(UserError, match=r"winogrande_blocks\.svg is missing"):
        write_report(run.results / "p.html", **pages | {"figures": pages["figures"][:-1]})
    with pytest.raises(UserError, match="got 2 and 1"):
        write_report(run.results / "p.html", **pages | {"agreements": pages["agreements"][:1]})
    words = [str(word) for word in _options(pages | {"supernet": run.results / "base"})]
    assert main(["write-report", *words, "--output", str(run.results / "p.html")]) == 2
    assert re.fullmatch(r"llama-nas write-report: error: .*training\.csv: not found\n", capsys.readouterr().err)
