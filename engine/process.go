package engine

import (
	"bytes"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"berth/fail"
)

// ticks is USER_HZ, which is 100 on every architecture Linux runs containers on.
const ticks = 100

// moment is when processes are looked at, and what of the machine that needs.
type moment struct {
	now    time.Time
	boot   time.Time
	uptime float64 // seconds
	memory uint64  // bytes
}

func readMoment() (moment, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return moment{}, fmt.Errorf("sysinfo: %w", err)
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return moment{}, fmt.Errorf("clock_gettime: %w", err)
	}
	now := time.Now()
	elapsed := time.Duration(up.Nano())
	return moment{now, now.Add(-elapsed), elapsed.Seconds(), info.Totalram * uint64(info.Unit)}, nil
}

// process is what /proc/<pid>/{stat,cmdline} say, proc(5), and whose it is.
type process struct {
	pid   int
	uid   uint32
	gid   uint32
	comm  string
	args  string
	state string
	// fields of stat from the third on, as numbers; field(n) counts as proc(5) does
	stat  []int64
	wchan string
}

func (p process) field(n int) int64 {
	if n-3 < len(p.stat) {
		return p.stat[n-3]
	}
	return 0
}

func readProcess(pid int) (process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return process{}, err
	}
	p, err := parseStat(stat)
	if err != nil {
		return process{}, err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return process{}, err
	}
	p.uid, p.gid = st.Uid, st.Gid
	if status, err := os.ReadFile(filepath.Join(dir, "status")); err == nil {
		p.uid, p.gid = statusID(status, "Uid:", p.uid), statusID(status, "Gid:", p.gid)
	}
	cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline")) // empty for a zombie
	p.args = strings.TrimSpace(string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
	switch {
	case p.args == "" && p.state == "Z":
		p.args = "[" + p.comm + "] <defunct>"
	case p.args == "":
		p.args = "[" + p.comm + "]"
	}
	wchan, _ := os.ReadFile(filepath.Join(dir, "wchan"))
	p.wchan = strings.TrimSpace(string(wchan))
	return p, nil
}

// parseStat reads /proc/<pid>/stat. The name in it may hold spaces and parentheses.
func parseStat(b []byte) (process, error) {
	open, shut := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	bad := fail.New(fail.Internal, "/proc/<pid>/stat has an unknown form")
	if open < 1 || shut < open {
		return process{}, bad
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	if err != nil {
		return process{}, bad
	}
	f := strings.Fields(string(b[shut+1:]))
	if len(f) < 22 {
		return process{}, bad
	}
	p := process{pid: pid, comm: string(b[open+1 : shut]), state: f[0], stat: make([]int64, len(f))}
	for n, s := range f[1:] {
		v, _ := strconv.ParseInt(s, 10, 64) // a few are unsigned and huge: not used
		p.stat[n+1] = v
	}
	return p, nil
}

// statusID is the effective id in a line of /proc/<pid>/status.
func statusID(status []byte, key string, fallback uint32) uint32 {
	for line := range bytes.Lines(status) {
		rest, ok := bytes.CutPrefix(line, []byte(key))
		if f := bytes.Fields(rest); ok && len(f) > 1 {
			if v, err := strconv.ParseUint(string(f[1]), 10, 32); err == nil {
				return uint32(v)
			}
		}
	}
	return fallback
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

func groupName(gid uint32) string {
	id := strconv.FormatUint(uint64(gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}

// tty names the controlling terminal by its device number, tty(4), pts(4).
func (p process) tty() string {
	dev := uint64(p.field(7))
	major, minor := unix.Major(dev), unix.Minor(dev)
	switch {
	case dev == 0:
		return "?"
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", (major-136)*256+minor)
	case major == 4 && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	case major == 4:
		return fmt.Sprintf("ttyS%d", minor-64)
	default:
		return fmt.Sprintf("%d:%d", major, minor)
	}
}

func (p process) started(m moment) time.Time {
	return m.boot.Add(time.Duration(p.field(22)) * time.Second / ticks)
}

func (p process) cpuSeconds() int64 { return (p.field(14) + p.field(15)) / ticks }

func (p process) elapsed(m moment) int64 {
	return max(int64(m.uptime)-p.field(22)/ticks, 0)
}

func (p process) cpuShare(m moment) float64 {
	lived := m.uptime - float64(p.field(22))/ticks
	if lived <= 0 {
		return 0
	}
	return 100 * float64(p.field(14)+p.field(15)) / ticks / lived
}

func (p process) rss() int64 { return p.field(24) * int64(os.Getpagesize()) / 1024 }

// flags is the state with ps's additions: priority, session leader, threads, foreground.
func (p process) flags() string {
	s := p.state
	switch nice := p.field(19); {
	case nice < 0:
		s += "<"
	case nice > 0:
		s += "N"
	}
	if p.field(6) == int64(p.pid) {
		s += "s"
	}
	if p.field(20) > 1 {
		s += "l"
	}
	if p.field(8) == p.field(5) && p.field(8) > 0 {
		s += "+"
	}
	return s
}

// startTime is the clock today, the day this year, else the year.
func (p process) startTime(m moment) string {
	at := p.started(m)
	switch {
	case at.YearDay() == m.now.YearDay() && at.Year() == m.now.Year():
		return at.Format("15:04")
	case at.Year() == m.now.Year():
		return at.Format("Jan02")
	default:
		return at.Format("2006")
	}
}

// clockTime is [DD-]hh:mm:ss.
func clockTime(s int64) string {
	text := fmt.Sprintf("%02d:%02d:%02d", s/3600%24, s/60%60, s%60)
	if days := s / 86400; days > 0 {
		text = fmt.Sprintf("%d-%s", days, text)
	}
	return text
}

// elapsedTime is [[DD-]hh:]mm:ss.
func elapsedTime(s int64) string {
	if s < 3600 {
		return fmt.Sprintf("%02d:%02d", s/60, s%60)
	}
	return clockTime(s)
}

// psColumn is one column of ps(1).
type psColumn struct {
	title string
	value func(process, moment) string
}

func number(title string, fn func(process, moment) int64) psColumn {
	return psColumn{title, func(p process, m moment) string { return strconv.FormatInt(fn(p, m), 10) }}
}

func text(title string, fn func(process) string) psColumn {
	return psColumn{title, func(p process, _ moment) string { return fn(p) }}
}

func stat(title string, field int) psColumn {
	return number(title, func(p process, _ moment) int64 { return p.field(field) })
}

// psValues are the columns by the names that ps -o knows.
var psValues = func() map[string]psColumn {
	owner := text("USER", func(p process) string { return userName(p.uid) })
	group := text("GROUP", func(p process) string { return groupName(p.gid) })
	uid := number("UID", func(p process, _ moment) int64 { return int64(p.uid) })
	gid := number("GID", func(p process, _ moment) int64 { return int64(p.gid) })
	args := text("COMMAND", func(p process) string { return p.args })
	comm := text("COMMAND", func(p process) string { return p.comm })
	cmd := text("CMD", func(p process) string { return p.args })
	ucmd := text("CMD", func(p process) string { return p.comm })
	tt := text("TT", process.tty)
	tty := text("TTY", process.tty)
	cpuTime := psColumn{"TIME", func(p process, _ moment) string { return clockTime(p.cpuSeconds()) }}
	bsdTime := psColumn{"TIME", func(p process, _ moment) string {
		s := p.cpuSeconds()
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}}
	stime := psColumn{"STIME", process.startTime}
	begun := psColumn{"STARTED", func(p process, m moment) string { return p.started(m).Format("15:04:05") }}
	lstart := psColumn{"STARTED", func(p process, m moment) string { return p.started(m).Format("Mon Jan _2 15:04:05 2006") }}
	etime := psColumn{"ELAPSED", func(p process, m moment) string { return elapsedTime(p.elapsed(m)) }}
	etimes := number("ELAPSED", func(p process, m moment) int64 { return p.elapsed(m) })
	pcpu := psColumn{"%CPU", func(p process, m moment) string { return fmt.Sprintf("%.1f", p.cpuShare(m)) }}
	c := number("C", func(p process, m moment) int64 { return int64(p.cpuShare(m)) })
	pmem := psColumn{"%MEM", func(p process, m moment) string {
		return fmt.Sprintf("%.1f", 100*float64(p.rss()*1024)/float64(max(m.memory, 1)))
	}}
	vsz := number("VSZ", func(p process, _ moment) int64 { return p.field(23) / 1024 })
	rss := number("RSS", func(p process, _ moment) int64 { return p.rss() })
	sz := number("SZ", func(p process, _ moment) int64 { return p.field(23) / int64(os.Getpagesize()) })
	return map[string]psColumn{
		"pid": number("PID", func(p process, _ moment) int64 { return int64(p.pid) }), "ppid": stat("PPID", 4),
		"pgid": stat("PGID", 5), "pgrp": stat("PGRP", 5), "sid": stat("SID", 6), "sess": stat("SESS", 6),
		"user": owner, "euser": owner, "uname": owner, "uid": uid, "euid": uid,
		"group": group, "egroup": group, "gid": gid, "egid": gid,
		"args": args, "command": args, "cmd": cmd, "comm": comm, "ucmd": ucmd, "ucomm": comm,
		"tty": tty, "tname": tty, "tt": tt, "time": cpuTime, "cputime": cpuTime, "bsdtime": bsdTime,
		"stime": stime, "start_time": stime, "start": begun, "lstart": lstart, "etime": etime, "etimes": etimes,
		"pcpu": pcpu, "%cpu": pcpu, "c": c, "pmem": pmem, "%mem": pmem,
		"vsz": vsz, "vsize": vsz, "rss": rss, "rssize": rss, "sz": sz,
		"stat": text("STAT", process.flags), "s": text("S", func(p process) string { return p.state }),
		"state": text("S", func(p process) string { return p.state }), "f": stat("F", 9),
		"ni": stat("NI", 19), "nice": stat("NI", 19), "nlwp": stat("NLWP", 20), "thcount": stat("THCNT", 20),
		"psr": stat("PSR", 39), "pri": number("PRI", func(p process, _ moment) int64 { return 39 - p.field(18) }),
		"wchan": text("WCHAN", func(p process) string {
			if p.wchan == "" || p.wchan == "0" {
				return "-"
			}
			return p.wchan
		}),
	}
}()
