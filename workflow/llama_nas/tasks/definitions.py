"""lm-eval's own task objects, stock in every field but the place of their data.

A task is named as lm-eval names it (`arc_easy`), or is a group with a score of its own (`mmlu`), or the path of a
task YAML, or the name of a YAML beside this file. lm-eval is imported inside the functions, after the environment
that keeps it offline is set.
"""

from __future__ import annotations

import logging
import os
import random
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_nas.core.errors import UserError

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

OWN_TASKS = Path(__file__).parent
FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")  # `dataset_path` of tasks that name their files themselves
# The defaults of `lm_eval.simple_evaluate`.
PYTHON_SEED, NUMPY_SEED, FEWSHOT_SEED = 0, 1234, 1234


def load_task(
    lm_eval_task: str, *, data_root: Path | None = None, subtasks: Sequence[str] | None = None
) -> Task | Group:
    """Build a task, or a group of tasks with one score, and read its data.

    data_root: folder in Hub layout; a dataset `cais/mmlu` is then read from `data_root/cais/mmlu` and nothing is
    looked up on the Hub. subtasks: for a group, only these, spelled as in `subtask_name`, in the group's order. A group
    comes without its subgroups: in lm-eval, too, its score is an aggregate of the tasks themselves.
    Raises UserError for an unknown task or subtask, or missing data.
    """
    if data_root is not None:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    import numpy as np
    from lm_eval.api.group import Group
    from lm_eval.tasks._factory import GROUP_FIELD_NAMES
    from lm_eval.tasks._index import Kind

    # It says at length what it was told to do, and warns about each single request that is cut.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    _compile_templates_once()

    manager, name = _find(lm_eval_task)
    entry = manager.task_index[name]
    if subtasks is not None and entry.kind != Kind.GROUP:
        raise UserError(f"subtasks: '{name}' is a single task and has none")
    try:
        leaves = list(_leaves(name, {}, manager.task_index))
    except KeyError as error:
        raise UserError(f"lm_eval_task '{name}': refers to {error}, which lm-eval does not have") from None
    leaves = _select(leaves, subtasks, name)
    if data_root is not None:
        leaves = [_relocated(leaf, data_root, manager.task_index) for leaf in leaves]
    # A task may shuffle its documents while it loads, so the seeds are set where simple_evaluate sets them.
    random.seed(PYTHON_SEED)
    np.random.seed(NUMPY_SEED)
    group = _load(manager, name, leaves, data_root)
    if entry.kind != Kind.GROUP:
        return group.get_all_tasks()[0]
    stock = Group.from_config({key: value for key, value in entry.cfg.items() if key in GROUP_FIELD_NAMES})
    if not stock.aggregate_metric_list:
        raise UserError(f"lm_eval_task '{name}' is a group without a score of its own; name one of its tasks")
    group.alias, group.metadata = stock.alias, stock.metadata
    group.aggregate_metric_list = stock.aggregate_metric_list
    return group


def leaf_tasks(definition: Task | Group) -> list[Task]:
    """The tasks of a group in order, or the task itself."""
    return definition.get_all_tasks() if hasattr(definition, "get_all_tasks") else [definition]


def set_fewshot(task: Task, num_fewshot: int | None) -> None:
    """Set a task's shots and the seed of their draw as `lm_eval.simple_evaluate` does.

    num_fewshot None: the task's own, 0 if it has none. A task whose YAML says 0 keeps 0 (TruthfulQA's prompt is part
    of the task).
    """
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _compile_templates_once() -> None:
    """lm-eval compiles a template anew for every field of every document."""
    from lm_eval.utils import env

    if not hasattr(env.from_string, "cache_info"):
        env.from_string = cache(env.from_string)


def _find(lm_eval_task: str) -> tuple[TaskManager, str]:
    """An lm-eval index that has the task, and the task's name in it."""
    from lm_eval.tasks import TaskManager

    if lm_eval_task.endswith((".yaml", ".yml")):
        return _find_file(Path(lm_eval_task))
    folder = _folder_defining(lm_eval_task)
    if folder is None:
        own = OWN_TASKS / f"{lm_eval_task}.yaml"
        if own.is_file():
            return _find_file(own)
        raise UserError(
            f"lm_eval_task '{lm_eval_task}' is neither a task of lm-eval, nor a group with a score, nor a YAML's path"
        )
    # Indexing all of lm-eval's 14,000 YAML files takes 8 s, paid by every job; one folder is nearly always enough.
    manager = TaskManager(include_defaults=False, include_path=str(folder))
    return (manager if _is_complete(lm_eval_task, manager.task_index) else TaskManager()), lm_eval_task


def _find_file(path: Path) -> tuple[TaskManager, str]:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    if not path.is_file():
        raise UserError(f"lm_eval_task '{path}': no such file")
    entries: dict[str, Any] = {}
    try:
        TaskIndex.process_cfg(load_yaml(path, resolve_func=False), path.resolve(), entries)
    except Exception as error:  # whatever YAML and lm-eval may say of a user's file
        raise UserError(f"lm_eval_task '{path}': not a task YAML ({_first_line(error)})") from error
    name = next(iter(entries))  # its tags come after it
    manager = TaskManager(include_defaults=False)
    manager.task_index.update(entries)
    if not _is_complete(name, manager.task_index):
        manager = TaskManager()
        manager.task_index.update(entries)
    return manager, name


def task_files(definition: Path) -> list[Path]:
    """A task YAML and what it names: YAMLs it includes, modules of its functions, local files with its data.

    Of what cannot be read nothing is said here; the compile stage says what is wrong with it.
    """
    import yaml

    functions: list[str] = []

    class Loader(yaml.SafeLoader):
        """Knows lm-eval's tag `!function module.name`."""

    Loader.add_multi_constructor("!", lambda loader, _, node: functions.append(loader.construct_scalar(node)))
    try:
        content = yaml.load(definition.read_text(encoding="utf-8"), Loader)
        data = content.get("dataset_kwargs", {}).get("data_files", [])
        splits = data.values() if isinstance(data, dict) else [data]
        files = [Path(name) for split in splits for name in ([split] if isinstance(split, str) else split)]
        included = [definition.parent / content["include"]] if "include" in content else []
        included = [file for path in included if path.is_file() for file in task_files(path)]
    except (OSError, ValueError, yaml.YAMLError, AttributeError, TypeError, RecursionError):
        return [definition]
    modules = {definition.parent / f"{function.rpartition('.')[0]}.py" for function in functions}
    found = [definition, *(path for path in [*sorted(modules), *files] if path.is_file()), *included]
    return list(dict.fromkeys(found))


def is_known(lm_eval_task: str) -> bool:
    """Whether lm-eval, or a YAML beside this file, defines the task; costs a fraction of a second, imports nothing.

    True, too, where lm-eval is not installed (a cluster's login node, say): there the compile stage will find out.
    """
    if find_spec("lm_eval") is None or (OWN_TASKS / f"{lm_eval_task}.yaml").is_file():
        return True
    return _folder_defining(lm_eval_task) is not None


def _folder_defining(name: str) -> Path | None:
    """The folder of lm-eval with a YAML that defines a task or group of this name, found without parsing any."""
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None, "lm_eval is not installed"
    root = Path(spec.origin).parent / "tasks"
    key, value = rb"^[\"']?(?:task|group)[\"']?[ \t]*:[ \t]*", re.escape(name).encode()
    definition = re.compile(key + rb"[\"']?" + value + rb"[\"']?[ \t]*(?:#.*)?\r?$", re.MULTILINE)
    # Most names begin with their folder's: looked through first, it saves every job the reading of 14,000 files.
    folders = sorted(root.iterdir(), key=lambda folder: (not name.startswith(folder.name), folder))
    files = ((folder, path) for folder in folders for path in folder.rglob("*.yaml"))
    return next((folder for folder, path in files if definition.search(path.read_bytes())), None)


def _is_complete(name: str, index: Mapping[str, Any]) -> bool:
    """Whether everything that a group refers to is in the index."""
    try:
        list(_leaves(name, {}, index))
    except KeyError:
        return False
    return True


def _leaves(name: str, overrides: dict[str, Any], index: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The tasks that a name stands for, in lm-eval's order, each as {"task": name, **overrides by its groups}.

    Raises KeyError for a name that is not in the index.
    """
    from lm_eval.tasks._index import Kind

    entry = index[name]
    if entry.kind == Kind.TAG:
        for member in sorted(entry.tags):
            yield from _leaves(member, overrides, index)
    elif entry.kind == Kind.GROUP:
        yield from _members(entry.cfg, overrides, index)
    else:
        yield overrides | {"task": name}


def _members(group: dict[str, Any], overrides: dict[str, Any], index: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The tasks of a group's config; a member is a name, or a dict with overrides, or a group defined in place."""
    from lm_eval.tasks._factory import GROUP_FIELD_NAMES

    overrides = {key: value for key, value in group.items() if key not in GROUP_FIELD_NAMES} | overrides
    for member in group["task"] if isinstance(group["task"], list) else [group["task"]]:
        own = {"task": member} if isinstance(member, str) else dict(member)
        if "group" in own and own["group"] not in index and "task" in own:
            yield from _members(own, overrides, index)
        else:
            yield from _leaves(own.pop("group", None) or own.pop("task"), overrides | own, index)


def subtask_name(task: str, group: str) -> str:
    """How a group's task is spelled in the config: `mmlu_anatomy` of `mmlu` is `anatomy`."""
    return task.removeprefix(f"{group}_")


def _select(leaves: list[dict[str, Any]], subtasks: Sequence[str] | None, group: str) -> list[dict[str, Any]]:
    if subtasks is None:
        return leaves
    names = [subtask_name(leaf["task"], group) for leaf in leaves]
    for subtask in subtasks:
        if subtask not in names:
            close = get_close_matches(subtask, names, n=1) or names[:1]
            raise UserError(f"subtasks: '{subtask}' is not one of '{group}'; did you mean '{close[0]}'?")
    return [leaf for leaf, name in zip(leaves, names, strict=True) if name in subtasks]


def _relocated(leaf: dict[str, Any], data_root: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """The task with its dataset read from data_root; a task that names its files or code itself stays as it is."""
    dataset = leaf.get("dataset_path", index[leaf["task"]].cfg.get("dataset_path"))
    if dataset is None or dataset in FILE_FORMATS:
        return leaf
    folder = data_root.resolve() / dataset
    if not folder.is_dir():
        raise UserError(f"{data_root}: no folder '{dataset}', the dataset of task '{leaf['task']}'")
    return leaf | {"dataset_path": str(folder)}


def _load(manager: TaskManager, name: str, leaves: list[dict[str, Any]], data_root: Path | None) -> Group:
    """Build the tasks inside an inline group, which is how lm-eval 0.4.13 merges overrides with its stock tasks."""
    import datasets

    stock_cache = datasets.config.HF_DATASETS_CACHE
    if data_root is not None:
        datasets.config.HF_DATASETS_CACHE = Path(_dataset_cache(data_root.resolve()).name)
        datasets.disable_progress_bars()
    try:
        return manager.load([{"group": name, "task": leaves}])["groups"][name]
    except (OSError, ValueError, KeyError) as error:  # datasets raises all three for missing or unfit data
        raise UserError(f"lm_eval_task '{name}': cannot load its data: {_first_line(error)}") from error
    finally:
        datasets.config.HF_DATASETS_CACHE = stock_cache


@cache
def _dataset_cache(_data_root: Path) -> tempfile.TemporaryDirectory:
    """Where `datasets` converts local files, removed when the process ends.

    A cache shared by jobs would save nothing (finding it valid costs as much as converting these small files, 10-80 ms
    a dataset) and would have to be locked and cleaned.
    """
    return tempfile.TemporaryDirectory(prefix="llama-nas-datasets-")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
