#!/usr/bin/env bash
# Reproduces the results table. From any directory:
#   bash benchmarks.sh quick                          maze_fo with one seed: minutes on two CPU cores
#   bash benchmarks.sh all                            every task with three seeds (SEEDS="1 2": with these)
#   bash benchmarks.sh maze_fo                        one task: maze_fo, maze_po, text_nav_fo, text_nav_po, wordle,
#                                                     chess, endgames (these two need Stockfish), twenty_questions,
#                                                     guess_city, car_dealer
#   DRY_RUN=1 bash benchmarks.sh all                  prints the commands only
# Finished runs are skipped, and those that were interrupted go on. Delete a folder under runs/ to run it again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source tests/setup.sh

# tasks | experiment | script | its flags besides --env-id, --exp-name and --seed
games="maze_fo maze_po text_nav_fo text_nav_po chess endgames"
dialogues="twenty_questions guess_city car_dealer"
experiments="
$games wordle $dialogues | bc_maze | bc_maze |
${games/chess endgames/} | filtered_bc | bc_maze | --success-only
endgames      | filtered_bc | bc_maze     | --success-only --num-iterations 10
chess         | filtered_bc | bc_maze     | --success-only --num-iterations 4
wordle        | filtered_bc | bc_maze     | --top-fraction 0.3 --num-iterations 44
$dialogues    | filtered_bc | bc_maze     | --top-fraction 0.1
$games car_dealer | ilql_wordle | ilql_wordle | --bc-checkpoint runs/TASK__bc_maze__SEED
wordle ${dialogues/car_dealer/} | ilql_wordle | ilql_wordle | --bc-checkpoint runs/TASK__filtered_bc__SEED
"
all_tasks="$games wordle $dialogues"

case "${1:-}" in
    quick) tasks=maze_fo seeds=${SEEDS:-1} ;;
    all) tasks=$all_tasks seeds=${SEEDS:-1 2 3} ;;
    *)
        if [ -z "${1:-}" ] || [[ " $all_tasks " != *" $1 "* ]]; then
            sed -n '2,9s/^# //p' benchmarks.sh
            exit 2
        fi
        tasks=$1 seeds=${SEEDS:-1 2 3} ;;
esac

run() {
    echo "$*"
    [ -n "${DRY_RUN:-}" ] || "$@"
}

if [ -z "${DRY_RUN:-}" ]; then
    install requirements.txt
    [[ " $tasks " != *" chess "* && " $tasks " != *" endgames "* ]] || install_stockfish ||
        echo "no Stockfish: chess and endgames need it" >&2
fi
for task in $tasks; do
    for seed in $seeds; do
        while IFS='|' read -r played experiment script flags; do
            [[ " $played " == *" $task "* ]] || continue
            read -r experiment <<< "$experiment"
            read -r script <<< "$script"
            folder=runs/${task}__${experiment}__$seed
            [ -d "$folder/model" ] && { echo "# finished: $folder"; continue; }
            flags=${flags//TASK/$task} flags=${flags//SEED/$seed}
            [ -d "$folder" ] && flags+=" --resume"
            run .venv/bin/python "algos/$script.py" --env-id "$task" --exp-name "$experiment" --seed "$seed" $flags < /dev/null
        done <<< "$experiments"
    done
done
run .venv/bin/python results/table.py --env-ids $tasks
