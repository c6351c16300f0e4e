"""The DAG and its rerun behaviour, with stand-ins for the stages: what runs, what does not, and what reruns when."""

import collections
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from snakemake import benchmark as sampling
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler

REPOSITORY = Path(__file__).resolve().parents[2]
MEMBERS = ["01111x", "00011x"]  # of the stand-in's front, the two that are spread over its sizes


def jobs(result) -> dict[str, int]:
    """Job counts by rule of a (dry-)run; empty when there was nothing to do."""
    table = re.search(r"^Job stats:\njob +count\n[- ]+\n(.*?)^total", result.stdout + result.stderr, re.M | re.S)
    return {line.split()[0]: int(line.split()[1]) for line in table[1].splitlines()} if table else {}


def executed(result) -> dict[str, int]:
    """How often each rule really ran."""
    names = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):", result.stdout + result.stderr, re.M)
    return dict(collections.Counter(names))


def test_fresh_dry_run_shows_everything_up_to_the_fronts(run):
    counts = jobs(run("--dry-run"))
    expected = {"world": 1, "pretrain": 1, "compile_task": 1, "finetune": 1, "sample": 1, "evaluate": 2, "fit": 2}
    expected["tokenize"] = 1
    assert expected.items() <= counts.items()
    assert counts["propose"] == 1 and counts["front"] == 1
    assert "export" not in counts  # which networks are exported is known only after the front


def test_default_config_dry_run():
    result = subprocess.run(
        ["snakemake", "-n", "--forceall", "--cores", "2"], cwd=REPOSITORY, text=True, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    counts = jobs(result)
    assert counts["evaluate"] == 30 and counts["propose"] == 20 and counts["finalists"] == 5 and counts["front"] == 5


def test_direct_target_needs_no_search(run):
    target = "results/benchmarks/arc_easy/int8/0001xx.json"
    counts = jobs(run("--dry-run", target))
    assert counts == dict.fromkeys(
        ["world", "pretrain", "compile_task", "tokenize", "finetune", "export", "quantize", "benchmark"], 1
    )
    run(target)
    (run.folder / target).unlink()
    assert executed(run(target)) == {"benchmark": 1}


def test_whole_run_and_what_reruns(run):
    """One whole run, then in turn: nothing to do, a deleted benchmark, a deleted front, another task, more rounds."""
    ran = executed(run())
    assert ran["export"] == 3  # the full super-network and two members
    assert ran["quantize"] == 4 and ran["benchmark"] == 2 * 4 + 1 and ran["verify"] == 1

    assert "Nothing to be done" in run().stderr

    run("--report", "results/report.html")  # what `make report` does
    report = (run.folder / "results/report.html").read_text()
    for text in ("summary.html", "The answer on one page", "arc_easy_front.svg", "which network to take for"):
        assert text in report

    benchmark = run.folder / f"results/benchmarks/arc_easy/int8/{MEMBERS[1]}.json"
    benchmark.unlink()
    assert executed(run(str(benchmark.relative_to(run.folder)))) == {"benchmark": 1}

    (run.folder / "results/search/arc_easy/front.csv").unlink()
    again = executed(run())
    assert again["front"] == 1 and not again.keys() & {"evaluate", "fit", "propose", "export", "benchmark", "finetune"}

    more = executed(run(change=lambda config: config["tasks"].update(winogrande={"metric": "acc"})))
    assert more["compile_task"] == 1 and more["evaluate"] == 2 and more["front"] == 1
    assert not more.keys() & {"world", "pretrain", "finetune", "export", "quantize"}
    assert more["benchmark"] == 2 * 4 + 1 and more["summarize"] == 1 and more["report"] == 1

    longer = executed(run("fronts", change=lambda config: config["search"].update(evaluations=60)))
    assert longer == {"propose": 2, "evaluate": 2, "fit": 2, "front": 2}


def test_search_on_some_items_evaluates_its_front_on_all(run):
    """The key reruns the search but not what it searches in; without it, nothing is evaluated twice."""
    run("fronts")
    counts = executed(run("fronts", change=lambda config: config["tasks"]["arc_easy"].update(search_items=30)))
    assert counts == {"sample": 1, "evaluate": 3, "fit": 2, "propose": 1, "finalists": 1, "front": 1}
    commands = run("--dry-run", "--printshellcmds", "--forcerun", "evaluate", "fronts").stdout
    evaluations = re.findall(r"llama-nas evaluate .*?(round_\w+)/candidates.csv.*?(--[a-z-]+ 30)? +--timings", commands)
    expected = [("round_1", "--items 30"), ("round_2", "--items 30"), ("round_final", "--held-out 30")]
    assert sorted(evaluations) == expected


def test_a_space_smaller_than_the_budget_ends_the_search_early_with_one_line(run):
    def small(config):  # 16 + 32 networks, 60 evaluations in rounds of 20
        config["space"].update(depths=[4, 5])
        config["search"].update(evaluations=60)

    result = run("fronts", change=small)
    line = "The space has fewer networks than search.evaluations {}: it ends when all are evaluated, in round 3."
    assert executed(result)["evaluate"] == 3
    assert line.format(60) in result.stderr
    result = run("fronts", change=lambda config: config["search"].update(evaluations=100))
    assert executed(result) == {"fronts": 1} or "Nothing to be done" in result.stderr
    (run.folder / "results/search/arc_easy/front.csv").unlink()
    assert line.format(100) in run("fronts").stderr
    result = run("--dry-run", "fronts", change=lambda config: config["search"].update(variant="strict"))
    assert jobs(result)["evaluate"] == 5
    assert "The space has fewer networks" not in result.stderr


def test_sorted_channels_and_listed_layers(run):
    def change(config):
        config["space"].update(width_selection="importance", depth_selection=[4, 2])
        config["training"].update(freeze_inactive=True, tensorboard=True)

    result = run("--dry-run", "--printshellcmds", "results/supernet", change=change)
    assert jobs(result) == dict.fromkeys(["world", "pretrain", "tokenize", "order_channels", "finetune"], 1)
    (command,) = re.findall(r"llama-nas finetune .*", result.stdout)
    for words in ("--depth-selection 4,2 ", "--base results/ordered ", " --freeze-inactive ", "--tensorboard results/"):
        assert words in command
    assert executed(run("results/supernet"))["order_channels"] == 1


def test_exhaustive_target_needs_no_search(run):
    counts = jobs(run("--dry-run", "exhaustive"))
    expected = [
        "world",
        "pretrain",
        "compile_task",
        "tokenize",
        "finetune",
        "enumerate_space",
        "evaluate",
        "tabulate",
        "exhaustive",
    ]
    assert counts == dict.fromkeys(expected, 1)


def test_formats_are_written_for_every_exported_network(run):
    """The full super-network and two members, in each form of the config; a form is also a target by id."""
    formats = ["hf", "padded", "deci", "gguf-f16", "gguf-q8_0"]

    def change(config):
        config.update(export={"members": 2, "formats": formats}, benchmark={"precisions": ["fp16", "int8", "nf4"]})

    ran = executed(run(change=change))
    assert ran["export"] == 3 * 3 and ran["gguf"] == 2 * 3 and ran["quantize"] == 2 * 4 and ran["cards"] == 1
    for member in ["000000", *MEMBERS]:
        for path in (f"padded/{member}", f"deci/{member}", f"gguf/{member}-f16.gguf", f"gguf/{member}-q8_0.gguf"):
            assert (run.folder / "results" / path).exists()
    assert "Nothing to be done" in run().stderr
    assert executed(run("results/gguf/0101xx-q8_0.gguf")) == {"export": 1, "gguf": 1}


def test_patterns_evaluate_their_heuristics_by_the_searchs_rule(run):
    """And the networks that the config names; a finished search is not touched."""
    run("fronts")
    named = ["000111", "01011x"]
    ran = run("patterns", "--printshellcmds", change=lambda config: config["tasks"]["arc_easy"].update(named=named))
    assert executed(ran) == {
        "find_patterns": 1,
        "find_heuristics": 1,
        "evaluate": 1,
        "judge_heuristics": 1,
        "patterns": 1,
    }
    assert "--named 000111 01011x" in ran.stdout + ran.stderr
    assert "Nothing to be done" in run("patterns").stderr


def test_new_front_members_are_exported(run, monkeypatch):
    run()
    monkeypatch.setenv("FRONT_IDS", "01111x 111111")
    (run.folder / "results/search/arc_easy/front.csv").unlink()
    ran = executed(run())
    assert ran["export"] == 1 and ran["quantize"] == 1  # 111111; the other is there already


def test_code_is_an_input_at_the_grain_of_a_stage(run):
    """A comment reruns nothing, an edit in analysis/ only the analysis, an edit in scoring/ no training."""
    run("all", "patterns")
    package = run.folder / "code/workflow/llama_nas"

    def edited(file, text):
        path = package / file
        path.write_text(path.read_text() + text)
        return jobs(run("--dry-run", "all", "patterns"))

    assert edited("space.py", "\n# a comment\n") == {}
    analysis = {"summarize", "find_patterns", "judge_heuristics", "patterns", "cards", "report", "all"}
    for module in ("summary", "patterns"):
        assert edited(f"analysis/{module}.py", "\nADDED = 1\n").keys() == analysis
    after_scoring = edited("scoring/score.py", "\nADDED = 1\n")
    assert "evaluate" in after_scoring and not after_scoring.keys() & {"world", "pretrain", "finetune", "compile_task"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(sed=1), "unknown key 'sed'; did you mean 'seed'?"),
        (lambda c: c["search"].update(populaton=1), "search: unknown key 'populaton'; did you mean 'population'?"),
        (lambda c: c["space"].update(depths=[4, 7]), "space.depths: 7 layers are more than the model's 6"),
        (lambda c: c["space"].update(widths=[128, 96]), "space.widths: 128 is wider than the model's MLP, 96"),
        (lambda c: c["space"].update(widths=[48, 96]), "space.widths: the first must be the model's full MLP width"),
        (
            lambda c: c["tasks"].update(arc_esy={"metric": "acc"}),
            "lm-eval has no task 'arc_esy'; did you mean 'arc_easy'",
        ),
        (lambda c: c["tasks"]["arc_easy"].update(metric="f1"), "tasks.arc_easy.metric: 'f1' is not one of acc"),
        (lambda c: c["tasks"]["arc_easy"].update(metric="bits_per_byte"), "is not a metric of arc_easy: acc, acc_norm"),
        (
            lambda c: c["search"].update(evaluations=50),
            "search.evaluations: 50 is not a multiple of search.population 20",
        ),
        (
            lambda c: c["search"].update(objectives=["size", "latency"]),
            "search.objectives: ['size', 'latency'] must con",
        ),
        (lambda c: c["search"].update(max_size="9XB"), "search.max_size '9XB': expected a number of bytes"),
        (lambda c: c["search"].update(max_size="9GB", variant="strict"), "search.max_size: search.variant strict, the"),
        (
            lambda c: c["search"].update(objectives=["metric", "size", "latency"], algorithm="additive"),
            "search.objectives: search.algorithm additive takes two objectives and no constraints",
        ),
        (lambda c: c["training"].update(global_batch=20), "training.global_batch: 20 is not a multiple of micro_batch"),
        (lambda c: c["space"].update(depth_selection=[9]), "space.depth_selection 9: must be distinct layers in 0..5"),
        (lambda c: c["space"].update(depth_selection="last"), "space.depth_selection: 'last' is not valid"),
        (lambda c: c["training"].update(offload_optimizer=True, zero_stage=0), "training.offload_optimizer: needs"),
        (lambda c: c.update(base={"source": "path", "path": "no/such"}), "base.path: no folder 'no/such'"),
        (lambda c: c.update(base={"source": "hub", "hub_id": "a/b"}), "base.revision: is missing"),
        (lambda c: c.update(data_root="no/such"), "data_root: no folder 'no/such'"),
        (lambda c: c["export"].update(members=0), "export.members: 0 is not valid"),
        (lambda c: c.update(benchmark={"precisions": ["int8"]}), "benchmark.precisions: ['int8'] must contain fp16"),
        (lambda c: c.update(export={"formats": ["deci"]}), "export.formats: ['deci'] must contain hf"),
        (lambda c: c.update(export={"formats": ["hf", "onnx"]}), "'onnx' is not one of hf, padded, deci, gguf-f16"),
        (lambda c: c.pop("space"), "key 'space' is missing"),
    ],
)
def test_bad_config_is_one_clear_line_before_any_job(run, change, message):
    result = run("--dry-run", change=change, check=False)
    assert result.returncode != 0
    last = (result.stdout + result.stderr).strip().splitlines()[-1]
    assert last.startswith("test.yaml: ") and message in last
    assert "Traceback" not in result.stdout + result.stderr


def test_llama2_7b_preset_builds(tmp_path):
    """The paper's run: the DAG up to the fronts, with everything fetched first and five tasks of 250 evaluations."""
    result = subprocess.run(
        ["snakemake", "-n", "--snakefile", REPOSITORY / "Snakefile", "--cores", "8", "--configfile",
         REPOSITORY / "workflow/presets/llama2-7b.yaml", "--directory", tmp_path],
        text=True, capture_output=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    counts = jobs(result)
    assert counts["fetch_model"] == 1 and counts["fetch_dataset"] == 5 and counts["finetune"] == 1
    assert counts["evaluate"] == 5 * 5 * 8 and counts["front"] == 5


def test_memory_follows_the_model(tmp_path):
    """As long as the model is not fetched its size is unknown; then: bf16 weights, and as much again to load them."""
    preset = yaml.safe_load((REPOSITORY / "workflow/presets/llama2-7b.yaml").read_text())
    shape = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    shape |= {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000}
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(shape))

    def requested(config: dict) -> str:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        result = subprocess.run(
            ["snakemake", "fronts", "-n", "--snakefile", REPOSITORY / "Snakefile", "--cores", "8",
             "--configfile", "config.yaml"], cwd=tmp_path, text=True, capture_output=True,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        (evaluate, *_) = re.findall(r"^rule evaluate:\n.*? resources: (.*?)$", result.stdout, re.M | re.S)
        return dict(word.split("=") for word in evaluate.split(", "))["mem_mb"]

    assert requested(preset) == "<TBD>"
    assert requested(preset | {"base": {"source": "path", "path": "model"}}) == str(4000 + round(4 * 6738415616 / 1e6))


def test_slurm_profile_dry_run(tmp_path):
    result = subprocess.run(
        ["snakemake", "-n", "--snakefile", REPOSITORY / "Snakefile", "--profile", REPOSITORY / "profiles/slurm",
         "--directory", tmp_path],
        text=True, capture_output=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert jobs(result)["evaluate"] == 30  # 5 rounds and the finalists, of 5 tasks


def test_workflow_is_clean():
    """snakemake --lint and snakefmt have nothing to say."""
    for command in (["snakemake", "--lint"], ["snakefmt", "--check", "Snakefile", "workflow/rules"]):
        result = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_what_the_rules_override_in_snakemake_is_there():
    """Renamed, it would be overridden without effect and without a word."""
    assert callable(JobScheduler._schedule_reevalutation)
    assert sampling.BENCHMARK_INTERVAL_SHORT < sampling.BENCHMARK_INTERVAL
    assert isinstance(vars(PersistenceBase)["_serialize_param"], property)
    assert callable(PersistenceBase._serialize_param_builtin)
