package engine

import (
	"context"
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"berth/fail"
	"berth/logs"
)

func noLog() error {
	return fail.New(fail.NotImplemented, "configured logging driver does not support reading")
}

var never = make(chan struct{})
var always = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// readLog reads the container's log. A follower is done when the run that writes ends.
func (i *instance) readLog(ctx context.Context, o logs.ReadOptions, fn func(logs.Entry) error) error {
	c := i.now()
	log, err := logOptions(c)
	if err != nil {
		return err
	}
	if log.Unread {
		return noLog()
	}
	i.mu.Lock()
	switch {
	case i.run != nil:
		o.Done = i.run.exited
	case i.now().State.Running() && i.now().State.Status != restarting:
		o.Done = never // its shim does not answer, but may well write
	default:
		o.Done = always
	}
	i.mu.Unlock()
	return logs.Read(ctx, i.logFile(log), log, o, fn)
}

// logFile is where the container's log lies; empty if nowhere.
func (i *instance) logFile(log logs.Options) string {
	if log.Unread {
		return ""
	}
	return filepath.Join(i.dir, log.File(i.id))
}

// logOptions are the container's log options, with what labels, labels-regex, env,
// env-regex and tag ask for.
func logOptions(c Container) (logs.Options, error) {
	driver, opts := c.HostConfig.LogConfig.Type, c.HostConfig.LogConfig.Config
	o, err := logs.ParseOptions(driver, opts)
	if err != nil {
		return o, err
	}
	attrs := map[string]string{}
	env := map[string]string{}
	for _, e := range c.Config.Env {
		if k, v, ok := strings.Cut(e, "="); ok {
			env[k] = v
		}
	}
	for _, source := range []struct {
		opt    string
		values map[string]string
	}{{"labels", c.Config.Labels}, {"env", env}} {
		for name := range strings.SplitSeq(opts[source.opt], ",") {
			if v, ok := source.values[name]; ok {
				attrs[name] = v
			}
		}
		pattern := opts[source.opt+"-regex"]
		if pattern == "" {
			continue
		}
		re, err := regexp.Compile(pattern)
		if err != nil {
			return o, fail.New(fail.Invalid, "log opt %s-regex: %w", source.opt, err)
		}
		for k, v := range source.values {
			if re.MatchString(k) {
				attrs[k] = v
			}
		}
	}
	of := logs.Container{
		ID: c.ID, Name: c.Name, ImageID: c.Image.String(), ImageName: c.Config.Image,
		Command: strings.Join(append([]string{c.Path}, c.Args...), " "), Created: c.Created,
	}
	if of.Tag, err = logTag(opts["tag"], c); err != nil {
		return o, err
	}
	if len(attrs) > 0 {
		of.Attrs = attrs
	}
	return o.ForContainer(of), nil
}

// tagFuncs are those that Docker's templates have.
var tagFuncs = template.FuncMap{
	"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
	"join": strings.Join, "split": strings.Split, "lower": strings.ToLower, "upper": strings.ToUpper,
	"title": func(s string) string { return strings.ToUpper(s[:min(1, len(s))]) + s[min(1, len(s)):] },
	"pad": func(s string, before, after int) string {
		return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
	},
	"truncate": func(s string, n int) string { return s[:min(max(n, 0), len(s))] },
}

// logTag fills in a tag template; its fields are those Docker documents.
func logTag(tag string, c Container) (string, error) {
	if tag == "" {
		return "", nil
	}
	t, err := template.New("tag").Funcs(tagFuncs).Parse(tag)
	if err != nil {
		return "", fail.New(fail.Invalid, "log opt tag: %w", err)
	}
	var out strings.Builder
	err = t.Execute(&out, struct{ ID, FullID, Name, ImageID, ImageFullID, ImageName, DaemonName string }{
		short(c.ID), c.ID, c.Name, short(strings.TrimPrefix(c.Image.String(), "sha256:")), c.Image.String(), c.Config.Image, "berth",
	})
	if err != nil {
		return "", fail.New(fail.Invalid, "log opt tag: %w", err)
	}
	return out.String(), nil
}

func short(id string) string { return id[:min(12, len(id))] }
