# make          builds bin/berth, bin/berthd, bin/berth-shim, bin/berth-runtime
# make check    formatting, vet, linter, unit tests: no root, under two minutes
# make test     everything, as root, and a chosen part in a virtual machine
# make test-vm  the same in a virtual machine with cgroup v2, systemd and AppArmor (hours
#               where there is no KVM; VM=-run and other flags of `bin/vm test` narrow it;
#               BERTH_TEST_CGROUP_DRIVER=systemd has systemd make the control groups)
# make platforms  docs/platforms.md: what ran where, and what was skipped
# make vm-shell a shell in such a machine with berthd running
# make demo     builds, makes a Debian image and runs a container of it, as root
# make compatibility  everything of ./test, and docs/compatibility.md from what it has shown
# make deb      Debian packages for amd64 and arm64 in dist/; make dist  static tarballs there
# make check-deb  whether two builds of the packages are the same, and what lintian says of them
# make bench    side by side with the peers, as root, into docs/benchmarks.md
#               (BENCH=-quick: a look at every row in four minutes)

GO       ?= go
COMMIT   := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X berth/version.Commit=$(COMMIT)
PROGRAMS := berth berthd berth-shim berth-runtime
BENCH    ?= -o docs/benchmarks.md
POWERCUTS ?= 30
export CGO_ENABLED := 0

.PHONY: all $(PROGRAMS) tools check fmt vet lint unit test test-vm test-vm-chosen chosen-suites chosen-machines vm-shell platforms bin/vm compatibility fuzz demo bench deb dist check-deb apt clean

all: $(PROGRAMS)

$(PROGRAMS):
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/$@ ./cmd/$@

# The linter and the clients that tests drive us with have modules of their own.
tools: bin/tools/staticcheck bin/tools/docker bin/tools/testcontainers bin/tools/oci/runtimetest

bin/tools/staticcheck: tools/go.mod
	$(GO) build -C tools -o ../$@ honnef.co/go/tools/cmd/staticcheck

bin/tools/docker: tools/go.mod
	$(GO) build -C tools -ldflags '-X github.com/docker/cli/cli/version.Version=28.5.2' -o ../$@ github.com/docker/cli/cmd/docker

bin/tools/testcontainers: $(wildcard tools/testcontainers/*)
	$(GO) build -C tools/testcontainers -o ../../$@ .

# The OCI's validation programs, and the root file system that they unpack.
RUNTIME_TOOLS := github.com/opencontainers/runtime-tools

bin/tools/oci/runtimetest: tools/oci/go.mod
	$(GO) build -C tools/oci -ldflags '-s -w' -o ../../bin/tools/oci/ $(RUNTIME_TOOLS)/validation/... $(RUNTIME_TOOLS)/cmd/runtimetest
	install -m 644 "$$($(GO) list -C tools/oci -m -f '{{.Dir}}' $(RUNTIME_TOOLS))"/rootfs-*.tar.gz bin/tools/oci/

check: fmt vet lint unit

fmt:
	@bad=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$bad" ]; then echo "not gofmt-ed:"; echo "$$bad"; exit 1; fi

vet:
	$(GO) vet ./...

lint: bin/tools/staticcheck
	bin/tools/staticcheck ./...

unit:
	$(GO) test -short ./...

test: apt check all tools
	$(GO) test $(TESTFLAGS) -count=1 -timeout 40m ./...
	$(MAKE) test-vm-chosen

bin/vm:
	$(GO) build -o $@ ./test/vm

test-vm: apt tools bin/vm
	bin/vm test $(VM) ./...
	BERTH_VM=1 BERTH_POWERCUTS=$(POWERCUTS) $(GO) test -count=1 -timeout 180m ./testkit/vm ./test/machine
	BERTH_VM=1 BERTH_POWERCUTS=8 BERTH_POWERCUT_FS=xfs $(GO) test -count=1 -timeout 60m -run PowerFails ./test/machine

# A chosen part of it, of `make test`, in two machines at once and within fifteen minutes.
test-vm-chosen: tools bin/vm
	$(MAKE) -j2 -O chosen-suites chosen-machines

VM_CHOSEN := ./kernel ./kernel/cgroup ./kernel/apparmor ./kernel/systemd ./runtime \
	'./test=^(TestRunGivesOutputAndExitCode|TestLimits.*|TestAppArmor.*|TestSecurityOptionsConfine|TestLifeOfAContainer|TestMountsOfEveryKind|TestBerthInBerth)$$'
chosen-suites:
	bin/vm test -timeout 20m -skip /docker $(VM_CHOSEN)
	BERTH_VM=1 $(GO) test -count=1 -timeout 30m -run LivingWithSystemd ./test/machine

chosen-machines:
	BERTH_VM=1 BERTH_POWERCUTS=2 $(GO) test -count=1 -timeout 40m -run 'DoesNotComeUp|ThePackage|PowerFails' ./testkit/vm ./test/machine

# What ran where: the whole of the tests on this machine and in a virtual one.
platforms: apt tools bin/vm
	rm -f bin/host.json bin/vm.json
	bin/vm test -host -json bin/host.json ./...
	bin/vm test -timeout 300m -json bin/vm.json ./...
	BERTH_VM=1 BERTH_POWERCUTS=$(POWERCUTS) bin/vm test -host -timeout 180m -json bin/vm.json ./test/machine
	bin/vm platforms bin/host.json bin/vm.json >docs/platforms.md

vm-shell: apt bin/vm
	bin/vm shell

compatibility: tools
	$(GO) test -count=1 -timeout 40m ./test -compatibility $(COMPATIBILITY)

# Every fuzzer for a time, one after another.
FUZZTIME ?= 30s
fuzz:
	@set -e; for file in $$(git grep -l -E '^func Fuzz' -- '*_test.go'); do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' $$file); do \
			echo "$$name in ./$$(dirname $$file)"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) ./$$(dirname $$file); \
		done; \
	done

demo:
	./demo.sh

bench: all tools
	./apt.sh docker.io podman crun buildah
	$(GO) build -o bin/bench ./bench
	bin/bench $(BENCH)

deb dist:
	packaging/build.sh $@

check-deb:
	packaging/build.sh check

# Debian packages that the tests and the demo use; the product needs none of them.
apt:
	./apt.sh

clean:
	rm -rf bin dist
