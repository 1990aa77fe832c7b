package daemon

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/go-units"

	"berth/engine"
)

// mapValue is a repeatable key=value flag.
type mapValue struct{ m map[string]string }

func (v mapValue) String() string {
	if len(v.m) == 0 {
		return ""
	}
	return fmt.Sprint(v.m)
}
func (v mapValue) Type() string { return "key=value" }
func (v mapValue) Set(s string) error {
	k, val, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return fmt.Errorf("%q is not key=value", s)
	}
	v.m[k] = val
	return nil
}

// ulimitValue is a repeatable name=soft[:hard] flag.
type ulimitValue struct{ m map[string]*units.Ulimit }

func (v ulimitValue) String() string {
	if len(v.m) == 0 {
		return ""
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(v.m)) {
		out = append(out, v.m[k].String())
	}
	return strings.Join(out, " ")
}
func (v ulimitValue) Type() string { return "ulimit" }
func (v ulimitValue) Set(s string) error {
	u, err := units.ParseUlimit(s)
	if err != nil {
		return err
	}
	v.m[u.Name] = u
	return nil
}

// runtimeValue is a repeatable name=path flag.
type runtimeValue struct{ m map[string]engine.Runtime }

func (v runtimeValue) words() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(v.m)) {
		out = append(out, name+"="+v.m[name].Path)
	}
	return out
}
func (v runtimeValue) String() string { return strings.Join(v.words(), " ") }
func (v runtimeValue) Type() string   { return "name=path" }
func (v runtimeValue) Set(s string) error {
	name, path, ok := strings.Cut(s, "=")
	if !ok || name == "" || path == "" {
		return fmt.Errorf("%q is not name=path", s)
	}
	if _, twice := v.m[name]; twice {
		return fmt.Errorf("runtime %s is given twice", name)
	}
	v.m[name] = engine.Runtime{Path: path}
	return nil
}

// sizeValue is a number of bytes with an optional unit.
type sizeValue int64

func (v *sizeValue) String() string {
	if *v == 0 {
		return ""
	}
	return units.BytesSize(float64(*v))
}
func (v *sizeValue) Type() string { return "bytes" }
func (v *sizeValue) Set(s string) error {
	n, err := units.RAMInBytes(s)
	if err != nil {
		return err
	}
	if n <= 0 {
		return fmt.Errorf("invalid size %q", s)
	}
	*v = sizeValue(n)
	return nil
}
