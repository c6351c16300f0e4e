# Three things that Snakemake 9.27 does too often, written over. Without them every result is the same; with thousands
# of jobs the scheduler takes minutes more, short jobs are measured badly, and every start imports pandas. Each
# overrides a private name, so they apply to the release that they were written for alone
# (tests/workflow/test_overrides.py).

import threading

import snakemake
from snakemake import benchmark as sampling
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler

WRITTEN_FOR = "9.27."


# One second after it has looked for jobs to start, Snakemake looks again, and that look calls for the next: every job
# that ends adds one look a second, as long as others wait for a core. Jobs that start or end wake the scheduler anyway;
# the clock is needed only where its limit of jobs a second holds others back.
def look_again(scheduler, delay):
    limiter = scheduler.job_rate_limiter
    if limiter is None or not limiter.get_free_jobs():
        threading.Timer(delay, scheduler._open_jobs.release).start()


if snakemake.__version__.startswith(WRITTEN_FOR):
    JobScheduler._schedule_reevalutation = look_again
    # Seconds between the first 30 samples of a job for its `benchmark:` file; then they are half a minute apart. With
    # half a second, what a job used after its first 15 seconds was missed.
    sampling.BENCHMARK_INTERVAL_SHORT = 3
    # To compare a job's parameters with those of its last run, Snakemake imports pandas if it is installed, as they
    # might be tables. Ours are words.
    PersistenceBase._serialize_param = PersistenceBase._serialize_param_builtin
elif not workflow.remote_exec:
    print(
        f"Snakemake {snakemake.__version__}: workflow/rules/overrides.smk was written for {WRITTEN_FOR}x and is not "
        "applied; the results are the same, large runs are slower.",
        file=sys.stderr,
    )
