package engine

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
)

// A value of every field that a create may bring. It comes back as it was, or as shown, or the
// request is refused with a text that names it.
var createFields = map[string]struct{ asked, shown, refused string }{
	"Config.Hostname":        {`"name"`, ``, ``},
	"Config.Domainname":      {`"example.org"`, ``, ``},
	"Config.User":            {`"1:2"`, ``, ``},
	"Config.AttachStdin":     {`true`, ``, ``},
	"Config.AttachStdout":    {`true`, ``, ``},
	"Config.AttachStderr":    {`true`, ``, ``},
	"Config.ExposedPorts":    {`{"80/tcp":{}}`, ``, ``},
	"Config.Tty":             {`true`, ``, ``},
	"Config.OpenStdin":       {`true`, ``, ``},
	"Config.StdinOnce":       {`true`, ``, ``},
	"Config.Env":             {`["A=1"]`, `["A=1","PATH=/bin"]`, ``},
	"Config.Cmd":             {`["true"]`, ``, ``},
	"Config.Healthcheck":     {`{"Test":["CMD","true"],"Interval":1000000000,"Timeout":1000000000,"StartPeriod":1000000000,"StartInterval":1000000000,"Retries":2}`, ``, ``},
	"Config.ArgsEscaped":     {`true`, ``, ``},
	"Config.Image":           {`"busybox"`, ``, ``},
	"Config.Volumes":         {`{"/v":{}}`, ``, ``},
	"Config.WorkingDir":      {`"/w"`, ``, ``},
	"Config.Entrypoint":      {`["sh"]`, ``, ``},
	"Config.NetworkDisabled": {`true`, ``, ``},
	"Config.OnBuild":         {`["RUN true"]`, ``, ``},
	"Config.Labels":          {`{"a":"b"}`, ``, ``},
	"Config.StopSignal":      {`"SIGINT"`, ``, ``},
	"Config.StopTimeout":     {`5`, ``, ``},
	"Config.Shell":           {`["/bin/bash"]`, ``, ``},

	"HostConfig.Binds":           {`["/usr:/x"]`, ``, ``},
	"HostConfig.ContainerIDFile": {`"/file"`, ``, ``},
	"HostConfig.LogConfig":       {`{"Type":"none","Config":{}}`, ``, ``},
	"HostConfig.NetworkMode":     {`"host"`, ``, ``},
	"HostConfig.PortBindings":    {`{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}`, ``, ``},
	"HostConfig.RestartPolicy":   {`{"Name":"on-failure","MaximumRetryCount":3}`, ``, ``},
	"HostConfig.AutoRemove":      {`true`, ``, ``},
	"HostConfig.VolumeDriver":    {`"local"`, ``, ``},
	"HostConfig.VolumesFrom":     {`["donor"]`, ``, ``},
	"HostConfig.ConsoleSize":     {`[10,20]`, ``, ``},
	"HostConfig.Annotations":     {`{"a":"b"}`, ``, ``},
	"HostConfig.CapAdd":          {`["CAP_CHOWN"]`, ``, ``},
	"HostConfig.CapDrop":         {`["CAP_CHOWN"]`, ``, ``},
	"HostConfig.CgroupnsMode":    {`"host"`, ``, ``},
	"HostConfig.Dns":             {`["1.1.1.1"]`, ``, ``},
	"HostConfig.DnsOptions":      {`["ndots:2"]`, ``, ``},
	"HostConfig.DnsSearch":       {`["example.org"]`, ``, ``},
	"HostConfig.ExtraHosts":      {`["a:1.1.1.1"]`, ``, ``},
	"HostConfig.GroupAdd":        {`["5"]`, ``, ``},
	"HostConfig.IpcMode":         {`"shareable"`, ``, ``},
	"HostConfig.Cgroup":          {`"container:donor"`, ``, `invalid cgroup mode`},
	"HostConfig.Links":           {`["donor:d"]`, ``, ``},
	"HostConfig.OomScoreAdj":     {`5`, ``, ``},
	"HostConfig.PidMode":         {`"host"`, ``, ``},
	"HostConfig.Privileged":      {`true`, ``, ``},
	"HostConfig.PublishAllPorts": {`true`, ``, ``},
	"HostConfig.ReadonlyRootfs":  {`true`, ``, ``},
	"HostConfig.SecurityOpt":     {`["no-new-privileges"]`, ``, ``},
	"HostConfig.StorageOpt":      {`{"speed":"1"}`, ``, `unknown storage option "speed"`}, // size takes a quota
	"HostConfig.Tmpfs":           {`{"/t":"size=1m"}`, ``, ``},
	"HostConfig.UTSMode":         {`"host"`, ``, ``},
	"HostConfig.UsernsMode":      {`"host"`, ``, ``},
	"HostConfig.ShmSize":         {`1048576`, ``, ``},
	"HostConfig.Sysctls":         {`{"net.core.somaxconn":"9"}`, ``, ``},
	"HostConfig.Runtime":         {`"berth"`, ``, ``},
	"HostConfig.Umask":           {`18`, ``, ``},
	"HostConfig.Isolation":       {`"process"`, ``, `invalid isolation "process"`},
	"HostConfig.Mounts":          {`[{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":448,"Options":[["exec"]]}}]`, ``, ``},
	"HostConfig.MaskedPaths":     {`["/a"]`, ``, ``},
	"HostConfig.ReadonlyPaths":   {`["/a"]`, ``, ``},
	"HostConfig.Init":            {`true`, ``, ``},

	"HostConfig.CpuShares":            {`512`, ``, ``},
	"HostConfig.Memory":               {`67108864`, ``, ``},
	"HostConfig.NanoCpus":             {`500000000`, ``, ``},
	"HostConfig.CgroupParent":         {`"/x"`, ``, ``},
	"HostConfig.BlkioWeight":          {`300`, ``, ``},
	"HostConfig.BlkioWeightDevice":    {`[{"Path":"/dev/null","Weight":300}]`, ``, ``},
	"HostConfig.BlkioDeviceReadBps":   {`[{"Path":"/dev/null","Rate":300}]`, ``, ``},
	"HostConfig.BlkioDeviceWriteBps":  {`[{"Path":"/dev/null","Rate":300}]`, ``, ``},
	"HostConfig.BlkioDeviceReadIOps":  {`[{"Path":"/dev/null","Rate":300}]`, ``, ``},
	"HostConfig.BlkioDeviceWriteIOps": {`[{"Path":"/dev/null","Rate":300}]`, ``, ``},
	"HostConfig.CpuPeriod":            {`50000`, ``, ``},
	"HostConfig.CpuQuota":             {`50000`, ``, ``},
	"HostConfig.CpuRealtimePeriod":    {`1000000`, ``, ``},
	"HostConfig.CpuRealtimeRuntime":   {`1000`, ``, ``},
	"HostConfig.CpusetCpus":           {`"0"`, ``, ``},
	"HostConfig.CpusetMems":           {`"0"`, ``, ``},
	"HostConfig.Devices":              {`[{"PathOnHost":"/dev/null","PathInContainer":"/dev/x","CgroupPermissions":"r"}]`, ``, ``},
	"HostConfig.DeviceCgroupRules":    {`["c 1:3 r"]`, ``, ``},
	"HostConfig.DeviceRequests":       {`[{"Driver":"cdi","Count":0,"DeviceIDs":["a.b/c=d"],"Capabilities":null,"Options":null}]`, ``, ``},
	"HostConfig.MemoryReservation":    {`67108864`, ``, ``},
	"HostConfig.MemorySwap":           {`-1`, ``, ``},
	"HostConfig.MemorySwappiness":     {`5`, ``, ``},
	"HostConfig.OomKillDisable":       {`true`, ``, ``},
	"HostConfig.PidsLimit":            {`5`, ``, ``},
	"HostConfig.Ulimits":              {`[{"Name":"nofile","Hard":9,"Soft":8}]`, ``, ``},
	"HostConfig.CpuCount":             {`1`, ``, `CPU count`},
	"HostConfig.CpuPercent":           {`1`, ``, `CPU percent`},
	"HostConfig.IOMaximumIOps":        {`1`, ``, `IO maximum`},
	"HostConfig.IOMaximumBandwidth":   {`1`, ``, `IO maximum`},
}

func TestEveryFieldOfACreateComesBackOrIsRefusedByName(t *testing.T) {
	f := newFixture(t)
	f.life.host.limits = allLimits
	f.create("donor", func(r *CreateRequest) { r.HostConfig.NetworkMode = "bridge" })
	for _, of := range []struct {
		name string
		t    reflect.Type
	}{{"Config", reflect.TypeFor[container.Config]()}, {"HostConfig", reflect.TypeFor[container.HostConfig]()}, {"HostConfig", reflect.TypeFor[container.Resources]()}} {
		for field := range of.t.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name == "" {
				name = field.Name
			}
			if field.Anonymous {
				continue
			}
			name = of.name + "." + name
			c, known := createFields[name]
			if !known {
				t.Errorf("%s is not in the table", name)
				continue
			}
			t.Run(name, func(t *testing.T) {
				part, key, _ := strings.Cut(name, ".")
				body := map[string]any{"Config": map[string]any{"Image": "busybox"}, "HostConfig": map[string]any{}}
				body[part].(map[string]any)[key] = json.RawMessage(c.asked)
				text, _ := json.Marshal(body)
				var r CreateRequest
				if err := json.Unmarshal(text, &r); err != nil {
					t.Fatal(err)
				}
				id, _, err := f.Containers.Create(t.Context(), r)
				if c.refused != "" {
					if err == nil || !strings.Contains(err.Error(), c.refused) {
						t.Errorf("%v, want %s", err, c.refused)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				got, _ := f.Containers.Get(id)
				all, _ := json.Marshal(map[string]any{"Config": got.Config, "HostConfig": got.HostConfig})
				var shown map[string]map[string]any
				if err := json.Unmarshal(all, &shown); err != nil {
					t.Fatal(err)
				}
				if c.shown == "" {
					c.shown = c.asked
				}
				var want any
				if err := json.Unmarshal([]byte(c.shown), &want); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, shown[part][key]); d != "" {
					t.Error(d)
				}
			})
		}
	}
}
