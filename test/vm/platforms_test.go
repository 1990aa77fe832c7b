package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func record(t *testing.T, lines ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "record")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestThePageTellsFromWhichRunsItsTableComes(t *testing.T) {
	v1 := record(t,
		`{"Time":"2026-01-02T10:00:00Z","Action":"machine","Output":"old","Commit":"aaa"}`,
		`{"Action":"pass","Package":"berth/cli","Test":"TestOne"}`,
		`{"Action":"fail","Package":"berth/cli","Test":"TestTwo"}`,
		`{"Action":"fail","Package":"berth/cli"}`)
	v2 := record(t,
		`{"Action":"machine","Output":"new","Settings":"BERTH_TEST_A='b'"}`,
		`{"Time":"2026-01-03T10:00:00Z","Action":"pass","Package":"berth/cli","Test":"TestOne"}`,
		`{"Action":"fail","Package":"berth/cli","Test":"TestTwo"}`,
		`{"Time":"2026-01-04T10:00:00Z","Action":"machine","Output":"new","Commit":"ccc+","Settings":"BERTH_TEST_A='b'"}`,
		`{"Action":"run","Package":"berth/cli","Test":"TestTwo"}`,
		`{"Action":"output","Package":"berth/cli","Test":"TestTwo","Output":"    a_test.go:7: too new\n"}`,
		`{"Action":"skip","Package":"berth/cli","Test":"TestTwo"}`,
		`{"Time":"2026-01-04T11:00:00Z","Action":"machine","Output":"old","Commit":"ccc"}`,
		`{"Action":"pass","Package":"berth/cli","Test":"TestThree"}`)
	var page bytes.Buffer
	if err := platforms(&page, []string{v1, v2}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"- **A**: old\n  - 2026-01-02, commit aaa: 2 results\n- **B**: new, BERTH_TEST_A='b'\n" +
			"  - 2026-01-03, commit not recorded: 1 results\n" +
			"  - 2026-01-04, commit ccc+: 1 results\n" +
			"  - 2026-01-04, commit ccc, driven from another machine: 1 results\n",
		"| cli | 1, **1 failed** | 2 (1) |\n",
		"## Failed on A\n\n- TestTwo (cli), commit aaa\n\n## Skipped on A\n\nNothing.\n",
		"- too new: TestTwo (cli)\n",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q in\n%s", want, &page)
		}
	}
}

func TestResultsOfNoMachineAreRefused(t *testing.T) {
	for _, file := range []string{
		record(t, `{"Action":"pass","Package":"berth/cli","Test":"TestOne"}`, `{"Action":"machine","Output":"new"}`),
		record(t, `{"Action":"machine"}`),
		record(t, `{`),
		filepath.Join(t.TempDir(), "missing"),
	} {
		if err := platforms(&bytes.Buffer{}, []string{file}); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v", err)
		}
	}
}
