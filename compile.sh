#!/usr/bin/env bash
# Builds the static binary bin/fnlb with its version and commit stamped in.
#
# The version is that of VERSION in the environment, else of git's tags, else of the file VERSION, else "dev";
# it works in a source archive without git as well.
set -euo pipefail
cd "$(dirname "$0")"

command -v go >/dev/null || {
  echo "compile.sh: go is not in PATH; install Go 1.26 or newer" >&2
  exit 1
}

version=${VERSION:-} commit=${COMMIT:-}
# Only our own repository counts: an archive unpacked inside somebody else's clone has none.
if [ "$(git rev-parse --show-toplevel 2>/dev/null || true)" = "$(pwd -P)" ]; then
  version=${version:-$(git describe --tags --dirty 2>/dev/null || true)}
  commit=${commit:-$(git rev-parse --short=12 HEAD 2>/dev/null || true)}
fi
if [ -z "$version" ] && [ -r VERSION ]; then
  version=$(tr -d '[:space:]' <VERSION)
fi
version=${version#v}

stamp=github.com/fnlb/fnlb/config
out=${1:-bin/fnlb}
mkdir -p "$(dirname "$out")"
CGO_ENABLED=0 go build -trimpath -buildvcs=false \
  -ldflags "-s -w -X $stamp.Version=${version:-dev} -X $stamp.Commit=$commit" -o "$out" .
echo "$out ${version:-dev} $commit"
