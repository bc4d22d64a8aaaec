#!/usr/bin/env bash
# Puts HAProxy 2.6, 3.0 and 3.2 (Debian 12, 13 and forky) below .haproxy/VERSION/haproxy for the tests.
# Each comes from a minimal Debian root of its release, so that it brings its own libraries; the roots are kept in the
# user's cache folder and shared between clones. Run as root: debootstrap needs it. A version that is there is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${FNLB_CACHE:-${XDG_CACHE_HOME:-~/.cache}/fnlb}/haproxy
mkdir -p "$cache" .haproxy

install() { # VERSION SUITE
  local version=$1 suite=$2 root=$cache/$1 loader
  if ! [ -x "$root/haproxy" ]; then
    rm -rf "$root" "$root.new"
    # No mirror is named: debootstrap's own. A release younger than debootstrap is made by the script of sid.
    debootstrap --variant=minbase --include=haproxy "$suite" "$root.new/root" "" \
      "$(scripts=/usr/share/debootstrap/scripts; ls "$scripts/$suite" 2>/dev/null || echo "$scripts/sid")" >"$root.log" 2>&1 ||
      { tail -20 "$root.log" >&2; return 1; }
    rm -rf "$root.new/root/var/cache/apt" "$root.new/root/var/lib/apt/lists" "$root.new/root/usr/share/doc"
    mv "$root.new" "$root"
    # The binary finds the loader and the libraries of its own release, also when the master executes itself again.
    loader=$(patchelf --print-interpreter "$root/root/usr/sbin/haproxy")
    patchelf --set-interpreter "$root/root$loader" --force-rpath \
      --set-rpath "$root/root/usr/lib/$(uname -m)-linux-gnu:$root/root/lib/$(uname -m)-linux-gnu" "$root/root/usr/sbin/haproxy"
    chmod 755 "$root" "$root/root"
    printf '#!/bin/sh\nexec "%s/root/usr/sbin/haproxy" "$@"\n' "$root" >"$root/haproxy.new"
    chmod 755 "$root/haproxy.new"
    mv "$root/haproxy.new" "$root/haproxy"
  fi
  mkdir -p ".haproxy/$version"
  cp "$root/haproxy" ".haproxy/$version/haproxy"
  ".haproxy/$version/haproxy" -v | sed -n 1p # head would end the pipe early, and the script with it
}

exec 9>"$cache/lock"
flock 9 # two clones that test at once share the cache
pids=()
for pair in 2.6:bookworm 3.0:trixie 3.2:forky; do
  install "${pair%%:*}" "${pair#*:}" & pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
