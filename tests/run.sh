#!/usr/bin/env bash
# Lints and tests, in a .venv of the checkout that is made and kept up to date here. From any directory:
#   bash tests/run.sh                        everything
#   bash tests/run.sh -k wordle              arguments go to pytest
#   PYTHON=python3.12 bash tests/run.sh      makes .venv with this Python
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Install requirement files into .venv, unless they are as they were when that was last done.
install() {
    local python=${PYTHON:-python3} file changed=()
    for file in "$@"; do
        cmp -s "$file" ".venv/installed-${file//\//-}" || changed+=("$file")
    done
    [ ${#changed[@]} -gt 0 ] || return 0
    if [ ! -x .venv/bin/pip ]; then
        if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'; then
            echo "error: Python 3.10, 3.11 or 3.12 is needed, but $python is $("$python" -V 2>&1 || true);" \
                 "name another: PYTHON=python3.12" >&2
            exit 1
        fi
        "$python" -m venv .venv
    fi
    .venv/bin/pip install --quiet $(printf -- '-r %s ' "$@")
    for file in "$@"; do
        cp "$file" ".venv/installed-${file//\//-}"
    done
}

install requirements.txt tests/requirements.txt
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES=
.venv/bin/python -m ruff check
.venv/bin/python -m pytest "$@"
