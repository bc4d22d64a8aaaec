#!/usr/bin/env bash
# Installs what `make test` needs and leaves alone what is there: Debian packages (with sudo where we are not root),
# golangci-lint, buf and its generators of fixed versions, the three HAProxy versions, and the Debian root that images are built from.
#
#	install-tools.sh           everything
#	install-tools.sh packages  Debian packages only
#	install-tools.sh lint      golangci-lint only
#	install-tools.sh proto     buf and the generators of the gRPC contract only
#	install-tools.sh haproxy   the HAProxy versions only
#	install-tools.sh debian    the Debian root only
#	install-tools.sh kubernetes  kube-apiserver, kubectl and etcd only
#	install-tools.sh run       what `make run` needs: HAProxy
#	install-tools.sh bench     what the bench needs
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${FNLB_CACHE:-${XDG_CACHE_HOME:-~/.cache}/fnlb}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "install-tools.sh: $1 needs root: run it as root or install sudo" >&2
    return 1
  fi
}

packages() { # COMMAND=PACKAGE…: installs the packages whose command (or file, with a slash) is missing
  local pair missing=()
  for pair; do
    case ${pair%%=*} in
    */*) [ -e "${pair%%=*}" ] ;;
    # Not command -v: it finds the functions of this script, which has one of the name haproxy.
    *) PATH=$PATH:/usr/sbin:/sbin type -P "${pair%%=*}" >/dev/null ;;
    esac || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || {
    echo "install-tools.sh: missing: ${missing[*]}; without apt-get they have to be installed by hand" >&2
    return 1
  }
  echo "installing ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null
}

# tool MODULE VERSION: built from source by the Go that is here (a linter built by an older Go refuses newer code), once for all clones.
tool() {
  local name=${1##*/} kept
  kept=$cache/tools/$name-$2-$(go env GOVERSION)
  mkdir -p "$kept" bin/tools
  (
    flock 9 # two clones that test at once build it once
    [ -x "$kept/$name" ] || GOBIN="$kept" GOFLAGS= go install "$1@$2"
  ) 9>"$kept/lock"
  ln -sf "$kept/$name" "bin/tools/$name"
}

lint() {
  tool github.com/golangci/golangci-lint/v2/cmd/golangci-lint v2.15.0
}

proto() {
  tool github.com/bufbuild/buf/cmd/buf v1.75.0
  tool google.golang.org/protobuf/cmd/protoc-gen-go v1.36.12
  tool google.golang.org/grpc/cmd/protoc-gen-go-grpc v1.6.2
}

haproxy() {
  as_root env FNLB_CACHE="$cache" bash test/install-haproxy.sh
}

debian() {
  as_root env FNLB_CACHE="$cache" bash test/install-debian.sh
}

# The API server and kubectl are built from their own module, once for all clones: that takes minutes.
kubernetes() {
  local module=test/kubernetes/apiserver kept version=k8s.io/component-base/version number=v1.34.1
  kept=$cache/tools/kubernetes-$(cat $module/go.mod $module/go.sum | sha256sum | cut -c1-12)-$(go env GOVERSION)
  mkdir -p "$kept" bin/tools
  (
    flock 9
    [ -x "$kept/kube-apiserver" ] && [ -x "$kept/kubectl" ] || (
      cd $module
      CGO_ENABLED=0 GOFLAGS='' GOBIN=$kept go install -trimpath \
        -ldflags "-s -w -X $version.gitVersion=$number -X $version.gitMajor=1 -X $version.gitMinor=34" \
        k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kubectl
    )
    [ -x "$kept/etcd" ] || etcd "$kept"
  ) 9>"$kept/lock"
  ln -sf "$kept/kube-apiserver" "$kept/kubectl" "$kept/etcd" bin/tools/
}

# etcd FOLDER: from Debian's package, which is not installed: that would start a server on the host.
etcd() {
  local work
  work=$(mktemp -d)
  (
    cd "$work"
    [ "$(id -u)" != 0 ] || chown _apt . 2>/dev/null || true # whom apt becomes for the download
    apt-get -qq download etcd-server 2>/dev/null || {
      as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
      apt-get -qq download etcd-server
    }
    dpkg-deb --extract etcd-server_*.deb .
    cp usr/bin/etcd "$1/etcd.new"
    mv "$1/etcd.new" "$1/etcd"
  )
  rm -rf "$work"
}

databases() {
  # Debian's package makes a cluster and starts it, unless it is told before that it shall not; tests start their own.
  if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && [ ! -e /etc/postgresql-common/createcluster.d/fnlb.conf ]; then
    as_root mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.d/fnlb.conf >/dev/null
  fi
  local postgresql=postgresql
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && postgresql=
  # The -core packages have the programs and no service.
  packages ${postgresql:+initdb=postgresql} psql=postgresql-client mariadbd=mariadb-server-core mariadb-install-db=mariadb-server-core mariadb=mariadb-client-core
}

test_packages() {
  # gcc and the C library are for -race; docker-compose, openssl and curl are what the pages of examples/docker use; tini is process 1 of a test's container, systemd judges our units.
  packages haproxy=haproxy debootstrap=debootstrap patchelf=patchelf git=git update-ca-certificates=ca-certificates \
    gcc=gcc /usr/include/stdlib.h=libc6-dev tini=tini systemd-analyze=systemd mkfs.ext4=e2fsprogs strace=strace \
    dockerd=docker.io docker=docker.io iptables=iptables docker-compose=docker-compose openssl=openssl curl=curl
  databases
}

case ${1:-all} in
all)
  test_packages
  lint
  proto
  haproxy
  debian
  kubernetes
  ;;
packages) test_packages ;;
lint) lint ;;
proto) proto ;;
haproxy) haproxy ;;
debian) debian ;;
kubernetes) kubernetes ;;
run) packages haproxy=haproxy ;;
bench) packages haproxy=haproxy wrk=wrk nginx=nginx-light ;;
*)
  echo "usage: install-tools.sh [packages|lint|proto|haproxy|debian|kubernetes|run|bench]" >&2
  exit 2
  ;;
esac
