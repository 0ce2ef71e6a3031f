#!/usr/bin/env bash
# torch.compile on a real card in less than nine minutes: does it give the same losses, and does it pay?
#   OUT=folder bash benchmarks/card_compile.sh
# Every part has a limit of its own and leaves what it found so far.
set -u
scratch=$(mktemp -d)
export PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-$scratch/inductor}" OMP_NUM_THREADS=1
python="${PYTHON:-python3}" methods="mae mae_st ijepa vjepa vicreg m_jepa mc_jepa supervised"
cd "$(dirname "$0")/.." && mkdir -p "${OUT:?a folder for what is found}"

# 130 s: the compiled tests, four at a time, each within 110 s and with its last lines if it fails.
timeout 135 "$python" -m tests.gpu --match compiled --seconds 110 --most 130 --jobs 8 --log "$OUT/tests.txt"

# 150 s: compile all methods at once, so that the measuring below finds their kernels made.
for method in $methods; do
  timeout 150 "$python" -m benchmarks.gpu --methods "$method" --seconds 0.1 --compile >"$scratch/warm-$method.txt" 2>&1 &
done
wait
tail -n 30 "$scratch"/warm-*.txt >"$OUT/warm.txt"

# 220 s: compiled and not, by turns, so that both are there of each method that was reached.
end=$((SECONDS + 220))
for method in $methods; do
  for compile in "" "--compile"; do
    left=$((end - SECONDS))
    [ "$left" -gt 5 ] || break 2
    timeout "$((left < 60 ? left : 60))" "$python" -m benchmarks.gpu --methods "$method" --seconds 5 $compile 2>&1 |
      tee -a "$OUT/measured${compile/--/_}.txt"
  done
done
