// Testcontainers uses an engine as programs' test suites do, by testcontainers-go: it starts
// PostgreSQL, waits for it in several ways, fills it, asks it from a second container and takes
// all of it away. It writes a line for each thing that it has seen and ends with "all is well".
//
// As "testcontainers reaper" it stands in for Testcontainers' own reaper (ryuk): it listens on
// port 8080, acknowledges each line of filters, and once nobody is connected any more removes
// what they fit.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	act := use
	if len(os.Args) > 1 && os.Args[1] == "reaper" {
		act = reap
	}
	if err := act(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "testcontainers:", err)
		os.Exit(1)
	}
}

// heard collects a container's log.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *heard) Accept(l testcontainers.Log) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Write(l.Content)
}

func (h *heard) has(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Contains(h.text.String(), text)
}

func use(ctx context.Context) (err error) {
	nw, err := network.New(ctx)
	if err != nil {
		return fmt.Errorf("make a network: %w", err)
	}
	logs := &heard{}
	db, err := testcontainers.Run(ctx, "postgres",
		network.WithNetwork([]string{"db"}, nw),
		testcontainers.WithExposedPorts("5432/tcp"),
		testcontainers.WithEnv(map[string]string{"SOME": "value"}),
		testcontainers.WithLabels(map[string]string{"purpose": "database"}),
		testcontainers.WithFiles(testcontainers.ContainerFile{Reader: strings.NewReader("create table t (n int); insert into t select * from generate_series(1, 100);"), ContainerFilePath: "/tmp/fill.sql", FileMode: 0o644}),
		testcontainers.WithLogConsumers(logs),
		testcontainers.WithConfigModifier(func(c *container.Config) {
			c.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "pg_isready", "-h", "/tmp"}, Interval: time.Second, Timeout: 10 * time.Second, Retries: 60}
		}),
		testcontainers.WithWaitStrategyAndDeadline(2*time.Minute,
			wait.ForLog("database system is ready to accept connections"),
			wait.ForListeningPort("5432/tcp"),
			wait.ForExec([]string{"pg_isready", "-h", "/tmp"}),
			wait.ForHealthCheck(),
			wait.ForFile("/tmp/fill.sql").WithMatcher(func(r io.Reader) error {
				text, err := io.ReadAll(r)
				if err == nil && !strings.Contains(string(text), "generate_series") {
					err = errors.New("the file is another")
				}
				return err
			}),
		))
	if err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	fmt.Println("PostgreSQL runs")

	if code, out, err := run(ctx, db, "psql", "-h", "/tmp", "-v", "ON_ERROR_STOP=1", "-f", "/tmp/fill.sql", "postgres"); err != nil || code != 0 {
		return fmt.Errorf("fill the database: %d %s %w", code, out, err)
	}
	for !logs.has("ready to accept connections") { // it is told beside all else
		select {
		case <-ctx.Done():
			return errors.New("the log consumer has not heard that the database is ready")
		case <-time.After(10 * time.Millisecond):
		}
	}
	state, err := db.State(ctx)
	if err != nil || !state.Running || state.Health == nil || state.Health.Status != "healthy" {
		return fmt.Errorf("state %+v %w", state, err)
	}
	endpoint, err := db.PortEndpoint(ctx, "5432/tcp", "")
	if err != nil {
		return fmt.Errorf("the port on the host: %w", err)
	}
	fmt.Println("reached at", endpoint)

	client, err := testcontainers.Run(ctx, "client", network.WithNetwork(nil, nw), testcontainers.WithEnv(map[string]string{"PGUSER": "postgres", "PGHOST": "db"}),
		testcontainers.WithConfigModifier(func(c *container.Config) { c.StopSignal = "SIGKILL" })) // it heeds no other
	if err != nil {
		return fmt.Errorf("start a client: %w", err)
	}
	if code, out, err := run(ctx, client, "psql", "-tAc", "select sum(n) from t"); err != nil || code != 0 || strings.TrimSpace(out) != "5050" {
		return fmt.Errorf("ask over the network: %d %q %w", code, out, err)
	}
	if err := client.CopyToContainer(ctx, []byte("hello"), "/root/note", 0o600); err != nil {
		return fmt.Errorf("copy to a container: %w", err)
	}
	back, err := client.CopyFileFromContainer(ctx, "/root/note")
	if err != nil {
		return fmt.Errorf("copy from a container: %w", err)
	}
	if text, err := io.ReadAll(back); err != nil || string(text) != "hello" {
		return fmt.Errorf("what comes back is %q, %w", text, err)
	}
	fmt.Println("asked over a network, files copied")

	patience := 10 * time.Second
	if err := db.Stop(ctx, &patience); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	if err := db.Start(ctx); err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	if code, out, err := run(ctx, client, "psql", "-tAc", "select count(*) from t"); err != nil || code != 0 || strings.TrimSpace(out) != "100" {
		return fmt.Errorf("ask after a restart: %d %q %w", code, out, err)
	}
	fmt.Println("stopped and started again")
	if os.Getenv("LEAVE") != "" {
		fmt.Println("all is well, and left to the reaper")
		return nil
	}
	for _, c := range []testcontainers.Container{client, db} {
		if err := c.Terminate(ctx); err != nil {
			return fmt.Errorf("terminate: %w", err)
		}
	}
	if err := nw.Remove(ctx); err != nil {
		return fmt.Errorf("remove the network: %w", err)
	}
	fmt.Println("all is well")
	return nil
}

func run(ctx context.Context, c testcontainers.Container, command ...string) (int, string, error) {
	code, out, err := c.Exec(ctx, command, exec.Multiplexed())
	if err != nil {
		return code, "", err
	}
	text, err := io.ReadAll(out)
	return code, string(text), err
}
