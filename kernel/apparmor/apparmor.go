// Package apparmor holds the profile of ordinary containers, and loads it.
//
// The kernel's side is apparmorfs (securityfs, "policy/profiles"); text becomes policy by
// apparmor_parser(8) alone.
package apparmor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"berth/fail"
)

// Default names the profile of containers that ask for none.
const Default = "berth-default"

// Unconfined is what stands for no profile.
const Unconfined = "unconfined"

// Own is where an administrator, or a package, may put a profile of this name. What lies there
// is loaded instead of ours.
const Own = "/etc/apparmor.d/" + Default

const securityfs = "/sys/kernel/security/apparmor"

// Enabled tells whether the kernel enforces AppArmor's policy.
func Enabled() bool {
	text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && bytes.HasPrefix(text, []byte("Y"))
}

// Lacks says what is missing on this machine to load profiles; "" if nothing is.
func Lacks() string {
	switch {
	case os.Geteuid() != 0:
		return "the engine does not run as root"
	case !exists(securityfs + "/policy/profiles"):
		return "securityfs is not mounted at /sys/kernel/security"
	}
	if _, err := parser(); err != nil {
		return "the program apparmor_parser is not installed (Debian and Ubuntu: package apparmor)"
	}
	return ""
}

// parser finds apparmor_parser, which lies where services' PATH may not lead.
func parser() (string, error) {
	path, err := exec.LookPath("apparmor_parser")
	for _, p := range []string{"/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"} {
		if err != nil {
			path, err = exec.LookPath(p)
		}
	}
	return path, err
}

// Entry is a profile in the kernel.
type Entry struct {
	Dir  string // of apparmorfs; there as long as the profile is
	Hash string // of its compiled form; "" on kernels that keep none
}

// Present tells whether the profile is still loaded.
func (e Entry) Present() bool { return e.Dir != "" && exists(e.Dir) }

// Find looks for a loaded profile by its name, which has no slashes. ok is false also if nobody may look.
func Find(name string) (e Entry, ok bool) { return find(securityfs+"/policy/profiles", name) }

func find(dir, name string) (Entry, bool) {
	entries, _ := os.ReadDir(dir)
	for _, d := range entries {
		at := filepath.Join(dir, d.Name()) // "<name>.<number>"
		if !strings.HasPrefix(d.Name(), name+".") {
			continue
		}
		if text, err := os.ReadFile(at + "/name"); err != nil || strings.TrimSpace(string(text)) != name {
			continue
		}
		e := Entry{Dir: at}
		for _, file := range []string{"/sha256", "/sha1"} {
			if text, err := os.ReadFile(at + file); err == nil {
				e.Hash = strings.TrimSpace(string(text))
				break
			}
		}
		return e, true
	}
	return Entry{}, false
}

// Loaded tells whether a profile of any name is loaded; known is false if that cannot be
// looked up: without the right to, and for names of more than one profile or of a namespace.
func Loaded(name string) (loaded, known bool) {
	if strings.HasPrefix(name, ":") || strings.Contains(name, "//&") || strings.HasPrefix(name, "&") {
		return false, false
	}
	text, err := os.ReadFile(securityfs + "/profiles")
	if err != nil {
		return false, false
	}
	return listed(string(text), name), true
}

// listed reads lines like "berth-default (enforce)".
func listed(profiles, name string) bool {
	return slices.ContainsFunc(strings.Split(profiles, "\n"), func(line string) bool { return bare(line) == name })
}

// bare is the name in a label with a mode behind it.
func bare(label string) string {
	label = strings.TrimSpace(strings.TrimRight(label, "\x00"))
	if at := strings.LastIndex(label, " ("); at > 0 && strings.HasSuffix(label, ")") {
		return label[:at]
	}
	return label
}

// Of is the name of the profile that a process runs under, Unconfined if it is none; "" if
// the process is gone or the kernel has no AppArmor.
func Of(pid int) string {
	for _, file := range []string{"attr/apparmor/current", "attr/current"} {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file)); err == nil {
			return bare(string(text))
		}
	}
	return ""
}

// patience bounds the work of the parser, some 50 ms on most machines.
const patience = time.Minute

// Source is what the default profile is made from: the file at Own or, without that, Text.
type Source struct {
	text string
	hash string
}

// DefaultSource looks for the file, and if there is none makes the text.
func DefaultSource() Source {
	if exists(Own) {
		return Source{}
	}
	t := Text()
	sum := sha256.Sum256([]byte(t))
	return Source{t, hex.EncodeToString(sum[:])}
}

// Hash tells texts apart. It is "" for the file: to load that anew when it has changed is up
// to who changes it.
func (s Source) Hash() string { return s.hash }

// Load gives the kernel the profile, also in place of one of the same name. Processes under
// that one are confined by the new one from then on.
func (s Source) Load(ctx context.Context) error {
	if s.text == "" {
		return parse(ctx, "", "--replace", "--quiet", Own)
	}
	return parse(ctx, s.text, "--replace", "--skip-cache", "--quiet")
}

func parse(ctx context.Context, text string, args ...string) error {
	path, err := parser()
	if err != nil {
		return fail.New(fail.Unavailable, "apparmor_parser: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if words := strings.Join(strings.Fields(string(out)), " "); words != "" {
		err = errors.New(words)
	}
	return fail.New(fail.Internal, "apparmor_parser: %w", err)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
