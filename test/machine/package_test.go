package machine

import (
	"strings"
	"testing"

	"berth/testkit"
)

// What installing and removing any package changes.
const foreign = `grep -v -e ^/var/lib/dpkg -e ^/var/lib/apt -e ^/var/cache -e ^/var/log -e ^/var/lib/systemd -e ^/tmp -e ^/var/tmp -e ^/root -e ^/home -e ^/var/mail -e '^/etc/.*-$' -e ^/var/lib/ucf -e ^/var/lib/AppArmor`

func TestThePackageComesAndGoes(t *testing.T) {
	m := boot(t)
	m.Run(t, "find / -xdev | "+foreign+" | sort >/root/before; nft list tables >/root/tables; ip -o link | cut -d: -f2 >/root/links; grep -c . /sys/kernel/security/apparmor/profiles >/root/profiles; find /sys/fs/cgroup -maxdepth 1 | sort >/root/groups; cut -d' ' -f5 /proc/self/mountinfo | sort >/root/mounts")
	first, second := debianPackage(t, m, "0.1.0"), debianPackage(t, m, "0.2.0")
	apt(t, m, "install "+first)

	// Root, a member of the group, and somebody else.
	m.Run(t, "berth import "+testkit.BusyboxTar(t)+" busybox")
	expect(t, m, "berth run --rm busybox echo root", "root")
	m.Run(t, "useradd -m -G berth member; useradd -m stranger")
	expect(t, m, "su - member -c 'berth run --rm busybox echo member'", "member")
	if out, err := m.Try("su - stranger -c 'berth run --rm busybox echo stranger'"); err == nil || !strings.Contains(out, "permission denied") || !strings.Contains(out, "-aG berth") || strings.Count(out, "\n") > 1 {
		t.Errorf("a stranger: %v\n%s", err, out)
	}
	m.Run(t, "test -s /usr/share/man/man1/berth-run.1.gz && test -s /usr/share/man/man8/berthd.8.gz && test -s /usr/share/bash-completion/completions/berth")

	// An upgrade replaces the engine under its containers.
	m.Run(t, "berth run -d --name keeps -p 8080:80 --restart always -v data:/data busybox httpd -f -h /data && berth network create front && berth run -d --name stays --network front busybox sleep 100000")
	life := "berth inspect -f '{{.State.Pid}} {{.State.StartedAt}}' keeps stays"
	before, engine := m.Run(t, life), m.Run(t, "systemctl show -P MainPID berthd")
	apt(t, m, "install "+second)
	expect(t, m, life, before)
	if now := m.Run(t, "systemctl show -P MainPID berthd"); now == engine || now == "0" {
		t.Errorf("the engine was not restarted: %s", now)
	}
	expect(t, m, "dpkg-query -W -f '${Version}' berth", "0.2.0")

	// Removal ends containers and keeps what they have.
	out := apt(t, m, "remove berth")
	if !strings.Contains(out, "/var/lib/berth") {
		t.Errorf("removal does not say what stays:\n%s", out)
	}
	expect(t, m, "pgrep -c berth; find /sys/fs/cgroup/berth -mindepth 1 -type d 2>/dev/null | grep -c / || true; test -e /var/lib/berth/volumes/data/_data && echo kept", "0\n0\nkept")
	apt(t, m, "install "+second)
	await(t, m, "a container whose policy is always is back", "[ $(berth inspect -f '{{.State.Running}}' keeps) = true ]")
	expect(t, m, "berth inspect -f '{{.State.Status}}' stays", "exited")

	// Nothing is left by a purge.
	apt(t, m, "purge berth")
	m.Run(t, "userdel -r member; userdel -r stranger")
	for what, script := range map[string]string{
		"files":             "find / -xdev | " + foreign + " | sort | comm -13 /root/before -; ls -d /run/berth* 2>/dev/null || true",
		"tables":            "nft list tables | comm -13 /root/tables -",
		"interfaces":        "ip -o link | cut -d: -f2 | comm -13 /root/links -",
		"control groups":    "find /sys/fs/cgroup -maxdepth 1 | sort | comm -13 /root/groups -",
		"mounts":            "cut -d' ' -f5 /proc/self/mountinfo | sort | comm -13 /root/mounts -",
		"processes":         "pgrep -l berth || true",
		"AppArmor profiles": "grep berth /sys/kernel/security/apparmor/profiles || true",
		"groups":            "getent group berth || true",
		"units":             "systemctl list-units --all --no-legend 'berth*'; systemctl list-unit-files --no-legend 'berth*' || true",
	} {
		if left := strings.TrimSpace(m.Run(t, script)); left != "" {
			t.Errorf("left behind: %s:\n%s", what, left)
		}
	}
}
