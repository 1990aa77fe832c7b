package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// controlFD is the descriptor of a new shim that is connected with its launcher.
const controlFD = 3

// Main is the program berth-shim. Without arguments it serves one container, which it is
// told on descriptor 3; with --lost RUNDIR PID it clears up after the shim PID that was
// killed. The result is the exit status.
func Main(args []string) int {
	nameProcess()
	if len(args) == 3 && args[0] == "--lost" {
		return report(lost(args[1], args[2]))
	}
	if len(args) != 0 {
		return report(fail.New(fail.Invalid, "berth-shim is started by berthd and takes no arguments"))
	}
	return report(serve())
}

// nameProcess is for ps(1): the kernel knows us by the descriptor we were executed by.
func nameProcess() { _ = os.WriteFile("/proc/self/comm", []byte("berth-shim"), 0) }

func report(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "berth-shim:", err)
	return 1
}

// ignored are signals that a shim must not mind, whoever sends them.
var ignored = []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGPIPE,
	syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU}

// serve is the life of a shim.
func serve() error {
	signal.Ignore(ignored...)
	syscall.Umask(0o022) // what a container's process starts with, as with Docker
	unix.CloseOnExec(controlFD)
	binary, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	control := os.NewFile(controlFD, "control")
	conn, err := net.FileConn(control)
	control.Close()
	if err != nil {
		return fmt.Errorf("descriptor %d is not a connection: berth-shim is started by berthd: %w", controlFD, err)
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("descriptor %d is not a unix socket", controlFD)
	}
	guard, err := startGuardian(binary)
	if err != nil {
		return fmt.Errorf("start guardian: %w", err)
	}
	go guard.guard() // ends with release
	defer guard.release()

	rehearse(unixConn)
	w := newWire(unixConn)
	defer w.close()
	f, files, err := w.receive()
	if err != nil {
		return nil // not needed after all
	}
	var req createRequest
	if f.Op != opCreate {
		err = fail.New(fail.Invalid, "a new shim understands create, not %q", f.Op)
	} else if err = json.Unmarshal(f.Body, &req); err != nil {
		err = fail.New(fail.Invalid, "decode create: %w", err)
	} else if len(files) != len(req.Attach) {
		err = fail.New(fail.Invalid, "%d attachments with %d descriptors", len(req.Attach), len(files))
	}
	f.Body = nil
	if err != nil {
		closeFiles(files)
		return answered(w, f.ID, err)
	}
	cfg, attach := req.Config.config(), req.Attach
	req = createRequest{}
	s := newShim(&cfg, guard)
	p := s.join(w)
	// A launcher that goes away gives the creation up.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p.gone = cancel
	go p.serve() // ends with the connection
	if err := s.create(ctx, attach, files); err != nil {
		return answered(w, f.ID, err)
	}
	s.created(p, f.ID)
	return s.run()
}

// answered reports a creation that failed to the launcher. Only what nobody can be told is
// a failure of ours.
func answered(w *wire, id uint64, err error) error {
	if w.send(frame{ID: id, Error: toWire(err)}, nil, nil) != nil {
		return err
	}
	w.drained()
	return nil
}

// shimEnv keeps a shim small, on a large machine too: every P of the Go scheduler costs
// memory and threads, and a shim hardly ever has two things to compute. It is set before the program starts, and not passed on.
var shimEnv = []string{"GOMAXPROCS=1", "GOGC=100"}

func isShimEnv(e string) bool { return slices.Contains(shimEnv, e) }

// wake starts the engine by command, detached from us in every way.
func wake(command []string, env []string) error {
	if len(command) == 0 {
		return nil
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return fmt.Errorf("wake the engine: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("wake the engine: %w", err)
	}
	defer null.Close()
	p, err := os.StartProcess(path, command, &os.ProcAttr{
		Dir: "/", Env: slices.DeleteFunc(env, isShimEnv), Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("wake the engine with %s: %w", strings.Join(command, " "), err)
	}
	return p.Release()
}
