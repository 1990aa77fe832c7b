#!/bin/sh
# Makes what is given to others, each for amd64 and arm64, into dist/:
#   build.sh deb    Debian packages
#   build.sh dist   tarballs with everything and an install script
#   build.sh check  nothing, but tells whether two builds of the packages differ, and what lintian says
# Two runs of the same source make the same bytes (SOURCE_DATE_EPOCH: the commit's time).
# ARCHS=… chooses, VERSION=… names another version, OUT=… another directory. MAINTAINER='Name <address>' is
# who answers for the packages: whoever gives them to others names himself.
set -eu
cd "$(dirname "$0")/.."

case ${1:-} in
deb | dist | check) kind=$1 ;;
*) echo "usage: build.sh deb|dist|check" >&2 && exit 2 ;;
esac
archs=${ARCHS:-amd64 arm64}
out=${OUT:-dist}
version=${VERSION:-$(sed -n 's/^const Version = "\(.*\)"/\1/p' version/version.go)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1767225600)}
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
maintainer=${MAINTAINER:-Berth maintainers <maintainers@berth.invalid>}
export SOURCE_DATE_EPOCH

# check builds twice, the second time in other surroundings.
check() {
	packaging/build.sh deb
	(umask 077 && OUT=$2 TZ=Asia/Tokyo DPKG_DEB_THREADS_MAX=1 packaging/build.sh deb) >/dev/null
	for package in "$2"/*.deb; do
		cmp "$1/${package##*/}" "$package" || { echo "build.sh: two builds of ${package##*/} differ" >&2; exit 1; }
	done
	if command -v lintian >/dev/null; then
		lintian --allow-root --no-cfg --profile debian --fail-on error,warning "$2"/*.deb
	else
		echo "build.sh: lintian is not installed; the packages were not looked at" >&2
	fi
}

for tool in "${GO:-go}" gzip tar $([ "$kind" = deb ] && echo dpkg-deb); do
	command -v "$tool" >/dev/null || { echo "build.sh: $tool is not installed" >&2; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ "$kind" = check ]; then
	mkdir "$work/1" "$work/2"
	export OUT="$work/1"
	check "$work/1" "$work/2"
	exit
fi
export CGO_ENABLED=0 LC_ALL=C TZ=UTC
umask 022
mkdir -p "$out"

compile() { # ARCH PACKAGE FILE
	GOARCH=$1 "${GO:-go}" build -trimpath -buildvcs=false -ldflags "-s -w -X berth/version.Commit=$commit" -o "$3" "$2"
}

# What is the same for all architectures, from programs that run here.
compile "" ./packaging/man "$work/man"
compile "" ./cmd/berth "$work/berth"
"$work/man" "$work/manual"
for shell in bash zsh fish; do
	"$work/berth" completion "$shell" >"$work/completion.$shell"
done

# tree lays everything out below DIR as it is below / when the prefix is PREFIX.
tree() { # ARCH DIR PREFIX
	to=$2$3
	mkdir -p "$to/bin" "$to/lib/berth" "$to/share/man" "$to/share/doc/berth"
	for program in berth berthd berth-runtime; do
		compile "$1" "./cmd/$program" "$to/bin/$program"
	done
	compile "$1" ./cmd/berth-shim "$to/lib/berth/berth-shim"
	cp -R "$work/manual/." "$to/share/man/"
	install -D -m 644 "$work/completion.bash" "$to/share/bash-completion/completions/berth"
	install -D -m 644 "$work/completion.fish" "$to/share/fish/vendor_completions.d/berth.fish"
}

deb() { # ARCH
	root=$work/deb.$1
	debversion=$(echo "$version" | sed 's/-/~/')
	tree "$1" "$root" /usr
	install -D -m 644 "$work/completion.zsh" "$root/usr/share/zsh/vendor-completions/_berth"
	mkdir -p "$root/usr/lib/systemd/system" "$root/DEBIAN"
	install -m 644 packaging/systemd/* "$root/usr/lib/systemd/system/"
	doc=$root/usr/share/doc/berth
	install -m 644 README.md packaging/debian/copyright "$doc/"
	printf 'berth (%s) unstable; urgency=medium\n\n  * See README.md, "What works".\n\n -- %s  %s\n' \
		"$debversion" "$maintainer" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.gz"
	install -D -m 644 packaging/debian/lintian-overrides "$root/usr/share/lintian/overrides/berth"
	install -m 755 packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm "$root/DEBIAN/"
	quoted=$(printf %s "$maintainer" | sed 's/[&|\\]/\\&/g')
	sed -e "s/@VERSION@/$debversion/" -e "s/@ARCH@/$1/" -e "s|@MAINTAINER@|$quoted|" -e "s/@SIZE@/$(du -k -s --apparent-size "$root/usr" | cut -f1)/" packaging/debian/control >"$root/DEBIAN/control"
	(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
	dpkg-deb --root-owner-group -Zxz --build "$root" "$out/berth_${debversion}_$1.deb" >/dev/null
	echo "$out/berth_${debversion}_$1.deb"
}

dist() { # ARCH
	name=berth-$version-linux-$1
	tree "$1" "$work/dist.$1/$name" ""
	install -D -m 644 "$work/completion.zsh" "$work/dist.$1/$name/share/zsh/site-functions/_berth"
	mkdir -p "$work/dist.$1/$name/lib/systemd/system"
	for unit in packaging/systemd/*; do
		sed 's,/usr/bin/,/usr/local/bin/,' "$unit" >"$work/dist.$1/$name/lib/systemd/system/$(basename "$unit")"
	done
	install -m 644 README.md LICENSE packaging/INSTALL "$work/dist.$1/$name/"
	rmdir "$work/dist.$1/$name/share/doc/berth" "$work/dist.$1/$name/share/doc"
	tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$work/dist.$1" -cf - "$name" | gzip -9n >"$out/$name.tar.gz"
	echo "$out/$name.tar.gz"
}

for arch in $archs; do
	"$kind" "$arch"
done
