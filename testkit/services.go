package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// slim keeps out of an image what nobody reads in a container.
var slim = []string{"man", "doc", "locale", "info"}

// DebianAptTar returns the path of a tar with Debian bookworm's essential packages and
// apt, without manuals. Installing a package in it starts no service, as in Docker's own
// image of Debian.
func DebianAptTar(t testing.TB) string {
	t.Helper()
	tool := NeedTool(t, "mmdebstrap")
	return cached(t, "debian-12-apt.tar", func(path string) error {
		args := []string{"--quiet", "--variant=apt", "--format=tar",
			`--customize-hook=printf '#!/bin/sh\nexit 101\n' > "$1/usr/sbin/policy-rc.d" && chmod +x "$1/usr/sbin/policy-rc.d"`}
		for _, d := range slim {
			args = append(args, "--dpkgopt=path-exclude=/usr/share/"+d+"/*")
		}
		out, err := exec.Command(tool, append(args, "bookworm", path)...).CombinedOutput()
		if err != nil {
			t.Logf("%s", out)
		}
		return err
	})
}

// serviceImage is made of Debian's packages, as a Dockerfile would.
type serviceImage struct{ name, from, script, changes string }

var nginxImages = []serviceImage{
	{"nginx", "debian:12", "apt-get install -y --no-install-recommends nginx curl",
		"EXPOSE 80\nSTOPSIGNAL SIGQUIT\nCMD [\"nginx\", \"-g\", \"daemon off;\"]"},
}

var databaseImages = []serviceImage{
	{"redis", "debian:12", "apt-get install -y --no-install-recommends redis-server && mkdir /data && chown redis: /data",
		"USER redis\nEXPOSE 6379\nVOLUME /data\nWORKDIR /data\nCMD [\"redis-server\", \"--bind\", \"0.0.0.0\", \"-::*\", \"--protected-mode\", \"no\", \"--appendonly\", \"yes\"]"},
	{"postgres", "debian:12", `mkdir /etc/postgresql-common && echo create_main_cluster=false > /etc/postgresql-common/createcluster.conf &&
		apt-get install -y --no-install-recommends postgresql && mkdir -p /var/lib/postgresql/data && chown postgres: /var/lib/postgresql/data && chmod 700 /var/lib/postgresql/data`,
		"USER postgres\nEXPOSE 5432\nENV PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin PGDATA=/var/lib/postgresql/data\nVOLUME /var/lib/postgresql/data\nSTOPSIGNAL SIGINT\n" +
			`CMD ["sh", "-c", "[ -s $PGDATA/PG_VERSION ] || { initdb -A trust --no-sync >/dev/null && echo host all all all trust >> $PGDATA/pg_hba.conf; }; exec postgres -c listen_addresses=* -c unix_socket_directories=/tmp"]`},
	{"client", "postgres", "apt-get install -y --no-install-recommends redis-tools curl", "USER root\nCMD [\"sleep\", \"infinity\"]"},
}

// Nginx loads images of Debian, with apt, and of nginx, which has curl too, under the names
// debian:12 and nginx.
func (e *Engine) Nginx(t testing.TB) { t.Helper(); e.services(t, "nginx-2.tar", nginxImages) }

// Databases loads images of redis and postgres, and one called client that has psql,
// redis-cli and curl.
func (e *Engine) Databases(t testing.TB) {
	t.Helper()
	e.services(t, "databases-2.tar", databaseImages)
}

// services loads images which are made once on a machine, by running apt-get in
// containers and committing them.
func (e *Engine) services(t testing.TB, file string, images []serviceImage) {
	t.Helper()
	base := DebianAptTar(t)
	archive := cached(t, file, func(path string) error {
		e.Must("import", "--change", `CMD ["bash"]`, base, "debian:12")
		args := []string{"save", "-o", path, "debian:12"}
		for _, s := range images {
			maker := "making-" + s.name
			r := e.Berth(append(append([]string{"run", "--name", maker, "--user", "0", "--network", "host"}, aptEnvironment()...),
				s.from, "sh", "-ec", "apt-get update && "+s.script+" && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin")...)
			if r.Code != 0 {
				return fmt.Errorf("install %s: %s", s.name, lastLines([]byte(r.Stdout+r.Stderr), 5))
			}
			e.Must("commit", "-c", s.changes, maker, s.name)
			e.Must("rm", "-v", maker)
			args = append(args, s.name)
		}
		e.Must(args...)
		return nil
	})
	if e.Berth("inspect", images[0].name).Code != 0 {
		e.Must("load", "-i", archive)
	}
}

// aptEnvironment are the flags that hand this machine's proxies to apt in a container.
func aptEnvironment() []string {
	flags := []string{"-e", "DEBIAN_FRONTEND=noninteractive"}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasSuffix(strings.ToLower(name), "_proxy") {
			flags = append(flags, "-e", v)
		}
	}
	return flags
}
