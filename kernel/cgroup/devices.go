package cgroup

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"berth/fail"
)

// access is a set of what may be done with a device; the bits are those of
// linux/bpf.h's BPF_DEVCG_ACC_*.
type access uint8

const (
	accessMknod access = 1 << iota
	accessRead
	accessWrite
	accessAll = accessMknod | accessRead | accessWrite
)

func (a access) String() string {
	s := ""
	for _, p := range []struct {
		bit access
		c   string
	}{{accessRead, "r"}, {accessWrite, "w"}, {accessMknod, "m"}} {
		if a&p.bit != 0 {
			s += p.c
		}
	}
	return s
}

const anyNumber = -1

// deviceRule speaks of the devices of one kind ('a' for both, 'b', 'c') with one number or
// any.
type deviceRule struct {
	kind         byte
	major, minor int64
	access       access
	allow        bool
}

// device is the rule's set of devices as v1 writes it, e.g. "c 1:*".
func (r deviceRule) device() string {
	number := func(n int64) string {
		if n == anyNumber {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	return string(r.kind) + " " + number(r.major) + ":" + number(r.minor)
}

// covers reports whether all devices of o are devices of r.
func (r deviceRule) covers(o deviceRule) bool {
	return (r.kind == 'a' || r.kind == o.kind) && (r.major == anyNumber || r.major == o.major) &&
		(r.minor == anyNumber || r.minor == o.minor)
}

// meets reports whether some device is of both.
func (r deviceRule) meets(o deviceRule) bool {
	return (r.kind == 'a' || o.kind == 'a' || r.kind == o.kind) &&
		(r.major == anyNumber || o.major == anyNumber || r.major == o.major) &&
		(r.minor == anyNumber || o.minor == anyNumber || r.minor == o.minor)
}

func (r deviceRule) everything() bool {
	return r.kind == 'a' && r.major == anyNumber && r.minor == anyNumber
}

// alwaysAllowed are the devices config-linux.md says every container has, with the right
// to make nodes (which is not the right to use them), as runc has it.
var alwaysAllowed = []deviceRule{
	{'c', anyNumber, anyNumber, accessMknod, true},
	{'b', anyNumber, anyNumber, accessMknod, true},
	{'c', 1, 3, accessAll, true},           // null
	{'c', 1, 5, accessAll, true},           // zero
	{'c', 1, 7, accessAll, true},           // full
	{'c', 1, 8, accessAll, true},           // random
	{'c', 1, 9, accessAll, true},           // urandom
	{'c', 5, 0, accessAll, true},           // tty
	{'c', 5, 2, accessAll, true},           // ptmx
	{'c', 136, anyNumber, accessAll, true}, // pts/*
}

func devicesAsked(r *specs.LinuxResources) bool { return len(r.Devices) > 0 }

// deviceRules checks the specification's rules and completes them. They are read in
// order, each bit of access by itself, the last matching rule deciding; what no rule
// speaks of is denied.
func deviceRules(list []specs.LinuxDeviceCgroup) ([]deviceRule, error) {
	rules := make([]deviceRule, 0, len(list)+len(alwaysAllowed))
	for _, d := range list {
		r := deviceRule{kind: 'a', major: anyNumber, minor: anyNumber, allow: d.Allow}
		switch d.Type {
		case "", "a":
		case "b", "c":
			r.kind = d.Type[0]
		default:
			return nil, fail.New(fail.Invalid, "invalid type %q of a device rule: must be a, b or c", d.Type)
		}
		for _, n := range []struct {
			from *int64
			to   *int64
		}{{d.Major, &r.major}, {d.Minor, &r.minor}} {
			if n.from == nil || *n.from == anyNumber {
				continue
			}
			if *n.from < 0 || *n.from >= 1<<31 {
				return nil, fail.New(fail.Invalid, "invalid number %d of a device rule", *n.from)
			}
			*n.to = *n.from
		}
		for _, c := range d.Access {
			switch c {
			case 'r':
				r.access |= accessRead
			case 'w':
				r.access |= accessWrite
			case 'm':
				r.access |= accessMknod
			default:
				return nil, fail.New(fail.Invalid, "invalid access %q of a device rule: must be of r, w and m", d.Access)
			}
		}
		if d.Access == "" {
			r.access = accessAll
		}
		rules = append(rules, r)
	}
	return append(rules, alwaysAllowed...), nil
}

// devicePolicy is what a v1 devices group can hold: a default, and exceptions from it.
type devicePolicy struct {
	allow      bool
	exceptions []deviceRule
}

// policyOf folds rules into one policy. A rule that takes a part out of a wider exception
// has no v1 form.
func policyOf(rules []deviceRule) (devicePolicy, error) {
	var p devicePolicy
	for _, r := range rules {
		if r.everything() && r.access == accessAll {
			p = devicePolicy{allow: r.allow}
			continue
		}
		kinds := []byte{r.kind}
		if r.kind == 'a' {
			kinds = []byte{'b', 'c'}
		}
		for _, k := range kinds {
			r.kind = k
			if err := p.add(r); err != nil {
				return p, err
			}
		}
	}
	return p, nil
}

func (p *devicePolicy) add(r deviceRule) error {
	if r.allow != p.allow {
		i := slices.IndexFunc(p.exceptions, func(e deviceRule) bool { return e.device() == r.device() })
		if i < 0 {
			p.exceptions = append(p.exceptions, r)
		} else {
			p.exceptions[i].access |= r.access
		}
		return nil
	}
	for i := range p.exceptions {
		e := &p.exceptions[i]
		switch {
		case !r.meets(*e) || r.access&e.access == 0:
		case r.covers(*e):
			e.access &^= r.access
		default:
			return fail.New(fail.Invalid, "device rule %s %s takes a part out of %s %s, which cgroup v1 cannot express",
				r.device(), r.access, e.device(), e.access)
		}
	}
	p.exceptions = slices.DeleteFunc(p.exceptions, func(e deviceRule) bool { return e.access == 0 })
	return nil
}

func devicesV1(dir string, r *specs.LinuxResources) error {
	rules, err := deviceRules(r.Devices)
	if err != nil {
		return err
	}
	want, err := policyOf(rules)
	if err != nil {
		return err
	}
	// Where both the present and the wanted policy deny by default, only the differences
	// are written: a running container must not lose its devices for a moment.
	now, err := readDevices(dir)
	if err != nil {
		return refused("device rules", "", err)
	}
	same, other := "/devices.deny", "/devices.allow"
	if want.allow {
		same, other = other, same
	}
	var drop, add []string
	if now.allow || want.allow {
		drop = []string{"a"}
		now.exceptions = nil
	}
	for _, e := range now.exceptions {
		drop = append(drop, minus(e, want.exceptions)...)
	}
	for _, e := range want.exceptions {
		add = append(add, minus(e, now.exceptions)...)
	}
	if err := writeLines(dir+same, drop); err != nil {
		return refused("device rules", strings.Join(drop, ", "), err)
	}
	if err := writeLines(dir+other, add); err != nil {
		return refused("device rules", strings.Join(add, ", "), err)
	}
	return nil
}

// minus is the line for what e has and the rule of the same devices in list has not; none
// if that is nothing.
func minus(e deviceRule, list []deviceRule) []string {
	for _, o := range list {
		if o.kind == e.kind && o.major == e.major && o.minor == e.minor {
			e.access &^= o.access
		}
	}
	if e.access == 0 {
		return nil
	}
	return []string{e.device() + " " + e.access.String()}
}

// readDevices parses devices.list. A group that allows by default shows "a *:* rwm" only.
func readDevices(dir string) (devicePolicy, error) {
	text, err := readString(dir + "/devices.list")
	if err != nil {
		return devicePolicy{}, err
	}
	p, err := parseDevices(text)
	if err != nil {
		return p, fmt.Errorf("parse %s/devices.list: %w", dir, err)
	}
	return p, nil
}

func parseDevices(text string) (devicePolicy, error) {
	var p devicePolicy
	for line := range strings.Lines(text) {
		fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ':' || r == '\n' })
		if len(fields) != 4 || len(fields[0]) != 1 || !strings.Contains("abc", fields[0]) {
			return p, fmt.Errorf("unexpected line %q", line)
		}
		if fields[0] == "a" {
			return devicePolicy{allow: true}, nil
		}
		r := deviceRule{kind: fields[0][0], allow: true}
		for i, to := range []*int64{&r.major, &r.minor} {
			*to = anyNumber
			if fields[i+1] == "*" {
				continue
			}
			var err error
			if *to, err = strconv.ParseInt(fields[i+1], 10, 64); err != nil {
				return p, err
			}
		}
		for _, c := range fields[3] {
			r.access |= map[rune]access{'r': accessRead, 'w': accessWrite, 'm': accessMknod}[c]
		}
		p.exceptions = append(p.exceptions, r)
	}
	return p, nil
}

// writeLines writes each line by itself, through one descriptor.
func writeLines(path string, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	fd, err := open(path, unix.O_WRONLY)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for _, l := range lines {
		if _, err := unix.Pwrite(fd, []byte(l), 0); err != nil {
			return &os.PathError{Op: "write " + strconv.Quote(l) + " to", Path: path, Err: err}
		}
	}
	return nil
}
