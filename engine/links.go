package engine

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"berth/fail"
	"berth/network"
)

// Links come in two kinds, as in Docker. On a user-defined network they are names of the
// linked containers that this container's resolver alone knows (Endpoint settings, Links).
// On the default bridge (HostConfig.Links) the linked container must run when this one
// starts, and stands in its hosts file, which follows when that gets another address.
// Environment variables of the linked container are not handed over: Docker has stopped
// doing that too.

// checkLinks validates the links of a container on the default bridge.
func checkLinks(links []string, idx *index) error {
	for _, l := range links {
		target, _, err := parseLink(l)
		if err != nil {
			return err
		}
		i, err := idx.find(target)
		if err != nil {
			return fail.New(fail.Invalid, "could not get container for %s: %w", target, err)
		}
		if i.now().HostConfig.NetworkMode.IsHost() {
			return fail.New(fail.Invalid, "conflicting options: host type networking can't be used with links. This would result in undefined behavior")
		}
	}
	return nil
}

// parseLink is SplitLink for what a user wrote.
func parseLink(l string) (target, alias string, err error) {
	target, alias = SplitLink(l)
	if target == "" || alias == "" || strings.Count(l, ":") > 1 || strings.ContainsAny(l, " \t\n") {
		return "", "", fail.New(fail.Invalid, "bad format for links: %s", l)
	}
	return target, alias, nil
}

// linkLines adds the linked containers to the hosts file of one on the default bridge.
func (w *wiring) linkLines(out *hostLines, c Container) error {
	for _, l := range c.HostConfig.Links {
		target, alias := SplitLink(l)
		i, err := w.idx.find(target)
		if err != nil {
			return fail.New(fail.Conflict, "cannot link to %s: it was removed", target)
		}
		o := i.now()
		if !o.State.Running() {
			return fail.New(fail.Conflict, "Cannot link to a non running container: /%s AS /%s/%s", o.Name, c.Name, alias)
		}
		for _, a := range addressesOn(o.Network, string(c.HostConfig.NetworkMode)) {
			out.add(a, linkNames(alias, o)...)
		}
	}
	return nil
}

// linkNames are what a linked container is called by the one that links to it.
func linkNames(alias string, o Container) []string {
	names := []string{alias}
	for _, n := range []string{o.Config.Hostname, o.Name} {
		if n != alias {
			names = append(names, n)
		}
	}
	return names
}

// endpointOn is the place on the network of that name, nil if there is none.
func endpointOn(sb *network.Sandbox, name string) *network.Endpoint {
	if sb == nil {
		return nil
	}
	for n := range sb.Endpoints {
		if sb.Endpoints[n].NetworkName == name {
			return &sb.Endpoints[n]
		}
	}
	return nil
}

func addressesOn(sb *network.Sandbox, name string) (out []string) {
	if e := endpointOn(sb, name); e != nil {
		for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
			if p.IsValid() {
				out = append(out, p.Addr().String())
			}
		}
	}
	return out
}

// relink tells the containers that link to c, which has just started, of its addresses.
func (w *wiring) relink(c Container) {
	for _, i := range w.idx.all() {
		o := i.now()
		if o.Network == nil || o.ID == c.ID || !o.HostConfig.NetworkMode.IsBridge() {
			continue
		}
		for _, l := range o.HostConfig.Links {
			target, alias := SplitLink(l)
			if t, err := w.idx.find(target); err != nil || t.id != c.ID {
				continue
			}
			names := "\t" + strings.Join(linkNames(alias, c), " ")
			var lines []string
			for _, a := range addressesOn(c.Network, string(o.HostConfig.NetworkMode)) {
				lines = append(lines, a+names)
			}
			if err := editHosts(i.dir, func(line string) bool { return strings.HasSuffix(line, names) }, lines); err != nil {
				w.log.Warn("a container does not learn the new address of one that it links to", "id", o.ID, "linked", c.ID, "error", err)
			}
		}
	}
}

// unlink removes a link of a container on the default bridge; name is CONTAINER/ALIAS.
func (l *lifecycle) unlink(ctx context.Context, name string) error {
	name = strings.TrimPrefix(name, "/")
	parent, alias, ok := strings.Cut(name, "/")
	if !ok {
		return fail.New(fail.Conflict, "Conflict, cannot remove the default link name of the container")
	}
	i, err := l.idx.find(parent)
	if err != nil {
		return fail.New(fail.NotFound, "Cannot get parent /%s for link name /%s", parent, name)
	}
	giveBack, err := l.take(ctx, i)
	if err != nil {
		return err
	}
	defer giveBack()
	old := i.now().HostConfig
	next := *old
	at := slices.IndexFunc(old.Links, func(link string) bool { _, a := SplitLink(link); return a == alias })
	if at < 0 || i.isRemoved() || !old.NetworkMode.IsBridge() {
		return fail.New(fail.NotFound, "No such container: %s", name)
	}
	next.Links = slices.Delete(slices.Clone(old.Links), at, at+1)
	c := i.setHostConfig(&next)
	if err := l.rec.save(i); err != nil {
		i.setHostConfig(old)
		return err
	}
	target, _ := SplitLink(old.Links[at])
	if linked, err := l.idx.find(target); err == nil && c.Network != nil {
		names := "\t" + strings.Join(linkNames(alias, linked.now()), " ")
		return editHosts(i.dir, func(line string) bool { return strings.HasSuffix(line, names) }, nil)
	}
	return nil
}
