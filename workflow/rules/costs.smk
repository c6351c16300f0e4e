# Reads: results/base/, results/space.json. Writes: results/costs/, tables of layer costs measured on the target device.
# Part of a run with a measured objective alone.

# Objective -> its table. Another measured objective is another entry, and the rule that writes the table.
COST_TABLES = {"latency": f"results/costs/latency-{config['search']['latency']}.json"}
COSTS = [COST_TABLES[name] for name in config["search"]["objectives"] if name in COST_TABLES]


rule measure_costs:
    """Measure what one layer as each block costs in seconds; takes all cores, so that it has the machine to itself."""
    input:
        model="results/base",
        space="results/space.json",
    output:
        prefill="results/costs/latency-prefill.json",
        decode="results/costs/latency-decode.json",
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
        compute=COMPUTE,
        settings=options(config["costs"]),
    shell:
        "llama-nas measure-costs"
        " --code {params.code}"
        " --seed {params.seed}"
        " {params.compute}"
        " {params.settings}"
        " --model {input.model}"
        " --space {input.space}"
        " --prefill {output.prefill}"
        " --decode {output.decode} 2> {log}"
