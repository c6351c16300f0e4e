"""The DAG, with stand-ins for the stages: what runs for which targets and configs.

What reruns when is in test_rerun.py, models of real size are in test_real_shapes.py.
"""

import copy
import re
import subprocess

from tests.workflow.workflow_copy import REPOSITORY, executed, jobs, snakemake, write_model

FULL, *MEMBERS = "000000", "01111x", "00011x"  # of the stand-in's front, the two members that are spread over its sizes
TRAINED = ["make_world", "pretrain", "tokenize", "declare_space", "finetune"]


def test_fresh_dry_run_shows_everything_up_to_the_fronts(run):
    counts = jobs(run("--dry-run"))
    searched = ["compile_task", "sample", "propose", "choose_finalists", "run_lm_eval", "find_front"]
    expected = dict.fromkeys([*TRAINED, *searched], 1)  # the benchmark is the base's
    assert (expected | {"evaluate": 3, "gather": 2}).items() <= counts.items()
    assert "export" not in counts  # which networks are exported is known only after the front


def test_default_config_dry_run():
    result = snakemake("-n", "--forceall", "--cores", "2")
    assert result.returncode == 0, result.stderr
    counts = jobs(result)
    assert counts["take_base"] == 1 and "pretrain" not in counts  # the base comes with the repository
    assert counts["propose"] == 3 * 2 and counts["evaluate"] == 3 * (3 + 2)  # rounds, finalists, other fronts' networks
    assert counts["choose_finalists"] == counts["find_front"] == 3


def test_direct_target_needs_no_search(run):
    target = "results/benchmarks/arc_easy/int8/0001xx.json"
    counts = jobs(run("--dry-run", target))
    assert counts == dict.fromkeys([*TRAINED, "compile_task", "export", "quantize", "run_lm_eval"], 1)
    run(target)
    (run.folder / target).unlink()
    assert executed(run(target)) == {"run_lm_eval": 1}


def test_direct_targets_need_no_other_task(run):
    """A benchmark, a network or a task's judgement; only a summary compares speeds, which are measured all at once."""

    def change(config):
        config["tasks"].update(winogrande={"metric": "acc"})

    own = ["results/benchmarks/arc_easy/int8/0001xx.json", "results/networks/0001xx/hf"]
    said = run("--dry-run", *own, "results/search/arc_easy/judgement.csv", change=change).stdout
    assert "find_front" in said and "winogrande" not in said


def test_whole_run_and_what_reruns(run):
    """One whole run, then in turn: nothing to do, a deleted benchmark, a deleted front, another task, more rounds."""
    ran = executed(run())
    assert ran["export"] == 3  # the full super-network and two members
    # in FP16 they and the base, the recommended one also in INT8, one in the search's own precision
    assert ran["quantize"] == 1 and ran["run_lm_eval"] == 4 + 1 + 1 and ran["verify"] == 1

    assert "Nothing to be done" in run().stderr

    run("--report", "results/report.html")  # what `make report` does
    report = (run.folder / "results/report.html").read_text()
    for text in ("summary.html", "The answer on one page", "arc_easy_front.svg", "which network to take for"):
        assert text in report

    benchmark = run.folder / f"results/benchmarks/arc_easy/int8/{MEMBERS[0]}.json"
    benchmark.unlink()
    assert executed(run(str(benchmark.relative_to(run.folder)))) == {"run_lm_eval": 1}

    (run.folder / "results/search/arc_easy/front.csv").unlink()
    again = executed(run())
    assert again["find_front"] == 1
    assert not again.keys() & {"evaluate", "gather", "propose", "export", "run_lm_eval", "finetune"}

    more = executed(run(change=lambda config: config["tasks"].update(winogrande={"metric": "acc"})))
    assert more["compile_task"] == 1 and more["evaluate"] == 3 + 2 and more["find_front"] == 1
    assert not more.keys() & {"make_world", "pretrain", "declare_space", "finetune", "export", "quantize"}
    assert more["run_lm_eval"] == 4 + 1 + 1 and more["summarize"] == 2 and more["write_report"] == 1

    longer = executed(run("fronts", change=lambda config: config["search"].update(evaluations=60)))
    assert longer == {"propose": 2, "evaluate": 4, "gather": 2, "choose_finalists": 2, "find_front": 2}


def test_the_recommended_network_is_exported_and_quantized_wherever_it_lies_on_the_front(run, monkeypatch):
    """Of five members two are spread over the sizes."""
    monkeypatch.setitem(run.environment, "FRONT_IDS", "0111xx 01111x 00011x 000011 000001")
    monkeypatch.setitem(run.environment, "RECOMMENDED", "01111x")
    run("results/search/arc_easy/front.csv")
    result = run("--dry-run", "--printshellcmds")
    counts, said = jobs(result), result.stdout
    assert counts["export"] == 4 and counts["quantize"] == 1
    assert set(re.findall(r"export .*--subnet (\S+)", said)) == {"0111xx", "01111x", "000001", FULL}
    assert re.findall(r"quantize .*--model (\S+)", said) == ["results/networks/01111x/hf"]


def test_search_on_some_items_evaluates_its_front_on_all(run):
    """The key reruns the search but not what it searches in."""
    run("fronts")
    counts = executed(run("fronts", change=lambda config: config["tasks"]["arc_easy"].update(search_items=30)))
    assert counts == {"sample": 1, "evaluate": 3, "gather": 2, "propose": 1, "choose_finalists": 1, "find_front": 1}
    commands = run("--dry-run", "--printshellcmds", "--forcerun", "evaluate", "fronts").stdout
    evaluations = re.findall(r"llama-nas evaluate .*?(\w+)/candidates.csv.*?--shards 1 +(.*?) +--timings", commands)
    rounds = [(f"round_{number}", "--search-items 30") for number in (1, 2)]
    assert sorted(evaluations) == [("finalists", "--judged --search-items 30"), *rounds]


def test_a_space_smaller_than_the_budget_ends_the_search_early_with_one_line(run):
    def small(config):  # 16 + 32 networks, 60 evaluations in rounds of 20
        config["space"].update(depths=[4, 5])
        config["search"].update(evaluations=60)

    result = run("fronts", change=small)
    line = "The space has fewer networks than search.evaluations {}: it ends when all are evaluated, in round 3."
    assert executed(result)["evaluate"] == 3 + 1  # the finalists
    assert line.format(60) in result.stderr
    result = run("fronts", change=lambda config: config["search"].update(evaluations=100))
    assert executed(result) == {"fronts": 1} or "Nothing to be done" in result.stderr
    (run.folder / "results/search/arc_easy/front.csv").unlink()
    assert line.format(100) in run("fronts").stderr
    result = run("--dry-run", "fronts", change=lambda config: config["search"].update(variant="strict"))
    assert jobs(result)["evaluate"] == 5 + 1
    assert "The space has fewer networks" not in result.stderr


def test_a_search_of_one_round_proposes_nothing_and_runs_to_its_end(run):
    ran = executed(run(change=lambda config: config["search"].update(evaluations=20)))
    assert ran["evaluate"] == 1 + 1 and ran["write_report"] == 1 and "propose" not in ran


def test_sorted_channels_and_listed_layers(run):
    def change(config):
        config["space"].update(width_selection="importance", depth_selection=[4, 2])
        config["training"].update(freeze_inactive=True, tensorboard=True)

    result = run("--dry-run", "--printshellcmds", "results/supernet", change=change)
    assert jobs(result) == dict.fromkeys([*TRAINED, "order_channels"], 1)
    (declared,) = re.findall(r"llama-nas declare-space .*", result.stdout)
    assert "--depth-selection 4,2 --depths 4 5 6 --widths 96 48 " in declared
    (trained,) = re.findall(r"llama-nas finetune .*", result.stdout)
    for words in ("--base results/ordered ", " --freeze-inactive ", "--tensorboard results/"):
        assert words in trained
    assert executed(run("results/supernet"))["order_channels"] == 1


def test_a_measured_order_of_layers_is_found_before_the_space_is_declared(run):
    """Nothing else of the run changes."""
    first = jobs(run("--dry-run"))
    result = run("--dry-run", change=lambda config: config["space"].update(depth_selection="importance"))
    assert jobs(result) == first | {"order_layers": 1}
    result = run("results/space.json", "--printshellcmds")
    order = re.findall(r"^(?:local)?rule (\w+):", result.stderr, re.M)
    assert order == ["make_world", "pretrain", "tokenize", "order_layers", "declare_space"]
    assert "--smallest-depth 4 " in result.stderr
    assert " --depth-selection importance " in result.stderr
    assert " --layer-order results/layer_order.json " in result.stderr


def test_exhaustive_target_needs_no_search(run):
    counts = jobs(run("--dry-run", "exhaustive"))
    expected = [*TRAINED, "compile_task", "enumerate_space", "evaluate", "tabulate", "exhaustive"]
    assert counts == dict.fromkeys(expected, 1)


def test_formats_are_written_for_every_exported_network(run):
    """The full super-network and two members, in each form of the config; a form is also a target by id."""
    formats = ["hf", "padded", "deci", "gguf-f16", "gguf-q8_0"]

    def change(config):
        config.update(export={"members": 2, "formats": formats}, benchmark={"precisions": ["fp16", "int8", "nf4"]})

    ran = executed(run(change=change))
    assert ran["export"] == 3 * 3 and ran["write_gguf"] == 2 * 3 and ran["quantize"] == 2
    assert ran["write_cards"] == 1
    for member in [FULL, *MEMBERS]:
        made = {path.name for path in (run.folder / "results/networks" / member).iterdir()}
        quantized = {"int8", "nf4"} if member == MEMBERS[0] else set()  # only the recommended one
        assert made == {"hf", "padded", "deci", "gguf-f16.gguf", "gguf-q8_0.gguf"} | quantized
    assert "Nothing to be done" in run().stderr
    assert executed(run("results/networks/0101xx/gguf-q8_0.gguf")) == {"export": 1, "write_gguf": 1}


def test_contenders_are_benchmarked_timed_and_summarised(run):
    """In FP16: only the recommended network is quantized.

    Also one whose name could be a subnet's id, and one in a folder with a space; neither is exported.
    """
    contenders = {"slicegpt-0.25": "other methods/sliced", "shortgpt-8": "other methods/short"}
    for folder in contenders.values():
        write_model(run.folder / folder)
    result = run("--printshellcmds", change=lambda config: config.update(contenders=contenders))
    ran = executed(result)
    assert ran["export"] == 3 and ran["quantize"] == 1 and ran["run_lm_eval"] == (4 + 2) + 1 + 1
    (summarize,) = re.findall(r"llama-nas summarize .*", result.stderr)
    (timed,) = re.findall(r"llama-nas measure-throughput .*", result.stderr)
    for name, folder in contenders.items():
        assert f"'{name}={folder}'" in summarize
        assert f"'{name}:fp16={folder}'" in timed and f"{name}:int8" not in timed
        assert f" results/benchmarks/arc_easy/fp16/{name}.json" in summarize
    result = run("results/networks/shortgpt-8/hf", check=False)
    assert "MissingRuleException" in result.stderr


def test_paths_with_a_space_go_through_the_shell_unbroken(run):
    write_model(run.folder / "my model")
    (run.folder / "my rows.json").write_text("[]")
    (run.folder / "my data/allenai/ai2_arc").mkdir(parents=True)

    def change(config):
        config["base"] = {"source": "path", "path": "my model"}
        config.update(instructions={"path": "my rows.json"}, data_root="my data")

    ran = executed(run(change=change))
    assert ran["take_base"] == ran["tokenize"] == ran["compile_task"] == ran["write_report"] == 1


def test_patterns_evaluate_their_heuristics_by_the_searchs_rule(run):
    """And the networks that the config names; a finished search is not touched."""
    run("fronts")
    named = ["000111", "01011x"]
    ran = run("patterns", "--printshellcmds", change=lambda config: config["tasks"]["arc_easy"].update(named=named))
    expected = ["find_patterns", "find_heuristics", "evaluate", "judge_heuristics", "patterns"]
    assert executed(ran) == dict.fromkeys(expected, 1)
    assert "--named 000111 01011x" in ran.stdout + ran.stderr
    assert "Nothing to be done" in run("patterns").stderr


def test_new_front_members_are_exported(run, monkeypatch):
    run()
    monkeypatch.setitem(run.environment, "FRONT_IDS", "01111x 111111")
    (run.folder / "results/search/arc_easy/front.csv").unlink()
    ran = executed(run())
    assert ran["export"] == 1 and "quantize" not in ran  # 111111; the other is there already, also in INT8


def test_all_networks_of_all_tasks_are_timed_once_in_one_job(run):
    """The base first, each pair of network and precision once; the control is the full network."""

    def change(config):
        config["tasks"].update(winogrande={"metric": "acc"})

    result = run("results/timings/throughput.csv", "--printshellcmds", change=change)
    assert executed(result)["measure_throughput"] == 1
    (command,) = re.findall(r"llama-nas measure-throughput .*", result.stderr)
    models = re.search(r"--models (.*?) --control 000000:fp16 ", command)[1].split()
    networks = [f"{name}:fp16=results/networks/{name}/hf" for name in (FULL, *MEMBERS)]
    quantized = f"{MEMBERS[0]}:int8=results/networks/{MEMBERS[0]}/int8"
    assert models[0] == "pretrained:fp16=results/base"
    assert sorted(models[1:]) == sorted([*networks, quantized])


def test_the_scorer_is_checked_on_a_network_that_drops_layers_and_narrows_widths(run, monkeypatch):
    """Of those the one with most layers dropped, then most blocks narrow; else what comes next to it."""
    for front, expected in (
        ("0111xx 011111 00xxx1 01xxx1 11111x 000000", "01xxx1"),
        ("00000x 0000xx 111111 000000", "0000xx"),
        ("000000", "000000"),
    ):
        monkeypatch.setitem(run.environment, "FRONT_IDS", front)
        target = "results/agreement/arc_easy.json"
        result = run(target, "--forcerun", "find_front", "--printshellcmds")
        assert f"--subnet {expected} " in re.findall(r"llama-nas verify .*", result.stderr)[-1], front
        assert (run.folder / f"results/benchmarks/arc_easy/fp32/{expected}.json").is_file()


def test_code_is_an_input_at_the_grain_of_a_stage(run):
    """A comment reruns nothing, an edit in analysis/ only the analysis, an edit in scoring/ no training."""
    run("all", "patterns")
    package = run.code / "workflow/llama_nas"

    def edited(file, text):
        path = package / file
        path.write_text(path.read_text() + text)
        return jobs(run("--dry-run", "all", "patterns"))

    assert edited("core/space.py", "\n# a comment\n") == {}
    patterns = {"find_patterns", "judge_heuristics", "patterns", "write_report", "all"}
    assert edited("analysis/patterns.py", "\nADDED = 1\n").keys() == patterns
    analysis = patterns | {"summarize", "write_cards"}
    assert edited("analysis/summary.py", "\nADDED = 1\n").keys() == analysis
    after_scoring = edited("scoring/evaluate.py", "\nADDED = 1\n")
    assert "evaluate" in after_scoring
    assert not after_scoring.keys() & {"make_world", "pretrain", "declare_space", "finetune", "compile_task"}


# A change of the config -> a part of the line that it gets.
WRONG = [
    (lambda c: c.update(sed=1), "unknown key 'sed'; did you mean 'seed'?"),
    (lambda c: c.pop("space"), "key 'space' is missing"),
    (lambda c: c.update(base={"source": "path", "path": "no/such"}), "base.path: no folder 'no/such'"),
    (lambda c: c.update(base={"source": "hub", "hub_id": "a/b"}), "base.revision: is missing"),
    (lambda c: c.update(data_root="no/such"), "data_root: no folder 'no/such'"),
    (lambda c: c["space"].update(depths=[4, 7]), "space.depths: 7 layers are more than the model's 6"),
    (lambda c: c["space"].update(widths=[128, 96]), "space.widths: 128 is wider than the model's MLP, 96"),
    (lambda c: c["space"].update(widths=[48, 96]), "space.widths: the first must be the model's full MLP width"),
    (lambda c: c["space"].update(depth_selection=[9]), "space.depth_selection 9: must be distinct layers in 0..5"),
    (lambda c: c["space"].update(depth_selection="last"), "space.depth_selection: 'last' is not valid"),
    (lambda c: c["training"].update(global_batch=20), "training.global_batch 20 must be a multiple of micro_batch"),
    (lambda c: c["training"].update(offload_optimizer=True, zero_stage=0), "training.offload_optimizer needs"),
    (lambda c: c["tasks"].update(arc_esy={"metric": "acc"}), "lm-eval has no task 'arc_esy'; did you mean 'arc_easy'"),
    (lambda c: c["tasks"]["arc_easy"].update(metric="f1"), "tasks.arc_easy.metric: 'f1' is not one of acc"),
    (lambda c: c["tasks"]["arc_easy"].update(metric="bits_per_byte"), "is not a metric of arc_easy: acc, acc_norm"),
    (lambda c: c["search"].update(populaton=1), "search: unknown key 'populaton'; did you mean 'population'?"),
    (lambda c: c["search"].update(evaluations=50), "search.evaluations: 50 is not a multiple of search.population 20"),
    (
        lambda c: c["search"].update(objectives=["size", "latency"]),
        "['size', 'latency'] must contain metric",
    ),
    (lambda c: c["search"].update(max_size="9XB"), "search.max_size '9XB': expected a number of bytes"),
    (lambda c: c["search"].update(max_size="9GB", variant="strict"), "search.max_size: search.variant strict, the"),
    (
        lambda c: c["search"].update(objectives=["metric", "size", "latency"], algorithm="additive"),
        "search.objectives: search.algorithm additive takes two objectives and no constraints",
    ),
    (lambda c: c["export"].update(members=0), "export.members: 0 is not valid"),
    (lambda c: c.update(export={"formats": ["deci"]}), "export.formats: ['deci'] must contain hf"),
    (lambda c: c.update(export={"formats": ["hf", "onnx"]}), "'onnx' is not one of hf, padded, deci, gguf-f16"),
    (lambda c: c.update(benchmark={"precisions": ["int8"]}), "benchmark.precisions: ['int8'] must contain fp16"),
    (lambda c: c.update(contenders={"a-1": "no/such"}), "contenders.a-1: no Hugging Face model folder 'no/such'"),
]


def test_a_bad_config_is_one_clear_line_before_any_job(run):
    configs = {}
    for change, message in WRONG:
        configs[message] = copy.deepcopy(run.config)
        change(configs[message])
    for message, report in run.dry_runs(configs).items():
        assert report["failed"], message
        last = report["said"].strip().splitlines()[-1]
        assert re.match(r"configs/\d+\.yaml: ", last) and message in last
        assert "Traceback" not in report["said"] and not report["jobs"]


def test_a_bad_config_ends_snakemake_with_its_line_and_an_exit_code(run):
    result = run("--dry-run", change=lambda config: config.update(sed=1), check=False)
    assert result.returncode != 0
    assert result.stderr.splitlines()[-1] == "test.yaml: the config: unknown key 'sed'; did you mean 'seed'?"


def test_slurm_profile_dry_run(tmp_path):
    result = snakemake(
        *("-n", "--snakefile", REPOSITORY / "Snakefile", "--profile", REPOSITORY / "profiles/slurm"), folder=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert jobs(result)["evaluate"] == 3 * (3 + 2)  # rounds, finalists and transfer, of 3 tasks


def test_workflow_is_clean():
    """snakemake --lint and snakefmt have nothing to say."""
    for command in (["snakemake", "--lint"], ["snakefmt", "--check", "Snakefile", "workflow/rules"]):
        result = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True)
        assert result.returncode == 0, result.stdout + result.stderr
