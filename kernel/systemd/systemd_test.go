package systemd

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"berth/fail"
)

// manager is what stands for systemd: it answers each call by its method's name.
type manager struct {
	t      *testing.T
	answer func(call *message) []*message
	calls  []*message
}

// serve puts the manager where clients look for it: on the private socket or behind a bus.
func (m *manager) serve(onBus bool) {
	dir := m.t.TempDir()
	private, bus := privateSocket, busSocket
	privateSocket, busSocket = filepath.Join(dir, "private"), filepath.Join(dir, "bus")
	at := privateSocket
	if onBus {
		at = busSocket
	}
	l, err := net.Listen("unix", at)
	if err != nil {
		m.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.talk(c)
			c.Close()
		}
	}()
	m.t.Cleanup(func() {
		l.Close()
		<-done
		privateSocket, busSocket = private, bus
	})
}

func (m *manager) talk(c net.Conn) {
	in := bufio.NewReader(c)
	line, _ := in.ReadString('\n')
	uid, ok := strings.CutPrefix(line, "\x00AUTH EXTERNAL ")
	if _, err := hex.DecodeString(strings.TrimSpace(uid)); !ok || err != nil {
		m.t.Errorf("login %q", line)
		return
	}
	io.WriteString(c, "OK 0123456789abcdef\r\n")
	if line, _ = in.ReadString('\n'); line != "BEGIN\r\n" {
		m.t.Errorf("after the login %q", line)
		return
	}
	client := &connection{in: in}
	for {
		call, err := client.receive()
		if err != nil {
			return
		}
		m.calls = append(m.calls, call)
		for _, a := range m.answer(call) {
			b := a.marshal()
			if a.replyTo != 0 || a.errorName != "" { // clients do not send these fields
				b = withReply(a)
			}
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
}

// withReply is marshal for answers.
func withReply(a *message) []byte {
	e := encoder{}
	e.b = append(e.b, 'l', a.kind, 0, 1)
	e.u32(uint32(len(a.body)))
	e.u32(77)
	e.array(8, func() {
		e.align(8)
		e.b = append(e.b, fieldReplySerial)
		e.sig("u")
		e.u32(a.replyTo)
		if a.errorName != "" {
			e.align(8)
			e.b = append(e.b, fieldErrorName)
			e.sig("s")
			e.str(a.errorName)
		}
		if a.signature != "" {
			e.align(8)
			e.b = append(e.b, fieldSignature)
			e.sig("g")
			e.sig(a.signature)
		}
	})
	e.align(8)
	return append(e.b, a.body...)
}

func reply(to *message, signature string, body []byte) *message {
	return &message{kind: methodReturn, replyTo: to.serial, signature: signature, body: body}
}

func failure(to *message, name, text string) *message {
	return &message{kind: errorReply, replyTo: to.serial, errorName: name, signature: "s", body: encoded(text)}
}

func jobRemoved(job, unit, result string) *message {
	e := encoder{}
	e.u32(9)
	e.str(job)
	e.str(unit)
	e.str(result)
	return &message{kind: signal, serial: 5, path: managerPath, iface: managerIface, member: "JobRemoved", signature: "uoss", body: e.b}
}

func TestAScopeIsStartedWhenItsJobIsDone(t *testing.T) {
	for _, c := range []struct {
		name   string
		onBus  bool
		answer func(call *message) []*message
		class  fail.Class
		want   string
	}{
		{"on systemd's own socket", false, func(call *message) []*message {
			return []*message{jobRemoved("/job/1", "other.scope", "done"), reply(call, "o", encoded("/job/7")),
				jobRemoved("/job/8", "x.scope", "failed"), jobRemoved("/job/7", "x.scope", "done")}
		}, 0, ""},
		{"told before the answer", false, func(call *message) []*message {
			return []*message{jobRemoved("/job/7", "x.scope", "done"), reply(call, "o", encoded("/job/7"))}
		}, 0, ""},
		{"a job that fails", false, func(call *message) []*message {
			return []*message{reply(call, "o", encoded("/job/7")), jobRemoved("/job/7", "x.scope", "failed")}
		}, fail.Unavailable, `start x.scope: systemd's job ended with "failed"`},
		{"a scope that is there", false, func(call *message) []*message {
			return []*message{failure(call, "org.freedesktop.systemd1.UnitExists", "Unit x.scope was already loaded.")}
		}, fail.Conflict, "start x.scope: Unit x.scope was already loaded"},
		{"a property that it does not have", false, func(call *message) []*message {
			return []*message{failure(call, "org.freedesktop.DBus.Error.PropertyReadOnly", "Cannot set property Nope, or unknown property.")}
		}, fail.Invalid, "Cannot set property Nope"},
		{"nonsense", false, func(call *message) []*message {
			return []*message{{kind: 9, signature: "s", body: []byte{255, 255, 255, 255}}, reply(call, "o", []byte{9, 9, 9, 9})}
		}, fail.Internal, "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &manager{t: t, answer: func(call *message) []*message {
				if call.member == "ResetFailedUnit" {
					return []*message{reply(call, "", nil)}
				}
				return c.answer(call)
			}}
			m.serve(c.onBus)
			err := StartScope(t.Context(), "x.scope", []Property{{"Delegate", true}, {"PIDs", []uint32{7, 8}}, {"Slice", "a.slice"}, {"MemoryMax", uint64(1) << 40}, {"AllowedCPUs", []byte{3}}})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || fail.Of(err) != c.class) {
				t.Fatalf("got %v (class %v)", err, fail.Of(err))
			}
			call := m.calls[0]
			if call.member != "StartTransientUnit" || call.path != managerPath || call.iface != managerIface || call.signature != "ssa(sv)a(sa(sv))" {
				t.Errorf("asked %+v", call)
			}
			// name, mode, then the array of properties and an empty one: D-Bus Specification, "Marshaling".
			want := "\x07\x00\x00\x00x.scope\x00" + "\x04\x00\x00\x00fail\x00\x00\x00\x00"
			if !strings.HasPrefix(string(call.body), want) {
				t.Errorf("body %q", call.body)
			}
			if end := 32 + int(binary.LittleEndian.Uint32(call.body[24:])); len(call.body) != (end+3)&^3+8 && len(call.body) != (end+3)&^3+4 {
				t.Errorf("the properties end at %d of %d", end, len(call.body))
			}
		})
	}
}

func TestTheBusIsAskedWhereSystemdsSocketIsMissing(t *testing.T) {
	if !Running() {
		t.Skip("without systemd nobody looks for the bus")
	}
	m := &manager{t: t, answer: func(call *message) []*message {
		switch call.member {
		case "Hello":
			return []*message{reply(call, "s", encoded(":1.5"))}
		case "StopUnit":
			return []*message{reply(call, "o", encoded("/job/1")), jobRemoved("/job/1", "x.scope", "done")}
		}
		return []*message{reply(call, "", nil)}
	}}
	m.serve(true)
	if err := Stop(t.Context(), "x.scope"); err != nil {
		t.Fatal(err)
	}
	var methods []string
	for _, c := range m.calls {
		methods = append(methods, c.member+"@"+c.destination)
	}
	const daemon, systemd = "@org.freedesktop.DBus", "@" + managerName
	if want := []string{"Hello" + daemon, "AddMatch" + daemon, "Subscribe" + systemd, "StopUnit" + systemd, "ResetFailedUnit" + systemd}; !slices.Equal(methods, want) {
		t.Errorf("asked %v", methods)
	}
}

func TestAUnitThatIsGoneIsStoppedAlready(t *testing.T) {
	m := &manager{t: t, answer: func(call *message) []*message {
		return []*message{failure(call, "org.freedesktop.systemd1.NoSuchUnit", "Unit x.scope not loaded.")}
	}}
	m.serve(false)
	if err := Stop(t.Context(), "x.scope"); err != nil {
		t.Fatal(err)
	}
	if err := SetProperties(t.Context(), "x.scope", nil); !fail.Is(err, fail.NotFound) {
		t.Errorf("its properties: %v", err)
	}
}

func TestAScopeTellsItsControlGroup(t *testing.T) {
	const unitPath = "/org/freedesktop/systemd1/unit/x_2escope"
	text := func(s string) []byte {
		var e encoder
		if err := e.variant(s); err != nil {
			t.Fatal(err)
		}
		return e.b
	}
	for _, c := range []struct {
		name      string
		unit, get func(call *message) *message
		want      string
		fails     bool
	}{
		{"one that runs", nil, func(call *message) *message { return reply(call, "v", text("/user.slice/x.scope")) }, "/user.slice/x.scope", false},
		{"one without a group", nil, func(call *message) *message { return reply(call, "v", text("")) }, "", false},
		{"one that is not known", func(call *message) *message {
			return failure(call, "org.freedesktop.systemd1.NoSuchUnit", "Unit x.scope not loaded.")
		}, nil, "", false},
		{"one that has just gone", nil, func(call *message) *message {
			return failure(call, "org.freedesktop.DBus.Error.UnknownObject", "Unknown object.")
		}, "", false},
		{"another type", nil, func(call *message) *message { return reply(call, "v", []byte{1, 'u', 0, 0, 7, 0, 0, 0}) }, "", true},
		{"a variant that ends", nil, func(call *message) *message { return reply(call, "v", []byte{9}) }, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &manager{t: t, answer: func(call *message) []*message {
				switch {
				case call.member == "GetUnit" && c.unit != nil:
					return []*message{c.unit(call)}
				case call.member == "GetUnit":
					return []*message{reply(call, "o", encoded(unitPath))}
				case call.path == unitPath && call.iface == "org.freedesktop.DBus.Properties" && call.member == "Get":
					return []*message{c.get(call)}
				}
				return []*message{failure(call, "org.freedesktop.DBus.Error.UnknownMethod", "What?")}
			}}
			m.serve(false)
			got, err := GroupOf(t.Context(), "x.scope")
			if got != c.want || (err != nil) != c.fails {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestTheCallersContextEndsTheWait(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	m := &manager{t: t, answer: func(call *message) []*message {
		cancel()
		return nil
	}}
	m.serve(false)
	if err := Stop(ctx, "x.scope"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAPropertyOfAnotherTypeIsRefused(t *testing.T) {
	m := &manager{t: t, answer: func(*message) []*message { return nil }}
	m.serve(false)
	if err := SetProperties(t.Context(), "x.scope", []Property{{"Nice", 3.5}}); err == nil || !strings.Contains(err.Error(), "Nice") {
		t.Errorf("got %v", err)
	}
}

// FuzzMessage: no bytes that claim to be a message make us panic or read beyond them.
func FuzzMessage(f *testing.F) {
	f.Add(jobRemoved("/job/7", "x.scope", "done").marshal())
	f.Add(withReply(&message{kind: errorReply, replyTo: 3, errorName: "a.b", signature: "s", body: encoded("no")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < fixedHeader {
			return
		}
		header, body, err := sizes(b[:fixedHeader])
		if err != nil || header+body > len(b) {
			return
		}
		m, err := unmarshal(b[:header], b[header:header+body])
		if err == nil {
			for _, s := range m.strings() {
				if len(s) > len(b) {
					t.Fatal("a string of nothing")
				}
			}
		}
	})
}
