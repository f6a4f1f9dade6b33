#!/usr/bin/env bash
# Create the environment if it is missing, then run a verb in it:
#   ./run.sh                 the demo: train --config synthetic-flowers
#   ./run.sh VERB ...        any verb of `vit-pipeline --help`; one process per visible GPU
#   ./run.sh test [ARGS]     all checks: format, lint, types, import layers, tests (ARGS go to pytest)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$here/.venv

# install EXTRA: install what pyproject.toml asks for into .venv; a stamp lets the next call skip it.
install() {
  local stamp=$venv/.installed${1//[^a-z]/}
  if [[ -e $stamp && ! $here/pyproject.toml -nt $stamp ]]; then return; fi
  echo "setting up $venv ..." >&2
  local uv=uv
  if ! command -v uv >/dev/null; then
    [[ -x $venv/bin/python ]] || find_python -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    uv=$venv/bin/uv
  fi
  # The python3 of the user comes first; without a new enough one, uv finds or downloads one.
  local python
  python=$(find_python -c 'import sys; print(sys.executable)' 2>/dev/null) || python='>=3.11'
  [[ -x $venv/bin/python ]] || "$uv" venv --quiet --python "$python" "$venv"
  "$uv" pip install --quiet --python "$venv/bin/python" --editable "$here$1"
  touch "$stamp"
}

# find_python ARGS: run the first Python interpreter that is new enough.
find_python() {
  local python
  for python in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" "$@"
      return
    fi
  done
  echo "error: python3 is $(python3 --version 2>&1): install Python 3.11 or newer" >&2
  exit 2
}

# count_gpus: print the number of GPUs that CUDA shows to a program.
count_gpus() {
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true
  else
    { nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU' || true
  fi
}

check() {
  cd "$here"
  export PATH=$venv/bin:$PATH
  ruff format --check .
  ruff check .
  mypy
  lint-imports
  # A file stays in one process, so that its fixtures are made once.
  exec python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile "$@"
}

if [[ ${1:-} == test ]]; then
  install '[dev]'
  check "${@:2}"
fi
install ''
[[ $# -gt 0 ]] || set -- train --config synthetic-flowers
gpus=$(count_gpus)
if ((gpus > 1)) && [[ $1 =~ ^(train|evaluate|predict)$ && -z ${RANK:-} && " $* " != *" --help"* && " $* " != *" --watch"* ]]; then
  exec "$venv/bin/accelerate" launch --config_file "$here/pipeline/configs/accelerate/one-machine.yaml" \
    --num_processes "$gpus" -m pipeline "$@"
fi
exec "$venv/bin/python" -m pipeline "$@"
