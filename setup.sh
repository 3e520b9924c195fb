#!/usr/bin/env bash
# Sets rigsweep up and runs `detect` once: bash setup.sh
# Safe to run again: whatever is in place is kept.  Needs Python 3.11 with pip, and git.
# Without a GPU, `UV_TORCH_BACKEND=cpu bash setup.sh` spares gigabytes of CUDA packages, where nothing else offers a
# CPU build of torch (a folder in pip's find-links does).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
die() { printf 'setup.sh: %s\n' "$*" >&2; exit 1; }

for python in python python3 python3.11 ""; do
  "${python:-false}" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && break
done || die "needs Python 3.11, and none of python, python3, python3.11 on the PATH is that version"

# The launcher (mlflow and uv) goes into the active Python, or into .venv where that one is not ours to change.
if ! "$python" -c '
import os, sys, sysconfig
managed = sys.prefix == sys.base_prefix and os.path.exists(sysconfig.get_path("stdlib") + "/EXTERNALLY-MANAGED")
sys.exit(managed or not os.access(sysconfig.get_path("purelib"), os.W_OK))'; then
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  . .venv/bin/activate
  python=python activate="source $PWD/.venv/bin/activate"
fi

# uv does not read pip's settings: hand over those that say where packages come from.
settings=$("$python" -m pip config list)
hand_over() { # pip's setting, uv's variable, what separates several values there
  local value
  value=$(sed -nE "s/^(:env:|install|global)\.$1='(.*)'\$/\2/p" <<<"$settings" |
    sed -E "1!d; s/^(\\\\n| )+//; s/(\\\\n| )+/${3:- }/g")
  if [ -n "$value" ] && [ -z "${!2:-}" ]; then export "$2=$value"; fi
}
hand_over find-links UV_FIND_LINKS ,
hand_over index-url UV_DEFAULT_INDEX
hand_over extra-index-url UV_INDEX
hand_over trusted-host UV_INSECURE_HOST
hand_over cert SSL_CERT_FILE
hand_over default-timeout UV_HTTP_TIMEOUT
hand_over timeout UV_HTTP_TIMEOUT
# Of several indexes pip takes the best version, uv the first index that knows the name: do as pip does.
export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
# Every later start is faster by seconds, also where Python is told to write no bytecode.
export UV_COMPILE_BYTECODE="${UV_COMPILE_BYTECODE:-1}" MLFLOW_DISABLE_TELEMETRY=true

"$python" -m pip install --quiet --disable-pip-version-check --constraint requirements.lock uv
"$python" -m uv pip install --quiet --python "$("$python" -c 'import sys; print(sys.executable)')" \
  --constraint requirements.lock mlflow
if command -v pyenv >/dev/null; then pyenv rehash; fi
hash -r
{ command -v mlflow && command -v uv; } >/dev/null ||
  die "put $("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))') on the PATH, then run this again"

# MLflow builds the environment with uv in the very folder where a plain `mlflow run .` looks for it later.
trap 'die "did not finish, see above; if it was stopped while MLflow was \"creating a new environment\", remove the
folder that it named there before you run this again"' ERR INT TERM
mlflow run . -e detect --env-manager uv

store=${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}
case $store in http*) look="open $store" ;; *) look="mlflow ui --backend-store-uri $store    then open http://127.0.0.1:5000" ;; esac
cat <<EOF

Done.  The next commands are for this folder, $PWD
${activate:+  in a new shell, first:  $activate
}  to see the result:      $look
  to run it again:        mlflow run . -e detect
  with another setting:   mlflow run . -e detect -P alpha=0.8
  to run the tests:       mlflow run . -e test
EOF
