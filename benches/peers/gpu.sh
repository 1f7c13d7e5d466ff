#!/bin/sh
# Training steps of tinygpt beside PyTorch and JAX on this machine's NVIDIA GPU, and, where NODE names Node, WebGPU beside
# WebAssembly: everything in one call, tables on standard output.
#
#   benches/peers/gpu.sh [flags of gpu.py]
#
# Environment:
#   TINYGPT   the tinygpt command; without it cargo builds one
#   PYTHON    a Python with torch, jax and numpy [python3]
#   NODE      Node 20 or newer; without it the second part is left out
#   NODE_WEBGPU, TINYGPT_SITE  what web/bench-gpu.mjs takes
#   WEBGPU_FLAGS  flags of web/bench-gpu.mjs
#   OUT       a folder for JSON results
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
if [ -z "${TINYGPT:-}" ]; then
  (cd "$root" && cargo build --release --package tinygpt --bin tinygpt)
  TINYGPT=$root/target/release/tinygpt
fi
export TINYGPT

status=0
"${PYTHON:-python3}" -B "$here/gpu.py" --tinygpt "$TINYGPT" ${OUT:+--json "$OUT/gpu-peers.json"} "$@" || status=$?

if [ -n "${NODE:-}" ]; then
  # The flags are words.
  # shellcheck disable=SC2086
  "$NODE" "$root/web/bench-gpu.mjs" ${WEBGPU_FLAGS:-} || status=$?
fi
exit $status
