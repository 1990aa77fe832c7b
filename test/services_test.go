package test

import (
	"strings"
	"testing"

	"berth/testkit"
)

// TestDatabasesAreReachedByNameAndKeepTheirData is a small product: PostgreSQL and Redis of
// Debian's packages and a client on one network, their data in volumes.
func TestDatabasesAreReachedByNameAndKeepTheirData(t *testing.T) {
	e := testkit.StartEngine(t, testkit.EngineOptions{})
	e.Databases(t)
	e.Must("network", "create", "back")
	e.Must("volume", "create", "table")
	start := func() {
		t.Helper()
		e.Must("run", "-d", "--name", "db", "--network", "back", "-v", "table:/var/lib/postgresql/data", "postgres")
		e.Must("run", "-d", "--name", "redis-1", "--network", "back", "--network-alias", "cache", "-v", "keys:/data", "redis")
	}
	client := func(words ...string) testkit.Result {
		t.Helper()
		return e.Berth(append([]string{"exec", "app"}, words...)...)
	}
	sql := func(statement string) testkit.Result {
		t.Helper()
		return client("psql", "-h", "db", "-U", "postgres", "-tAc", statement)
	}
	answer := func(r testkit.Result, want string) {
		t.Helper()
		if r.Code != 0 || strings.TrimSpace(r.Stdout) != want {
			t.Errorf("exit %d, %q, want %q\n%s", r.Code, r.Stdout, want, r.Stderr)
		}
	}
	ready := func() {
		t.Helper()
		testkit.Eventually(t, "postgres answers", func() bool { return sql("select 1").Code == 0 })
		testkit.Eventually(t, "redis answers", func() bool { return client("redis-cli", "-h", "cache", "ping").Stdout == "PONG\n" })
	}
	start()
	e.Must("run", "-d", "--name", "app", "--network", "back", "client")
	ready()
	answer(sql("create table t (v text); insert into t values ('kept')"), "CREATE TABLE\nINSERT 0 1")
	answer(client("redis-cli", "-h", "cache", "set", "k", "kept"), "OK")
	answer(client("redis-cli", "-h", "redis-1", "save"), "OK")

	for _, end := range [][]string{{"stop", "db", "redis-1"}, {"kill", "db", "redis-1"}} {
		e.Must(end...)
		e.Must("rm", "db", "redis-1")
		if r := sql("select 1"); r.Code == 0 || !strings.Contains(r.Stderr, `could not translate host name "db"`) {
			t.Errorf("the name of what is gone: exit %d, %q %q", r.Code, r.Stdout, r.Stderr)
		}
		start()
		ready()
		answer(sql("select v from t"), "kept")
		answer(client("redis-cli", "-h", "cache", "get", "k"), "kept")
	}
	if got := e.Must("exec", "db", "stat", "-c", "%U %a", "/var/lib/postgresql/data"); got != "postgres 700" {
		t.Errorf("the volume took %q from the image", got)
	}
	e.Must("rm", "-f", "-v", "db", "redis-1", "app")
	if got := e.Must("volume", "ls", "-q"); got != "keys\ntable" {
		t.Errorf("volumes: %q", got)
	}
	e.Must("volume", "rm", "keys", "table")
	e.Must("network", "rm", "back")
	t.Run("Testcontainers", func(t *testing.T) { testcontainers(t, e) })
}
