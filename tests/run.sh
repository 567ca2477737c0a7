#!/usr/bin/env bash
# Lints and tests, in a .venv of the checkout that is made and kept up to date here. From any directory:
#   bash tests/run.sh                        everything
#   bash tests/run.sh -k wordle              arguments go to pytest
#   PYTHON=python3.12 bash tests/run.sh      makes .venv with this Python
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/setup.sh

install requirements.txt tests/requirements.txt
install_stockfish || echo "no Stockfish: the tests of chess are skipped" >&2
install_wordnet || echo "no WordNet: the test that needs it is skipped" >&2
fetch_tables || echo "no Syzygy tables: the tests that need them are skipped" >&2
export OMP_NUM_THREADS=1  # the models are tiny: a second thread would mostly wait for the first
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES=
# Not what the user keeps in the checkout: files that git knows, where there is git.
tracked=$(git ls-files '*.py' 2> /dev/null | while read -r file; do [ ! -f "$file" ] || echo "$file"; done) || tracked=.
.venv/bin/python -m ruff check ${tracked:-.}
.venv/bin/python -m pytest --numprocesses 2 --dist loadfile "$@"
