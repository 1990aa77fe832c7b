package images

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-connections/nat"
	"github.com/moby/sys/signal"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"berth/fail"
)

// containerConfig is the "config" of an image configuration, with the fields that
// Docker has beyond the OCI ones.
type containerConfig struct {
	ocispec.ImageConfig
	Healthcheck *healthcheck `json:"Healthcheck,omitempty"`
	OnBuild     []string     `json:"OnBuild,omitempty"`
	Shell       []string     `json:"Shell,omitempty"`

	cmdChanged bool // by a line before: ENTRYPOINT keeps it then
}

// healthcheck is a HEALTHCHECK; durations are nanoseconds, zero means the default.
type healthcheck struct {
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// change applies the rest of a Dockerfile line, after the instruction, to c.
type change func(c *containerConfig, rest string) error

// changes are the instructions that import and commit take.
var changes = map[string]change{
	"CMD":         changeCmd,
	"ENTRYPOINT":  changeEntrypoint,
	"ENV":         changeEnv,
	"EXPOSE":      changeExpose,
	"HEALTHCHECK": changeHealthcheck,
	"LABEL":       changeLabel,
	"ONBUILD":     changeOnbuild,
	"STOPSIGNAL":  changeStopsignal,
	"USER":        changeUser,
	"VOLUME":      changeVolume,
	"WORKDIR":     changeWorkdir,
}

// applyChanges applies Dockerfile lines to c, in order. A line that is no instruction
// for a change, or a malformed one, is class Invalid.
func applyChanges(c *containerConfig, lines []string) error {
	for _, text := range lines {
		for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", ""), "\n") {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			word, rest := cutWord(line)
			apply, ok := changes[strings.ToUpper(word)]
			if !ok {
				return fail.New(fail.Invalid, "%s is not a valid change command", word)
			}
			if err := apply(c, rest); err != nil {
				return fail.New(fail.Invalid, "%s: %w", strings.ToUpper(word), err)
			}
		}
	}
	return nil
}

// cutWord splits at the first white space.
func cutWord(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// jsonForm reads ["a", "b"]; anything else is not of that form, as in a Dockerfile.
func jsonForm(s string) ([]string, bool) {
	if !strings.HasPrefix(s, "[") {
		return nil, false
	}
	list := []string{}
	if json.Unmarshal([]byte(s), &list) != nil {
		return nil, false
	}
	return list, true
}

// command reads a command in JSON or shell form.
func command(c *containerConfig, s string) []string {
	if list, ok := jsonForm(s); ok {
		return list
	}
	if s == "" {
		return nil
	}
	shell := c.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), s)
}

func changeCmd(c *containerConfig, rest string) error {
	c.Cmd, c.cmdChanged = command(c, rest), true
	return nil
}

func changeEntrypoint(c *containerConfig, rest string) error {
	c.Entrypoint = command(c, rest)
	if !c.cmdChanged { // it held the arguments of another program
		c.Cmd = nil
	}
	return nil
}

func changeEnv(c *containerConfig, rest string) error {
	return pairs(c, rest, func(k, v string) {
		for i, e := range c.Env {
			if name, _, _ := strings.Cut(e, "="); name == k {
				c.Env[i] = k + "=" + v
				return
			}
		}
		c.Env = append(c.Env, k+"="+v)
	})
}

func changeLabel(c *containerConfig, rest string) error {
	return pairs(c, rest, func(k, v string) {
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		c.Labels[k] = v
	})
}

// pairs reads "k=v k2=v2", or the old form "k v with blanks".
func pairs(c *containerConfig, rest string, set func(k, v string)) error {
	if rest == "" {
		return fmt.Errorf("requires at least one argument")
	}
	words, err := splitWords(rest)
	if err != nil {
		return err
	}
	env := slices.Clone(c.Env)
	if !strings.Contains(words[0], "=") {
		k, v := cutWord(rest)
		if v == "" {
			return fmt.Errorf("must have two arguments: %q", rest)
		}
		if v, err = expand(v, env); err == nil {
			set(k, v)
		}
		return err
	}
	for _, w := range words {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			return fmt.Errorf("syntax error: can't find = in %q, must be of the form: name=value", w)
		}
		if k, err = expand(k, env); err != nil {
			return err
		}
		if v, err = expand(v, env); err != nil {
			return err
		}
		if k == "" {
			return fmt.Errorf("names can not be blank")
		}
		set(k, v)
	}
	return nil
}

func changeExpose(c *containerConfig, rest string) error {
	list, err := arguments(c, rest)
	if err != nil {
		return err
	}
	for _, a := range list {
		proto, port := nat.SplitProtoPort(a)
		switch proto {
		case "tcp", "udp", "sctp":
		default:
			return fmt.Errorf("invalid port %q", a)
		}
		from, to, err := nat.ParsePortRange(port)
		if err != nil {
			return fmt.Errorf("invalid port %q: %w", a, err)
		}
		if c.ExposedPorts == nil {
			c.ExposedPorts = map[string]struct{}{}
		}
		for p := from; p <= to; p++ {
			c.ExposedPorts[strconv.FormatUint(p, 10)+"/"+proto] = struct{}{}
		}
	}
	return nil
}

// arguments are the words of a line, expanded; at least one.
func arguments(c *containerConfig, rest string) ([]string, error) {
	words, err := splitWords(rest)
	if err != nil {
		return nil, err
	}
	if len(words) == 0 {
		return nil, fmt.Errorf("requires at least one argument")
	}
	for i, w := range words {
		if words[i], err = expand(w, c.Env); err != nil {
			return nil, err
		}
	}
	return words, nil
}

func oneArgument(c *containerConfig, rest string) (string, error) {
	list, err := arguments(c, rest)
	if err != nil {
		return "", err
	}
	if len(list) != 1 {
		return "", fmt.Errorf("requires exactly one argument")
	}
	return list[0], nil
}

func changeHealthcheck(c *containerConfig, rest string) error {
	h := &healthcheck{}
	flags := false
	for {
		word, after := cutWord(rest)
		name, value, ok := strings.Cut(word, "=")
		if !strings.HasPrefix(name, "--") {
			break
		}
		if !ok {
			return fmt.Errorf("flag %s needs a value", name)
		}
		var err error
		switch name {
		case "--interval":
			h.Interval, err = healthTime(value)
		case "--timeout":
			h.Timeout, err = healthTime(value)
		case "--start-period":
			h.StartPeriod, err = healthTime(value)
		case "--start-interval":
			h.StartInterval, err = healthTime(value)
		case "--retries":
			if h.Retries, err = strconv.Atoi(value); err == nil && h.Retries < 0 {
				err = fmt.Errorf("cannot be negative")
			}
		default:
			return fmt.Errorf("unknown flag: %s", name)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		rest, flags = after, true
	}
	kind, rest := cutWord(rest)
	switch strings.ToUpper(kind) {
	case "NONE":
		if rest != "" || flags {
			return fmt.Errorf("NONE takes no arguments")
		}
		h.Test = []string{"NONE"}
	case "CMD":
		if list, ok := jsonForm(rest); ok && len(list) > 0 {
			h.Test = append([]string{"CMD"}, list...)
		} else if rest != "" && !ok {
			h.Test = []string{"CMD-SHELL", rest}
		} else {
			return fmt.Errorf("missing command after CMD")
		}
	default:
		return fmt.Errorf("unknown type %q (must be CMD or NONE)", kind)
	}
	c.Healthcheck = h
	return nil
}

// healthTime reads a duration of a HEALTHCHECK: zero, or at least 1ms.
func healthTime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, err
	}
	if d < 0 || d != 0 && d < time.Millisecond {
		return 0, fmt.Errorf("%s cannot be less than 1ms", s)
	}
	return d, nil
}

func changeOnbuild(c *containerConfig, rest string) error {
	word, _ := cutWord(rest)
	switch strings.ToUpper(word) {
	case "":
		return fmt.Errorf("requires at least one argument")
	case "ONBUILD":
		return fmt.Errorf("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
	case "FROM", "MAINTAINER":
		return fmt.Errorf("%s isn't allowed as an ONBUILD trigger", strings.ToUpper(word))
	}
	c.OnBuild = append(c.OnBuild, rest)
	return nil
}

func changeStopsignal(c *containerConfig, rest string) error {
	s, err := oneArgument(c, rest)
	if err != nil {
		return err
	}
	if _, err := signal.ParseSignal(s); err != nil {
		return err
	}
	c.StopSignal = s
	return nil
}

func changeUser(c *containerConfig, rest string) (err error) {
	c.User, err = oneArgument(c, rest)
	return err
}

func changeVolume(c *containerConfig, rest string) error {
	list, ok := jsonForm(rest)
	if !ok {
		var err error
		if list, err = arguments(c, rest); err != nil {
			return err
		}
	}
	for _, v := range list {
		if v = strings.TrimSpace(v); v == "" {
			return fmt.Errorf("volume specified can not be an empty string")
		}
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[v] = struct{}{}
	}
	return nil
}

func changeWorkdir(c *containerConfig, rest string) error {
	dir, err := oneArgument(c, rest)
	if err != nil {
		return err
	}
	if !path.IsAbs(dir) {
		dir = path.Join("/", c.WorkingDir, dir)
	}
	c.WorkingDir = path.Clean(dir)
	return nil
}

// splitWords splits at blanks outside quotes. Quotes and backslashes stay for expand.
func splitWords(s string) ([]string, error) {
	var words []string
	var b strings.Builder
	quote, in := byte(0), false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(s):
			b.WriteByte(c)
			i++
			b.WriteByte(s[i])
			in = true
			continue
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote, in = c, true
		case c == ' ' || c == '\t':
			if in {
				words = append(words, b.String())
				b.Reset()
				in = false
			}
			continue
		}
		b.WriteByte(c)
		in = true
	}
	if quote != 0 {
		return nil, fmt.Errorf("unexpected end of statement while looking for matching %c", quote)
	}
	if in {
		words = append(words, b.String())
	}
	return words, nil
}

// expand takes quotes and backslashes away and puts in variables ($NAME, ${NAME},
// ${NAME:-default}, ${NAME:+other}), none of them within single quotes.
func expand(s string, env []string) (string, error) {
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\'' && quote != '"', c == '"' && quote != '\'':
			if quote == c {
				quote = 0
			} else {
				quote = c
			}
		case quote == '\'':
			b.WriteByte(c)
		case c == '\\' && i+1 < len(s):
			i++
			if quote == '"' && !strings.ContainsRune(`"$\`, rune(s[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
		case c == '$':
			v, n, err := variable(s[i+1:], env)
			if err != nil {
				return "", err
			}
			if n == 0 {
				b.WriteByte('$')
			}
			b.WriteString(v)
			i += n
		default:
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return "", fmt.Errorf("unexpected end of statement while looking for matching %c", quote)
	}
	return b.String(), nil
}

// variable reads what follows a dollar sign: its value, and how many bytes it took.
func variable(s string, env []string) (value string, n int, err error) {
	nameLen := func(s string) int {
		n := 0
		for n < len(s) && (s[n] == '_' || s[n] >= 'a' && s[n] <= 'z' || s[n] >= 'A' && s[n] <= 'Z' || n > 0 && s[n] >= '0' && s[n] <= '9') {
			n++
		}
		return n
	}
	get := func(name string) string {
		for _, e := range env {
			if k, v, _ := strings.Cut(e, "="); k == name {
				return v
			}
		}
		return ""
	}
	if !strings.HasPrefix(s, "{") {
		n := nameLen(s)
		return get(s[:n]), n, nil
	}
	end := strings.IndexByte(s, '}')
	if end < 0 {
		return "", 0, fmt.Errorf("unexpected end of statement while looking for matching }")
	}
	inner := s[1:end]
	k := nameLen(inner)
	v, rest := get(inner[:k]), inner[k:]
	switch {
	case k == 0:
		return "", 0, fmt.Errorf("bad substitution ${%s}", inner)
	case rest == "":
	case strings.HasPrefix(rest, ":-"):
		if v == "" {
			v = rest[2:]
		}
	case strings.HasPrefix(rest, ":+"):
		if v != "" {
			v = rest[2:]
		}
	default:
		return "", 0, fmt.Errorf("unsupported modifier in substitution ${%s}", inner)
	}
	return v, end + 1, nil
}
