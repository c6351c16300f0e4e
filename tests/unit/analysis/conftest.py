"""A small synthetic run whose numbers can be computed by hand, shared by the tests of the analysis and of its page."""

import html
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.support.judging import nested, write_items
from tests.support.spaces import PAPER_SPACE

from llama_nas.analysis.figures import FIGURES, PATTERN_FIGURES
from llama_nas.analysis.patterns import find_patterns
from llama_nas.analysis.report import write_report
from llama_nas.analysis.summary import summarize
from llama_nas.analysis.transfer import compare_tasks
from llama_nas.core.artifacts import derived_seed, read_json, read_table
from llama_nas.core.items import Items
from llama_nas.core.judgement import HELD_OUT, SEARCHED, Metric, format_answers
from llama_nas.core.shape import ModelShape
from llama_nas.core.space import SearchSpace, grouped
from llama_nas.search.front import judge
from llama_nas.search.tables import Task

TOY = SearchSpace.declare(
    ModelShape(
        model_type="llama",
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        vocab_size=512,
    ),
    [4, 6],
    [176, 88],
)
LARGE_SPACE = SearchSpace.declare(
    ModelShape(
        model_type="llama",
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=32000,
    ),
    [60, 70, 80],
    [28672, 14336],
)
ACCURACY, ERROR = Metric("acc", True), 0.02


class Run:
    """The artifacts of a finished run under `results/`; `summarize` and `report` run the stages on them.

    members: the exported networks beside the full one; the first is the fastest, the last has no measured speed.
    """

    def __init__(self, root: Path, space: SearchSpace = TOY, members: Sequence[str] = ("001011", "1111xx")):
        self.results, self.space = root / "results", space
        self.full, self.members = space.id(space.full), list(members)
        self.medium, self.small = self.members[0], self.members[-1]
        self.tasks: list[str] = []
        self.rounds: dict[str, set[int]] = {}
        self.search_items: dict[str, int | None] = {}
        self.contenders = {"pretrained": self.results / "base"}
        space.write(self.results / "space.json")
        shape = space.shape
        self.config = {
            "model_type": "llama",
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.num_hidden_layers,
            "num_attention_heads": shape.num_attention_heads,
            "num_key_value_heads": shape.num_key_value_heads,
            "vocab_size": shape.vocab_size,
        }
        self.write("base/config.json", self.config)
        for name in (self.full, *self.members):
            self.add_contender(name, self.exported_config(name), self.results / f"networks/{name}/hf")
        for name in ("base", "supernet"):
            (self.results / name).mkdir(exist_ok=True)
            (self.results / name / "model.safetensors").write_bytes(name.encode())
        self.write_text("timings/jobs/finetune.tsv", "s\tmax_rss\tcpu_time\n90.0\t2048\t170.0\n")
        for shard in (1, 2):
            self.write_text(f"timings/jobs/evaluate/{shard}.tsv", f"s\tmax_rss\tcpu_time\n{4000 * shard}\t512\t-\n")
        steps = np.arange(1, 121)
        training = pd.DataFrame(
            {
                "step": steps,
                "kind": np.where(steps % 2 == 1, "full", "subnet"),
                "loss": 3 * np.exp(-steps / 40) + 0.3 + 0.2 * (steps % 2 == 0) + 0.05 * np.sin(steps),
            }
        )
        self.write("supernet/training.csv", training)

    def write_text(self, path: str, value: str) -> None:
        (self.results / path).parent.mkdir(parents=True, exist_ok=True)
        (self.results / path).write_text(value)

    def write(self, path: str, value) -> None:
        path = self.results / path
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, pd.DataFrame):
            value.to_csv(path, index=False)
        else:
            path.write_text(json.dumps(value), encoding="utf-8")

    def widths(self, subnet_id: str) -> list[int]:
        """MLP widths of the kept layers."""
        return [self.space.blocks[int(code)].mlp_width for code in subnet_id.replace("-", "") if code != "x"]

    def maps(self, subnet_id: str) -> list[tuple[int, int]]:
        """(rows, columns) of every matrix of the decoder: four of the attention, three of the MLP in each layer."""
        shape = self.space.shape
        hidden, keys = shape.hidden_size, shape.num_key_value_heads * shape.head_dim
        attention = [(hidden, hidden), (keys, hidden), (keys, hidden), (hidden, hidden)]
        mlps = [[(width, hidden), (width, hidden), (hidden, width)] for width in self.widths(subnet_id)]
        return [matrix for mlp in mlps for matrix in (*attention, *mlp)]

    def parameters(self, subnet_id: str) -> int:
        """Untied embedding and head, final norm; per layer its matrices and two norms."""
        hidden, layers = self.space.shape.hidden_size, len(self.widths(subnet_id))
        matrices = sum(rows * columns for rows, columns in self.maps(subnet_id))
        return 2 * self.space.shape.vocab_size * hidden + hidden + layers * 2 * hidden + matrices

    def int8_bytes(self, subnet_id: str) -> int:
        """Decoder maps at 1 byte plus an fp32 scale per output row, the rest at 2 bytes."""
        matrices = sum(rows * columns for rows, columns in self.maps(subnet_id))
        scales = sum(4 * rows for rows, _ in self.maps(subnet_id))
        return matrices + scales + 2 * (self.parameters(subnet_id) - matrices)

    def exported_config(self, subnet_id: str) -> dict:
        """As the form hf writes it: a width for each layer that is not as wide as in the base."""
        widths = self.widths(subnet_id)
        narrow = {str(i): {"intermediate_size": width} for i, width in enumerate(widths) if width != widths[0]}
        config = self.config | {"num_hidden_layers": len(widths), "intermediate_size": widths[0]}
        return config | ({"per_layer_config": narrow} if narrow else {})

    def add_contender(self, name: str, config: dict, folder: Path) -> None:
        """A compared model: the folder with its config.json."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        self.contenders[name] = folder

    def scores(self, base: float, full: float, *members: float, int8_loss: float = 0.01) -> dict:
        """(model, precision) -> value, in FP16 and INT8."""
        values = dict(zip(["pretrained", self.full, *self.members], [base, full, *members], strict=True))
        fp16 = {(model, "fp16"): value for model, value in values.items()}
        return fp16 | {(model, "int8"): value - int8_loss for model, value in values.items()}

    def add_task(self, name: str, scores: dict[tuple[str, str], float], metric: Metric = ACCURACY, **changed) -> None:
        """scores: (model, precision) -> value; changed: stderr, versions, search_items, max_drop, keys of task.json."""
        self.tasks.append(name)
        self.search_items[name], max_drop = changed.pop("search_items", None), changed.pop("max_drop", 0.01)
        stderr = changed.pop("stderr", ERROR)
        versions = changed.pop("versions", {"torch": "2.13.0", "lm_eval": "0.4.13"})
        settings = {
            "task": name,
            "lm_eval_task": name,
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            "metrics": [metric.name],
            "items": 500,
            "chance": 0.25 if metric.is_share else None,
            "num_fewshot": 0,
            "limit": None,
            "subtasks": None,
            "requests": 2000,
            "truncated_requests": 17,
        }
        self.write(f"tasks/{name}/task.json", settings | changed)
        items = write_items(self.results / f"tasks/{name}", 500)
        values = {key: self.item_values(metric, *key, value) for key, value in scores.items()}
        for (model, precision), value in scores.items():
            self.write(
                f"benchmarks/{name}/{precision}/{model}.json",
                {
                    "task": name,
                    "precision": precision,
                    "metric": metric.name,
                    "item_values": values[model, precision].tolist(),
                    "metrics": {metric.name: value, f"{metric.name}_stderr": stderr},
                    "items": 500,
                    "bytes_on_disk": 123456,
                    "memory_bytes": 234567,
                    "batch_size": 16,
                    "int8_threshold": 6.0 if precision == "int8" else None,
                    "versions": versions,
                    "loglikelihoods": [[-1.0, -2.0]],
                },
            )
        self.write(f"search/{name}/round_2/evaluations.csv", self.evaluations(metric))
        front = pd.DataFrame(
            [
                {"subnet_id": id, "layers": len(self.widths(id)), "parameters": self.parameters(id)}
                | {"size_bytes": 2 * self.parameters(id), metric.name: scores[id, "fp16"], "stderr": ERROR}
                | {"items": 500, "round": 2}
                for id in (self.full, *self.members)
            ]
        )
        self.write(f"search/{name}/front.csv", front)
        self.write(f"search/{name}/judgement.csv", self.judgement(name, metric, items, values, max_drop))
        self.write(
            f"agreement/{name}.json",
            {
                "task": name,
                "subnet_id": self.full,
                "dtype": "fp32",
                "requests": 2000,
                "items": 500,
                "max_difference_per_token": 3.1e-6,
                "max_relative_difference": 2e-7,
                "flipped_items": [],
                "search_scorer": scores[self.full, "fp16"],
                "lm_eval": scores[self.full, "fp16"],
                "agrees": True,
            },
        )
        speeds = [
            {"model": model, "precision": precision, "phase": phase, "batch_size": batch, "sequence_length": 128}
            | {"new_tokens": 0 if phase == "prefill" else 16, "tokens_per_second": own}
            | {"tokens_per_second_q1": 0.9 * own, "tokens_per_second_q3": 1.6 * own}
            | {"ratio": own / rate, "ratio_lower": 0.95 * own / rate, "ratio_upper": 1.05 * own / rate}
            | {"speed_verdict": "about the same" if own == rate else "faster" if own > rate else "slower"}
            | {"limit_tokens_per_second": 4 * rate, "device": "cpu", "threads": 2, "repeats": 20}
            for model, precision in scores
            if model != self.small
            for phase, batch, rate in (("prefill", 8, 1000.0), ("decode", 1, 100.0), ("decode_saturated", 16, 400.0))
            for own in (rate * self.speed(model, precision),)
        ]
        self.write(f"timings/throughput/{name}.csv", pd.DataFrame(speeds))
        self.add_round(name, 1, None)
        self.add_round(name, 2, {"kendall_tau": 0.61, "mae": 0.01, "rows": 48})

    def item_values(self, metric: Metric, model: str, precision: str, value: float) -> np.ndarray:
        """What a model of that score answers to 500 items: the first of them right, or texts of 100 bytes or words."""
        if metric.is_share:
            return np.array(list(nested(value, 500)), dtype=int)
        own = np.random.default_rng(derived_seed(0, model, precision)).normal(1, 0.01, 500)
        own /= own.mean()
        return -(value * math.log(2) if metric.name == "bits_per_byte" else math.log(value)) * own

    def judgement(self, task: str, metric: Metric, items: Items, values: dict, max_drop: float) -> pd.DataFrame:
        """judgement.csv of the full network and the members, all on the front."""
        count = self.search_items[task]
        judged = items.judged(count, task)
        ids = [self.full, *self.members]
        answers = [format_answers(values[id, "fp16"][judged], metric) for id in ids]
        finalists = pd.DataFrame({"subnet_id": ids, "answers": answers})
        about = Task(task, metric.name, metric.higher_is_better)
        base = values["pretrained", "fp16"][judged]
        rows = judge(finalists, items.of(judged), base, about, self.space, set(ids), max_drop)
        return rows.assign(judged_on=SEARCHED if count is None else HELD_OUT)

    def add_round(self, task: str, number: int, quality: dict | None, fits: bool = True) -> None:
        """What the search says of a round's predictions and, from round 2 on, of its predictor.

        fits: whether the algorithm has a predictor. The one of round 3 is fitted on the 100 networks of two rounds.
        """
        folder = f"search/{task}/round_{number}"
        about = {"round": number, "task": task, "metric": "acc"}
        self.write(f"{folder}/predictions.json", about | {"quality": quality})
        self.rounds.setdefault(task, set()).add(number)
        predictor = {
            "kind": "ridge",
            "rows": 50 * (number - 1),
            "cross_validation": {
                "svr": {"kendall_tau": 0.5, "mae": 0.02},
                "ridge": {"kendall_tau": 0.7 + 0.01 * number, "mae": 0.01},
            },
        }
        if number > 1:
            self.write(f"{folder}/predictor.json", about | {"predictor": predictor if fits else None})

    def speed(self, model: str, precision: str) -> float:
        return (1.25 if model == self.medium else 1.0) * (1.0 if precision == "fp16" else 0.5)

    def evaluations(self, metric: Metric) -> pd.DataFrame:
        rng = np.random.default_rng(0)
        ids = [self.space.id(self.space.subnet(self.space.random(rng))) for _ in range(60)]
        sizes = np.array([2 * self.parameters(id) for id in ids])
        share = sizes / (2 * self.parameters(self.full))
        value = 0.5 + 0.3 * share if metric.higher_is_better else 3 - share
        rounds = np.repeat([1, 2], len(ids) // 2)
        layers = [len(self.widths(id)) for id in ids]
        table = pd.DataFrame({"round": rounds, "subnet_id": ids, "size_bytes": sizes, "items": 300, "layers": layers})
        return table.assign(**{metric.name: value + rng.normal(0, 0.02, len(ids))})

    def summarize_inputs(self, task: str) -> dict:
        benchmarks = sorted((self.results / "benchmarks" / task).glob("*/*.json"))
        measured = {path.stem for path in benchmarks}
        return {
            "space": self.results / "space.json",
            "task": self.results / "tasks" / task,
            "evaluations": self.results / f"search/{task}/round_2/evaluations.csv",
            "front": self.results / f"search/{task}/front.csv",
            "judgement": self.results / f"search/{task}/judgement.csv",
            "search_items": self.search_items[task],
            "contenders": [f"{name}={folder}" for name, folder in self.contenders.items() if name in measured],
            "benchmarks": benchmarks,
            "agreement": self.results / f"agreement/{task}.json",
            "throughput": self.results / f"timings/throughput/{task}.csv",
        }

    def summarize(self, task: str) -> pd.DataFrame:
        table = self.results / f"summary/{task}.csv"
        summarize(table, figures=self.figures(task), **self.summarize_inputs(task))
        return read_table(table)

    def figures(self, task: str) -> list[Path]:
        return [self.results / f"figures/{task}_{name}.svg" for name in FIGURES]

    def pattern_figures(self, task: str) -> list[Path]:
        return [self.results / f"figures/{task}_{name}.svg" for name in PATTERN_FIGURES]

    def find_patterns(self, task: str) -> None:
        folder = self.results / "patterns"
        folder.mkdir(exist_ok=True)
        depths, blocks = self.pattern_figures(task)
        find_patterns(
            **{key: self.summarize_inputs(task)[key] for key in ("space", "task", "evaluations")},
            layers=folder / f"{task}_layers.csv",
            layers_figure=depths,
            maps=folder / f"{task}_blocks.csv",
            maps_figure=blocks,
        )

    def transfer_outputs(self) -> dict[str, Path]:
        """What the comparison of the tasks writes; nothing where there is one task."""
        names = {
            "matrix": "transfer/matrix.csv",
            "maps": "transfer/maps.csv",
            "scores_figure": "figures/transfer_scores.svg",
            "maps_figure": "figures/transfer_maps.svg",
        }
        return {key: self.results / name for key, name in names.items()} if len(self.tasks) > 1 else {}

    def compare_tasks(self) -> None:
        """Every member on every task: the fronts of all tasks have the same members here."""
        shards, inputs = {}, {task: self.summarize_inputs(task) for task in self.tasks}
        for task in self.tasks:
            settings = read_json(self.results / f"tasks/{task}/task.json")
            judged = Items.read(self.results / f"tasks/{task}").judged(self.search_items[task], task)
            metric = Metric.of(settings)
            rows = []
            for name in (self.full, *self.members):
                values = read_json(self.results / f"benchmarks/{task}/fp16/{name}.json")["item_values"]
                rows.append({"subnet_id": name, "answers": format_answers(np.array(values)[judged], metric)})
            shards[task] = f"search/{task}/transfer/shard_1-of-1.csv"
            self.write(shards[task], pd.DataFrame(rows))
        for path in self.transfer_outputs().values():
            path.parent.mkdir(exist_ok=True)
        compare_tasks(
            space=self.results / "space.json",
            tasks=[given["task"] for given in inputs.values()],
            evaluations=[given["evaluations"] for given in inputs.values()],
            judgements=[given["judgement"] for given in inputs.values()],
            bases=[self.results / f"benchmarks/{task}/fp16/pretrained.json" for task in self.tasks],
            shards=[f"{task}={self.results / path}" for task, path in shards.items()],
            search_items=[self.search_items[task] or 0 for task in self.tasks],
            seed=7,
            size_unit="GB",
            **self.transfer_outputs(),
        )

    def report_inputs(self) -> dict:
        numbers = {task: sorted(self.rounds[task], reverse=True) for task in self.tasks}
        rounds = [self.results / f"search/{task}/round_{number}" for task in self.tasks for number in numbers[task]]
        return {
            "base": self.results / "base",
            "supernet": self.results / "supernet",
            "space": self.results / "space.json",
            "seed": 7,
            "size_unit": "GB",
            "command": "snakemake --cores all",
            "timings": self.results / "timings/jobs",
            "summaries": [self.results / f"summary/{task}.csv" for task in self.tasks],
            "judgements": [self.results / f"search/{task}/judgement.csv" for task in self.tasks],
            "transfer": list(self.transfer_outputs().values()),
            "figures": [path for task in self.tasks for path in (*self.figures(task), *self.pattern_figures(task))],
            "agreements": [self.results / f"agreement/{task}.json" for task in self.tasks],
            "predictors": [folder / "predictor.json" for folder in rounds if (folder / "predictor.json").exists()],
            "predictions": [folder / "predictions.json" for folder in rounds],
        }

    def report(self) -> str:
        for task in self.tasks:
            self.summarize(task)
            self.find_patterns(task)
        if len(self.tasks) > 1:
            self.compare_tasks()
        page = self.results / "summary.html"
        write_report(page, **self.report_inputs())
        return page.read_text(encoding="utf-8")

    def page_text(self) -> str:
        """The page's words without markup and figures, white space folded."""
        page = re.sub(r"<(svg|style|script|head)\b.*?</\1>", " ", self.report(), flags=re.DOTALL)
        page = re.sub(r"<[^>]+>", "", re.sub(r"<(td|th|br|small|dt|dd|li|summary)\b", r" <\1", page))
        return re.sub(r"\s+", " ", html.unescape(page)).replace("\xad", "").strip()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.fixture(scope="session")
def make_run() -> type[Run]:
    """For a run of another space or one that several tests share: `make_run(folder, space, members)`."""
    return Run


@pytest.fixture(scope="session")
def make_real_run() -> Callable[[Path, int], Run]:
    """A finished run on Llama 2 7B (32 layers, the paper's space) or 70B (80 layers): `make_real_run(folder, layers)`.

    Its members: a network of mixed widths and middle depth, all layers narrow, and the smallest of the space.
    """

    def make(folder: Path, layers: int) -> Run:
        space = {32: PAPER_SPACE, 80: LARGE_SPACE}[layers]
        depth, narrow = space.depths[1], "1" * layers
        mixed = ("01" * layers)[:depth].ljust(layers, "x")
        run = Run(folder, space, [grouped(mixed), grouped(narrow), space.id(space.smallest)])
        run.add_task("arc_easy", run.scores(0.60, 0.70, 0.62, 0.61, 0.40))
        return run

    return make
