#!/usr/bin/env bash
# Reproduces the results. From any directory:
#   bash benchmarks.sh                       every task and experiment with three seeds (SEEDS="1 2": with these)
#   bash benchmarks.sh quick                 maze_fo, four experiments, one seed: minutes on two CPU cores
#   bash benchmarks.sh wordle ilql_wordle    these only: any of the tasks maze_fo, maze_po, text_nav_fo, text_nav_po,
#                                            wordle, chess, endgames (these two need Stockfish), twenty_questions,
#                                            guess_city, car_dealer; and any of the experiments bc_maze, filtered_bc,
#                                            mc_twenty_questions, ilql_wordle, online_filtered_bc_text_nav,
#                                            ppo_car_dealer, grpo_wordle, archer_twenty_questions (the BC run that all
#                                            but the first two start from is made, too)
#   DRY_RUN=1 bash benchmarks.sh             prints the commands only
#   WORKERS=2 bash benchmarks.sh             two runs side by side (default: one on each GPU, or one on the CPU)
#   PROFILE=gpu bash benchmarks.sh           GPT-2 in the paper's sizes with the paper's values, in runs/gpt2/
# Runs are written to runs/, or to the folder that LMRL_RUNS names, and what they print to logs/ there. Finished runs
# are skipped, and interrupted ones are resumed. Delete a run's folder to run it again.
set -euo pipefail
for name in LMRL_DATA LMRL_RUNS; do  # relative to where the user is, not to the checkout
    [[ ${!name:-/} == /* ]] || export "$name=$PWD/${!name}"
done
cd "$(dirname "${BASH_SOURCE[0]}")"
source tests/setup.sh

for word in "$@"; do
    if [[ $word == -h || $word == --help ]]; then
        sed -n '2,/^set/s/^# \{0,1\}//p' benchmarks.sh
        exit
    fi
done
commands=$(DRY_RUN=1 "${PYTHON:-python3}" results/schedule.py "$@")  # ends here if it does not know a word
if [ -n "${DRY_RUN:-}" ]; then
    echo "$commands"
    exit
fi
install requirements.txt
[ "${PROFILE:-cpu}" = gpu ] || export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # small models hardly gain from more
if grep -qE -e '--env-id (chess|endgames) ' <<< "$commands"; then
    install_stockfish || echo "no Stockfish: chess and endgames need it" >&2
fi
exec .venv/bin/python results/schedule.py "$@"
