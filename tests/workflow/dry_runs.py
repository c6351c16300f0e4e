"""Dry-runs of one folder with many configs, in one process: most of a dry-run's time is the import of Snakemake.

python dry_runs.py SNAKEFILE TARGET,... CONFIG...

Prints, by config, whether the dry-run failed, what it said, and the jobs that would run with the reason of each.
"""

import contextlib
import io
import json
import re
import sys

import snakemake.cli


def dry_run(snakefile: str, targets: list[str], config: str) -> dict:
    output, failed = io.StringIO(), False
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            options = ["--dry-run", "--cores", "2", "--snakefile", snakefile, "--configfile", config]
            snakemake.cli.main([*targets, *options])
        except SystemExit as end:
            failed = bool(end.code)
            if isinstance(end.code, str):  # Python prints it when it ends
                print(end.code)
    said = output.getvalue()
    jobs = re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):\n(.*?)^ +reason: (.*?)$", said, re.M | re.S)
    return {"failed": failed, "said": said, "jobs": [{"rule": rule, "reason": reason} for rule, _, reason in jobs]}


snakefile, targets, *configs = sys.argv[1:]
json.dump({config: dry_run(snakefile, [t for t in targets.split(",") if t], config) for config in configs}, sys.stdout)
