#!/usr/bin/env bash
# Builds the environment of a cluster on its scratch file system, with every cache there:
#
#   workflow/envs/setup.sh profiles/ptolemy      (make env PROFILE=profiles/ptolemy)
#   source env.sh
#
# Reads scratch and python_module from the profile's site.yaml, and .env.local. Writes
# <scratch>/nanochat/{venv,cache} and env.sh; nothing under home.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 2; }
fact() { sed -n "s/^  $1: *\([^ #]*\).*/\1/p" "$site"; }

profile=${1:-}
site=$profile/site.yaml
[[ -f $site ]] || fail "no file $site: name a profile, make env PROFILE=profiles/ptolemy"
if [[ -f .env.local ]]; then
  set -a
  # shellcheck disable=SC1091
  . ./.env.local
  set +a
fi

scratch=${NANOCHAT_SCRATCH:-$(fact scratch)}
scratch=${scratch//\$USER/${USER:-$(id -un)}}
[[ -d $scratch && -w $scratch ]] ||
  fail "the scratch folder $scratch is not there or not yours: create it, or set NANOCHAT_SCRATCH in .env.local"
folder=$scratch/nanochat
mkdir -p "$folder/cache"

module=$(fact python_module)
load=""
if [[ -n $module && $module != null ]]; then
  if ! type module >/dev/null 2>&1; then
    for init in /etc/profile.d/modules.sh /etc/profile.d/lmod.sh /etc/profile.d/z00_lmod.sh; do
      # shellcheck disable=SC1090
      if [[ -r $init ]]; then . "$init"; fi
    done
  fi
  type module >/dev/null 2>&1 || fail "no \`module\` command on this host, and $site asks for $module"
  # Some versions print an error and return 0: what counts is the Python that is there afterwards.
  module load "$module" || fail "module load $module failed: \`module avail python\` lists what there is"
  load="module load $module"
fi
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$python" --version 2>&1) is too old, 3.11 is needed: correct python_module in $site, or set PYTHON"

# Only what pip needs: the rest comes from `nanochat env`, once that is installed.
export PIP_CACHE_DIR=$folder/cache/pip XDG_CACHE_HOME=$folder/cache/xdg
[[ -x $folder/venv/bin/python ]] || "$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --disable-pip-version-check --progress-bar on \
  --constraint constraints.txt --editable "${PACKAGE:-.[workflow,wandb]}"

cat >env.sh.new <<END
# Written by \`make env\`: source env.sh
$load
. $(printf %q "$folder/venv/bin/activate")
eval "\$(nanochat env --profile $(printf %q "$profile"))"
END
mv env.sh.new env.sh
echo "Built $folder/venv. In every new shell: source env.sh"
