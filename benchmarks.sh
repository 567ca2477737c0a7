#!/usr/bin/env bash
# Reproduces the results table. From any directory:
#   bash benchmarks.sh                       every task and experiment with three seeds (SEEDS="1 2": with these)
#   bash benchmarks.sh quick                 maze_fo, four experiments, one seed: minutes on two CPU cores
#   bash benchmarks.sh wordle ilql_wordle    these only: any of the tasks maze_fo, maze_po, text_nav_fo, text_nav_po,
#                                            wordle, chess, endgames (these two need Stockfish), twenty_questions,
#                                            guess_city, car_dealer; and any of the experiments bc_maze, filtered_bc,
#                                            mc_twenty_questions, ilql_wordle, online_filtered_bc_text_nav,
#                                            ppo_car_dealer, grpo_wordle, archer_twenty_questions (the BC run that all
#                                            but the first two start from is made, too)
#   DRY_RUN=1 bash benchmarks.sh             prints the commands only
# Runs are written to runs/, or to the folder that LMRL_RUNS names. Finished runs are skipped, and interrupted ones are
# resumed. Delete a run's folder to run it again.
set -euo pipefail
for name in LMRL_DATA LMRL_RUNS; do  # relative to where the user is, not to the checkout
    [[ ${!name:-/} == /* ]] || export "$name=$PWD/${!name}"
done
cd "$(dirname "${BASH_SOURCE[0]}")"
source tests/setup.sh

games="maze_fo maze_po text_nav_fo text_nav_po chess endgames"
dialogues="twenty_questions guess_city car_dealer"
all_tasks="$games wordle $dialogues"
start_from_bc="mc_twenty_questions ilql_wordle online_filtered_bc_text_nav ppo_car_dealer grpo_wordle"
start_from_bc+=" archer_twenty_questions"
all_experiments="bc_maze filtered_bc $start_from_bc"
from_filtered_bc="wordle twenty_questions guess_city"  # what these start from there; elsewhere from bc_maze
# experiment, script, its flags besides --env-id, --exp-name and --seed | tasks
rows="
bc_maze bc_maze | $all_tasks
filtered_bc bc_maze --success-only | ${games/chess endgames/}
filtered_bc bc_maze --success-only --num-iterations 10 | endgames
filtered_bc bc_maze --success-only --num-iterations 4 | chess
filtered_bc bc_maze --top-fraction 0.3 --num-iterations 26 | wordle
filtered_bc bc_maze --top-fraction 0.1 | $dialogues
mc_twenty_questions mc_twenty_questions | $all_tasks
ilql_wordle ilql_wordle | $all_tasks
online_filtered_bc_text_nav online_filtered_bc_text_nav | $all_tasks
ppo_car_dealer ppo_car_dealer | $all_tasks
grpo_wordle grpo_wordle | $all_tasks
archer_twenty_questions archer_twenty_questions | $all_tasks
"

contains() {  # LIST WORD
    [[ " $1 " == *" $2 "* ]]
}

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' benchmarks.sh
}

tasks="" experiments="" seeds=${SEEDS:-} default=$all_experiments
for word in "$@"; do
    if [[ $word == -h || $word == --help ]]; then
        usage
        exit
    elif [ "$word" = quick ]; then
        word=maze_fo seeds=${seeds:-1} default="bc_maze filtered_bc ilql_wordle ppo_car_dealer"
    fi
    if contains "$all_experiments" "$word"; then
        experiments+=" $word"
    elif ! contains "$all_tasks" "$word"; then
        { echo "neither a task nor an experiment: $word"; usage; } >&2
        exit 2
    elif ! contains "$tasks" "$word"; then
        tasks+=" $word"
    fi
done
tasks=${tasks:-$all_tasks} experiments=${experiments:-$default} seeds=${seeds:-1 2 3}

run() {
    echo "$*"
    [ -n "${DRY_RUN:-}" ] || "$@" < /dev/null
}

if [ -z "${DRY_RUN:-}" ]; then
    install requirements.txt
    ! contains "$tasks" chess && ! contains "$tasks" endgames || install_stockfish ||
        echo "no Stockfish: chess and endgames need it" >&2
fi
for task in $tasks; do
    wanted=$experiments
    for experiment in $start_from_bc; do
        contains "$wanted" "$experiment" || continue
        contains "$from_filtered_bc" "$task" && wanted+=" filtered_bc" || wanted+=" bc_maze"
    done
    for seed in $seeds; do
        while IFS='|' read -r row played; do
            read -r experiment script flags <<< "$row"
            contains "$played" "$task" && contains "$wanted" "$experiment" || continue
            folder=${LMRL_RUNS:-runs}/${task}__${experiment}__$seed
            if grep -qs '"test/episodic_return"' "$folder/metrics.jsonl"; then
                echo "# finished: $folder"
                continue
            fi
            [ ! -d "$folder" ] || flags+=" --resume"
            run .venv/bin/python "algos/$script.py" --env-id "$task" --exp-name "$experiment" --seed "$seed" $flags
        done <<< "$rows"
    done
done
run .venv/bin/python results/table.py --env-ids $tasks
