# Prints how each rule of a profile would be submitted, without a cluster:
#
#   snakemake -s tests/profiles/sbatch_lines.smk --profile profiles/ptolemy
#
# Golden files are made from it (test_profiles.py).

import sys
from types import SimpleNamespace

import yaml
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string


include: "../../Snakefile"


class Resources(dict):
    """As the executor sees a job's resources: by key and by attribute."""

    __getattr__ = dict.__getitem__


# Snakemake knows the executor's settings only when it executes: here they come from the profile.
PROFILE = Path(sys.argv[sys.argv.index("--profile") + 1]) / "config.yaml"
SETTINGS = SimpleNamespace(requeue=False, no_requeue=False, qos=None, reservation=None)
for key, value in yaml.safe_load(PROFILE.read_text()).items():
    setattr(SETTINGS, key.removeprefix("slurm-resume-"), value)


def sbatch_line(rule):
    resources = Resources(
        {
            name: resource.value
            for name, resource in rule.resources.items()
            if not name.startswith("_") and name != "tmpdir"
        }
    )
    cores = rule.resources["_cores"].value
    job = SimpleNamespace(resources=resources, threads=cores, is_group=lambda: False)
    account = resources.get("slurm_account")
    partition = resources.get("slurm_partition")
    parameters = {
        "run_uuid": "JOB_NAME",
        "slurm_logfile": "LOG",
        "comment_str": f"rule_{rule.name}",
        "account": f"-A {account}" if account else "",
        "partition": f"-p {partition}" if partition else "",
        "workdir": "",
    }
    line = get_submit_command(job, parameters, SETTINGS) + set_gres_string(job)
    return " ".join(line.split())


for rule in sorted(workflow.rules, key=lambda rule: rule.name):
    local = rule.name in workflow._localrules
    print(f"{rule.name}: {'runs where Snakemake runs' if local else sbatch_line(rule)}")
sys.exit(0)
