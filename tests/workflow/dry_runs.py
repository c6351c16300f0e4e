"""Dry-runs of one folder with many configs, in one process: most of a dry-run's time is the import of Snakemake.

python dry_runs.py SNAKEFILE TARGET,... CONFIG...   prints, by config, the jobs that would run and the reason of each
"""

import contextlib
import io
import json
import re
import sys

import snakemake.cli


def dry_run(snakefile: str, targets: list[str], config: str) -> list[dict[str, str]]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            options = ["--dry-run", "--cores", "2", "--snakefile", snakefile, "--configfile", config]
            snakemake.cli.main([*targets, *options])
        except SystemExit as end:
            if end.code:
                sys.exit(output.getvalue())
    jobs = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):\n(.*?)^ +reason: (.*?)$", output.getvalue(), re.M | re.S)
    return [{"rule": rule, "reason": reason} for rule, _, reason in jobs]


snakefile, targets, *configs = sys.argv[1:]
json.dump({config: dry_run(snakefile, [t for t in targets.split(",") if t], config) for config in configs}, sys.stdout)
