package machine

import (
	"strings"
	"testing"

	"berth/testkit"
	"berth/testkit/vm"
)

func TestLivingWithSystemd(t *testing.T) {
	m := boot(t)
	apt(t, m, "install "+debianPackage(t, m, ""))
	for _, c := range []struct {
		name string
		test func(*testing.T, *vm.Machine)
	}{
		{"the first client starts the engine", firstClient},
		{"stop, restart, crash and watchdog leave containers alone", engineComesAndGoes},
		{"reload reads the configuration", reloads},
		{"the journal has a container's lines with Docker's fields", journal},
		{"no client starts an engine past systemd", nobodyElseStarts},
		{"a shutdown ends containers in order, the boot brings them back", shutdown},
		{"a power cut brings them back too", powerCut},
		{"stopping berth-containers ends all", endsAll},
	} {
		if !t.Run(c.name, func(t *testing.T) { c.test(t, m) }) {
			t.Logf("the engine's journal:\n%s", m.Run(t, "journalctl --no-pager -b -u 'berth*' | tail -60"))
		}
	}
}

func firstClient(t *testing.T, m *vm.Machine) {
	expect(t, m, "systemctl is-active berthd.socket berthd.service || true", "active\ninactive")
	m.Run(t, "berth import "+testkit.BusyboxTar(t)+" busybox")
	expect(t, m, "systemctl is-active berthd.service berth-containers.service", "active\nactive")
	expect(t, m, "systemctl show -P StatusText berthd", "serving fd:///run/berth/berth.sock")
	expect(t, m, "stat -c '%a %U %G' /run/berth/berth.sock", "660 root berth")
	// What systemd said to the engine is not for containers, nor is its distaste for SIGPIPE.
	expect(t, m, "berth run --rm busybox env | grep -c -e NOTIFY -e LISTEN -e WATCHDOG || true", "0")
	expect(t, m, "berth run --rm busybox grep SigIgn /proc/self/status", "SigIgn:\t0000000000000000")
	expect(t, m, "tr '\\0' '\\n' </proc/$(pgrep -o berth-shim)/environ | grep -c -e NOTIFY -e LISTEN -e WATCHDOG -e JOURNAL || true", "0")
}

func engineComesAndGoes(t *testing.T, m *vm.Machine) {
	m.Run(t, "berth run -d --name up busybox sleep 100000")
	engine := func() string { return m.Run(t, "systemctl show -P MainPID berthd") }
	life := "berth inspect -f '{{.State.Pid}} {{.State.StartedAt}} {{.State.Running}}' up"
	before := m.Run(t, life)
	same := func(after string) {
		t.Helper()
		if got := m.Run(t, life); got != before {
			t.Errorf("after %s: %s, before %s", after, got, before)
		}
	}
	m.Run(t, "systemctl stop berthd.service && ! pgrep -x berthd && kill -0 "+strings.Fields(before)[0])
	same("stop") // whoever asks starts the engine
	m.Run(t, "systemctl restart berthd.service")
	same("restart")
	for _, signal := range []string{"KILL", "ABRT"} {
		old := engine()
		m.Run(t, "kill -"+signal+" "+old)
		await(t, m, "systemd starts the engine again after SIG"+signal, "[ $(systemctl show -P MainPID berthd) != "+old+" ] && systemctl is-active -q berthd")
		same("SIG" + signal)
	}
	// An engine that does not answer is found out by the watchdog.
	m.Run(t, `mkdir -p /run/systemd/system/berthd.service.d
printf '[Service]\nWatchdogSec=15\nTimeoutAbortSec=2\n' >/run/systemd/system/berthd.service.d/test.conf
systemctl daemon-reload && systemctl restart berthd`)
	old := engine()
	m.Run(t, "kill -STOP "+old)
	await(t, m, "the watchdog ends an engine that stands still", "[ $(systemctl show -P MainPID berthd) != "+old+" ] && systemctl is-active -q berthd")
	same("the watchdog")
	m.Run(t, "rm -r /run/systemd/system/berthd.service.d; systemctl daemon-reload; systemctl restart berthd")
	same("another restart")

	if left := m.Run(t, "journalctl -b --no-pager | grep -i 'left-over process' || true"); left != "" {
		t.Errorf("systemd complains: %s", left)
	}
	if procs := m.Run(t, "cat $(find /sys/fs/cgroup$(systemctl show -P ControlGroup berthd) -name cgroup.procs) | xargs -n1 -I{} cat /proc/{}/comm | sort -u"); strings.Contains(procs, "shim") || strings.Contains(procs, "sleep") {
		t.Errorf("the service's control group holds what is not the engine: %s", procs)
	}
	// Beside the engine's own end nothing may have been restarted too often.
	expect(t, m, "systemctl is-failed berthd.service berthd.socket berth-containers.service || true", "active\nactive\nactive")
}

func reloads(t *testing.T, m *vm.Machine) {
	m.Run(t, `mkdir -p /etc/berth && echo '{"labels": ["rack=7"]}' >/etc/berth/daemon.json && systemctl reload berthd`)
	await(t, m, "the label is read", `[ "$(berth info -f '{{.Labels}}')" = "[rack=7]" ]`)
	expect(t, m, "systemctl is-active berthd; systemctl show -P StatusText berthd", "active\nserving fd:///run/berth/berth.sock")
	expect(t, m, "journalctl -b -u berthd -o cat | grep 'restart the engine' || true", "") // nothing else has changed
	m.Run(t, "rm -r /etc/berth && systemctl reload berthd")
}

func journal(t *testing.T, m *vm.Machine) {
	m.Run(t, `berth run --name talks --log-driver journald --log-opt tag='{{.Name}}/{{.ImageName}}' --log-opt labels=tier --label tier=front busybox sh -c 'echo out; echo err >&2'
journalctl --sync`)
	expect(t, m, "journalctl -o cat CONTAINER_NAME=talks | sort", "err\nout")
	for _, f := range []struct{ field, want string }{
		{"CONTAINER_NAME", "talks"},
		{"CONTAINER_TAG", "talks/busybox"},
		{"SYSLOG_IDENTIFIER", "talks/busybox"},
		{"IMAGE_NAME", "busybox"},
		{"TIER", "front"}, // a label, with the letters that the journal takes
		{"CONTAINER_ID", m.Run(t, "berth inspect -f '{{.Id}}' talks | cut -c-12")},
		{"CONTAINER_ID_FULL", m.Run(t, "berth inspect -f '{{.Id}}' talks")},
	} {
		expect(t, m, "journalctl -o json CONTAINER_NAME=talks MESSAGE=out | python3 -c 'import json,sys; print(json.load(sys.stdin).get(\""+f.field+"\", \"\"))'", f.want)
	}
	expect(t, m, "journalctl -o cat -p err CONTAINER_NAME=talks", "err")
	expect(t, m, "berth logs talks 2>&1 | sort", "err\nout")
	expect(t, m, "journalctl -o json -n1 -u berthd | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"PRIORITY\"])'", "6")
}

func nobodyElseStarts(t *testing.T, m *vm.Machine) {
	m.Run(t, "systemctl stop berthd.socket berthd.service")
	out, err := m.Try("berth ps")
	if err == nil || !strings.Contains(out, "systemctl start berthd.socket") {
		t.Errorf("%v\n%s", err, out)
	}
	expect(t, m, "pgrep -x berthd | wc -l", "0")
	m.Run(t, "systemctl start berthd.socket && berth ps")
}

// tells is a container's command that notes its end in the volume.
const tells = `sh -c 'trap "sleep 0.3; cat /proc/uptime | cut -d\  -f1 >/ends/$0; exit 3" TERM; while :; do sleep 0.1; done'`

func shutdown(t *testing.T, m *vm.Machine) {
	m.Run(t, `berth rm -f up talks
berth run -d --name db -v ends:/ends --restart unless-stopped busybox `+tells+` db
berth run -d --name app -v ends:/ends --network container:db --restart always busybox `+tells+` app
berth run -d --name web -v ends:/ends --link db:db --restart on-failure busybox `+tells+` web
berth run -d --name plain -v ends:/ends busybox `+tells+` plain
berth run -d --name once --rm -v ends:/ends busybox `+tells+` once
berth run -d --name slow --stop-timeout 2 --restart always busybox sh -c 'trap : TERM; while :; do sleep 0.1; done'
berth run -d --name quit --restart unless-stopped busybox sleep 100000
berth stop -t 0 quit
# Containers are ended whether an engine runs or not.
systemctl stop berthd.socket berthd.service`)
	m.Run(t, "true")
	if err := m.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, m, "those with a policy are back", `[ "$(berth ps --format '{{.Names}}' | sort | xargs)" = "app db slow web" ]`)
	ends := strings.Fields(m.Run(t, "cd /var/lib/berth/volumes/ends/_data; sort -n -t: -k2 <<E | cut -d: -f1\n$(for f in *; do echo $f:$(cat $f); done)\nE"))
	at := map[string]int{}
	for n, name := range ends {
		at[name] = n + 1
	}
	if len(ends) != 5 || at["db"] < at["app"] || at["db"] < at["web"] {
		t.Errorf("they ended in the order %v", ends)
	}
	expect(t, m, "berth ps -a --filter status=exited --format '{{.Names}}' | sort | xargs", "plain quit")
	expect(t, m, "berth inspect -f '{{.State.ExitCode}}' plain", "3")
	expect(t, m, "berth inspect -f '{{.RestartCount}}' db slow | xargs", "0 0")
}

func powerCut(t *testing.T, m *vm.Machine) {
	m.Run(t, "sync")
	if err := m.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, m, "those with a policy are back", `[ "$(berth ps --format '{{.Names}}' | sort | xargs)" = "app db slow web" ]`)
	expect(t, m, "berth ps -a --filter status=exited --format '{{.Names}}' | sort | xargs", "plain quit")
}

func endsAll(t *testing.T, m *vm.Machine) {
	m.Run(t, "systemctl stop berth-containers.service")
	expect(t, m, "pgrep -c berth-shim; find /sys/fs/cgroup/berth -mindepth 1 -type d 2>/dev/null | wc -l", "0\n0")
	expect(t, m, "ip -o link | grep -c berth0 || true", "0")
	// A container that is started later makes the unit active again with the engine.
	await(t, m, "the policies apply to the next engine", `[ "$(berth ps --format '{{.Names}}' | sort | xargs)" = "app db slow web" ]`)
	expect(t, m, "systemctl is-active berth-containers.service", "active")
	m.Run(t, "berth rm -f $(berth ps -aq)")
}
