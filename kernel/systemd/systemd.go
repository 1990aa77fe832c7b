// Package systemd has systemd's manager make, change and end the scopes in which it keeps
// processes that it did not start itself (systemd.scope(5), org.freedesktop.systemd1(5)).
//
// It speaks the few messages of D-Bus that this takes by itself. The supervisor of every
// container links this package, where a D-Bus library would cost 390 kB of program and 60 kB of
// memory each. It asks systemd's own socket, as systemctl does, which needs no D-Bus daemon, and
// the system bus if that is not there.
package systemd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// Property is a setting of a unit, by its name on D-Bus. Values are of the types string, bool,
// uint64, []uint32 and []byte, whatever the property is defined as.
type Property struct {
	Name  string
	Value any
}

// Running tells that systemd manages this machine, sd_booted(3).
func Running() bool { return unix.Access("/run/systemd/system", unix.F_OK) == nil }

// StartScope has systemd make the scope name (NAME.scope) and put the processes into it that
// the property PIDs lists, and returns when they are there. A scope of that name that is there
// already is class Conflict, a property that this systemd does not take is class Invalid.
func StartScope(ctx context.Context, name string, properties []Property) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	var e encoder
	e.str(name)
	e.str("fail")
	if err := e.properties(properties); err != nil {
		return err
	}
	e.array(8, func() {}) // auxiliary units
	result, err := c.job("StartTransientUnit", "ssa(sv)a(sa(sv))", e.b, name)
	if err != nil {
		return fail.New(fail.Of(err), "start %s: %w", name, err)
	}
	if result != "done" {
		_, _ = c.call("ResetFailedUnit", "s", encoded(name))
		return fail.New(fail.Unavailable, "start %s: systemd's job ended with %q: see journalctl -u %s", name, result, name)
	}
	return nil
}

// SetProperties changes properties of the unit until it ends or the machine is booted anew. A
// unit that does not exist is class NotFound.
func SetProperties(ctx context.Context, name string, properties []Property) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	var e encoder
	e.str(name)
	e.boolean(true)
	if err := e.properties(properties); err != nil {
		return err
	}
	if _, err := c.call("SetUnitProperties", "sba(sv)", e.b); err != nil {
		return fail.New(fail.Of(err), "change %s: %w", name, err)
	}
	return nil
}

// Stop ends the unit, its processes with it, and waits until systemd has forgotten it, failed or
// not. A unit that does not exist is fine.
func Stop(ctx context.Context, name string) error {
	c, err := dial(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	var e encoder
	e.str(name)
	e.str("replace")
	_, err = c.job("StopUnit", "ss", e.b, name)
	if err != nil && !fail.Is(err, fail.NotFound) {
		return fail.New(fail.Of(err), "stop %s: %w", name, err)
	}
	if _, err := c.call("ResetFailedUnit", "s", encoded(name)); err != nil && !fail.Is(err, fail.NotFound) {
		return fail.New(fail.Of(err), "stop %s: %w", name, err)
	}
	return nil
}

// GroupOf is the path of the control group that a scope has now: empty if it has none, or if there
// is no such scope.
func GroupOf(ctx context.Context, name string) (string, error) {
	c, err := dial(ctx)
	if err != nil {
		return "", err
	}
	defer c.close()
	unit, err := c.call("GetUnit", "s", encoded(name))
	var group []string
	if err == nil && len(unit) > 0 {
		var e encoder
		e.str("org.freedesktop.systemd1.Scope")
		e.str("ControlGroup")
		group, err = c.ask(&message{destination: c.destination(), path: unit[0], iface: "org.freedesktop.DBus.Properties", member: "Get", signature: "ss", body: e.b})
	}
	switch {
	case fail.Is(err, fail.NotFound):
		return "", nil
	case err != nil:
		return "", fail.New(fail.Of(err), "ask for the control group of %s: %w", name, err)
	case len(group) == 0:
		return "", fmt.Errorf("ask for the control group of %s: %w", name, errMalformed)
	}
	return group[0], nil
}

func encoded(s string) []byte {
	var e encoder
	e.str(s)
	return e.b
}

// The manager's address on the bus.
const (
	managerName  = "org.freedesktop.systemd1"
	managerPath  = "/org/freedesktop/systemd1"
	managerIface = "org.freedesktop.systemd1.Manager"
)

// The sockets of systemd and of the system bus.
var privateSocket, busSocket = "/run/systemd/private", "/run/dbus/system_bus_socket"

// connection is a client's, used by one goroutine.
type connection struct {
	ctx    context.Context
	socket net.Conn
	in     *bufio.Reader
	bus    bool // the bus's daemon is between us and systemd
	serial uint32
	jobs   []removedJob // told of and not asked for yet
	stop   func() bool
}

type removedJob struct{ path, unit, result string }

// patience is how long systemd may take for one of our wishes.
const patience = time.Minute

func dial(ctx context.Context) (*connection, error) {
	socket, err := net.Dial("unix", privateSocket)
	bus := false
	if err != nil {
		if !Running() {
			return nil, fail.New(fail.Invalid, "no systemd runs here: use ordinary control groups")
		}
		var busErr error
		if socket, busErr = net.Dial("unix", busSocket); busErr != nil {
			return nil, fail.New(fail.Unavailable, "systemd cannot be reached: %w", errors.Join(err, busErr))
		}
		bus = true
	}
	c := &connection{ctx: ctx, socket: socket, in: bufio.NewReaderSize(socket, 1024), bus: bus}
	_ = socket.SetDeadline(time.Now().Add(patience))
	c.stop = context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })
	if err := c.authenticate(); err != nil {
		c.close()
		return nil, fmt.Errorf("log in to systemd: %w", c.cause(err))
	}
	return c, nil
}

func (c *connection) close() {
	c.stop()
	c.socket.Close()
}

// cause tells of the context's end instead of the deadline that it became.
func (c *connection) cause(err error) error {
	switch {
	case c.ctx.Err() != nil:
		return context.Cause(c.ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fail.New(fail.Unavailable, "systemd has not answered within %v", patience)
	}
	return err
}

// authenticate is the mechanism EXTERNAL: the kernel tells the other side who we are. BEGIN goes
// with it in one write: a message that systemd reads together with BEGIN lies there until another
// comes.
func (c *connection) authenticate() error {
	uid := hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))
	if _, err := io.WriteString(c.socket, "\x00AUTH EXTERNAL "+uid+"\r\nBEGIN\r\n"); err != nil {
		return err
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("OK ")) {
		return fail.New(fail.Forbidden, "it answers %q", strings.TrimSpace(string(line)))
	}
	if !c.bus {
		return nil
	}
	const daemon, path = "org.freedesktop.DBus", "/org/freedesktop/DBus"
	if _, err := c.ask(&message{destination: daemon, path: path, iface: daemon, member: "Hello"}); err != nil {
		return err
	}
	if _, err := c.ask(&message{destination: daemon, path: path, iface: daemon, member: "AddMatch", signature: "s",
		body: encoded("type='signal',sender='" + managerName + "',interface='" + managerIface + "',member='JobRemoved'")}); err != nil {
		return err
	}
	_, err = c.call("Subscribe", "", nil)
	return err
}

// call asks the manager and returns the strings of its answer.
func (c *connection) call(method, signature string, body []byte) ([]string, error) {
	return c.ask(&message{destination: c.destination(), path: managerPath, iface: managerIface, member: method, signature: signature, body: body})
}

// destination is systemd's name on a bus. On its own socket there is nobody else.
func (c *connection) destination() string {
	if c.bus {
		return managerName
	}
	return ""
}

// job asks for something that systemd does behind its answer, and waits until it has been done.
// The result is "done", or why it has not been.
func (c *connection) job(method, signature string, body []byte, unit string) (result string, err error) {
	answer, err := c.call(method, signature, body)
	if err != nil {
		return "", err
	}
	if len(answer) == 0 {
		return "", errMalformed
	}
	for {
		for _, j := range c.jobs {
			if j.path == answer[0] && j.unit == unit {
				return j.result, nil
			}
		}
		c.jobs = c.jobs[:0]
		m, err := c.receive()
		if err != nil {
			return "", c.cause(err)
		}
		c.note(m)
	}
}

// ask sends m and waits for the answer to it.
func (c *connection) ask(m *message) ([]string, error) {
	c.serial++
	m.kind, m.serial = methodCall, c.serial
	if _, err := c.socket.Write(m.marshal()); err != nil {
		return nil, c.cause(err)
	}
	for {
		answer, err := c.receive()
		if err != nil {
			return nil, c.cause(err)
		}
		switch {
		case answer.kind == signal:
			c.note(answer)
		case answer.replyTo != m.serial:
		case answer.kind == errorReply:
			said := answer.errorName
			if words := answer.strings(); len(words) > 0 {
				said = words[0]
			}
			return nil, fail.New(classOf(answer.errorName), "%s", strings.TrimSuffix(said, "."))
		case answer.kind == methodReturn:
			return answer.strings(), nil
		}
	}
}

// note keeps what a signal tells about a job.
func (c *connection) note(m *message) {
	if m.kind != signal || m.member != "JobRemoved" || m.iface != managerIface {
		return
	}
	if s := m.strings(); len(s) == 3 {
		c.jobs = append(c.jobs, removedJob{s[0], s[1], s[2]})
	}
}

func (c *connection) receive() (*message, error) {
	var fixed [fixedHeader]byte
	if _, err := io.ReadFull(c.in, fixed[:]); err != nil {
		return nil, err
	}
	header, body, err := sizes(fixed[:])
	if err != nil {
		return nil, err
	}
	b := slices.Grow(fixed[:], header+body-fixedHeader)[:header+body]
	if _, err := io.ReadFull(c.in, b[fixedHeader:]); err != nil {
		return nil, err
	}
	return unmarshal(b[:header], b[header:])
}

// classOf maps the names of D-Bus's and systemd's errors.
func classOf(name string) fail.Class {
	switch strings.TrimPrefix(strings.TrimPrefix(name, "org.freedesktop.DBus.Error."), "org.freedesktop.systemd1.") {
	case "UnitExists":
		return fail.Conflict
	case "NoSuchUnit", "UnknownObject":
		return fail.NotFound
	case "InvalidArgs", "PropertyReadOnly", "UnknownProperty":
		return fail.Invalid
	case "AccessDenied", "InteractiveAuthorizationRequired":
		return fail.Forbidden
	}
	return fail.Unavailable
}
