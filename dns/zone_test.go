package dns

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"berth/fail"
)

func addrs(list ...string) (all []netip.Addr) {
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

var sample = Zone{Domain: "mynet", Hosts: []Host{
	{Names: []string{"Web", "0123456789ab", "www"}, Addrs: addrs("172.18.0.2", "fd00::2")},
	{Names: []string{"web2", "www", "WWW."}, Addrs: addrs("172.18.0.21")},
	{Names: []string{"db.prod"}, Addrs: addrs("fd00::21")},
	{Names: []string{"nowhere"}},
	{Addrs: addrs("172.18.0.9")},
}}

func TestAZoneIsReadAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "zone")
	if err := sample.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	const want = "zone 1 mynet\n172.18.0.2,fd00::2 web 0123456789ab www\n172.18.0.21 web2 www\nfd00::21 db.prod\n"
	if got, _ := os.ReadFile(path); string(got) != want {
		t.Errorf("the file holds\n%s", got)
	}
	got, err := ReadZone(path)
	if err != nil {
		t.Fatal(err)
	}
	expect := Zone{Domain: "mynet", Hosts: []Host{
		{[]string{"web", "0123456789ab", "www"}, addrs("172.18.0.2", "fd00::2")},
		{[]string{"web2", "www"}, addrs("172.18.0.21")},
		{[]string{"db.prod"}, addrs("fd00::21")},
	}}
	if !reflect.DeepEqual(got, expect) {
		t.Errorf("read %+v", got)
	}
	if _, err := ReadZone(path + "x"); !fail.Is(err, fail.NotFound) {
		t.Errorf("a zone that is not there: %v", err)
	}
}

func TestWhatCannotStandInAZoneIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "zone")
	for name, z := range map[string]Zone{
		"a name with a space":  {Hosts: []Host{{[]string{"a b"}, addrs("10.0.0.1")}}},
		"a name of two lines":  {Hosts: []Host{{[]string{"a\n10.0.0.2"}, addrs("10.0.0.1")}}},
		"an empty name":        {Hosts: []Host{{[]string{""}, addrs("10.0.0.1")}}},
		"no address":           {Hosts: []Host{{[]string{"a"}, []netip.Addr{{}}}}},
		"an address in a zone": {Hosts: []Host{{[]string{"a"}, addrs("fe80::1%eth0")}}},
		"a domain of two":      {Domain: "a b"},
	} {
		if err := z.WriteFile(path); !fail.Is(err, fail.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "zone 1 ", "zone 2 x\n", "zone 1 a\n10.0.0.1\n", "zone 1 a\n10.0.0.1 b", "zone 1 a\n10.0.0 b\n",
		"zone 1 a\n10.0.0.1  b\n", "zone 1 a\n\n", "zone 1 a\n10.0.0.1 B\n", "zone 1 a\n010.0.0.1 b\n"} {
		if _, err := decodeZone([]byte(text)); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestNamesAndAddressesAreFoundWholeOnly(t *testing.T) {
	data, err := sample.encode()
	if err != nil {
		t.Fatal(err)
	}
	var z zoneFile
	if !z.load(data) {
		t.Fatal("not loaded")
	}
	for name, want := range map[string][]netip.Addr{
		"web": addrs("172.18.0.2", "fd00::2"), "www": addrs("172.18.0.2", "fd00::2", "172.18.0.21"), "web2": addrs("172.18.0.21"),
		"db.prod": addrs("fd00::21"), "db.prod.mynet": addrs("fd00::21"), "web.mynet": addrs("172.18.0.2", "fd00::2"),
		"we": nil, "eb": nil, "ww": nil, "mynet": nil, "db": nil, "prod": nil, "web.mynet.mynet": nil, "": nil, " web": nil, "web ": nil,
		"web 0123456789ab": nil, "www\n172.18.0.21": nil, ".mynet": nil, "172.18.0.2": nil, "1": nil, "nowhere": nil,
	} {
		if got, known := z.find([]byte(name), nil); !slices.Equal(got, want) || known != (want != nil) {
			t.Errorf("%q: %v, %v", name, got, known)
		}
	}
	for addr, want := range map[string]string{"172.18.0.2": "web.mynet", "172.18.0.21": "web2.mynet", "fd00::2": "web.mynet", "fd00::21": "db.prod.mynet",
		"72.18.0.2": "", "172.18.0.1": "", "172.18.0.9": "", "fd00::1": "", "d00::2": ""} {
		if got := z.nameOf(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %q", addr, got)
		}
	}
}

func TestAChangedZoneIsSeenAndNeverHalf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "zone")
	z := newZoneFile(path)
	find := func() int {
		z.refresh()
		list, _ := z.find([]byte("all"), nil)
		return len(list)
	}
	if n := find(); n != 0 {
		t.Errorf("%d addresses without a file", n)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			var zone Zone
			for j := range 1 + 300*(i%2) {
				zone.Hosts = append(zone.Hosts, Host{[]string{fmt.Sprint("h", j), "all"}, addrs("10.0.0.1")})
			}
			if err := zone.WriteFile(path); err != nil {
				t.Error(err)
			}
		}
	}()
	seen := map[int]bool{}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		n := find()
		if seen[n] = true; n != 0 && n != 1 && n != 301 {
			t.Fatalf("%d addresses", n)
		}
	}
	if n := find(); n != 301 || !seen[1] {
		t.Errorf("at the end %d addresses; seen: %v", n, seen)
	}
	if err := os.WriteFile(path+"x", []byte("zone 1 \n10.0"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"x", path); err != nil {
		t.Fatal(err)
	}
	if n := find(); n != 301 {
		t.Errorf("%d addresses after the file was damaged", n)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if n := find(); n != 0 {
		t.Errorf("%d addresses after the file is gone", n)
	}
}

func FuzzZone(f *testing.F) {
	data, _ := sample.encode()
	f.Add(data, "web")
	f.Add([]byte("zone 1 \n1.2.3.4 a\n"), "a")
	f.Add([]byte("zone 1 d\n"), "d.d")
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		var z zoneFile
		if !z.load(data) {
			return
		}
		list, known := z.find([]byte(name), nil)
		zone, err := decodeZone(data)
		if err != nil {
			return
		}
		// A sound zone is searched as its decoded form would be.
		var want []netip.Addr
		for _, asked := range []string{name, strings.TrimSuffix(name, "."+zone.Domain)} {
			if asked == name && len(want) > 0 || zone.Domain == "" && want != nil {
				continue
			}
			for _, h := range zone.Hosts {
				for _, n := range h.Names {
					if n == asked && asked != "" {
						want = append(want, h.Addrs...)
					}
				}
			}
			if !strings.HasSuffix(name, "."+zone.Domain) || zone.Domain == "" {
				break
			}
		}
		if !slices.Equal(list, want) || known != (want != nil) {
			t.Errorf("%q in %q: %v, not %v", name, data, list, want)
		}
		again, err := zone.encode()
		if err != nil || !bytes.Equal(again, data) && len(slices.Compact(slices.Sorted(slices.Values(namesOf(zone))))) == len(namesOf(zone)) {
			t.Errorf("%q becomes %q, %v", data, again, err)
		}
	})
}

func namesOf(z Zone) (all []string) {
	for _, h := range z.Hosts {
		all = append(all, h.Names...)
	}
	return all
}
