# What the rules of analysis.smk ask of the config and of the fronts.


def task_benchmarks(wildcards):
    return [
        f"results/benchmarks/{wildcards.task}/{precision}/{name}.json" for name, precision in compared(wildcards.task)
    ]


def contender_folders(wildcards):
    return [folder(name, "fp16") for name in contenders(wildcards.task)]


def named_contenders(wildcards):
    return [f"{name}={folder(name, 'fp16')}" for name in contenders(wildcards.task)]


def carded_folders(wildcards):
    """The checkpoints that get a model card: every exported network, and what of them is quantized."""
    made = [pair for task in TASKS for pair in compared(task) if pair[0] in exported() and pair[1] in QUANTIZED]
    networks = [(name, "fp16") for name in exported()]
    return [folder(name, precision) for name, precision in dict.fromkeys([*networks, *made])]


def predictors_option(wildcards, input):
    """A search of one round has no predictor."""
    return f"--predictors {' '.join(input.predictors)}" if input.predictors else ""


def transfer_option(wildcards, input):
    """A run of one task has nothing to compare."""
    return f"--transfer {' '.join(input.transfer)}" if input.transfer else ""


def target_command():
    """What the page says before a target, in the run's folder: without its own config it would be another run's."""
    words = ["snakemake", "--cores", "all"]
    if not os.path.samefile(workflow.basedir, os.getcwd()):
        words += ["--snakefile", str(workflow.main_snakefile)]
    used = workflow.configfiles[-1]
    if str(used) != os.path.join(workflow.basedir, "config.yaml"):
        words += ["--configfile", config_name(used)]
    return shlex.join(words)
