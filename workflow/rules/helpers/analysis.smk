# What the rules of analysis.smk ask of the config and of the fronts.


def task_benchmarks(wildcards):
    return [f"results/benchmarks/{wildcards.task}/{precision}/{name}.json" for name, precision in compared(wildcards)]


def contender_folders(wildcards):
    return [folder(name, "fp16") for name in contenders(wildcards.task)]


def named_contenders(wildcards):
    return [f"{name}={folder(name, 'fp16')}" for name in contenders(wildcards.task)]


def carded_folders(wildcards):
    """The checkpoints that get a model card: every exported network, as it is and quantized."""
    precisions = ["fp16", *(precision for precision in BENCHMARK["precisions"] if precision in QUANTIZED)]
    return [folder(name, precision) for precision in precisions for name in exported()]


def predictors_option(wildcards, input):
    """A search of one round has no predictor."""
    return f"--predictors {' '.join(input.predictors)}" if input.predictors else ""
