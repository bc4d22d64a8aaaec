#!/usr/bin/env bash
# The recipe of `make run`: three sample nodes and a balancer in front of them, in the foreground. Everything it makes lies in
# one temporary folder; Ctrl-C (or SIGTERM) drains the balancer, ends the nodes and removes the folder.
#
# LISTEN is the address for traffic and management, 127.0.0.1:8081 by default. Arguments are handed to fnlb.
set -euo pipefail
cd "$(dirname "$0")/.."

# Started in the background by a shell without job control, we would be deaf to SIGINT: undo that.
if [ -z "${FNLB_RUN_SAMPLE:-}" ]; then
  exec env --default-signal=INT,QUIT FNLB_RUN_SAMPLE=1 bash test/run-sample.sh "$@"
fi

listen=${LISTEN:-127.0.0.1:8081}
host=${listen%:*} port=${listen##*:}
case $host in '' | 0.0.0.0) host=127.0.0.1 ;; '[::]') host=[::1] ;; esac

say() { printf 'make run: %s\n' "$*"; }
die() {
  say "$*" >&2
  exit 1
}
now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# get PATH: the status line of an answer, or nothing; a fresh Debian has no curl.
get() {
  local line=
  {
    exec 3<>"/dev/tcp/$(tr -d '[]' <<<"$host")/$port" || return 1
    printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$1" "$host:$port" >&3
    IFS= read -r -t 2 line <&3 || true
    exec 3>&-
  } 2>/dev/null
  printf '%s' "$line"
}

dir='' balancer='' waiter='' nodes=()

# processes lists the pids whose command line names our folder: HAProxy, should the balancer have died before it.
processes() {
  local p
  for p in /proc/[0-9]*; do
    if { tr '\0' '\n' <"$p/cmdline" | grep "^$dir/" >/dev/null; } 2>/dev/null; then
      [ "${p#/proc/}" = "$$" ] || echo "${p#/proc/}"
    fi
  done
}

clean_up() {
  local status=$? pids
  trap '' INT TERM HUP QUIT
  for pid in $balancer $waiter "${nodes[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in $balancer $waiter "${nodes[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ -n "$dir" ]; then
    pids=$(processes)
    if [ -n "$pids" ]; then
      say "the balancer left processes behind; ending them: $(echo $pids)" >&2
      kill -TERM $pids 2>/dev/null || true
    fi
    rm -rf "$dir"
  fi
  exit "$status"
}
trap clean_up EXIT

# The first signal drains, a second one stops at once. `timeout` and make send one signal twice within a moment.
signalled=0
stop() {
  local now
  now=$(now_ms)
  [ -n "$balancer" ] || exit 130
  if [ "$signalled" = 0 ]; then
    say "stopping"
    kill -TERM "$balancer" 2>/dev/null || true
    signalled=$now
  elif [ $((now - signalled)) -gt 500 ]; then
    kill -TERM "$balancer" 2>/dev/null || true
  fi
}
trap stop INT TERM HUP QUIT

path=$PATH:/usr/local/sbin:/usr/sbin # not in the PATH of every user
if ! haproxy=$(PATH=$path command -v "${HAPROXY:-haproxy}"); then
  [ -z "${HAPROXY:-}" ] || die "HAPROXY=$HAPROXY: no such program"
  say "HAProxy is missing: installing it"
  test/install-tools.sh run
  haproxy=$(PATH=$path command -v haproxy) || die "haproxy was installed but is not in PATH"
fi

if (exec 3<>"/dev/tcp/$(tr -d '[]' <<<"$host")/$port") 2>/dev/null; then
  die "port $port is taken by another process; free it, or take another one: make run LISTEN=127.0.0.1:9081"
fi

say "building"
./compile.sh bin/fnlb >/dev/null
CGO_ENABLED=0 go build -trimpath -o bin/sample-web ./sample/web

dir=$(mktemp -d /tmp/fnlb-run.XXXXXX) # short: paths of sockets are limited
chmod 0711 "$dir"                    # a HAProxy that drops root has to reach its sockets

addresses=()
for i in 1 2 3; do
  # A session of its own: Ctrl-C must not reach the nodes while the balancer still drains.
  setsid bin/sample-web --listen 127.0.0.1 --port 0 --node "node-$i" >"$dir/node-$i.log" 2>&1 &
  nodes+=($!)
done
for i in 1 2 3; do
  until address=$(sed -n 's/^node .* listens on //p' "$dir/node-$i.log") && [ -n "$address" ]; do
    kill -0 "${nodes[i - 1]}" 2>/dev/null || die "sample node $i did not start: $(cat "$dir/node-$i.log")"
    sleep 0.02
  done
  addresses+=("$address")
done
list=$(IFS=,; echo "${addresses[*]}")

begun=$(now_ms)
command=(bin/fnlb --nodes "$list" --listen "$listen" --mgmt-listen "$listen" --run-dir "$dir/run"
  --haproxy "$haproxy" --haproxy-config "$dir/haproxy.cfg" "$@")
say "${command[*]}"
setsid "${command[@]}" &
balancer=$!

announce() { # waits for the first answer that a node gave
  until case $(get / || true) in HTTP/1.?' 200'*) true ;; *) false ;; esac do
    sleep 0.05
  done
  cat <<TEXT

The first node can be reached, $(($(now_ms) - begun)) ms after the start. In another terminal:

  curl http://$host:$port/hello                # the same path, the same node
  curl http://$host:$port/1/lb/nodes           # who is online
  curl -X DELETE -d '{"node":"${addresses[0]}"}' http://$host:$port/1/lb/nodes
  curl -X PUT    -d '{"node":"${addresses[0]}"}' http://$host:$port/1/lb/nodes
  curl http://$host:$port/1/lb/status          # all that is known

Ctrl-C stops all of it.

TEXT
}
announce &
waiter=$!

status=0
until wait "$balancer" && status=0 || status=$? && ! kill -0 "$balancer" 2>/dev/null; do :; done # a signal interrupts wait
wait "$balancer" && status=0 || status=$?                                                       # the status is remembered
balancer=''
[ "$signalled" = 0 ] || [ "$status" != 0 ] || say "stopped"
exit "$status"
