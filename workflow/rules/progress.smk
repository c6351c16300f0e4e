# Reads: the config. Writes: results/timings/plan.json when a run starts: what the command `status` and the logger plugin
# (workflow/snakemake_logger_plugin_llama_nas/) measure its progress by. No rule reads it.


include: "helpers/progress.smk"


onstart:
    write_plan()
    say_early_end()
