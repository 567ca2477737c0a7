#!/usr/bin/env bash
# What only a GPU can show, in at most eight minutes and without network. From any directory:
#   bash tests/gpu_check.sh                   on the GPU
#   bash tests/gpu_check.sh --device cpu      what the CPU can do of it, in small: whether this script itself works
#   PYTHON=python3.12 bash tests/gpu_check.sh     with this Python; else that of .venv, or python3
# Each step prints what it does, its time and PASS, FAIL or SKIP; one that fails does not stop the others. The exit
# status is 0 if none has failed. Nothing is left behind.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

device=cuda
if [ "${1:-}" = --device ] && [ $# = 2 ]; then
    device=$2
elif [ $# -gt 0 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
fi
[ -n "${PYTHON:-}" ] || { [ -x .venv/bin/python ] && PYTHON=.venv/bin/python; } || PYTHON=python3
[[ $device == cuda* ]] && gpu=1 limit=470 || gpu="" limit=100000  # seconds; on the CPU others may be at work
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export LMRL_RUNS=$folder/runs LMRL_DATA=$folder/data LMRL_TEST_DEVICE=$device
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false TQDM_DISABLE=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

report=""
failed=0

conclude() {  # WORD NAME SECONDS
    local line
    line=$(printf '%s %s (%d s)' "$1" "$2" "$3")
    echo "$line"
    report+="$line"$'\n'
    [ "$1" != FAIL ] || failed=1
}

step() {  # NAME SECONDS COMMAND…: run it for at most so long, and until all time is up
    local name=$1 most=$2 start=$SECONDS left=$((limit - SECONDS)) status
    shift 2
    echo
    echo "--- $name"
    if [ "$left" -lt 5 ]; then
        echo "no time is left"
        conclude FAIL "$name" 0
        return
    fi
    [ $gpu ] || most=$left
    timeout --kill-after 5 $((most < left ? most : left)) "$@" 2>&1 && status=0 || status=$?
    [ $status != 124 ] || echo "stopped: out of time"
    conclude "$([ $status = 0 ] && echo PASS || echo FAIL)" "$name" $((SECONDS - start))
}

# A program, then the most memory that it held on the device: measured [FILE | -m MODULE] ARGUMENTS
cat > "$folder/measured.py" <<'PYTHON'
import resource
import runpy
import sys

import torch

sys.argv.pop(0)
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    if torch.cuda.is_initialized():
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of the process")
PYTHON

# A GPT-2 with random weights, and natural tokens: $folder/gpt2. On the CPU a small one.
cat > "$folder/make_model.py" <<'PYTHON'
import sys

import torch
from transformers import AutoModelForCausalLM, GPT2Config

from envs import make
from tests import bench

folder, on_gpu = sys.argv[1], sys.argv[2:] == ["1"]
config = bench.SHAPES["gpt2"] if on_gpu else GPT2Config(vocab_size=2000, n_embd=64, n_layer=2, n_head=4, **bench.NONE)
torch.manual_seed(0)
AutoModelForCausalLM.from_config(config).save_pretrained(folder)
games = [game for task in ("maze_fo", "wordle", "twenty_questions") for game in make(task).generate(100, seed=0)]
bench.natural_tokenizer(games, config.vocab_size).save_pretrained(folder)
PYTHON

# The games are played in bfloat16 and in float32 alike, but for rounding: the logits that the rollout sampled from
# beside those of a whole pass in float32 over the same tokens.
cat > "$folder/bfloat16.py" <<'PYTHON'
import sys
from dataclasses import fields, replace

import torch

from algos import bc_maze as script
from envs.run import make_envs

folder, device = sys.argv[1:]
for dtype, allowed in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
    args = replace(script.Args(), env_id="wordle", model=folder, device=device, num_envs=16, max_new_tokens=6)
    if "dtype" in {field.name for field in fields(args)}:
        args.dtype = str(dtype).removeprefix("torch.")
    policy, text = script.load_model(args)
    player = script.load_model(args)[0].to(dtype)
    reader = script.Reader([player.base_model], player.get_output_embeddings(), args)
    sampled, read = {}, reader.read

    def watched(windows, sampled=sampled, read=read):
        ready, logits = read(windows)
        for row, values in zip(ready, logits, strict=True):
            sampled.setdefault(id(windows[row]), []).append(values.float())
        return ready, logits

    reader.read = watched
    episodes = script.rollout(reader, make_envs(args), range(16), text, args)
    worst, spread = 0.0, 0.0
    with torch.no_grad():
        for window in [window for episode in episodes for window in episode.windows if window.chosen]:
            ids = torch.tensor([window.ids], device=device)
            own = policy(input_ids=ids, use_cache=False).logits[0].float()
            own = own[torch.tensor(window.chosen, device=device) - 1]
            worst = max(worst, (torch.stack(sampled[id(window)]) - own).abs().max().item())
            spread = max(spread, own.abs().max().item())
    print(f"{dtype}: largest difference of a logit {worst:.2g}, of logits up to {spread:.2g}")
    assert worst <= allowed * max(1.0, spread), f"more than {allowed} of the largest"
PYTHON

"$PYTHON" - <<'PYTHON' || { echo "FAIL: $PYTHON lacks what the scripts need"; exit 1; }
import sys

import filelock, numpy, pytest, tokenizers, torch, tqdm, transformers, tyro  # noqa: E401, F401

gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, transformers {transformers.__version__}, {gpu}")
PYTHON

model="$folder/gpt2"
help=$("$PYTHON" algos/ppo_car_dealer.py --help 2>&1)
has() { grep -q -- "$1" <<< "$help"; }

run=("$PYTHON" "$folder/measured.py")
common=(--env-id wordle --model "$model" --device "$device" --num-iterations 2 --eval-every 0)
if [ $gpu ]; then
    ppo=(--num-episodes 256 --num-envs 256 --minibatch-size 32 --num-test-episodes 256)
    ilql=(--num-trajectories 2000 --steps-per-iteration 20 --minibatch-size 32 --beta 4 --num-eval-episodes 64
          --num-test-episodes 256 --num-envs 256)
    tests=(tests/test_rollout.py)
else
    ppo=(--num-episodes 4 --num-envs 4 --minibatch-size 4 --num-test-episodes 4)
    ilql=(--num-trajectories 20 --steps-per-iteration 2 --minibatch-size 4 --beta 4 --num-eval-episodes 4
          --num-test-episodes 4 --num-envs 4)
    tests=(tests/test_rollout.py -k "used_again or out_of_step")
fi

step "rollout tests" 120 "$PYTHON" -m pytest -q -p no:cacheprovider "${tests[@]}"
step "a random GPT-2" 60 "$PYTHON" "$folder/make_model.py" "$model" "$gpu"
step "bfloat16 beside float32" 60 "$PYTHON" "$folder/bfloat16.py" "$model" "$device"
step "PPO, two iterations" 60 "${run[@]}" algos/ppo_car_dealer.py "${common[@]}" "${ppo[@]}"
step "ILQL, two iterations" 60 "${run[@]}" algos/ilql_wordle.py "${common[@]}" "${ilql[@]}"
step "torchrun, one process" 60 "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node 1 \
    "$folder/measured.py" algos/ppo_car_dealer.py "${common[@]}" "${ppo[@]}" --exp-name by_torchrun
flags=()
! has --dtype || flags+=(--dtype bfloat16)
! has --micro-batch-size || flags+=(--micro-batch-size $((gpu ? 8 : 2)))
! has --gradient-checkpointing || flags+=(--gradient-checkpointing)
if [ ${#flags[@]} -gt 0 ]; then
    step "PPO with ${flags[*]}" 60 "${run[@]}" algos/ppo_car_dealer.py "${common[@]}" "${ppo[@]}" "${flags[@]}" \
        --exp-name with_flags
else
    conclude SKIP "bfloat16, micro-batches, checkpointing: the scripts have no such flags" 0
fi
if [ $gpu ]; then
    bench=("$PYTHON" tests/bench.py --device "$device" --teaching-steps 60 --training-seconds 1.5)
    step "benchmark, GPT-2" 180 "${bench[@]}" --sizes gpt2 --tasks wordle twenty_questions --pairs 2
    step "benchmark, GPT-2 in the maze" 60 "${bench[@]}" --sizes gpt2 --tasks maze_fo --num-envs 256 --pairs 1
    step "benchmark, 0.6B" 90 "${bench[@]}" --sizes 0.6B --pairs 1
else
    step "benchmark" 90 "$PYTHON" tests/bench.py --device "$device" --sizes tiny --tasks wordle --num-envs 8 \
        --num-games 50 --teaching-steps 2 --pairs 1 --training-seconds 0.1
fi

echo
echo "$SECONDS seconds on $device; user and system time of the shell, and of what it ran:"
times
printf '%s' "$report"
exit $failed
