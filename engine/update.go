package engine

import (
	"context"
	"fmt"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"berth/fail"
)

// UpdateRequest is what POST /containers/{id}/update brings. Limits that are 0, empty or nil
// stay as they are, and so does a restart policy without a name.
type UpdateRequest struct {
	Resources     container.Resources
	RestartPolicy container.RestartPolicy
}

// Update changes limits and the restart policy of a container, in the kernel too if it runs.
// What contradicts the container's other limits is class Conflict; then nothing changes.
func (c *Containers) Update(ctx context.Context, ref string, r UpdateRequest) (warnings []string, err error) {
	err = c.with(ref, func(i *instance) error {
		warnings, err = c.life.update(ctx, i, r)
		return err
	})
	return warnings, err
}

func (l *lifecycle) update(ctx context.Context, i *instance, r UpdateRequest) (warnings []string, err error) {
	asked := r.Resources
	warnings = discardUnsupported(&asked, l.host)
	if err := checkLimits(&asked, l.host); err != nil {
		return nil, err
	}
	if err := checkPolicy(r.RestartPolicy); err != nil {
		return nil, err
	}
	giveBack, err := l.take(ctx, i)
	if err != nil {
		return nil, err
	}
	defer giveBack()
	if i.isRemoved() || i.now().State.Status == removing {
		return nil, fail.New(fail.Conflict, "Cannot update container %s: container is marked for removal and cannot be \"update\"", i.id)
	}
	old := i.now().HostConfig
	next := *old
	if err := mergeUpdate(&next.Resources, &asked); err != nil {
		return nil, err
	}
	if r.RestartPolicy.Name != "" {
		if next.AutoRemove && !r.RestartPolicy.IsNone() {
			return nil, fail.New(fail.Conflict, "Restart policy cannot be updated because AutoRemove is enabled for the container")
		}
		next.RestartPolicy = r.RestartPolicy
	}
	if err := i.setLimits(ctx, &asked, &next.Resources); err != nil {
		return nil, fail.New(fail.Of(err), "Cannot update container %s: %w", i.id, err)
	}
	c := i.setHostConfig(&next)
	if err := l.rec.save(i); err != nil {
		i.setHostConfig(old)
		return nil, err
	}
	l.ann.tell(c, "update")
	if r.RestartPolicy.Name != "" {
		if err := l.tellPolicy(ctx, i, c); err != nil {
			return nil, err
		}
	}
	return warnings, nil
}

// tellPolicy lets the shim of a container that runs know of its restart policy.
func (l *lifecycle) tellPolicy(ctx context.Context, i *instance, c Container) error {
	r, _, err := i.live()
	if fail.Is(err, fail.Conflict) {
		return nil // it does not run: the next start tells
	}
	if err != nil {
		return err
	}
	if err := r.shim.SetPolicy(ctx, l.shimPolicy(c)); err != nil && !fail.Is(err, fail.NotFound) {
		return fmt.Errorf("the restart policy is changed, but the container's supervisor does not know of it: %w", err)
	}
	l.ailed(i, r)
	return nil
}

func (i *instance) setHostConfig(h *container.HostConfig) Container {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.change(func(c *Container) { c.HostConfig = h })
}

// mergeUpdate lays the limits that are asked for over those there are.
func mergeUpdate(have, asked *container.Resources) error {
	for _, rule := range []struct {
		broken bool
		text   string
	}{
		{asked.NanoCPUs > 0 && have.CPUPeriod > 0, "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"},
		{asked.NanoCPUs > 0 && have.CPUQuota > 0, "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set"},
		{asked.CPUPeriod > 0 && have.NanoCPUs > 0, "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set"},
		{asked.CPUQuota > 0 && have.NanoCPUs > 0, "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"},
		{asked.Memory > 0 && asked.MemorySwap == 0 && have.MemorySwap != -1 && asked.Memory > have.MemorySwap,
			"Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"},
		{asked.MemorySwap > 0 && asked.Memory == 0 && have.Memory == 0, "You should always set the Memory limit when using Memoryswap limit, see usage"},
		{asked.MemorySwap > 0 && asked.Memory == 0 && asked.MemorySwap < have.Memory, "Minimum memoryswap limit should be larger than already set memory limit, update the memory at the same time"},
	} {
		if rule.broken {
			return fail.New(fail.Conflict, "%s", rule.text)
		}
	}
	for _, n := range []struct{ to, from *int64 }{
		{&have.CPUShares, &asked.CPUShares}, {&have.NanoCPUs, &asked.NanoCPUs}, {&have.CPUPeriod, &asked.CPUPeriod}, {&have.CPUQuota, &asked.CPUQuota},
		{&have.CPURealtimePeriod, &asked.CPURealtimePeriod}, {&have.CPURealtimeRuntime, &asked.CPURealtimeRuntime},
		{&have.Memory, &asked.Memory}, {&have.MemorySwap, &asked.MemorySwap}, {&have.MemoryReservation, &asked.MemoryReservation},
	} {
		if *n.from != 0 {
			*n.to = *n.from
		}
	}
	for _, s := range []struct{ to, from *string }{{&have.CpusetCpus, &asked.CpusetCpus}, {&have.CpusetMems, &asked.CpusetMems}} {
		if *s.from != "" {
			*s.to = *s.from
		}
	}
	if asked.BlkioWeight != 0 {
		have.BlkioWeight = asked.BlkioWeight
	}
	if asked.PidsLimit != nil {
		limit := max(*asked.PidsLimit, 0)
		have.PidsLimit = &limit
	}
	return nil
}

// setLimits gives the kernel what is asked, if the container runs. merged is what its limits
// will be then: v2's limit of swap cannot be told from that of memory and swap alone.
func (i *instance) setLimits(ctx context.Context, asked, merged *container.Resources) error {
	changes, err := resources(&container.Resources{
		CPUShares: asked.CPUShares, NanoCPUs: asked.NanoCPUs, CPUPeriod: asked.CPUPeriod, CPUQuota: asked.CPUQuota,
		CPURealtimePeriod: asked.CPURealtimePeriod, CPURealtimeRuntime: asked.CPURealtimeRuntime,
		CpusetCpus: asked.CpusetCpus, CpusetMems: asked.CpusetMems, MemoryReservation: asked.MemoryReservation,
		BlkioWeight: asked.BlkioWeight, PidsLimit: asked.PidsLimit,
	})
	if err != nil {
		return err
	}
	if asked.Memory != 0 || asked.MemorySwap != 0 {
		if changes.Memory == nil {
			changes.Memory = new(specs.LinuxMemory)
		}
		changes.Memory.Limit, changes.Memory.Swap = positive(merged.Memory), nonZero(merged.MemorySwap)
	}
	if changes.CPU == nil && changes.Memory == nil && changes.Pids == nil && changes.BlockIO == nil {
		return nil
	}
	r, _, err := i.live()
	if fail.Is(err, fail.Conflict) {
		return nil // it does not run: the next start sets them
	}
	if err != nil {
		return err
	}
	if err := r.shim.Update(ctx, changes); !fail.Is(err, fail.NotFound) {
		return err
	}
	return nil // it has ended meanwhile
}
