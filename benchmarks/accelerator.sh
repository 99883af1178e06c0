#!/usr/bin/env bash
# The benchmarks that want an accelerator, within ten minutes in all. Nothing is downloaded: models
# have random weights of a real shape, examples are random tokens.
#
#   benchmarks/accelerator.sh                       # Phi-2: 64 of 128 and 32 of 128, LoRA and full
#   SHAPE=smollm2 benchmarks/accelerator.sh
#
# A measurement that is cut short leaves those of the repeats that were done. Where Python, its
# packages and the results lie is told in accelerator_setting.sh.
set -u
# shellcheck source=benchmarks/accelerator_setting.sh
source "$(dirname "$0")/accelerator_setting.sh"

SHAPE=${SHAPE:-phi-2}
N=${N:-128}
MICRO_BATCH=${MICRO_BATCH:-8}
MAX_LENGTH=${MAX_LENGTH:-512}
REPEATS=${REPEATS:-4}
LIMIT_SECONDS=${LIMIT_SECONDS:-580}

failed=0

# Runs one benchmark in at most so many of the seconds left; the others go on if it fails.
measure() {
  local most=$1 left=$((LIMIT_SECONDS - SECONDS))
  shift
  if ((left < 5)); then
    echo "no time left for: $*" >&2
    failed=1
    return
  fi
  echo "== $* (at ${SECONDS} s)"
  timeout "$((most < left ? most : left))" "$PYTHON" -m benchmarks "$@" || {
    echo "failed or out of time: $*" >&2
    failed=1
  }
}

for share in 2 4; do
  for weights in "" --full; do
    # An eight-billion model with its gradients and moments fits no single accelerator.
    [[ $SHAPE == llama-3-8b && $weights == --full ]] && continue
    # shellcheck disable=SC2086
    measure 150 step --shape "$SHAPE" --selector gradient_matching --plain $weights \
      --n "$N" --r "$((N / share))" --micro_batch "$MICRO_BATCH" --max_length "$MAX_LENGTH" \
      --repeats "$REPEATS"
  done
done
for weights in "" --full; do
  [[ $SHAPE == llama-3-8b && $weights == --full ]] && continue
  # shellcheck disable=SC2086
  measure 120 memory --shape "$SHAPE" $weights --tokens "$MAX_LENGTH" --repeats 1 \
    --per_device_train_batch_size "$MICRO_BATCH" --dtype bfloat16 --bf16 true \
    --gradient_checkpointing false ${MEMORY_OPTIONS:-}
done
exit "$failed"
