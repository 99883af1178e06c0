#!/usr/bin/env bash
# Twelve runs of `quality` side by side on one accelerator, within nine minutes in all: four kinds of
# mini-batch with three seeds, a thousand steps of SmolLM2-135M on r = 32 of n = 64 examples of at
# most 256 tokens.
#
#   benchmarks/accelerator_quality.sh                          # the generated mixture
#   benchmarks/accelerator_quality.sh --data FILE ... --regime wrong --label mine-wrong
#   benchmarks/accelerator_quality.sh --arms "plain n" CoLM --seeds 0 1 2 3 4 5
#   benchmarks/accelerator_quality.sh --pace --turns 20        # what a step costs, alone
#
# Options are those of `side_by_side` and go before those set here; after --pace, of `pace`, whose
# --data, --model and sizes must be the same for pages to bring both together. What is not done within
# LIMIT_SECONDS is kept as far as it came. Other variables are in accelerator_setting.sh.
set -u
# shellcheck source=benchmarks/accelerator_setting.sh
source "$(dirname "$0")/accelerator_setting.sh"

arms=("plain n" "UniMax, all n" "adaptive, all n" CoLM)
setting=(--n 64 --r 32 --micro_batch 16 --max_length 256 --warmup_steps 20 --arms "${arms[@]}")
if [[ ${1:-} == --pace ]]; then
  shift
  run=(pace "${setting[@]}" --turns 20)
else
  # What is left after packages were unpacked, and while Python loads them.
  left=$((${LIMIT_SECONDS:-540} - SECONDS - 20))
  run=(side_by_side --processes 12 --seconds "$left" "${setting[@]}")
  run+=(--steps 1000 --measure_every 100 --log_every 10 --seeds 0 1 2)
fi

# Not exec: what was unpacked is removed at the end. Whoever ends this ends the runs, with results.
"$PYTHON" -m benchmarks "${run[@]}" "$@" &
trap 'kill -TERM $!' TERM INT
while :; do
  wait $!
  code=$?
  kill -0 $! 2>/dev/null || exit "$code"
done
