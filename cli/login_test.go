package cli

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"berth/testkit"

	"github.com/moby/moby/api/pkg/authconfig"
)

func TestLoginStoresAndPullSendsAndLogoutForgets(t *testing.T) {
	dir := withoutConfig(t)
	routes := answersForGoldens()
	routes["POST /auth"] = answer(`{"Status":"Login Succeeded"}`)
	e := newFakeEngine(t, routes)
	r := e.berth(t, "s3cret\n", "--config", dir, "login", "-u", "ann", "--password-stdin", "localhost:5000")
	if r.code != 0 || !strings.HasSuffix(r.out, "Login Succeeded\n") {
		t.Fatalf("got %+v", r)
	}
	var sent map[string]string
	_ = json.Unmarshal(e.asked("POST /auth")[0].Body, &sent)
	if sent["username"] != "ann" || sent["password"] != "s3cret" || sent["serveraddress"] != "localhost:5000" {
		t.Errorf("sent %v", sent)
	}
	file, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil || !strings.Contains(string(file), base64.StdEncoding.EncodeToString([]byte("ann:s3cret"))) {
		t.Errorf("config.json: %s, %v", file, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "config.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("config.json has mode %v", info.Mode())
	}
	if r := e.berth(t, "", "--config", dir, "pull", "localhost:5000/x"); r.code != 0 {
		t.Errorf("got %+v", r)
	}
	auth, err := authconfig.Decode(e.asked("POST /images/create")[0].Header.Get("X-Registry-Auth"))
	if err != nil || auth.Username != "ann" || auth.Password != "s3cret" {
		t.Errorf("pull sent %+v, %v", auth, err)
	}
	if r := e.berth(t, "", "--config", dir, "logout", "localhost:5000"); r.code != 0 || r.out != "Removing login credentials for localhost:5000\n" {
		t.Errorf("got %+v", r)
	}
	if r := e.berth(t, "", "--config", dir, "logout", "localhost:5000"); r.out != "Not logged in to localhost:5000\n" {
		t.Errorf("got %+v", r)
	}
}

func TestLoginRefusals(t *testing.T) {
	e := newFakeEngine(t, map[string]http.HandlerFunc{"POST /auth": refuse(401, "unauthorized: bad password")})
	for line, want := range map[string]string{
		"login --password-stdin":                "--password-stdin needs --username",
		"login -u a -p b --password-stdin":      "conflicting options: cannot specify both --password and --password-stdin",
		"login -u a --password-stdin localhost": "password is empty",
		"login -u a -p b localhost":             "Error response from daemon: unauthorized: bad password",
	} {
		r := e.berth(t, "", append([]string{"--config", t.TempDir()}, strings.Fields(line)...)...)
		if r.code != 1 || !strings.HasSuffix(r.err, want+"\n") {
			t.Errorf("%s: got %+v", line, r)
		}
	}
}

func TestLoginAsksOnATerminalAndHidesThePassword(t *testing.T) {
	e := newFakeEngine(t, map[string]http.HandlerFunc{"POST /auth": answer(`{"Status":"Login Succeeded"}`)})
	terminal := onTerminal(t, e, "login", "localhost:5000")
	terminal.Expect("Username: ")
	terminal.Type("ann\n")
	terminal.Expect("Password: ")
	testkit.Eventually(t, "the echo is off", func() bool { return !terminal.Echo() })
	terminal.Type("s3cret\n")
	terminal.Expect("Login Succeeded")
	if code := terminal.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !terminal.Echo() {
		t.Error("the terminal was left without echo")
	}
	if body := string(e.asked("POST /auth")[0].Body); !strings.Contains(body, `"password":"s3cret"`) {
		t.Errorf("sent %s", body)
	}
}

func TestACredentialHelperIsAsked(t *testing.T) {
	dir := withoutConfig(t)
	bin := t.TempDir()
	helper := "#!/bin/sh\nread server\necho \"{\\\"ServerURL\\\":\\\"$server\\\",\\\"Username\\\":\\\"bob\\\",\\\"Secret\\\":\\\"from helper\\\"}\"\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credHelpers":{"localhost:5000":"test"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	e := newFakeEngine(t, answersForGoldens())
	if r := e.berth(t, "", "--config", dir, "pull", "localhost:5000/x"); r.code != 0 {
		t.Fatalf("got %+v", r)
	}
	auth, err := authconfig.Decode(e.asked("POST /images/create")[0].Header.Get("X-Registry-Auth"))
	if err != nil || auth.Username != "bob" || auth.Password != "from helper" {
		t.Errorf("pull sent %+v, %v", auth, err)
	}
}
