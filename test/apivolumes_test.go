package test

import (
	"strings"

	"github.com/moby/moby/api/types/network"
	mobyclient "github.com/moby/moby/client"
)

const volumeShape = `CreatedAt s Driver s Labels o0 Mountpoint s Name s Options o0 Scope s Status o? UsageData - ClusterVolume -`

var apiVolumes = []apiCase{
	{row: "GET /volumes", test: func(a *apiTest) {
		a.ask(201, "POST", "/volumes/create", `{"Name":"listed-vol","Labels":{"kind":"l"}}`)
		a.Cleanup(func() { a.e.Must("volume", "rm", "listed-vol") })
		list, err := a.sdk.VolumeList(a.Context(), mobyclient.VolumeListOptions{Filters: make(mobyclient.Filters).Add("label", "kind=l")})
		a.must(err)
		if len(list.Items) != 1 || list.Items[0].Name != "listed-vol" {
			a.Errorf("%+v", list)
		}
		for _, m := range everyVersion {
			a.ask(200, "GET", v(m, "/volumes"), "").shape(`.: Volumes l Warnings l0
				Volumes[]: ` + volumeShape)
			a.ask(200, "GET", v(m, `/volumes?filters={"name":["nobody"]}`), "").shape(`.: Volumes l Warnings l0`)
		}
		for filters, want := range map[string]int{
			`{"name":["listed-vol"]}`: 1, `{"dangling":["true"],"name":["listed-vol"]}`: 1, `{"dangling":["false"],"name":["listed-vol"]}`: 0, `{"driver":["local"],"name":["listed-vol"]}`: 1, `{"label":["kind=x"]}`: 0, `{"name":{"listed-vol":true}}`: 1,
		} {
			if got := len(a.ask(200, "GET", "/volumes?filters="+filters, "").at("Volumes").([]any)); got != want {
				a.Errorf("%s: %d, want %d", filters, got, want)
			}
		}
		a.ask(400, "GET", `/volumes?filters={"colour":["red"]}`, "").says("invalid filter 'colour'")
		a.ask(400, "GET", `/volumes?filters={"dangling":["maybe"]}`, "")
	}},
	{row: "POST /volumes/create", test: func(a *apiTest) {
		made, err := a.sdk.VolumeCreate(a.Context(), mobyclient.VolumeCreateOptions{Name: "made-vol", Labels: map[string]string{"a": "b"}})
		a.must(err)
		if made.Volume.Name != "made-vol" || made.Volume.Driver != "local" || !strings.HasPrefix(made.Volume.Mountpoint, a.e.DataRoot) {
			a.Errorf("%+v", made)
		}
		again := a.ask(201, "POST", "/volumes/create", `{"Name":"made-vol","Driver":"local"}`).shape(`.: ` + volumeShape)
		again.is(made.Volume.Mountpoint, "Mountpoint").is("b", "Labels", "a") // the one that is there
		r := a.ask(201, "POST", "/volumes/create", `{}`)
		name := r.at("Name").(string)
		if len(name) != 64 {
			a.Errorf("a name of ours is %q", name)
		}
		if _, anonymous := r.at("Labels").(map[string]any)["com.docker.volume.anonymous"]; !anonymous {
			a.Errorf("labels: %v", r.at("Labels"))
		}
		a.e.Must("volume", "rm", "made-vol", name)
		a.ask(400, "POST", "/volumes/create", `{"Name":"a/b"}`).says("a/b")
		a.ask(400, "POST", "/volumes/create", `{"Name":"x","DriverOpts":{"colour":"red"}}`)
		a.ask(404, "POST", "/volumes/create", `{"Name":"x","Driver":"nosuch"}`).says("nosuch")
		a.ask(400, "POST", "/volumes/create", `{`)
	}},
	{row: "GET /volumes/{name}", test: func(a *apiTest) {
		a.ask(201, "POST", "/volumes/create", `{"Name":"seen-vol"}`)
		a.Cleanup(func() { a.e.Must("volume", "rm", "seen-vol") })
		one, err := a.sdk.VolumeInspect(a.Context(), "seen-vol", mobyclient.VolumeInspectOptions{})
		a.must(err)
		if one.Volume.Name != "seen-vol" || one.Volume.Scope != "local" {
			a.Errorf("%+v", one)
		}
		for _, m := range everyVersion {
			a.ask(200, "GET", v(m, "/volumes/seen-vol"), "").shape(`.: ` + volumeShape)
		}
		a.ask(404, "GET", "/volumes/nosuch", "").says("get nosuch: no such volume")
	}},
	{row: "DELETE /volumes/{name}", test: func(a *apiTest) {
		a.ask(201, "POST", "/volumes/create", `{"Name":"gone-vol"}`)
		a.ask(201, "POST", "/volumes/create", `{"Name":"used-vol"}`)
		user := a.create("", `"HostConfig":{"NetworkMode":"none","Binds":["used-vol:/v"]}`)
		_, err := a.sdk.VolumeRemove(a.Context(), "gone-vol", mobyclient.VolumeRemoveOptions{})
		a.must(err)
		a.ask(404, "DELETE", "/volumes/gone-vol", "").says("no such volume")
		a.ask(204, "DELETE", "/volumes/gone-vol?force=1", "")
		a.ask(409, "DELETE", "/volumes/used-vol", "").says("volume is in use - [" + user + "]")
		a.ask(409, "DELETE", "/volumes/used-vol?force=1", "")
	}},
	{row: "POST /volumes/prune", test: func(a *apiTest) {
		a.ask(201, "POST", "/volumes/create", `{"Name":"prune-named","Labels":{"p":"1"}}`)
		anonymous := a.ask(201, "POST", "/volumes/create", `{"Labels":{"p":"1"}}`).at("Name").(string)
		a.ask(200, "POST", v(55, `/volumes/prune?filters={"label":["nobody"]}`), "").shape(`.: VolumesDeleted l0 SpaceReclaimed n`)
		out, err := a.sdk.VolumePrune(a.Context(), mobyclient.VolumePruneOptions{Filters: make(mobyclient.Filters).Add("label", "p=1")})
		a.must(err)
		if len(out.Report.VolumesDeleted) != 1 || out.Report.VolumesDeleted[0] != anonymous {
			a.Errorf("since 1.42 anonymous ones go: %+v", out)
		}
		a.ask(200, "POST", v(41, `/volumes/prune?filters={"label":["p=1"]}`), "").is("prune-named", "VolumesDeleted", "0")
		a.ask(201, "POST", "/volumes/create", `{"Name":"prune-named","Labels":{"p":"1"}}`)
		a.ask(200, "POST", `/volumes/prune?filters={"label":["p=1"],"all":["true"]}`, "").is("prune-named", "VolumesDeleted", "0")
		a.ask(400, "POST", `/volumes/prune?filters={"colour":["red"]}`, "").says("invalid filter 'colour'")
		a.ask(400, "POST", v(41, `/volumes/prune?filters={"all":["maybe"]}`), "")
	}},
}

func networkShape(m int) string {
	return `Name s Id s Created s Scope s Driver s EnableIPv6 b IPAM o Internal b Attachable b Ingress b ConfigFrom o ConfigOnly b Containers o? Options o Labels o Peers l? Status o? EnableIPv4 ` + until(48, m, "b?", "b")
}

var apiNetworks = []apiCase{
	{row: "GET /networks", test: func(a *apiTest) {
		list, err := a.sdk.NetworkList(a.Context(), mobyclient.NetworkListOptions{})
		a.must(err)
		if len(list.Items) < 3 {
			a.Errorf("%+v", list)
		}
		for _, m := range everyVersion {
			a.ask(200, "GET", v(m, "/networks"), "").shape(`[]: ` + networkShape(m))
		}
		for filters, want := range map[string]int{
			`{"name":["none"]}`: 1, `{"driver":["host"]}`: 1, `{"type":["builtin"]}`: 3, `{"type":["custom"]}`: 0, `{"scope":["swarm"]}`: 0, `{"label":["x"]}`: 0, `{"name":{"none":true}}`: 1, `{"dangling":["true"],"type":["builtin"]}`: 0,
		} {
			if got := len(a.ask(200, "GET", "/networks?filters="+filters, "").v.([]any)); got != want {
				a.Errorf("%s: %d, want %d", filters, got, want)
			}
		}
		a.ask(400, "GET", `/networks?filters={"colour":["red"]}`, "").says("invalid filter 'colour'")
		a.ask(400, "GET", `/networks?filters={"dangling":["maybe"]}`, "")
	}},
	{row: "GET /networks/{id}", test: func(a *apiTest) {
		id := a.network("seen")
		box := a.create("on-seen", `"Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"seen"}`)
		a.ask(204, "POST", "/containers/on-seen/start", "")
		one, err := a.sdk.NetworkInspect(a.Context(), "seen", mobyclient.NetworkInspectOptions{})
		a.must(err)
		if one.Network.ID != id || one.Network.Containers[box].Name != "on-seen" {
			a.Errorf("%+v", one)
		}
		for _, m := range everyVersion {
			a.ask(200, "GET", v(m, "/networks/"+id), "").shape(`.: ` + networkShape(m) + `
				IPAM: Driver s Config l Options o0
				IPAM.Config[]: Subnet s Gateway s? IPRange s? AuxiliaryAddresses o?
				ConfigFrom: Network s
				Containers{}: Name s EndpointID s MacAddress s IPv4Address s IPv6Address s`)
		}
		a.ask(200, "GET", "/networks/"+id[:12], "").is(id, "Id")
		a.ask(200, "GET", "/networks/seen?verbose=true&scope=local", "").is(id, "Id")
		a.ask(404, "GET", "/networks/nosuch", "").says("network nosuch not found")
		a.ask(404, "GET", "/networks/seen?scope=swarm", "")
	}},
	{row: "DELETE /networks/{id}", test: func(a *apiTest) {
		id := a.network("gone")
		_, err := a.sdk.NetworkRemove(a.Context(), id, mobyclient.NetworkRemoveOptions{})
		a.must(err)
		a.ask(404, "DELETE", "/networks/gone", "").says("network gone not found")
		a.ask(403, "DELETE", "/networks/bridge", "").says("bridge is a pre-defined network and cannot be removed")
		a.network("busy")
		a.create("on-busy", `"Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"busy"}`)
		a.ask(204, "POST", "/containers/on-busy/start", "")
		a.ask(403, "DELETE", "/networks/busy", "").says("has active endpoints")
	}},
	{row: "POST /networks/create", test: func(a *apiTest) {
		made, err := a.sdk.NetworkCreate(a.Context(), "made-net", mobyclient.NetworkCreateOptions{Driver: "bridge", Internal: true, Labels: map[string]string{"a": "b"}})
		a.must(err)
		a.Cleanup(func() { a.e.Must("network", "rm", "made-net") })
		a.ask(200, "GET", "/networks/"+made.ID, "").is(true, "Internal").is("b", "Labels", "a")
		r := a.ask(201, "POST", v(41, "/networks/create"), `{"Name":"made-old","CheckDuplicate":true}`).shape(`.: Id s Warning s`)
		a.e.Must("network", "rm", r.at("Id").(string))
		a.ask(409, "POST", "/networks/create", `{"Name":"made-net"}`).says("network with name made-net already exists")
		a.ask(403, "POST", "/networks/create", `{"Name":"bridge"}`)
		a.ask(404, "POST", "/networks/create", `{"Name":"x","Driver":"nosuch"}`).says("nosuch")
		for _, body := range []string{`{`, `{"Name":""}`, `{"Name":"x","IPAM":{"Config":[{"Subnet":"10.0.0.0"}]}}`, `{"Name":"x","IPAM":{"Config":[{"Subnet":"10.79.0.0/24","Gateway":"10.80.0.1"}]}}`} {
			a.ask(400, "POST", "/networks/create", body)
		}
	}},
	{row: "POST /networks/{id}/connect", test: func(a *apiTest) {
		a.network("joined")
		subnet := a.ask(200, "GET", "/networks/joined", "").at("IPAM", "Config", "0", "Subnet").(string)
		a.create("joiner", `"Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"bridge"}`)
		_, err := a.sdk.NetworkConnect(a.Context(), "joined", mobyclient.NetworkConnectOptions{Container: "joiner", EndpointConfig: &network.EndpointSettings{Aliases: []string{"friend"}}})
		a.must(err) // it does not run: kept for its start
		a.ask(204, "POST", "/containers/joiner/start", "")
		a.ask(200, "GET", "/containers/joiner/json", "").is("friend", "NetworkSettings", "Networks", "joined", "Aliases", "0")
		if got := a.ask(200, "GET", "/containers/joiner/json", "").at("NetworkSettings", "Networks", "joined", "IPAddress").(string); got == "" {
			a.Errorf("no address of %s", subnet)
		}
		a.ask(403, "POST", "/networks/joined/connect", `{"Container":"joiner"}`).says("endpoint with name joiner already exists in network joined")
		a.ask(404, "POST", "/networks/nosuch/connect", `{"Container":"joiner"}`)
		a.ask(404, "POST", "/networks/joined/connect", `{"Container":"nosuch"}`)
		a.ask(400, "POST", "/networks/joined/connect", `{"Container":"joiner","EndpointConfig":{"IPAMConfig":{"IPv4Address":"x"}}}`)
		a.ask(400, "POST", "/networks/joined/connect", `{`)
	}},
	{row: "POST /networks/{id}/disconnect", never: []int{403}, test: func(a *apiTest) {
		// 403 is about networks of a swarm.
		a.network("left")
		a.create("leaver", `"Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"left"}`)
		a.ask(204, "POST", "/containers/leaver/start", "")
		_, err := a.sdk.NetworkDisconnect(a.Context(), "left", mobyclient.NetworkDisconnectOptions{Container: "leaver"})
		a.must(err)
		if nets := a.ask(200, "GET", "/containers/leaver/json", "").at("NetworkSettings", "Networks").(map[string]any); len(nets) != 0 {
			a.Errorf("%v", nets)
		}
		a.ask(404, "POST", "/networks/nosuch/disconnect", `{"Container":"leaver"}`)
		a.ask(404, "POST", "/networks/left/disconnect", `{"Container":"nosuch"}`)
		a.ask(409, "POST", "/networks/left/disconnect", `{"Container":"leaver"}`).says("is not connected to")
		a.create("hosted", `"Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"host"}`)
		a.ask(204, "POST", "/containers/hosted/start", "")
		a.ask(400, "POST", "/networks/host/disconnect", `{"Container":"hosted"}`).says("container cannot be disconnected from host network")
	}},
	{row: "POST /networks/prune", test: func(a *apiTest) {
		a.ask(201, "POST", "/networks/create", `{"Name":"idle-net","Labels":{"idle":"1"}}`)
		a.ask(200, "POST", `/networks/prune?filters={"label":["nobody"]}`, "").shape(`.: NetworksDeleted l0`)
		out, err := a.sdk.NetworkPrune(a.Context(), mobyclient.NetworkPruneOptions{Filters: make(mobyclient.Filters).Add("label", "idle")})
		a.must(err)
		if len(out.Report.NetworksDeleted) != 1 || out.Report.NetworksDeleted[0] != "idle-net" {
			a.Errorf("%+v", out)
		}
		a.ask(400, "POST", `/networks/prune?filters={"colour":["red"]}`, "").says("invalid filter 'colour'")
	}},
}

// network makes a network that goes with the test, after its containers.
func (a *apiTest) network(name string) string {
	a.Helper()
	id := a.ask(201, "POST", "/networks/create", `{"Name":"`+name+`"}`).at("Id").(string)
	a.Cleanup(func() { a.e.Berth("network", "rm", id) })
	return id
}
