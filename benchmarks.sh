#!/usr/bin/env bash
# Reproduces the results table. From any directory:
#   bash benchmarks.sh quick                          maze_fo with one seed: minutes on two CPU cores
#   bash benchmarks.sh maze_fo|maze_po|wordle|all     with three seeds (SEEDS="1 2": with these)
#   DRY_RUN=1 bash benchmarks.sh all                  prints the commands only
# Finished runs are skipped, and those that were interrupted go on. Delete a folder under runs/ to run it again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# tasks | experiment | script | its flags besides --env-id, --exp-name and --seed
experiments="
maze_fo maze_po wordle | bc_maze     | bc_maze     |
maze_fo maze_po        | filtered_bc | bc_maze     | --success-only
wordle                 | filtered_bc | bc_maze     | --top-fraction 0.3 --num-iterations 44
maze_fo maze_po        | ilql_wordle | ilql_wordle | --bc-checkpoint runs/TASK__bc_maze__SEED
wordle                 | ilql_wordle | ilql_wordle | --bc-checkpoint runs/TASK__filtered_bc__SEED
"
all_tasks="maze_fo maze_po wordle"

case "${1:-}" in
    quick) tasks=maze_fo seeds=${SEEDS:-1} ;;
    all) tasks=$all_tasks seeds=${SEEDS:-1 2 3} ;;
    maze_fo | maze_po | wordle) tasks=$1 seeds=${SEEDS:-1 2 3} ;;
    *) sed -n '2,6s/^# //p' benchmarks.sh; exit 2 ;;
esac

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

run() {
    echo "$*"
    [ -n "${DRY_RUN:-}" ] || "$@"
}

[ -n "${DRY_RUN:-}" ] || install requirements.txt
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
