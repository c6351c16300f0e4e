"""LLaMA-NAS (arXiv 2405.18377): from one pre-trained Llama to a Pareto front of smaller ones, per benchmark.

The table of contents: config, includes, targets. Rules are in workflow/rules/, logic in workflow/llama_nas/.
"""

import os

from snakemake.utils import min_version

min_version("9.19")


# A config given by --configfile is complete: it replaces the default run's instead of being merged into it.
if not workflow.overwrite_configfiles:

    configfile: os.path.join(workflow.basedir, "config.yaml")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/overrides.smk"
include: "workflow/rules/base.smk"
include: "workflow/rules/tasks.smk"
include: "workflow/rules/supernet.smk"
include: "workflow/rules/costs.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/exhaustive.smk"
include: "workflow/rules/networks.smk"
include: "workflow/rules/patterns.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/progress.smk"


rule all:
    """The whole mission: fronts, exported and quantized members, benchmarks, summaries and the page with the answer."""
    default_target: True
    input:
        fronts=rules.fronts.input,
        exports=all_exports,
        cards=rules.write_cards.output,
        transfer=list(TRANSFER.values()),
        report=rules.write_report.output,
    localrule: True
