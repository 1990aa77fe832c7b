package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"berth/testkit"
)

// theTour is every command of Docker's that an engine answers, as people and scripts type
// it. $DIR is a directory of the client's own, $REG a registry, $NET the
// beginning of a subnet that nobody else has; what follows <<< is the input.
const theTour = `
version --format {{.Server.APIVersion}}
version --format {{.Nope}}
info --format {{.Driver}}|{{.Swarm.LocalNodeState}}|{{.ServerVersion}}|{{.OSType}}|{{.Containers}}|{{.Images}}
info --format {{.Nope}}

images
images -a
image ls --format json
images --format {{.Repository}}|{{.Tag}}|{{.ID}}|{{.Size}}|{{.Digest}}|{{.Containers}}
images --format 'table {{.Repository}}\t{{.Tag}}\t{{.ID}}'
images --no-trunc -q
images --digests
images busybox
images nosuch
images --filter reference=busy* -q
images --filter dangling=true
images --filter before=nosuch
images --filter since=busybox
images --filter label=a=b
images --filter nope=1
images --filter dangling=perhaps
image inspect busybox --format '{{.Os}}/{{.Architecture}} {{json .Config.Cmd}}'
image inspect nosuch
image inspect busybox --format {{.Nope}}
history --human=false busybox
history busybox --format {{.CreatedBy}}|{{.Size}}|{{.Comment}}
history busybox
history --no-trunc -q busybox
history --format json busybox
history nosuch
tag busybox tour:1
tag busybox $REG/tour:1
tag nosuch x:1
tag busybox Bad/Name:1
push $REG/tour:1
push -q $REG/tour:1
rmi $REG/tour:1
rmi $REG/tour:1
pull $REG/tour:1
pull $REG/tour:1
pull -q $REG/tour:1
pull $REG/nosuch:1
pull -a $REG/tour
images --digests --format {{.Repository}}:{{.Tag}}@{{.Digest}} busybox
inspect -f '{{len .RepoDigests}}' $REG/tour:1
rmi -f $REG/tour:1
save -o $DIR/saved.tar tour:1
save nosuch -o $DIR/x.tar
rmi tour:1
load -i $DIR/saved.tar
load -q -i $DIR/saved.tar
load -i $DIR/nosuch.tar
import $DIR/rootfs.tar imported:1
import -m 'a message' -c 'ENV A=1' $DIR/rootfs.tar imported:2
inspect -f '{{.Comment}} {{.Config.Env}}' imported:2
rmi imported:1 imported:2
rmi nosuch imported:1
image rm nosuch
rmi -f nosuch
image prune -f
image prune -f --filter until=1h
image prune -f --filter nope=1

create --name one -l a=b -l c=d -p 80 busybox sleep 1000
create --name one busybox
create --name bad/name busybox
create --nosuch busybox
create
create --pull never nosuch
create --cidfile $DIR/cid --name two busybox sh -c 'echo out; echo err >&2; exit 3'
create --cidfile $DIR/cid busybox
ps
ps -a
ps -a --no-trunc
ps -aq
ps -aq --no-trunc
ps -n 1 --format {{.Names}}
ps -l --format {{.Names}}
ps -a --format json
ps -a --format {{.Names}}|{{.Image}}|{{.Command}}|{{.State}}|{{.Status}}|{{.Ports}}|{{.Mounts}}|{{.Networks}}|{{.LocalVolumes}}|{{.Labels}}|{{.Size}}|{{.Platform}}
ps -a --format 'table {{.Names}}\t{{.Label "a"}}\t{{.RunningFor}}\t{{.CreatedAt}}'
ps -a --format 'table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.State}}\t{{.Status}}\t{{.Ports}}\t{{.Mounts}}\t{{.Networks}}\t{{.LocalVolumes}}\t{{.Labels}}\t{{.Size}}\t{{.Names}}'
ps -a --format '{{json .Names}} {{upper .State}} {{lower .Image}} {{title .State}} {{pad .Names 1 2}} {{truncate .Names 2}} {{join (split .Image "s") "-"}}'
ps -a --format {{.Nope}}
ps -a --format '{{.Names'
ps -a -s --format {{.Names}}|{{.Size}}
ps -a --filter name=one --format {{.Names}}
ps -a --filter label=a --format {{.Names}}
ps -a --filter label=a=x --format {{.Names}}
ps -a --filter status=created --format {{.Names}}
ps -a --filter status=nope
ps -a --filter ancestor=busybox --format {{.Names}}
ps -a --filter exited=3
ps -a --filter exited=x
ps -a --filter expose=80 --format {{.Names}}
ps -a --filter publish=80 --format {{.Names}}
ps -a --filter before=two --format {{.Names}}
ps -a --filter since=one --format {{.Names}}
ps -a --filter before=nosuch
ps -a --filter network=bridge --format {{.Names}}
ps -a --filter volume=nosuch
ps -a --filter health=healthy
ps -a --filter is-task=true
ps -a --filter nope=1
ps -a --filter nope
ps extra
start one two
wait two
start nosuch one
start -a two
start -a one two
logs two
logs -f two
logs -t two
logs --since 1h two
logs --until 1h two
logs --since nonsense two
logs nosuch
run --name lines busybox seq 3
logs --tail 1 lines
logs -f --tail 2 lines
rm lines
wait two
wait nosuch
wait
inspect -f {{.State.ExitCode}} two
inspect -f '{{.Name}} {{.Config.Image}}' one two
inspect nosuch
inspect one nosuch --format {{.Name}}
inspect --type container busybox
inspect --type nope one
inspect --type image one
inspect -s -f '{{.SizeRw}}' two
container inspect one -f {{.Path}}
container inspect nosuch
port one
port one 80
port one 80/tcp
port one 81
port nosuch
top one
top one -o pid,comm
top one aux
top two
top nosuch
exec one echo hello
exec -u app -w /tmp -e A=1 one sh -c 'echo $(id -u) $PWD $A'
exec one nosuchprogram
exec one sh -c 'exit 7'
exec -i one cat <<< told as well
exec -d one true
exec two true
exec nosuch true
exec one
exec -it one true
pause one
pause one
ps --format '{{.Names}} {{.Status}}' --filter status=paused
exec one true
unpause one
unpause one
pause nosuch
rename one uno
rename uno two
rename uno uno
rename nosuch x
rename two one
rename uno bad/name
update --memory 64m --memory-swap 128m uno
update --restart always uno
update nosuch --memory 64m
update uno
inspect -f '{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}}' uno
attach one
attach nosuch
commit -m message -a author -c 'ENV A=1' uno committed:1
commit nosuch
commit uno Bad/Name
history --format {{.Comment}}|{{.CreatedBy}} committed:1
diff two
diff nosuch
cp $DIR/rootfs.tar uno:/tmp/copied
cp $DIR/rootfs.tar uno:/missing/dir/
cp -q $DIR/rootfs.tar uno:/tmp
cp uno:/tmp/copied $DIR/back
cp uno:/nosuch $DIR/back
cp uno:/tmp/. $DIR/tmp
cp nosuch:/tmp $DIR/back
cp $DIR/nosuch uno:/tmp
cp uno:/tmp two:/tmp
cp a b
cp - uno:/tmp
cp uno:/tmp/copied $DIR/missing/dir/
cp uno
diff uno
export -o $DIR/exported.tar uno
export -o $DIR/missing/exported.tar uno
export nosuch
stats --no-stream --format {{.Name}}|{{.Container}}|{{.PIDs}}|{{.ID}} uno
stats --no-stream --format 'table {{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}' nosuch
stats --no-stream --format {{.Nope}} uno
stats --no-stream two --format {{.Name}}|{{.MemUsage}}
kill -s HUP uno
kill -s NOPE uno
kill uno
kill uno
kill nosuch
restart -t 0 uno
restart nosuch
stop -t 0 uno
stop uno
stop nosuch uno
ps -a --format '{{.Names}} {{.Status}}'
rm nosuch
rm uno nosuch
rm -f nosuch
rm
run -d --name ill --health-cmd 'exit 1' --health-interval 50ms --health-retries 1 busybox sleep 1000
run --rm --health-interval -1s --health-cmd x busybox true
run --rm --health-retries -1 --health-cmd x busybox true
run --rm --no-healthcheck --health-cmd x busybox true
inspect -f '{{json .Config.Healthcheck}}' ill
rm -f ill
run --rm --init busybox ps -o args
run --rm --init -d --name inited busybox sleep 1000
inspect -f '{{.HostConfig.Init}} {{.Path}} {{.Args}}' inited
rm -f inited
run --rm busybox echo hello
run --rm -i busybox cat <<< what it is told
run --rm -i busybox sh <<< echo out; echo err >&2; exit 4
create -i --name listens busybox cat
start -a -i listens <<< again
rm listens
run -d -i --name hears busybox sh
attach hears <<< echo heard; exit 5
wait hears
logs hears
rm hears
run --rm busybox nosuchprogram
run --rm busybox /etc
run --rm -u nosuch busybox true
run --rm -d --name three busybox sleep 1000
run --name three busybox
run --nosuch busybox
run
run --rm -v x busybox ls /x
run --rm -v a:b busybox true
run --rm -v /a:/b:nope busybox true
run --rm --mount type=nope,dst=/x busybox true
run --rm --mount type=bind,src=/nosuch,dst=/x busybox true
run --rm --mount type=volume busybox true
run --rm -p nope busybox true
run --rm -p 99999:80 busybox true
run --rm --network nosuch busybox true
run --rm --restart nope busybox true
run --rm --restart always busybox true
run --rm -m 1k busybox true
run --rm -m nope busybox true
run --rm --cpus nope busybox true
run --rm --cpus 10000 busybox true
run --rm -e '' busybox true
run --rm --env-file /nosuch busybox true
run --rm -it busybox true
run --rm -d -a stdout busybox true
run --rm --pull nope busybox true
run --rm --platform nope/nope/nope/nope busybox true
run --rm -w relative busybox pwd
run --rm --cap-add NOPE busybox true
run --rm --device /nosuch busybox true
run --rm --ulimit nope=1 busybox true
run --rm --sysctl nope=1 busybox true
run --rm --tmpfs relative busybox true
run --rm --add-host nope busybox true
run --rm --security-opt nope busybox true
run --rm --log-driver nope busybox true
run --rm --stop-signal NOPE busybox true
run --rm -h '' --name '' busybox hostname -s
rm three
rm -f three
rm one
container prune -f
container prune -f --filter until=1h
container prune -f --filter nope=1
container ls -a
container nosuch

network ls
network ls --format json
network ls --format {{.Name}}|{{.Driver}}|{{.Scope}}|{{.IPv4}}|{{.IPv6}}|{{.Internal}}|{{.Labels}}
network ls --format 'table {{.ID}}\t{{.Name}}'
network ls -q
network ls --no-trunc -q
network ls --filter name=brid --format {{.Name}}
network ls --filter driver=host --format {{.Name}}
network ls --filter type=custom
network ls --filter dangling=true
network ls --filter scope=local --format {{.Name}}
network ls --filter nope=1
network create --subnet $NET.0.0/24 --label a=b tournet
network create tournet
network create bad/name
network create
network create --driver nope x
network create --subnet nope x
network create --subnet $NET.0.0/25 overlapping
network inspect tournet --format '{{.Name}} {{.Driver}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}} {{.Labels}}'
network inspect nosuch
run -d --name four --network tournet --ip $NET.0.7 busybox sleep 1000
inspect -f '{{(index .NetworkSettings.Networks "tournet").IPAddress}}' four
network connect --alias nick bridge four
network connect nosuch four
network connect tournet nosuch
network connect tournet four
network disconnect bridge four
network disconnect bridge four
network disconnect tournet nosuch
network rm tournet
rm -f four
network rm tournet nosuch
network rm bridge
network prune -f
network prune -f --filter nope=1
network create --internal gone
network prune -f
network nosuch

volume create tourvol
volume create tourvol
volume create --label a=b other
volume create bad/name
volume create --driver nope x
volume ls
volume ls -q
volume ls --format json
volume ls --format {{.Name}}|{{.Driver}}|{{.Scope}}|{{.Mountpoint}}|{{.Labels}}|{{.Links}}|{{.Size}}|{{.Group}}|{{.Availability}}|{{.Status}}
volume ls --format 'table {{.Name}}\t{{.Driver}}\t{{.Mountpoint}}'
volume ls --filter name=tour -q
volume ls --filter label=a -q
volume ls --filter dangling=true -q
volume ls --filter driver=local -q
volume ls --filter nope=1
volume inspect tourvol --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Mountpoint}}'
volume inspect nosuch
create --name five -v tourvol:/v busybox
volume rm tourvol
rm five
volume rm tourvol nosuch
volume rm -f nosuch
volume prune -f
volume prune -af
volume prune -f --filter nope=1
volume rm

system df
system df --format {{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}|{{.Reclaimable}}
system df --format json
system df --format 'table {{.Type}}\t{{.TotalCount}}'
system df -v
events --since 1h --until 0s --filter nope=1
events --since nonsense
events --filter type=image --filter event=tag --since 1h --until 0s --format {{.Type}}|{{.Action}}|{{.Actor.Attributes.name}}
search
login -u me -p secret $REG
login -u me --password-stdin $REG <<< secret
login -u me -p '' $REG
logout $REG
logout nosuch.example
system prune -f
system prune -f --filter nope=1
system nosuch
image nosuch
volume nosuch
nosuch
--nosuch
context ls --format {{.Name}}|{{.Current}}|{{.Description}}|{{.Error}}
context ls -q
context show
context create tour --description 'a tour' --docker host=unix:///nosuch.sock
context create tour
context create bad/name
context ls -q
context inspect tour --format '{{.Name}} {{.Endpoints.docker.Host}}'
context inspect nosuch
context update tour --description other
context export tour $DIR/tour.context
context import tour2 $DIR/tour.context
context rm tour2
context rm nosuch
context rm default
context use nosuch
context rm tour
inspect
-l nope ps
--format x ps
rmi committed:1 tour:1
`

// tourDifferences are lines where Berth says something else than Docker's client, and why.
var tourDifferences = map[string]string{
	"image ls --format json": "the newer API counts an image's containers; the client of 28 speaks an older one",
	"images --format {{.Repository}}|{{.Tag}}|{{.ID}}|{{.Size}}|{{.Digest}}|{{.Containers}}": "the same",
	"ps -a --format json": "a platform that is not told is empty, not null",
	"ps -a --format {{.Names}}|{{.Image}}|{{.Command}}|{{.State}}|{{.Status}}|{{.Ports}}|{{.Mounts}}|{{.Networks}}|{{.LocalVolumes}}|{{.Labels}}|{{.Size}}|{{.Platform}}": "the same",
	"inspect --type nope one":                   "types that no engine without swarm and plugins has are not offered",
	"run --rm -v a:b busybox true":              "what is wrong with it is told",
	"run --rm --mount type=volume busybox true": "in other words",
	"run --rm --restart nope busybox true":      "what is wrong by itself is told before what contradicts",
	"network create --subnet nope x":            "the client sees it, and says what a subnet looks like",
	"cp $DIR/nosuch uno:/tmp":                   "in other words",
	"export -o $DIR/missing/exported.tar uno":   "in other words",
	"context inspect nosuch":                    "where contexts are kept is nobody's business",
	"context use nosuch":                        "the same",
	"system df":                                 "what else takes space is told too",
	"system df --format {{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}|{{.Reclaimable}}": "the same",
	"system df --format json":                               "the same",
	`system df --format 'table {{.Type}}\t{{.TotalCount}}'`: "the same",
	"logout nosuch.example":                                 "who was not logged in is told so",
	"run --rm --log-driver nope busybox true":               "in other words",
}

// words splits a line at spaces; single quotes hold words together.
func words(line string) (out []string) {
	for _, w := range regexp.MustCompile(`'[^']*'|\S+`).FindAllString(line, -1) {
		out = append(out, strings.Trim(w, "'"))
	}
	return out
}

// normal takes out what is another in every run.
func normal(text, dir, reg string) string {
	text = strings.NewReplacer(dir, "DIR", reg, "REG").Replace(text)
	for _, r := range []struct{ pattern, with string }{
		{`[0-9a-f]{64}`, "ID"},
		{`\b[0-9a-f]{12}\b`, "SHORT"},
		{`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| [+-]\d{4} [A-Z]+|[+-]\d\d:\d\d)`, "TIME"},
		{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d`, "TIME"},
		{`(Less than a second|\d+ seconds?|About a minute|\d+ (minutes|years|months))( ago)?`, "AGE"},
		{`\b[a-z]+_[a-z]+\b`, "NAME"},
		{` +`, " "}, // columns are as wide as what is in them
		{`(?m) +$`, ""},
		{`\b\d{3,}\b`, "NUMBER"},
		{`\b\d+\.\d\b`, "FRACTION"},
		{`\b\d\d:\d\d\b`, "CLOCK"},
		{`docker`, "berth"},
		{`(failed to execute template: |template parsing error: )?template: \w*:`, "template: "},
		{`executing "\w*" at`, "executing at"},
		{`in type .*`, "in type TYPE"},
		// How a mistake is told around what it is: Berth takes one line and a hint.
		{`(?m)^(Usage: .*|time=".*" level=.*|\tberth .*|Run '.*|See '.*|exit status 1|Error: failed to rename .*)\n?`, ""},
		{`(?m)^berth: `, ""},
		{`(?m)^You cannot`, "cannot"},
		{`\n+`, "\n"},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	return text
}

// TestTourOfTheOfficialClient runs the whole tour with the official client and with berth,
// each on an engine of its own: both say the same and end alike, word for word.
func TestTourOfTheOfficialClient(t *testing.T) {
	type guide struct {
		name string
		run  func(stdin string, args ...string) testkit.Result
		dir  string
		reg  string
		told []string
	}
	guides := []*guide{}
	for _, c := range clients {
		e := testkit.StartEngine(t, testkit.EngineOptions{})
		e.Must("import", "--change", `CMD ["sh"]`, testkit.BusyboxTar(t), "busybox:latest")
		programs := map[string]string{"berth": filepath.Join(e.Bin, "berth"), "docker": testkit.DockerCLI(t)}
		guides = append(guides, &guide{name: c.name, dir: e.Dir, run: func(stdin string, args ...string) testkit.Result { return e.Run(stdin, programs[c.name], args...) }})
	}
	if os.Getenv("BERTH_TEST_AGAINST") == "dockerd" {
		d := testkit.DockerdOn(t, testkit.NewHost(t))
		d.Must("import", "--change", `CMD ["sh"]`, testkit.BusyboxTar(t), "busybox:latest")
		guides[0] = &guide{name: "dockerd", dir: d.Dir, run: d.Give}
	}
	lines := strings.Split(strings.TrimSpace(theTour), "\n")
	var both sync.WaitGroup
	for n, g := range guides {
		subnet := "10." + itoa(213+n)
		reg := testkit.Registry(t, testkit.RegistryOptions{})
		g.reg = reg.Addr
		if err := os.WriteFile(filepath.Join(g.dir, "rootfs.tar"), layerTar(tarEntry{Header: dirHeader("etc")}), 0o600); err != nil {
			t.Fatal(err)
		}
		both.Go(func() {
			for _, line := range lines {
				line, input, given := strings.Cut(line, " <<< ")
				if given {
					input += "\n"
				}
				args := words(strings.NewReplacer("$DIR", g.dir, "$REG", g.reg, "$NET", subnet).Replace(line))
				if len(args) == 0 {
					g.told = append(g.told, "")
					continue
				}
				r := g.run(input, args...)
				g.told = append(g.told, normal(r.Stdout+"\n--- standard error:\n"+firstLower(r.Stderr), g.dir, g.reg)+"--- exit "+itoa(r.Code))
			}
		})
	}
	both.Wait()
	for n, line := range lines {
		if why := tourDifferences[line]; why != "" {
			continue
		}
		if diff := cmp.Diff(guides[1].told[n], guides[0].told[n]); diff != "" {
			t.Errorf("%s (-docker on Berth +%s)\n%s", line, guides[0].name, diff)
		}
	}
}

// firstLower is an error as the newer client begins it.
func firstLower(text string) string {
	for _, word := range []string{"Error parsing", "Unable to parse", "Invalid --"} {
		text = strings.ReplaceAll(text, word, strings.ToLower(word[:1])+word[1:])
	}
	return text
}
