#!/bin/sh
# From nothing to a web server in a container: installs what it needs, builds Berth, makes
# images of Debian and of its nginx from Debian's archive, runs them, and looks at the page
# from everywhere. All state is in one directory that goes at the end.
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

# As in Docker's image of Debian, installing a package shall start no service.
policy='printf "#!/bin/sh\nexit 101\n" > "$1/usr/sbin/policy-rc.d" && chmod +x "$1/usr/sbin/policy-rc.d"'
say "\$ mmdebstrap bookworm | berth import - debian:12"
mmdebstrap --quiet --variant=apt --customize-hook="$policy" bookworm - ${DEBIAN_MIRROR:-} | berth import --change 'CMD ["bash"]' - debian:12
say "\$ berth run --rm debian:12 cat /etc/os-release"
berth run --rm debian:12 cat /etc/os-release

say "\$ berth run --name setup debian:12 sh -c 'apt-get update && apt-get install -y nginx'"
proxies=""
for v in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do proxies="$proxies -e $v"; done
# shellcheck disable=SC2086 # a list of words
berth run --name setup -e DEBIAN_FRONTEND=noninteractive $proxies debian:12 \
	sh -c 'apt-get -qq update && apt-get -qq install -y --no-install-recommends nginx curl' >"$dir/apt.log" 2>&1 || { tail -5 "$dir/apt.log" >&2; exit 1; }
say "\$ berth commit -c 'CMD [\"nginx\", \"-g\", \"daemon off;\"]' setup nginx"
berth commit -c 'CMD ["nginx", "-g", "daemon off;"]' -c 'EXPOSE 80' setup nginx
berth rm setup
berth images

port=8000
while [ -n "$(ss -Hltn "sport = :$port")" ]; do port=$((port + 1)); done
page() { grep -o '<title>.*</title>'; }
say "\$ berth run -d -p $port:80 --name web nginx; curl http://localhost:$port"
berth run -d -p $port:80 --name web nginx
curl -fsS --noproxy '*' --retry 20 --retry-connrefused --retry-delay 1 "http://localhost:$port" | page
berth port web
if [ -e /proc/net/if_inet6 ] && grep -q ' lo$' /proc/net/if_inet6; then
	say "\$ curl http://[::1]:$port"
	curl -fsS --noproxy '*' "http://[::1]:$port" | page
fi
address=$(hostname -I | cut -d' ' -f1)
if [ -n "$address" ]; then
	case $address in *:*) address="[$address]" ;; esac
	say "\$ curl http://$address:$port, from the host and from a container"
	curl -fsS --noproxy '*' "http://$address:$port" | page
	berth run --rm nginx curl -fsS --noproxy '*' "http://$address:$port" | page
fi
say "\$ berth network create --ipv6 front; berth network connect front web; by name, from another container"
berth network create --ipv6 front
berth network connect front web
berth run --rm --network front nginx curl -fsS --noproxy '*' http://web | page
berth run --rm --network front nginx curl -fsS6 --noproxy '*' http://web | page

say "\$ berth exec, ps, stop, rm"
berth exec web sh -c 'echo "inside: pid $$, host $(hostname), user $(id -un)"'
berth ps
berth stop web
berth ps -a
berth rm web
berth network rm front
say "That was Berth."
