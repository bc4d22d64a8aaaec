#!/usr/bin/env bash
# Makes .images/debian-trixie.tar, the root of a minimal Debian 13, for tests that build images without a registry: what
# debian:trixie-slim is elsewhere. It is kept in the user's cache folder and shared between clones. Run as root: debootstrap needs it.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${FNLB_CACHE:-${XDG_CACHE_HOME:-~/.cache}/fnlb}/images suite=trixie
file=$cache/debian-$suite.tar
mkdir -p "$cache" .images

exec 9>"$cache/lock"
flock 9 # two clones that test at once make it once
if ! [ -e "$file" ]; then
  root=$cache/$suite.new
  rm -rf "$root"
  # No mirror is named: debootstrap's own. A release younger than debootstrap is made by the script of sid.
  debootstrap --variant=minbase "$suite" "$root" "" \
    "$(scripts=/usr/share/debootstrap/scripts; ls "$scripts/$suite" 2>/dev/null || echo "$scripts/sid")" >"$root.log" 2>&1 ||
    { tail -20 "$root.log" >&2; exit 1; }
  # As the slim image has it: no documentation but the licences, no translations, and none from packages that come later.
  cat >"$root/etc/dpkg/dpkg.cfg.d/slim" <<'SLIM'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
SLIM
  find "$root/usr/share/doc" -mindepth 2 ! -name copyright ! -type d -delete
  rm -rf "$root"/usr/share/{man,info,locale}/* "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*
  # The image has a network of its own.
  rm -f "$root/etc/resolv.conf" "$root/etc/hostname"
  tar -C "$root" --numeric-owner --exclude './dev/*' -cf "$file.new" .
  rm -rf "$root"
  chmod 644 "$file.new"
  mv "$file.new" "$file"
fi
ln -sf "$file" ".images/debian-$suite.tar"
echo ".images/debian-$suite.tar $(du -m "$file" | cut -f1) MiB"
