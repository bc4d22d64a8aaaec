#!/usr/bin/env bash
# Runs every fuzz target of the repository for some seconds each, two at a time.
#
#	fuzz.sh [SECONDS]   5 by default
#
# An input that breaks a target is left by go test below the package's testdata/fuzz: keep it as a seed.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5}

one() { # PACKAGE TARGET SECONDS
  local out try
  for try in 1 2 3; do
    if out=$(go test -run '^$' -fuzz "^$2\$" -fuzztime "$3s" -parallel 2 "$1" 2>&1); then
      echo "ok   $1 $2 $(grep -o 'execs: [0-9]*' <<<"$out" | tail -1)"
      return 0
    fi
    # On a busy machine go test may report its own deadline as a failure, without an input that failed (golang/go#75804).
    if ! grep -q 'context deadline exceeded' <<<"$out" || grep -q 'Failing input' <<<"$out"; then
      break
    fi
  done
  printf 'FAIL %s %s\n%s\n' "$1" "$2" "$out"
  return 1
}
export -f one

targets=$(grep -rHoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed -E 's|^(.*)/[^/]*:func (.*)|\1 \2|' | sort -u)
[ -n "$targets" ] || { echo "fuzz.sh: no fuzz target found" >&2; exit 1; }
status=0
xargs -P 2 -L 1 bash -c 'one "$1" "$2" "$0"' "$seconds" <<<"$targets" || status=1
echo "fuzz: $(wc -l <<<"$targets") targets, $seconds s each"
exit "$status"
