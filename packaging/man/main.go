// Command man writes the manual pages of all programs into a directory, compressed, from what
// their --help says and from the commands and options themselves.
//
// Usage: man DIR (gets man1/ and man8/)
package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"berth/cli"
	"berth/daemon"
	"berth/runtimecli"
	"berth/version"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: man DIR")
		os.Exit(2)
	}
	if err := writeAll(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "man: "+err.Error())
		os.Exit(1)
	}
}

func writeAll(dir string) error {
	for _, section := range []string{"man1", "man8"} {
		if err := os.MkdirAll(filepath.Join(dir, section), 0o755); err != nil {
			return err
		}
	}
	w := writer{dir: dir, date: buildDate()}
	root, top := cli.Tree(), map[string]*cobra.Command{}
	for _, c := range documented(root) {
		top[c.Name()] = c
	}
	if err := w.tree(root, top); err != nil {
		return err
	}
	if err := w.put("berthd", 8, berthdPage()); err != nil {
		return err
	}
	page, err := runtimePage()
	if err != nil {
		return err
	}
	return w.put("berth-runtime", 8, page)
}

// buildDate is the one that the build is to have, so that it can be repeated.
func buildDate() time.Time {
	if seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		return time.Unix(seconds, 0).UTC()
	}
	return time.Now().UTC()
}

type writer struct {
	dir  string
	date time.Time
}

func (w writer) path(name string, section int) string {
	return filepath.Join(w.dir, fmt.Sprintf("man%d", section), fmt.Sprintf("%s.%d.gz", name, section))
}

// put writes one page, which begins after its title line.
func (w writer) put(name string, section int, p *page) error {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return err
	}
	fmt.Fprintf(z, ".TH %s %d %q %q %q\n.nh\n.ad l\n", strings.ToUpper(escape(name)), section, w.date.Format("2006-01-02"), "Berth "+version.Version, "Berth")
	if _, err := z.Write(p.text.Bytes()); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(w.path(name, section), out.Bytes(), 0o644)
}

// tree writes a command and all below it. One that is the same as a command of the root has a
// link instead of a page.
func (w writer) tree(c *cobra.Command, top map[string]*cobra.Command) error {
	path := w.path(pageName(c), 1)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	same := top[c.Name()]
	var err error
	if same != nil && same != c && same.Use == c.Use && same.Short == c.Short {
		err = os.Symlink(filepath.Base(w.path(pageName(same), 1)), path)
	} else {
		err = w.put(pageName(c), 1, commandPage(c))
	}
	for _, child := range documented(c) {
		err = errors.Join(err, w.tree(child, top))
	}
	return err
}

func documented(c *cobra.Command) (out []*cobra.Command) {
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() && child.Name() != "help" && child.Name() != "completion" {
			out = append(out, child)
		}
	}
	return out
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// page is the text of one manual page in man(7)'s macros.
type page struct{ text bytes.Buffer }

func (p *page) section(title string) { fmt.Fprintf(&p.text, ".SH %s\n", title) }

func (p *page) name(name, what string) {
	p.section("NAME")
	fmt.Fprintf(&p.text, "%s \\- %s\n", escape(name), escape(what))
}

// prose writes paragraphs; an indented line stands as it is.
func (p *page) prose(text string) {
	for n, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if n > 0 {
			p.text.WriteString(".PP\n")
		}
		if strings.HasPrefix(paragraph, "  ") || strings.HasPrefix(paragraph, "\t") {
			p.verbatim(paragraph)
			continue
		}
		for _, line := range strings.Split(paragraph, "\n") {
			p.line(strings.TrimSpace(line))
		}
	}
}

func (p *page) line(text string) {
	for line := range strings.SplitSeq(escape(text), "\n") {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			line = `\&` + line // no macro
		}
		p.text.WriteString(line + "\n")
	}
}

func (p *page) verbatim(text string) {
	p.text.WriteString(".nf\n")
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		p.line(strings.TrimRight(strings.ReplaceAll(line, "\t", "        "), " "))
	}
	p.text.WriteString(".fi\n")
}

func (p *page) entry(term, text string) {
	p.text.WriteString(".TP\n" + term + "\n")
	p.line(strings.TrimSpace(text))
}

func (p *page) options(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		term := `\fB\-\-` + escape(f.Name) + `\fR`
		if f.Shorthand != "" && f.ShorthandDeprecated == "" {
			term = `\fB\-` + f.Shorthand + `\fR, ` + term
		}
		if kind != "" {
			term += ` \fI` + escape(kind) + `\fR`
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" && !strings.Contains(usage, "(default") {
			usage += " (default " + f.DefValue + ")"
		}
		p.entry(term, usage)
	})
}

func (p *page) seeAlso(pages ...string) {
	p.section("SEE ALSO")
	for n, other := range pages {
		name, section, _ := strings.Cut(strings.TrimSuffix(other, ")"), "(")
		comma := ","
		if n == len(pages)-1 {
			comma = ""
		}
		fmt.Fprintf(&p.text, ".BR %s (%s)%s\n", escape(name), section, comma)
	}
}

var escaper = strings.NewReplacer(`\`, `\e`, `-`, `\-`)

func escape(text string) string { return escaper.Replace(text) }

func commandPage(c *cobra.Command) *page {
	p := new(page)
	p.name(pageName(c), c.Short)
	p.section("SYNOPSIS")
	p.line(c.UseLine())
	p.section("DESCRIPTION")
	if c.Long != "" {
		p.prose(c.Long)
	} else {
		p.line(c.Short + ".")
	}
	if len(c.Aliases) > 0 {
		p.text.WriteString(".PP\n")
		p.line("It is also called " + strings.Join(aliases(c), ", ") + ".")
	}
	children := documented(c)
	if groups := c.Groups(); len(groups) > 0 {
		for _, g := range groups {
			p.section(strings.ToUpper(strings.TrimSuffix(g.Title, ":")))
			p.commands(slices.DeleteFunc(slices.Clone(children), func(c *cobra.Command) bool { return c.GroupID != g.ID }))
		}
	} else if len(children) > 0 {
		p.section("COMMANDS")
		p.commands(children)
	}
	if c.HasAvailableLocalFlags() {
		p.section("OPTIONS")
		p.options(c.LocalFlags())
	}
	if c.Example != "" {
		p.section("EXAMPLES")
		p.verbatim(c.Example)
	}
	if !c.HasParent() {
		p.environment()
		p.seeAlso("berthd(8)", "berth-runtime(8)")
		return p
	}
	others := []string{pageName(c.Parent()) + "(1)"}
	if c.Parent().HasParent() {
		others = append(others, "berth(1)")
	}
	p.seeAlso(append(others, "berthd(8)")...)
	return p
}

func aliases(c *cobra.Command) (out []string) {
	for _, a := range c.Aliases {
		out = append(out, c.Parent().CommandPath()+" "+a)
	}
	return out
}

func (p *page) commands(list []*cobra.Command) {
	for _, c := range list {
		p.text.WriteString(".TP\n.BR " + escape(pageName(c)) + " (1)\n")
		p.line(c.Short)
	}
}

func (p *page) environment() {
	p.section("ENVIRONMENT")
	for _, v := range []struct{ name, what string }{
		{"BERTH_HOST, DOCKER_HOST", "Socket of the engine, as with --host. The former comes first."},
		{"DOCKER_CONTEXT", "Name of the context to use, as with --context."},
		{"DOCKER_CONFIG", "Directory of the client's configuration (default ~/.docker)."},
		{"DOCKER_TLS, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH", "TLS to the engine: whether, whether verified, and where the certificates are."},
	} {
		p.entry(`\fB`+escape(v.name)+`\fR`, v.what)
	}
	p.section("EXIT STATUS")
	for _, v := range []struct{ code, what string }{
		{"0", "Success; of run, exec, start -a and wait: the container's own."},
		{"1", "A mistake, or a command that failed."},
		{"125", "run: the container could not be made; or an unknown option."},
		{"126", "run, exec: the command cannot be executed."},
		{"127", "run, exec: the command is not found."},
	} {
		p.entry(`\fB`+v.code+`\fR`, v.what)
	}
}

func berthdPage() *page {
	p := new(page)
	p.name("berthd", "the engine of Berth")
	p.section("SYNOPSIS")
	p.line("berthd [OPTIONS]")
	p.section("DESCRIPTION")
	p.prose(`
berthd runs containers and serves the Docker Engine API. The package's units start it: berthd.socket when somebody connects,
berthd.service at boot for the containers whose restart policy wants them back.

Containers belong to supervisors of their own. They go on when the engine is stopped, restarted, replaced or
killed, and the next engine takes them over. To end them all, stop berth-containers.service: each gets its stop signal and its time, those
that depend on others (links, shared namespaces, volumes-from) before those. A shutdown of the machine does the same.

Who may connect to the socket is root on this machine: root itself and the members of the group berth.
`)
	p.section("OPTIONS")
	p.options(daemon.Flags())
	p.section("FILES")
	for _, f := range []struct{ path, what string }{
		{"/etc/berth/daemon.json", "Configuration: a JSON object whose keys are dockerd's, where the meaning is the same. A key that is not known is an error."},
		{"/etc/berth/certs.d", "Mirrors and certificates of registries, a directory for each host:port."},
		{"/var/lib/berth", "Images, layers, containers and volumes."},
		{"/run/berth", "The socket, locks, and what belongs to running containers."},
	} {
		p.entry(`\fI`+escape(f.path)+`\fR`, f.what)
	}
	p.section("SIGNALS")
	for _, s := range []struct{ name, what string }{
		{"SIGTERM, SIGINT", "Ends the engine once requests under way are done. Containers go on."},
		{"SIGHUP", "Reads the configuration file again (systemctl reload berthd). The log tells what has to wait for a restart."},
	} {
		p.entry(`\fB`+s.name+`\fR`, s.what)
	}
	p.section("SYSTEMD")
	p.prose(`
The engine takes the sockets that systemd passes, tells readiness, reloads and its end (sd_notify(3)), and is watched:
every few seconds it asks itself what a client may ask, and if no answer comes for WatchdogSec=, systemd starts it anew. The containers do not notice.

Its log is in the journal: journalctl -u berthd. Containers with --log-driver journald write there too: journalctl CONTAINER_NAME=name.
`)
	p.seeAlso("berth(1)", "berth-runtime(8)", "journalctl(1)", "systemd.service(5)")
	return p
}

func runtimePage() (*page, error) {
	var help, errs bytes.Buffer
	if code := runtimecli.Main([]string{"--help"}, &help, &errs); code != 0 {
		return nil, fmt.Errorf("berth-runtime --help: exit %d: %s", code, errs.String())
	}
	p := new(page)
	p.name("berth-runtime", "an OCI runtime with runc's command line")
	p.section("SYNOPSIS")
	p.line("berth-runtime [options] COMMAND")
	p.section("DESCRIPTION")
	p.prose(`
berth-runtime makes containers of OCI bundles, for containerd, podman, dockerd and whatever else calls runc. It is the runtime that
berthd's own containers have. berth-runtime COMMAND --help tells the options of a command.
`)
	p.section("COMMANDS AND OPTIONS")
	_, rest, _ := strings.Cut(help.String(), "\n\n")
	p.verbatim(rest)
	p.seeAlso("berth(1)", "berthd(8)")
	return p, nil
}
