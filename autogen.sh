#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Writes ./configure from packaging/configure.in:  sh ./autogen.sh; ./configure; make; make install
set -eu
cd "$(dirname "$0")"

# The first value of a key in Cargo.toml, which is the package's.
cargo_toml() {
	sed -n "s/^$1 = \"\(.*\)\"\$/\1/p" Cargo.toml | head -n 1
}

sed -e "s/@VERSION@/$(cargo_toml version)/" -e "s/@RUST_VERSION@/$(cargo_toml rust-version)/" \
	packaging/configure.in > configure.new
chmod +x configure.new
mv configure.new configure
echo "autogen.sh: wrote ./configure for libgmem $(cargo_toml version); run it next"
