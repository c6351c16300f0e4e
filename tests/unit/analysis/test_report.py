"""The one-page report: what it says, that it needs no network, and the same bytes from another process."""

import base64
import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys

import pandas as pd
import pytest

from llama_nas.analysis.figures import FIGURES
from llama_nas.analysis.report import inline_svg, write_report
from llama_nas.analysis.sections import ratio_text
from llama_nas.analysis.summary import summarize
from llama_nas.cli import main
from llama_nas.core.artifacts import read_table
from llama_nas.core.errors import UserError
from llama_nas.core.judgement import RULE, SEQUENCE, Metric


def size(parameters_bytes: int) -> str:
    """As the page prints the toy's sizes: of less than one MB."""
    return f"{parameters_bytes / 1e6:#.3g} MB"


def answer(page: str) -> str:
    """The words of the table that the page opens with."""
    return page.split("Which network to take ", 1)[1].split(" Recommended is ")[0]


def test_report_opens_with_the_answer(run):
    """One row a task: network, sizes, scores with interval and verdict, speeds, INT8; and the commands below it.

    Five of 500 answers gained; Bonett and Price's interval: (6 - 1) / 502 +- 1.965 * sqrt((7 / 502 - 0.00996^2) / 502).
    """
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.61, 0.40))
    run.add_task("winogrande", run.scores(0.80, 0.70, 0.68, 0.40), chance=0.5)
    page = run.page_text()
    medium, full = run.medium, run.full
    sizes = {id: size(2 * run.parameters(id)) for id in (medium, full)}
    ratio = f"{run.parameters(full) / run.parameters(medium):.2f}"
    int8 = f"{2 * run.parameters(full) / run.int8_bytes(medium):.2f}"
    assert answer(page) == (
        "task network size in FP16 score, base → network speed against the base INT8 "
        f"arc_easy {medium} {sizes[medium]} of {sizes[full]} {ratio}× smaller acc 60.0 % → 61.0 % "
        "+1.0 points (−0.0 to +2.0) shown on 500 items that the search selected by "
        "prefill 1.25× (1.19 to 1.31) decode 1.25× (1.19 to 1.31) "
        f"{size(run.int8_bytes(medium))}, {int8}× smaller +0.0 points (−0.6 to +0.6) shown "
        f"FP16: export snakemake --cores all results/networks/{medium}/hf "
        f'load AutoModelForCausalLM.from_pretrained("results/networks/{medium}/hf", trust_remote_code=True) '
        f"INT8: export snakemake --cores all results/networks/{medium}/int8 "
        f'load AutoModelForCausalLM.from_pretrained("results/networks/{medium}/int8", trust_remote_code=True) '
        f"winogrande full-size super-network {full} no network passes {sizes[full]} of {sizes[full]} the same size "
        "acc 80.0 % → 70.0 % −10.0 points (−12.6 to −7.3) worse on 500 items that the search selected by "
        "prefill about the same, 1.00× (0.95 to 1.05) decode about the same, 1.00× (0.95 to 1.05) "
        f"{size(run.int8_bytes(full))}, {2 * run.parameters(full) / run.int8_bytes(full):.2f}× smaller "
        "−11.0 points (−13.8 to −8.2) worse "
        f"FP16: export snakemake --cores all results/networks/{full}/hf "
        f'load AutoModelForCausalLM.from_pretrained("results/networks/{full}/hf") '
        f"INT8: export snakemake --cores all results/networks/{full}/int8 "
        f'load AutoModelForCausalLM.from_pretrained("results/networks/{full}/int8")'
    )
    assert f"Recommended is {RULE}. Allowed: 1 point (answer.max_drop)." in page and SEQUENCE in page
    assert "arc_easy, winogrande: the scores are those by which the search selected its networks" in page
    assert page.count("on a CPU") == 1 and "within noise" not in page and "reaches chance" not in page
    assert "2,000 requests: the largest difference of a log-likelihood is 3.1e-06 per token, 0 of 500 items" in page


def test_items_that_the_search_has_not_seen_are_named(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.61, 0.40), search_items=300)
    page = run.page_text()
    assert "on 200 items that the search has not seen" in answer(page) and "optimistic. With the key" not in page


def test_every_member_of_the_front_stands_there_with_its_command(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    page = run.page_text().split("All 3 networks of the front")[1].split("By the search's scorer")[0]
    for name, score, to_base, to_full in (
        (run.small, "40.0 %", "−20.0 points (−23.5 to −16.4) worse", "−30.0 points (−33.9 to −25.8)"),
        (run.medium, "58.0 %", "−2.0 points (−3.3 to −0.6) worse", "−12.0 points (−14.9 to −9.1)"),
        (run.full, "70.0 %", "+10.0 points (+7.3 to +12.6) shown", "+0.0 points (−0.6 to +0.6)"),
    ):
        (row,) = re.findall(rf"{name}(?:, full size recommended)? snakemake.*?{re.escape(to_full)}", page)
        assert f"snakemake --cores all results/networks/{name}/hf {len(name.replace('x', ''))} " in row
        assert (
            f" {size(2 * run.parameters(name))} " in row and f" {size(run.int8_bytes(name))} {score} {to_base} " in row
        )


def test_what_is_not_refuted_says_what_would_show_it(run):
    run.add_task("arc_easy", run.scores(0.60, 0.596, 0.594, 0.40))
    page = run.page_text()
    needed = read_table(run.results / "search/arc_easy/judgement.csv").query("recommended")["items_needed"].iloc[0]
    assert (
        f"acc 60.0 % → 59.4 % −0.6 points (−1.5 to +0.3) not refuted (some {needed:,.0f} items would show it)" in page
    )


def test_speeds_have_intervals_and_the_control_is_named(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    page = run.page_text()
    ratio = "1.25× (1.19 to 1.31) 31 %"
    assert f"{run.medium} FP16 1,250 {ratio} 125 {ratio} 500 {ratio}" in page
    assert "full-size super-network (control) FP16 1,000 about the same, 1.00× (0.95 to 1.05) 25 %" in page
    assert "full-size super-network INT8 500 0.50× (0.47 to 0.53)" in page
    assert f"{run.small} FP16 – – – – – – – – –" in page
    assert "cpu, 2 threads: prefill 8 x 128 tokens, decode 1 x 16 tokens after 128, decode 16 x 16 tokens" in page


def test_two_tasks_are_compared(run):
    """Both have shown the medium network; a run of one task has no such section."""
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.61, 0.40))
    run.report()
    assert "One network for all tasks" not in run.page_text()
    run.add_task("winogrande", run.scores(0.60, 0.65, 0.62, 0.40))
    page = run.page_text().split("One network for all tasks ")[1]
    assert page.startswith(
        f"network size in FP16 arc_easy winogrande {run.medium} best for all tasks; recommended for arc_easy; "
        f"recommended for winogrande {size(2 * run.parameters(run.medium))} +1.0 points (−0.0 to +2.0) shown "
        f"+2.0 points (+0.6 to +3.3) shown {run.full} full-size super-network {size(2 * run.parameters(run.full))} "
    )
    assert "On all tasks together it is shown." in page and "arc_easy itself: two halves" in page


def test_a_network_keeps_the_verdict_of_its_own_front(run):
    """The matrix judges it in the sequence of each front: the page shows what its task's answer says."""
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.61, 0.40))
    run.add_task("winogrande", run.scores(0.60, 0.65, 0.62, 0.40))
    run.report()
    matrix = read_table(run.results / "transfer/matrix.csv")
    foreign = (matrix["subnet_id"] == run.medium) & (matrix["home"] != matrix["task"])
    path = run.results / "transfer/changed.csv"
    matrix.assign(verdict=matrix["verdict"].mask(foreign, "worse")).to_csv(path, index=False)
    inputs = run.report_inputs()
    write_report(run.results / "p.html", **inputs | {"transfer": [path, *inputs["transfer"][1:]]})
    rows = re.findall(r"<tr.*?</tr>", (run.results / "p.html").read_text(), re.S)
    (row,) = (row for row in rows if "best for all tasks" in row)
    assert row.count('class="verdict shown"') == 2


def test_the_unit_of_sizes_is_chosen(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    run.report()
    write_report(run.results / "p.html", **run.report_inputs() | {"size_unit": "GiB"})
    page = re.sub(r"<svg.*?</svg>", "", (run.results / "p.html").read_text(), flags=re.S)
    assert f"{2 * run.parameters(run.full) / 2**20:#.3g}\xa0MiB" in page and "MiB is 1,048,576 bytes" in page
    assert not re.search(r"\d\s[MG]B\b", page)


def test_tables_are_links_with_the_file_in_them(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    links = dict(re.findall(r'<a download="([^"]+)" href="data:text/csv;base64,([^"]+)">', run.report()))
    files = {"arc_easy-judgement": "search/arc_easy/judgement", "arc_easy-summary": "summary/arc_easy"}
    files["training"] = "supernet/training"
    for name, path in files.items():
        assert base64.b64decode(links[f"{name}.csv"]) == (run.results / f"{path}.csv").read_bytes()
    costs = pd.read_csv(io.BytesIO(base64.b64decode(links["costs.csv"]))).set_index("rule")
    assert costs.loc["finetune", "max_rss_bytes"] == 2048 * 2**20 and costs.loc["all stages", "jobs"] == 3


def test_a_metric_of_which_less_is_better(run):
    """Its drop is relative, and a change for the worse has a plus."""
    values = {(m, "fp16"): v for m, v in (("pretrained", 2.0), (run.full, 1.9), (run.medium, 1.99), (run.small, 2.4))}
    run.add_task("stories", values, metric=Metric("bits_per_byte", False), stderr=None)
    page = run.page_text()
    assert f"stories {run.medium}" in answer(page) and "bits_per_byte 2.000 → 1.990 −0.5 % (" in answer(page)
    assert re.search(rf"{run.small} .*?2\.400 \+20\.\d % \(\+", page) and "Allowed: 1 % (answer.max_drop)" in page
    assert "points of accuracy (% of other metrics)" in page


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


def test_report_says_what_the_run_was_made_with_and_cost(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40))
    page = run.page_text().split("Provenance and cost")[1]
    digest = hashlib.sha256(b"supernet").hexdigest()
    assert f"super-network, sha256 of model.safetensors {digest}" in page and "seed of the run 7" in page
    assert "finetune 1 90 s 2.8 min 2.15 GB" in page
    assert "evaluate 2 3.3 h 0 s 0.537 GB" in page  # processor time not measured
    assert "all stages 3 3.4 h 2.8 min 2.15 GB" in page
    (run.results / "timings/jobs/finetune.tsv").unlink()
    for path in run.results.glob("timings/jobs/evaluate/*"):
        path.unlink()
    assert "Summed over the jobs" not in run.page_text()


def test_nf4_is_one_more_line(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.61, 0.40) | {(m, "nf4"): 0.5 for m in (run.full, run.medium)})
    page = run.page_text()
    assert "speed against the base quantized arc_easy" in page
    ratio = 2 * run.parameters(run.full) / nf4_bytes(run, run.medium)
    assert f"NF4: {size(nf4_bytes(run, run.medium))}, {ratio:.2f}× smaller −10.0 points" in answer(page)
    assert f"NF4: export snakemake --cores all results/networks/{run.medium}/nf4" in answer(page)


def nf4_bytes(run, subnet_id: str) -> int:
    """Half a byte a weight of the decoder's maps and an fp32 scale for each 64 of them, the rest at 2 bytes."""
    weights = [rows * columns for rows, columns in run.maps(subnet_id)]
    return sum(w // 2 + 4 * -(-w // 64) for w in weights) + 2 * (run.parameters(subnet_id) - sum(weights))


def test_report_says_where_nothing_can_be_learnt(run):
    run.add_task("arc_challenge", run.scores(0.27, 0.26, 0.25, 0.24), limit=100, subtasks=["arc_a", "arc_b"])
    agreement = run.results / "agreement/arc_challenge.json"
    agreement.write_text(
        json.dumps(json.loads(agreement.read_text()) | {"agrees": False, "flipped_items": [{"item": 3}] * 7})
    )
    page = run.page_text()
    assert "arc_challenge: the interval of the base's own score reaches chance (25.0 %)" in page
    assert "The search optimised another number" in page and "7 of 500 items" in page
    assert "arc_challenge: arc_a arc_b" in page and "500 (the first 100 of each subtask)" in page
    assert "2,000, 17 of them cut" in page and "INT8 outlier threshold 6.0" in page


def test_report_escapes_and_needs_no_network(run):
    run.add_task("arc_easy", run.scores(0.60, 0.70, 0.58, 0.40), versions={"lm_eval": "<script>alert(1)</script>"})
    run.add_task("winogrande", run.scores(0.60, 0.70, 0.58, 0.40))
    page = run.report()
    assert page.count("<script") == 1 and "lm_eval &lt;script&gt;" in page
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of SVG, never fetched
    assert not re.search(r"<(link|iframe|img|object|embed)\b|@import|\bsrc=|fetch\(|XMLHttpRequest|import\(", page)
    assert all(target.startswith(("#", "data:text/csv;")) for target in re.findall(r'href="([^"]*)"', page))
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
    other = run.results / "other.csv"
    judgement = read_table(pages["judgements"][0])
    for rows in (judgement.iloc[1:], judgement.assign(recommended=judgement["subnet_id"] == run.small)):
        rows.to_csv(other, index=False)
        with pytest.raises(UserError, match=r"arc_easy\.csv: is about another search than .*other\.csv"):
            write_report(run.results / "p.html", **pages | {"judgements": [other, pages["judgements"][1]]})
    with pytest.raises(UserError, match="got 2, 2 and 1"):
        write_report(run.results / "p.html", **pages | {"agreements": pages["agreements"][:1]})
    words = [str(word) for word in _options(pages | {"supernet": run.results / "base"})]
    assert main(["write-report", *words, "--output", str(run.results / "p.html")]) == 2
    assert re.fullmatch(r"llama-nas write-report: error: .*training\.csv: not found\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((1.314, 1.22, 1.41, "faster"), "1.31× (1.22 to 1.41)"),
        ((0.71, 0.65, 0.78, "slower"), "0.71× (0.65 to 0.78)"),
        ((1.04, 0.96, 1.12, "about the same"), "about the same, 1.04× (0.96 to 1.12)"),
        ((1.3, math.nan, math.nan, "about the same"), "too few turns to tell"),
        ((1.0, math.nan, math.nan, math.nan), "–"),  # the base
    ],
)
def test_a_ratio_has_its_interval(given, text):
    assert ratio_text(*given) == text
