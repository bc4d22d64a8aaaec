# The image: HAProxy, tini and fnlb on a small Debian. `make image` builds bin/fnlb first; docs/image.md tells how it runs.
ARG BASE=debian:trixie-slim

FROM ${BASE}
# User 99 is that of the official HAProxy image. Debian's package makes it with another number. Nothing here needs to become root.
RUN set -eu; \
    apt-get update -qq; \
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends haproxy tini; \
    groupmod --gid 99 haproxy; \
    usermod --uid 99 --gid 99 --shell /usr/sbin/nologin haproxy; \
    chown haproxy:haproxy /var/lib/haproxy; \
    install -d -o haproxy -g haproxy -m 755 /usr/local/etc/haproxy; \
    find / -xdev -type f -perm /6000 -exec chmod a-s {} +; \
    rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /etc/haproxy /etc/logrotate.d /usr/share/doc/*/examples

ARG VERSION=dev
ARG COMMIT=
LABEL org.opencontainers.image.title="fnlb" \
      org.opencontainers.image.description="Finds backends and keeps HAProxy serving them without losing a request" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/fnlb/fnlb" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY bin/fnlb /usr/local/bin/fnlb
# The run directory lies where every user may make one, so that one tmpfs on /tmp is all that --read-only needs. Eight seconds to
# finish running requests fit into the ten that `docker stop` gives.
ENV FNLB_DROP_TO=99 \
    FNLB_RUN_DIR=/tmp/fnlb \
    FNLB_SHUTDOWN_TIMEOUT=8
# Root for as long as it takes to see the Engine's socket, then user 99: the group says that nobody has asked for --user root.
USER 0:99
EXPOSE 8081
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/usr/local/bin/fnlb", "healthcheck"]
ENTRYPOINT ["/usr/bin/tini", "--", "/usr/local/bin/fnlb"]
