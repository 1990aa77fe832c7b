package engine

import (
	"maps"

	"berth/events"
	"berth/network"
)

// announcer puts what happens to containers on the bus, with Docker's attributes: the
// container's labels, image and name, and those of the action.
type announcer struct{ bus *events.Bus }

// tell publishes action; extra are key, value pairs.
func (a announcer) tell(c Container, action string, extra ...string) {
	if a.bus == nil {
		return
	}
	attrs := make(map[string]string, len(c.Config.Labels)+4)
	maps.Copy(attrs, c.Config.Labels)
	attrs["image"], attrs["name"] = c.Config.Image, c.Name
	for k := 0; k+1 < len(extra); k += 2 {
		attrs[extra[k]] = extra[k+1]
	}
	a.bus.Publish(events.Event{Type: "container", Action: action, ID: c.ID, Attrs: attrs})
}

// network publishes that a container came to a network or left it.
func (a announcer) network(action string, c Container, n network.Network) {
	if a.bus == nil {
		return
	}
	a.bus.Publish(events.Event{Type: "network", Action: action, ID: n.ID,
		Attrs: map[string]string{"container": c.ID, "name": n.Name, "type": n.Driver}})
}
