"""The stages of the workflow: name on the command line -> module and function.

The name is also that of the rule and of the log folder, with `_` for `-`. Options and help are read off the function
(`cli.py`).
"""

STAGES = {
    "make-world": "base.world:make_world",
    "pretrain": "base.pretrain:pretrain",
    "fetch-model": "base.fetch:fetch_model",
    "fetch-dataset": "base.fetch:fetch_dataset",
    "take-base": "base.take:take_base",
    "compile-task": "tasks.compile:compile_task",
    "tokenize": "training.data:tokenize",
    "order-layers": "training.layer_order:order_layers",
    "declare-space": "core.space:declare_space",
    "order-channels": "training.channel_order:order_channels",
    "finetune": "training.launch:finetune",
    "measure-costs": "measuring.costs:measure_costs",
    "sample": "search.propose:sample",
    "evaluate": "scoring.evaluate:evaluate",
    "gather": "search.gather:gather",
    "propose": "search.propose:propose",
    "choose-finalists": "search.front:choose_finalists",
    "find-front": "search.front:find_front",
    "enumerate-space": "search.exhaustive:enumerate_space",
    "tabulate": "search.exhaustive:tabulate",
    "find-heuristics": "search.heuristics:find_heuristics",
    "pick": "search.pick:pick",
    "export": "exports.export:export",
    "write-gguf": "exports.forms.gguf:write_gguf",
    "quantize": "exports.quantize:quantize",
    "run-lm-eval": "measuring.lm_eval:run_lm_eval",
    "score": "scoring.harness:score",
    "verify": "scoring.verify:verify",
    "measure-throughput": "measuring.throughput:measure_throughput",
    "summarize": "analysis.summary:summarize",
    "write-cards": "analysis.cards:write_cards",
    "find-patterns": "analysis.patterns:find_patterns",
    "judge-heuristics": "analysis.patterns:judge_heuristics",
    "write-report": "analysis.report:write_report",
}
