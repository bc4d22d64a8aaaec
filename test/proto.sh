#!/usr/bin/env bash
# Judges the gRPC contract: buf lint; buf breaking against proto/frozen, the contract as its clients know it; and that the generated code in
# the tree is what the generators make of it.
#
#	proto.sh            judge
#	proto.sh generate   write the generated code anew
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/bin/tools:$PATH # install-tools.sh proto puts buf and the generators there
work=$(mktemp -d /tmp/fnlb-proto.XXXXXX)
trap 'rm -rf "$work"' EXIT
export BUF_CACHE_DIR=$work/cache

case ${1:-judge} in
generate)
  buf generate proto --template proto/buf.gen.yaml -o proto
  exit
  ;;
judge) ;;
*)
  echo "usage: proto.sh [generate]" >&2
  exit 2
  ;;
esac

status=0
buf lint proto || status=1
# A copy, because buf takes no folder inside a module as an input.
cp -r proto/frozen "$work/frozen"
buf breaking proto --against "$work/frozen" || {
  echo "proto.sh: the contract is frozen; clients of proto/frozen would break"
  status=1
}
buf generate proto --template proto/buf.gen.yaml -o "$work/generated"
for file in proto/rollout/lb/*.pb.go; do
  diff -u "$file" "$work/generated/${file#proto/}" || {
    echo "proto.sh: $file is not what the generators make: test/proto.sh generate"
    status=1
  }
done
exit "$status"
