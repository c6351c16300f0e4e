"""What a compiled task says of its choices, of a task and data that the test makes itself."""

import json

from tests.support.training import write_base

from llama_nas.core.settings import TrieBounds
from llama_nas.tasks.compile import compile_task
from llama_nas.tasks.format import CompiledTask

ROWS = [
    {"question": "Where?", "choices": ["Köln", "Rom"], "answer": 0},
    {"question": "Which?", "choices": ["数字", "a word", "é"], "answer": 2},
]


def test_lengths_of_choices_are_characters_and_bytes(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ntest_split: train\noutput_type: multiple_choice\n"
        f"dataset_kwargs: {{data_files: {tmp_path}/rows.jsonl}}\n"
        "doc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\ndoc_to_target: answer\n"
        "metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]\n"
    )
    compile_task(
        tmp_path / "task",
        task="mine",
        lm_eval_task=str(tmp_path / "mine.yaml"),
        metric="acc_norm",
        model=write_base(tmp_path / "base", hidden_size=8, num_hidden_layers=2, num_attention_heads=2),
        data_root=tmp_path,
        bounds=TrieBounds(512, 512),
    )
    task = CompiledTask.load(tmp_path / "task")
    choices = [choice for row in ROWS for choice in row["choices"]]
    assert task.metrics == ["acc_norm", "acc", "acc_bytes"]
    assert task.characters.tolist() == [4, 3, 2, 6, 1] == list(map(len, choices))
    assert task.utf8_bytes.tolist() == [5, 3, 6, 6, 2]
    assert task.correct.tolist() == [1, 0, 0, 0, 1]
