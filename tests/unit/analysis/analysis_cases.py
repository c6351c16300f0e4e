"""A small synthetic run whose numbers can be computed by hand, shared by the tests of the analysis and of its page."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from llama_nas.analysis.figures import FIGURES, PATTERN_FIGURES
from llama_nas.analysis.judgement import Metric
from llama_nas.analysis.patterns import find_patterns
from llama_nas.analysis.report import write_report
from llama_nas.analysis.summary import HELD_OUT, summarize_task
from llama_nas.core.artifacts import read_table

HIDDEN, VOCABULARY, LAYERS, WIDTHS = 64, 512, 6, (176, 88)
FULL, MEDIUM, SMALL = "000000", "001011", "1111xx"
ACCURACY, ERROR = Metric("acc", True), 0.02
BITS = Metric("bits_per_byte", False)


def parameters(subnet_id: str) -> int:
    """Untied embedding and head, final norm; per layer four square maps, two norms, three MLP maps."""
    widths = [WIDTHS[int(code)] for code in subnet_id if code != "x"]
    layers = sum(4 * HIDDEN**2 + 2 * HIDDEN + 3 * HIDDEN * width for width in widths)
    return 2 * VOCABULARY * HIDDEN + HIDDEN + layers


def int8_bytes(subnet_id: str) -> int:
    """Decoder maps at 1 byte plus an fp32 scale per output row, the rest at 2 bytes."""
    widths = [WIDTHS[int(code)] for code in subnet_id if code != "x"]
    maps = sum(4 * HIDDEN**2 + 3 * HIDDEN * width for width in widths)
    scales = sum(4 * (4 * HIDDEN + 2 * width + HIDDEN) for width in widths)
    return maps + scales + 2 * (parameters(subnet_id) - maps)


class Run:
    """The artifacts of a finished run under `results/`; `summarize` and `report` run the stages on them."""

    def __init__(self, root: Path):
        self.results = root / "results"
        self.tasks: list[str] = []
        config = {
            "model_type": "llama",
            "hidden_size": HIDDEN,
            "intermediate_size": WIDTHS[0],
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "vocab_size": VOCABULARY,
        }
        self.write("base/config.json", config)
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

    def add_task(self, name: str, scores: dict[tuple[str, str], float], metric: Metric = ACCURACY, **changed) -> None:
        """scores: (model, precision) -> value; changed: keys of task.json, stderr or versions."""
        self.tasks.append(name)
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
        for (model, precision), value in scores.items():
            self.write(
                f"benchmarks/{name}/{precision}/{model}.json",
                {
                    "precision": precision,
                    "metric": metric.name,
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
        members = [model for model, precision in scores if model != "pretrained" and precision == "fp16"]
        front = pd.DataFrame(
            [
                {"subnet_id": id, "layers": LAYERS, "parameters": parameters(id), "size_bytes": 2 * parameters(id)}
                | {metric.name: scores[id, "fp16"], "stderr": ERROR, "items": 500, "round": 2}
                for id in members
            ]
        )
        self.write(f"search/{name}/front.csv", front.reindex(columns=[*front.columns, *HELD_OUT]))
        self.write(
            f"agreement/{name}.json",
            {
                "task": name,
                "subnet_id": FULL,
                "dtype": "fp32",
                "requests": 2000,
                "items": 500,
                "max_difference_per_token": 3.1e-6,
                "max_relative_difference": 2e-7,
                "flipped_items": [],
                "search_scorer": scores[FULL, "fp16"],
                "lm_eval": scores[FULL, "fp16"],
                "agrees": True,
            },
        )
        speeds = [
            {"model": model, "precision": precision, "phase": phase, "batch_size": batch, "sequence_length": 128}
            | {"new_tokens": 0 if phase == "prefill" else 16, "tokens_per_second": own}
            | {"tokens_per_second_q1": 0.9 * own, "tokens_per_second_q3": 1.6 * own}
            | {"limit_tokens_per_second": 4 * rate, "device": "cpu", "threads": 2, "repeats": 20}
            for model, precision in scores
            if model != SMALL
            for phase, batch, rate in (("prefill", 8, 1000.0), ("decode", 1, 100.0), ("decode_saturated", 16, 400.0))
            for own in (rate * self.speed(model, precision),)
        ]
        self.write(f"timings/throughput/{name}.csv", pd.DataFrame(speeds))
        for round_number, tau in ((1, None), (2, 0.61)):
            self.write(
                f"search/{name}/round_{round_number}/predictor.json",
                {
                    "round": round_number,
                    "task": name,
                    "metric": metric.name,
                    "kind": "ridge",
                    "rows": 50 * round_number,
                    "cross_validation": {
                        "svr": {"kendall_tau": 0.5, "mae": 0.02},
                        "ridge": {"kendall_tau": 0.7 + 0.01 * round_number, "mae": 0.01},
                    },
                    "out_of_sample": None if tau is None else {"kendall_tau": tau, "mae": 0.01, "rows": 48},
                },
            )

    @staticmethod
    def speed(model: str, precision: str) -> float:
        return (1.25 if model == MEDIUM else 1.0) * (1.0 if precision == "fp16" else 0.5)

    @staticmethod
    def evaluations(metric: Metric) -> pd.DataFrame:
        rng = np.random.default_rng(0)
        ids = ["".join(rng.choice(["0", "1"], LAYERS)) for _ in range(60)]
        sizes = np.array([2 * parameters(id) for id in ids])
        share = sizes / (2 * parameters(FULL))
        value = 0.5 + 0.3 * share if metric.higher_is_better else 3 - share
        rounds = np.repeat([1, 2], len(ids) // 2)
        table = pd.DataFrame({"round": rounds, "subnet_id": ids, "size_bytes": sizes, "items": 300, "layers": LAYERS})
        return table.assign(**{metric.name: value + rng.normal(0, 0.02, len(ids))})

    def summarize_inputs(self, task: str) -> dict:
        return {
            "model": self.results / "base",
            "widths": WIDTHS,
            "task": self.results / "tasks" / task,
            "evaluations": self.results / f"search/{task}/round_2/evaluations.csv",
            "front": self.results / f"search/{task}/front.csv",
            "benchmarks": sorted((self.results / "benchmarks" / task).glob("*/*.json")),
            "agreement": self.results / f"agreement/{task}.json",
            "throughput": self.results / f"timings/throughput/{task}.csv",
        }

    def summarize(self, task: str) -> pd.DataFrame:
        table = self.results / f"summary/{task}.csv"
        summarize_task(table, figures=self.figures(task), **self.summarize_inputs(task))
        return read_table(table)

    def figures(self, task: str) -> list[Path]:
        return [self.results / f"figures/{task}_{name}.svg" for name in FIGURES]

    def pattern_figures(self, task: str) -> list[Path]:
        return [self.results / f"figures/{task}_{name}.svg" for name in PATTERN_FIGURES]

    def find_patterns(self, task: str) -> None:
        folder = self.results / "patterns"
        folder.mkdir(exist_ok=True)
        depths, widths = self.pattern_figures(task)
        find_patterns(
            **{key: self.summarize_inputs(task)[key] for key in ("model", "widths", "task", "evaluations")},
            layers=folder / f"{task}_layers.csv",
            layers_figure=depths,
            maps=folder / f"{task}_widths.csv",
            maps_figure=widths,
        )

    def report_inputs(self) -> dict:
        return {
            "base": self.results / "base",
            "supernet": self.results / "supernet",
            "seed": 7,
            "timings": self.results / "timings/jobs",
            "summaries": [self.results / f"summary/{task}.csv" for task in self.tasks],
            "figures": [path for task in self.tasks for path in (*self.figures(task), *self.pattern_figures(task))],
            "agreements": [self.results / f"agreement/{task}.json" for task in self.tasks],
            "predictors": [
                self.results / f"search/{task}/round_{number}/predictor.json"
                for task in self.tasks
                for number in (2, 1)
            ],
        }

    def report(self) -> str:
        for task in self.tasks:
            self.summarize(task)
            self.find_patterns(task)
        page = self.results / "summary.html"
        write_report(page, **self.report_inputs())
        return page.read_text(encoding="utf-8")


def scores(base: float, full: float, medium: float, small: float, int8_loss: float = 0.01) -> dict:
    fp16 = {"pretrained": base, FULL: full, MEDIUM: medium, SMALL: small}
    return {(model, "fp16"): value for model, value in fp16.items()} | {
        (model, "int8"): value - int8_loss for model, value in fp16.items()
    }


def text(page: str) -> str:
    """The page's words without markup and figures, white space folded."""
    page = re.sub(r"<(svg|style|head)\b.*?</\1>", " ", page, flags=re.DOTALL)
    page = re.sub(r"<[^>]+>", "", re.sub(r"<(td|th|br)\b", r" <\1", page))
    return re.sub(r"\s+", " ", page).replace("\xad", "").strip()
