"""lm-eval's own evaluation of a built task. Apart from `definitions`, as compiling a task does not depend on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_nas.tasks.definitions import FEWSHOT_SEED, NUMPY_SEED, PYTHON_SEED

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task


def simple_evaluate(model: LM, definition: Task | Group, num_fewshot: int | None, limit: int | None) -> dict[str, Any]:
    """`lm_eval.simple_evaluate` of a built task with its own seeds; all it returns but its report on the machine."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    evaluator.add_env_info = lambda storage: None  # it runs `pip list` in every job
    return evaluator.simple_evaluate(
        model=model,
        tasks=[definition],
        num_fewshot=num_fewshot,
        limit=limit,
        log_samples=False,
        task_manager=TaskManager(include_defaults=False),  # the task is built: no need to index lm-eval's
        random_seed=PYTHON_SEED,
        numpy_random_seed=NUMPY_SEED,
        fewshot_random_seed=FEWSHOT_SEED,
    )
