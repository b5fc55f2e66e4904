#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: run.sh BUILD_TREE
#
# Installs a build into a temporary prefix and builds and runs three consumers against it: the
# downstream example with find_package(kvbm), the kernels component alone, and pkg-config.

set -euo pipefail

readonly build_tree=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly root="$here/../.."
prefix=$(mktemp -d)
readonly prefix
trap 'rm -rf "$prefix"' EXIT

# What lies in the prefix and is tried must be the installed tree, also after it was moved.
cmake --install "$build_tree" --prefix "$prefix/first" > "$prefix/install.log"
mv "$prefix/first" "$prefix/kvbm"

configure_build_run() {
  local source=$1 program=$2 tree="$prefix/build-$2"
  shift 2
  cmake -G Ninja -S "$source" -B "$tree" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_PREFIX_PATH="$prefix/kvbm" "$@"
  cmake --build "$tree"
  "$tree/$program"
}

configure_build_run "$root/examples/downstream" downstream
configure_build_run "$here/kernels" kernels_only

pkg_config() {
  PKG_CONFIG_PATH=$(dirname "$(find "$prefix/kvbm" -name kvbm.pc)") pkg-config "$@" kvbm
}
read -ra flags <<< "$(pkg_config --cflags)"
read -ra libs <<< "$(pkg_config --libs)"
"${CXX:-c++}" "${flags[@]}" "$root/examples/downstream/main.cpp" -o "$prefix/by-pkg-config" \
  "${libs[@]}"
LD_LIBRARY_PATH=$(pkg_config --variable=libdir) "$prefix/by-pkg-config"

echo "install test: 3 consumers of the installed tree passed (find_package, kernels alone, pkg-config)"
