package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"

	"berth/engine"
	"berth/fail"
)

// ContainerSettings are what containers get that say nothing themselves, and what they may
// name.
type ContainerSettings struct {
	LogDriver      string
	LogOpts        map[string]string
	DefaultUlimits map[string]*units.Ulimit
	DefaultShmSize int64                     // bytes; 0: the engine's default
	CDISpecDirs    []string                  // an empty one among them: no CDI devices
	Runtimes       map[string]engine.Runtime // external ones, by name
	DefaultRuntime string
	Init           bool   // an init for containers that do not say whether they want one
	SELinux        bool   // labels for containers
	InitPath       string // the program, if not our own

	CgroupnsMode, IPCMode string
	NoNewPrivileges       bool
	SeccompProfile        string // a file, "unconfined" or "builtin"
	seccomp               string // from SeccompProfile, as the engine wants it
}

func (c *ContainerSettings) register(f *pflag.FlagSet) {
	c.LogOpts, c.DefaultUlimits, c.Runtimes = map[string]string{}, map[string]*units.Ulimit{}, map[string]engine.Runtime{}
	f.StringVar(&c.LogDriver, "log-driver", "json-file", "Default log driver of containers")
	f.Var(mapValue{c.LogOpts}, "log-opt", "Default log option of containers, key=value")
	f.Var(ulimitValue{c.DefaultUlimits}, "default-ulimit", "Default ulimit of containers, name=soft[:hard]")
	f.Var((*sizeValue)(&c.DefaultShmSize), "default-shm-size", "Default size of /dev/shm in containers")
	f.StringArrayVar(&c.CDISpecDirs, "cdi-spec-dir", engine.DefaultCDISpecDirs(), "Directory with CDI specifications of devices; \"\" for none")
	f.Var(runtimeValue{c.Runtimes}, "add-runtime", "Register an OCI runtime with runc's command line, name=path")
	f.StringVar(&c.DefaultRuntime, "default-runtime", engine.OwnRuntime, "OCI runtime of containers that name none: berth, crun, runc or runsc if installed, or a registered one")
	f.BoolVar(&c.Init, "init", false, "Run an init in containers that do not say whether they want one")
	f.BoolVar(&c.SELinux, "selinux-enabled", false, "Give containers SELinux labels")
	f.StringVar(&c.InitPath, "init-path", "", "Init of containers; it is given \"--\" and the command (default: Berth's own)")
	f.StringVar(&c.CgroupnsMode, "default-cgroupns-mode", string(container.CgroupnsModePrivate), "Default cgroup namespace of containers: private or host")
	f.StringVar(&c.IPCMode, "default-ipc-mode", string(container.IPCModePrivate), "Default IPC namespace of containers: private or shareable")
	f.BoolVar(&c.NoNewPrivileges, "no-new-privileges", false, "Let no program in containers gain privileges, unless --security-opt no-new-privileges=false says so")
	f.StringVar(&c.SeccompProfile, "seccomp-profile", "builtin", "Default seccomp profile of containers: a file, unconfined or builtin")
}

// setKey takes a key of a daemon.json that is no single word; it reports whether it is one.
func (c *ContainerSettings) setKey(key string, raw json.RawMessage) (bool, error) {
	switch key {
	case "cdi-spec-dirs":
		return true, json.Unmarshal(raw, &c.CDISpecDirs)
	case "log-opts":
		return true, json.Unmarshal(raw, &c.LogOpts)
	case "default-ulimits":
		return true, json.Unmarshal(raw, &c.DefaultUlimits)
	case "runtimes":
		return true, c.mergeRuntimes(raw)
	}
	return false, nil
}

// complete checks the settings, and reads what they name.
func (c *ContainerSettings) complete() error {
	for name, u := range c.DefaultUlimits {
		if u == nil {
			return fail.New(fail.Invalid, "default ulimit %s has no value", name)
		}
		u.Name = name
	}
	if slices.Contains(c.CDISpecDirs, "") {
		c.CDISpecDirs = nil
	}
	for _, dir := range c.CDISpecDirs {
		if !strings.HasPrefix(dir, "/") {
			return fail.New(fail.Invalid, "--cdi-spec-dir %q is not an absolute path", dir)
		}
	}
	if err := engine.CheckRuntimes(c.runtimes()); err != nil {
		return err
	}
	if c.CgroupnsMode != "private" && c.CgroupnsMode != "host" {
		return fail.New(fail.Invalid, "invalid default cgroup namespace %q: use private or host", c.CgroupnsMode)
	}
	if c.IPCMode != "private" && c.IPCMode != "shareable" {
		return fail.New(fail.Invalid, "invalid default IPC mode %q: use private or shareable", c.IPCMode)
	}
	switch c.SeccompProfile {
	case "", "builtin":
	case "unconfined":
		c.seccomp = c.SeccompProfile
	default:
		if !strings.HasPrefix(c.SeccompProfile, "/") { // a shim that wakes the engine is elsewhere
			return fail.New(fail.Invalid, "--seccomp-profile %q is not an absolute path, nor unconfined or builtin", c.SeccompProfile)
		}
		text, err := os.ReadFile(c.SeccompProfile)
		if err != nil {
			return fail.New(fail.Invalid, "--seccomp-profile: %w", err)
		}
		c.seccomp = string(text)
	}
	if err := engine.CheckSeccomp(c.seccomp); err != nil {
		return fail.New(fail.Invalid, "--seccomp-profile %s: %w", c.SeccompProfile, err)
	}
	return nil
}

// defaults are the settings that the engine applies to each container.
func (c *ContainerSettings) defaults() engine.Defaults {
	return engine.Defaults{
		CgroupnsMode: container.CgroupnsMode(c.CgroupnsMode), IPCMode: container.IpcMode(c.IPCMode),
		NoNewPrivileges: c.NoNewPrivileges, Seccomp: c.seccomp,
	}
}

func (c *ContainerSettings) runtimes() engine.Runtimes {
	return engine.Runtimes{Default: c.DefaultRuntime, Registered: c.Runtimes}
}

// mergeRuntimes takes the key "runtimes" of a daemon.json. Docker's other kind of runtime,
// a shim of containerd's, is refused by name.
func (c *ContainerSettings) mergeRuntimes(raw json.RawMessage) error {
	var file map[string]struct {
		Path        string          `json:"path"`
		Args        []string        `json:"runtimeArgs"`
		RuntimeType string          `json:"runtimeType"`
		Options     json.RawMessage `json:"options"`
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&file); err != nil {
		return err
	}
	for name, r := range file {
		if r.RuntimeType != "" || r.Options != nil {
			return fmt.Errorf("%s: runtimeType and options are for containerd's shims, which Berth does not use: give the path of a program with runc's command line", name)
		}
		c.Runtimes[name] = engine.Runtime{Path: r.Path, Args: r.Args}
	}
	return nil
}
