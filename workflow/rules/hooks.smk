# What happens around a workflow: before its first job, at its end, and when it fails.

import atexit
import fcntl
import platform
import time

from nanochat.data.layout import keep_order
from nanochat.errors import BadInput, ConfigError, SlurmUnavailable
from nanochat.fetch.catalogue import still_to_come
from nanochat.fetch.internet import download_command, require_internet
from nanochat.fetch.room import require_room
from nanochat.files import NO_LOCKS_HERE, disk_errors, make_directory, write_text
from nanochat.hpc.handover import require_same_config
from nanochat.hpc.log_tail import last_error
from nanochat.hpc.retry import GIVEN_UP
from nanochat.hpc.slurm import job_name, queued_jobs, unknown_partitions


def say_what_is_fetched():
    """How much would come from elsewhere, and why."""
    missing = [
        external
        for external in EXTERNALS
        if not external.is_there and not external.shared
    ]
    if EXTERNALS:
        size = sum(external.about_bytes for external in missing) / 1e9
        print(
            f"from elsewhere: {len(EXTERNALS)} files, {len(missing)} of them not here yet "
            f"(about {size:.1f} GB; `nanochat data plan` has the list)"
        )
    if lost_downloads():
        print(f"note: {lost_downloads()}")
    if SHARD_PLAN:
        print(
            f"training shards: {SHARD_PLAN.train_shards}, and one held out ({SHARD_PLAN.why})"
        )


def start_workflow():
    """Takes the base folder for this workflow and files the resolved config for its commands.

    The kernel drops the lock when this process ends, however it ends: no lock is ever stale.
    """
    global STARTED, WORKFLOW_LOCK
    STARTED = time.time()
    lock = DISK.base_dir / "workflow.lock"
    try:
        with disk_errors(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            WORKFLOW_LOCK = open(lock, "a")
            lock_for_this_process(WORKFLOW_LOCK)
        refuse_to_fetch_again()
        refuse_downloads_without_internet()
        stop_at_the_first_failure_until_all_is_fetched()
        require_room_for_downloads()
        keep_order(DISK, CORPUS)
        prepare_for_slurm()
        write_text(DISK.resolved_config, CONFIG.yaml())
    except BlockingIOError:
        one_sentence(
            BadInput(
                f"another workflow is running in {DISK.base_dir} (it holds {lock}): "
                "wait for it or stop it; two at once would overwrite each other's files"
            )
        )
    except NanochatError as error:
        one_sentence(error)


def lock_for_this_process(file):
    """Raises BlockingIOError where another process has the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS_HERE:
            raise
        print(
            f"note: {file.name} is on a file system without locks: run one workflow at a time"
        )


def prepare_for_slurm():
    """What jobs on a cluster need before the first of them is submitted."""
    if SITE is None:
        if workflow.non_local_exec:
            raise ConfigError(
                "the profile names no site, so no job would know what to ask for: give its "
                "site.yaml too, --configfile profiles/NAME/site.yaml"
            )
        return
    if workflow.non_local_exec:
        refuse_unknown_partitions()
    name = job_name(CONFIG.run, DISK.base_dir)
    require_same_config(DISK.resolved_config, CONFIG, lambda: queued_jobs(name))
    for folder in (DISK.ended, DISK.outcomes):
        make_directory(folder)


def refuse_unknown_partitions():
    """Says at once what sbatch would say of each job; a controller that is away is no reason to."""
    try:
        unknown = unknown_partitions([SITE.gpu.partition, SITE.cpu.partition])
    except SlurmUnavailable as error:
        print(f"note: {error}")
        return
    if unknown:
        raise ConfigError(
            f"this cluster has no partition {unknown[0]}: `sinfo` lists those that it has; name one "
            "as NANOCHAT_PARTITION or NANOCHAT_CPU_PARTITION in .env.local"
        )


def planned_downloads():
    """What the jobs of this workflow will fetch; what the shared folder has is only linked."""
    planned = {
        Path(file)
        for job in workflow.dag.needrun_jobs(exclude_finished=False)
        for file in job.output
    }
    return [
        external
        for external in EXTERNALS
        if external.output in planned and not external.shared
    ]


def lost_downloads():
    """One sentence about files that were here, as their records say; None where none is gone.

    Fetched by a rule, they would have everything made anew that was made from them: that is how
    Snakemake counts.
    """
    gone = [external for external in planned_downloads() if external.record.exists()]
    if not gone:
        return None
    return (
        f"{len(gone)} of the downloaded files are gone, {gone[0].path} for one: bring them back "
        "with `nanochat data fetch`, which has nothing made anew, and run this again"
    )


def refuse_to_fetch_again():
    """Ends before anything runs what would train again for a file that was deleted."""
    sentence = lost_downloads()
    if sentence:
        raise BadInput(sentence)


def stop_at_the_first_failure_until_all_is_fetched():
    """No job may wait in a queue for what will not arrive, whatever the profile's keep-going."""
    if planned_downloads():
        workflow.scheduler.keepgoing = False


def require_room_for_downloads():
    """Ends before the first byte what would fill the disk or the quota: what is to be fetched, and
    the packed rows that are made from it, which are about as large again."""
    missing = planned_downloads()
    if not missing:
        return
    size, files = still_to_come(missing)
    if SHARD_PLAN:
        rows = sum(not DISK.rows(shard).exists() for shard in ALL_SHARDS)
        size += rows * SHARD_PLAN.row_bytes_per_shard
    for note in require_room(DISK.base_dir, size, files).notes:
        print(f"note: {note}")


def refuse_downloads_without_internet():
    """Ends in seconds, with nothing submitted, what would fail for want of internet later."""
    require_internet(
        [external.path for external in planned_downloads()],
        platform.node(),
        SITE.internet_hosts if SITE else (),
        download_command(sys.argv),
        DISK.logs / "missing_downloads.log",
    )


def announce():
    """Says where the report is and how to talk to the model, once both are there."""
    if DISK.report.is_file():
        print(f"\nThe report card:    {DISK.report}")
        command = os.path.relpath(BIN / "nanochat")
        print(f"Talk to your model: {command} chat --config {DISK.resolved_config}")


def explain_failure():
    """Repeats, last, the one sentence with which each failed command ended; exits with 2."""
    for sentence in GIVEN_UP:
        print(f"\nerror: {sentence}", file=sys.stderr)
    explained = bool(GIVEN_UP)
    for log in sorted(DISK.logs.glob("**/*.log")):
        sentence = last_error(log) if log.stat().st_mtime > STARTED else ""
        if sentence and not any(sentence in said for said in GIVEN_UP):
            print(f"\nerror: {sentence}\n  (the whole log: {log})", file=sys.stderr)
            explained = True
    if explained:
        raise SystemExit(NanochatError.exit_code)


# A dry run starts no workflow, so it calls none of the handlers; this is its last word.
if {"-n", "-np", "--dry-run", "--dryrun"}.intersection(sys.argv):
    atexit.register(say_what_is_fetched)
