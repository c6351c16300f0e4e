# Reads: results/base/. Writes: results/costs/layers.json, seconds of single layers on the target device. Part of a run
# with the objective latency alone.


rule measure_costs:
    """Measure what one layer of each width costs in seconds; takes all cores, so that it has the machine to itself."""
    input:
        model="results/base",
    output:
        "results/costs/layers.json",
    log:
        "logs/measure_costs.log",
    benchmark:
        "results/timings/jobs/measure_costs.tsv"
    conda:
        "../../envs/score.yaml"
    container:
        image("score")
    threads: ALL_CORES
    resources:
        mem_mb=memory(4000, 8),
        runtime=120,
        gpu=GPU,
    params:
        code=code_digest("measure-costs"),
        seed=config["seed"],
        space=SPACE,
        compute=COMPUTE,
        settings=options(config["costs"]),
    shell:
        "llama-nas measure-costs --code {params.code} --seed {params.seed} {params.space} {params.compute} {params.settings} "
        "--model {input.model} --output {output} 2> {log}"
