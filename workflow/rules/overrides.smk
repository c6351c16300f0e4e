# Four things that Snakemake 9.27 does otherwise, written over. Without them every result is the same; with thousands
# of jobs the scheduler takes minutes more, short jobs are measured badly, every start imports pandas, and a killed
# run's lock has to be taken away by hand. They override Snakemake's own names, so they apply to the release that they
# were written for alone (tests/workflow/test_overrides.py, test_killed.py).

import contextlib
import threading

import snakemake
from snakemake import benchmark as sampling
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler

from llama_nas.core.presence import present

WRITTEN_FOR = "9.27."


# One second after it has looked for jobs to start, Snakemake looks again, and that look calls for the next: every job
# that ends adds one look a second, as long as others wait for a core. Jobs that start or end wake the scheduler anyway;
# the clock is needed only where its limit of jobs a second holds others back.
def look_again(scheduler, delay):
    limiter = scheduler.job_rate_limiter
    if limiter is None or not limiter.get_free_jobs():
        threading.Timer(delay, scheduler._open_jobs.release).start()


# A killed run leaves Snakemake's lock, and the next one is refused, although nobody is at work. A lock whose run is
# gone is taken away; one whose run is alive still refuses.
@contextlib.contextmanager
def lock_unless_left(persistence, plain_lock=PersistenceBase.lock):
    with present(Path(persistence.path) / "runs.txt") as others:
        if persistence.locked and not others:
            print("The run that held the lock of this folder is gone; this one continues.", file=sys.stderr)
            persistence.unlock()  # which takes the folder of the locks away, too
            os.makedirs(os.path.join(persistence.path, "locks"), exist_ok=True)
        elif persistence.locked:
            print(f"At work in this folder: {', '.join(others)}. Wait for its end, or stop it.", file=sys.stderr)
        with plain_lock(persistence):
            yield


if snakemake.__version__.startswith(WRITTEN_FOR):
    PersistenceBase.lock = lock_unless_left
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
