#!/usr/bin/env bash
# The recipe of `make test`: installs what is missing, then every check there is, and says how long each part took.
# The last line is "N passed, N failed", of tests; a check that fails makes the exit status 1 and is named above it.
#
# FUZZ is the time for each fuzz target in seconds (5), 0 for none.
set -euo pipefail
cd "$(dirname "$0")/.."
logs=$(mktemp -d /tmp/fnlb-test.XXXXXX)
clean_up() {
  local pid
  for pid in $(jobs -p); do kill -TERM "$pid" 2>/dev/null || true; done
  rm -rf "$logs"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

begun=$SECONDS bad=()
note() { printf '%4d s  %s\n' $((SECONDS - begun)) "$*"; }

# part NAME COMMAND…: quiet when it is good, its whole output when not.
part() {
  local name=$1 from=$SECONDS
  shift
  if "$@" >"$logs/$name" 2>&1 </dev/null; then
    note "$name: ok, $((SECONDS - from)) s"
  else
    note "$name: FAILED, $((SECONDS - from)) s"
    cat "$logs/$name"
    return 1
  fi
}
# beside NAME COMMAND…: the same in the background; await says how it went.
declare -A pids
beside() {
  local name=$1
  part "$@" >"$logs/$name.said" 2>&1 &
  pids[$name]=$!
}
await() {
  local name
  for name; do
    wait "${pids[$name]}" || bad+=("$name")
    cat "$logs/$name.said"
  done
}

formatted() {
  local files
  files=$(git ls-files -z -co --exclude-standard '*.go' | xargs -0 -r gofmt -l)
  [ -z "$files" ] || {
    echo "gofmt -w:"
    echo "$files"
    return 1
  }
}
# The whole test build, so that the tests find it in the cache.
compiled() { go vet ./... && go test -race -run '^$' ./... && ./compile.sh; }
tested() {
  set -o pipefail
  go test -race -json -timeout 15m ./... 2>&1 | go run ./test/summary
}

part packages test/install-tools.sh packages || exit 1
part modules go mod download || exit 1
# Beside each other: the HAProxy versions and Debian come over the network, the linter and the tests take the processor.
beside haproxy test/install-tools.sh haproxy
beside debian test/install-tools.sh debian
beside linter nice test/install-tools.sh lint
beside generators nice test/install-tools.sh proto
beside kubernetes nice test/install-tools.sh kubernetes # minutes where it was never built
part format formatted || bad+=(format)
part build compiled || bad+=(build)
await haproxy debian linter generators kubernetes
if [ ${#bad[@]} != 0 ] && [[ " ${bad[*]} " == *" haproxy "* ]]; then
  echo "without the HAProxy versions the tests cannot run"
  exit 1
fi

[[ " ${bad[*]} " == *" linter "* ]] || beside lint bin/tools/golangci-lint run ./...
[[ " ${bad[*]} " == *" generators "* ]] || part proto test/proto.sh || bad+=(proto)
[ "${FUZZ:-5}" = 0 ] || part fuzz test/fuzz.sh "${FUZZ:-5}" || bad+=(fuzz)
[ -z "${pids[lint]:-}" ] || await lint
from=$SECONDS
tested </dev/null | tee "$logs/tests" | sed -u '$d' || bad+=(tests) # all but the count, which comes last
note "tests: $((SECONDS - from)) s"
[ ${#bad[@]} = 0 ] || echo "FAILED: ${bad[*]}"
tail -1 "$logs/tests"
[ ${#bad[@]} = 0 ]
