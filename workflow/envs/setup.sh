#!/usr/bin/env bash
# Builds the environment of a cluster on its scratch file system, with every cache there:
#
#   workflow/envs/setup.sh profiles/ptolemy      (make env PROFILE=profiles/ptolemy)
#   source env.sh
#
# Reads scratch and python_module from the profile's site.yaml. NANOCHAT_SCRATCH, in the shell or in
# .env.local, replaces the former; PYTHON is the interpreter, python3 by default. Writes
# <scratch>/nanochat/{venv,cache} and, in this checkout, env.sh; nothing under home. A second time it
# brings the environment up to date.
set -euo pipefail

fail() { echo "error: $*" >&2; exit 2; }
# A value as YAML and dotenv write it, without its quotes and without the comment behind it.
plain() { sed -E -e "s/^(['\"])(.*)\1 *(#.*)?\$/\2/; t" -e 's/(^| +)#.*$//' -e 's/ +$//'; }
fact() { sed -n -E "s/^ +$1: *//p" "$site" | plain; }
setting() { sed -n -E "s/^ *(export +)?$1 *= *//p" .env.local | tail -n 1 | plain; }
has_module() { type module >/dev/null 2>&1; }

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
profile=${1:-}
[[ -n $profile ]] || fail "name the profile of your cluster: make env PROFILE=profiles/ptolemy"
site=$profile/site.yaml
[[ -f $site ]] || fail "no file $site: name the folder of a profile, make env PROFILE=profiles/ptolemy"

# A module system is a shell function: a shell that is not a login shell may lack it, and it may
# stumble over `set -u`. It may also print an error and return 0: what counts is the Python below.
module=$(fact python_module)
init=""
if [[ -n $module && $module != null && $module != "~" ]]; then
  for file in "${MODULESHOME:-}/init/bash" "${LMOD_PKG:-}/init/bash" \
    /etc/profile.d/{modules,lmod,z00_lmod}.sh; do
    if [[ -z $init && -r $file ]]; then init=$file; fi
  done
  set +u
  # shellcheck disable=SC1090
  has_module || [[ -z $init ]] || . "$init" || true
  has_module || fail "no \`module\` command on this host, but $site asks for $module"
  module load "$module" || fail "no module $module: \`module avail python\` lists what there is"
  set -u
else
  module=""
fi

unset PYTHONPATH # some modules set it: what they bring along must not stand in for what is pinned
python=${PYTHON:-python3}
command -v "$python" >/dev/null || fail "no $python on this host: set python_module in $site, or PYTHON"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$python" --version 2>&1) is too old, 3.11 is needed: set python_module in $site, or PYTHON"

scratch=${NANOCHAT_SCRATCH:-}
if [[ -z $scratch && -f .env.local ]]; then scratch=$(setting NANOCHAT_SCRATCH); fi
export USER=${USER:-$(id -un)}
expand='import os, sys; print(os.path.abspath(os.path.expanduser(os.path.expandvars(sys.argv[1]))))'
scratch=$("$python" -c "$expand" "${scratch:-$(fact scratch)}")
[[ -d $scratch && -w $scratch ]] ||
  fail "the scratch folder $scratch is not there or not yours: create it, or set NANOCHAT_SCRATCH in .env.local"

# Only what pip needs: the other caches come from `nanochat env`, once that is installed. Large wheels
# are unpacked in TMPDIR, and /tmp is small on many login nodes.
folder=$scratch/nanochat
venv=$folder/venv
export PIP_CACHE_DIR=$folder/cache/pip XDG_CACHE_HOME=$folder/cache/xdg TMPDIR=$folder/cache/tmp
export PIP_USER=0
mkdir -p "$TMPDIR"
version='import sys; print(sys.version_info[:2])'
if [[ $("$venv/bin/python" -c "import pip; $version" 2>/dev/null) != $("$python" -c "$version") ]]; then
  "$python" -m venv --clear "$venv" ||
    fail "$python cannot build virtual environments (apt install python3-venv on Debian)"
fi
"$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar on \
  --constraint constraints.txt --editable '.[workflow,wandb]'

{
  echo "# Written by \`make env\`, for bash and zsh: source env.sh"
  if [[ -n $init ]]; then printf 'type module >/dev/null 2>&1 || . %q\n' "$init"; fi
  if [[ -n $module ]]; then printf 'module load %q\n' "$module"; fi
  echo "unset PYTHONPATH"
  if [[ -n ${NANOCHAT_SCRATCH:-} ]]; then printf 'export NANOCHAT_SCRATCH=%q\n' "$scratch"; fi
  printf '. %q\n' "$venv/bin/activate"
  # shellcheck disable=SC2016
  printf 'eval "$(cd %q && nanochat env --profile %q)"\n' "$PWD" "$profile"
} >env.sh.new
mv env.sh.new env.sh
echo "Built $venv. In every new shell: source $PWD/env.sh"
