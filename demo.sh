#!/bin/sh
# From nothing to a running Debian container: installs what it needs, builds Berth,
# makes an image from Debian's archive, runs it. All state is in one directory that
# goes at the end.
set -eu
cd "$(dirname "$0")"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

[ "$(id -u)" = 0 ] || { echo "make demo needs root (rootless Berth is not there yet)" >&2; exit 1; }
./apt.sh
make all

dir=$(mktemp -d /tmp/berth-demo.XXXXXX)
PATH=$PWD/bin:$PATH
export DOCKER_HOST="unix://$dir/run/berth.sock"
mkdir -p "$dir/run"
berthd --data-root "$dir/data" --exec-root "$dir/run" -H "$DOCKER_HOST" >"$dir/berthd.log" 2>&1 &
engine=$!
cleanup() {
	status=$?
	[ $status = 0 ] || tail -20 "$dir/berthd.log" >&2
	for c in $(berth ps -aq); do berth rm -f "$c" >/dev/null; done
	kill "$engine" && wait "$engine" || true
	rm -rf "$dir"
	exit $status
}
trap cleanup EXIT
until berth version >/dev/null 2>&1; do
	kill -0 "$engine" # ends the demo if the engine did not come up
	sleep 0.05
done

say "\$ mmdebstrap bookworm | berth import - debian:12"
mmdebstrap --quiet --variant=essential bookworm - ${DEBIAN_MIRROR:-} | berth import --change 'CMD ["bash"]' - debian:12
say "\$ berth images"
berth images
say "\$ berth run --rm debian:12 cat /etc/os-release"
berth run --rm --network none debian:12 cat /etc/os-release
say "\$ berth run -d --name clock debian:12 …, logs, exec, stop"
berth run -d --network none --name clock debian:12 sh -c 'trap "exit 7" TERM; while :; do date; sleep 1 & wait $!; done'
berth exec clock sh -c 'echo "inside: pid $$, host $(hostname), user $(id -un)"'
berth logs clock
berth ps
berth stop clock
berth ps -a
berth rm clock
say "That was Berth."
