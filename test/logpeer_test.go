package test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"berth/testkit"
)

func TestLogServersAreToldWhatDockerTells(t *testing.T) {
	syslog := testkit.NewRsyslog(t, nil)
	forward := testkit.NewForward(t, true, nil)
	docker := testkit.Dockerd(t)
	docker.Must("import", testkit.BusyboxTar(t), "busybox")
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Busybox()
	// What differs between any two runs: ids, times, process numbers.
	blank := []struct {
		what *regexp.Regexp
		by   string
	}{
		{regexp.MustCompile(`[0-9a-f]{64}`), "ID"}, {regexp.MustCompile(`[0-9a-f]{12}`), "ID"},
		{regexp.MustCompile(`\[\d+\]`), "[PID]"}, {regexp.MustCompile(` \d+ (\S+) - `), " PID $1 - "},
		{regexp.MustCompile(`\w{3} [ \d]\d \d\d:\d\d:\d\d`), "DATE"}, {regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`), "TIME$1x"},
		{regexp.MustCompile(`\.\d+x`), ".FRACTION"}, {regexp.MustCompile(`Time:\[[^]]*\]`), "Times"}, {regexp.MustCompile(`Time:\S+`), "Time"},
	}
	for i, opts := range [][]string{
		{"syslog"}, {"syslog", "syslog-format=rfc3164", "tag={{.Name}}/{{upper .ImageName}}", "syslog-facility=local3"}, {"syslog", "syslog-format=rfc5424", "tag=x/{{.FullID}}"},
		{"fluentd", "labels=role", "env-regex=^ST", "tag=docker.{{.Name}}"}, {"fluentd", "fluentd-sub-second-precision=true"}, // not fluentd-async: there Docker 20.10 drops what waits at the end
	} {
		name := fmt.Sprint("web", i)
		args := []string{"run", "--name", name, "--network", "none", "--label", "role=front", "-e", "STAGE=test", "--log-driver", opts[0]}
		if opts[0] == "syslog" {
			args = append(args, "--log-opt", "syslog-address=unixgram://"+syslog.Socket)
		} else {
			args = append(args, "--log-opt", "fluentd-address=unix://"+forward.Socket)
		}
		for _, o := range opts[1:] {
			args = append(args, "--log-opt", o)
		}
		args = append(args, "busybox", "sh", "-c", `echo "a <b>	c"; echo err >&2; head -c 20000 /dev/zero | tr "\0" y; echo; printf last`)
		var told [2][]string
		for n, must := range []func(...string) string{docker.Must, e.Must} {
			before := [2]int{len(syslog.Messages()), len(forward.Records())}
			must(args...)
			testkit.Eventually(t, "the server has all", func() bool {
				told[n] = nil
				if opts[0] == "syslog" {
					for _, m := range syslog.Messages()[before[0]:] {
						told[n] = append(told[n], m.Raw)
					}
				} else {
					for _, r := range forward.Records()[before[1]:] {
						told[n] = append(told[n], fmt.Sprintf("%+v", r))
					}
				}
				return len(told[n]) >= 5
			})
			for i, line := range told[n] {
				for _, b := range blank {
					line = b.what.ReplaceAllString(line, b.by)
				}
				told[n][i] = regexp.MustCompile(`y{100,}`).ReplaceAllStringFunc(line, func(ys string) string { return fmt.Sprint("<y ", len(ys), ">") })
			}
		}
		for n := range told { // in which order the streams are read is not said
			slices.Sort(told[n])
		}
		if !slices.Equal(told[0], told[1]) {
			t.Errorf("%v: Docker tells\n%s\nBerth tells\n%s", opts, strings.Join(told[0], "\n"), strings.Join(told[1], "\n"))
		}
	}
}
