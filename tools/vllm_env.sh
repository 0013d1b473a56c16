#!/usr/bin/env bash
# Makes the environment in which the tests run a real vLLM on the CPU: tools/vllm_env.sh [FOLDER, default .venv-vllm]
# Does nothing where it is made already. Then: .venv-vllm/bin/python -m pytest -m vllm tests/test_vllm.py
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.venv-vllm}
wanted=$(cat constraints-vllm.txt tools/vllm_env.sh | cksum)
if [ "$(cat "$folder/.installed" 2>/dev/null)" = "$wanted" ]; then echo "$folder is ready"; exit; fi

for python in python3.11 python3.12 python3.13 python3 ""; do
    if [ -n "$python" ] && command -v "$python" >/dev/null && "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then break; fi
done
[ -n "$python" ] || { echo "vllm_env: needs Python 3.11 to 3.13 with venv" >&2; exit 1; }
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install -q --no-deps --no-compile -r constraints-vllm.txt || { echo "vllm_env: could not install. torch==2.13.0+cpu is PyTorch's CPU build: where pip does not find it, give its index in PIP_EXTRA_INDEX_URL" >&2; exit 1; }
pip uninstall -q -y torchvision torchaudio torchcodec triton 2>/dev/null || true
pip install -q --no-deps --no-build-isolation -e .
"$folder/bin/python" -c 'import os; os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"; import vllm, spurious_rlvr.rollout; print("vllm", vllm.__version__)'
echo "$wanted" > "$folder/.installed"
