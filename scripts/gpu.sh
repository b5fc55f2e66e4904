#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The part of ./dev that is about CUDA; ./dev reads it and has the functions and names used here.
# shellcheck disable=SC2154

# --- setup --cuda --------------------------------------------------------------------------------

# Whether an installed nvcc is one that the build takes (cmake/find_cuda.cmake).
usable_nvcc() {
  local nvcc
  for nvcc in ${CUDACXX:+"$CUDACXX"} nvcc /usr/local/cuda/bin/nvcc; do
    [[ $("$nvcc" --version 2> /dev/null) =~ release\ (12\.9|13\.) ]] && return 0
  done
  return 1
}

# The wheels hold a toolkit as nvcc expects it, but for two names that packages of wheels cannot have.
unpack_toolkit() {
  rm -rf build/cuda build/cuda.new
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-deps --no-compile \
    --target build/cuda.new -r scripts/requirements-cuda.txt
  mv build/cuda.new/nvidia/cu13 build/cuda
  rm -rf build/cuda.new
  ln -s lib build/cuda/lib64
  ln -s libcudart.so.13 build/cuda/lib/libcudart.so
  build/cuda/bin/nvcc --version
}

setup_cuda() {
  local key
  if usable_nvcc; then
    say "-- setup: a CUDA toolkit is installed already"
    return
  fi
  key=$(sha256sum scripts/requirements-cuda.txt)
  up_to_date cuda "$key" && [[ -x build/cuda/bin/nvcc ]] && return
  stage "setup: CUDA toolkit in build/cuda" unpack_toolkit
  write_stamp cuda "$key"
}

# --- gpu-test, gpu-bench, gpu-pack ---------------------------------------------------------------

has_gpu() { [[ -e /dev/nvidiactl || -e /dev/dxg ]] || nvidia-smi -L > /dev/null 2>&1; }

gpu_test() {
  local filter=()
  [[ -n ${1:-} ]] && filter=(-R "$1")
  ctest_preset release -L gpu --no-tests=ignore "${filter[@]}"
  if has_gpu && [[ -z ${1:-} ]]; then
    setup_venv
    python_tests
  fi
  mkdir -p build/release/test-results
  python3 scripts/gpu_skips.py build/release/test-results
  grep -q '^KVBM_WITH_CUDA:INTERNAL=ON' build/release/CMakeCache.txt \
    || say "GPU tests: this build has no CUDA (./dev setup --cuda gets a toolkit)"
}

gpu_bench() {
  if ! has_gpu; then
    say "GPU bench: nothing measured, no CUDA device: this machine has no NVIDIA driver" \
      "(./dev gpu-pack FOLDER builds here for a machine that has)"
    return
  fi
  exec build/release/tools/kvbm/kvbm bench "$@"
}

pack_python() {
  local name
  for name in ${KVBM_PACK_PYTHON:+"$KVBM_PACK_PYTHON"} python3.12 \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python3.12; do
    if "$name" -c 'import os, sysconfig
open(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2> /dev/null; then
      "$name" -c 'import sys; print(sys.executable)'
      return
    fi
  done
}

build_pack_python() {
  cmake -G Ninja -S . -B build/pack-python -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_COMPILE_WARNING_AS_ERROR=ON -DKVBM_ENABLE_PYTHON=ON -DKVBM_ENABLE_CLI=OFF \
    -DKVBM_BUILD_TESTS=OFF -DKVBM_BUILD_EXAMPLES=OFF -DPython_EXECUTABLE="$1" \
    -Dnanobind_DIR="$("$venv/bin/python" -m nanobind --cmake_dir)"
  cmake --build build/pack-python -j "$(jobs)" --target _kvbm_cpp
}

gpu_pack() {
  local folder=$1 python options=()
  build_preset release
  python=$(pack_python)
  if [[ -n $python ]]; then
    stage "build for $python" build_pack_python "$python"
    options=(--python-tree build/pack-python)
  else
    say "-- no python3.12 with headers here: packed without the Python package"
  fi
  stage "gpu-pack" python3 scripts/gpu_pack.py build/release "$folder" "${options[@]}"
  closing "gpu-pack" '^gpu-pack: '
}
