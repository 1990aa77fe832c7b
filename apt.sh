#!/bin/sh
# Installs the Debian packages that the demo and the tests use: image makers, a
# registry, and clients to check ourselves against. Berth itself needs none of them.
set -eu

want="iproute2 debootstrap mmdebstrap busybox-static skopeo docker-registry runc zstd xz-utils ca-certificates python3-seccomp podman buildah docker.io iperf3 curl nftables rsyslog rsyslog-gnutls python3-msgpack openssh-server openssh-client python3-docker python3-prometheus-client qemu-system-x86 qemu-utils e2fsprogs"
missing=""
for p in $want "$@"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
[ "$(id -u)" = 0 ] || { echo "missing packages:$missing (install them, or run this as root)" >&2; exit 1; }

export DEBIAN_FRONTEND=noninteractive
# No service may start by itself: tests start what they need.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod +x $policy
	trap 'rm -f $policy' EXIT
fi
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing
