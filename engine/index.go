package engine

import (
	"slices"
	"strings"
	"sync"

	"berth/fail"
)

// index finds containers by id, name and id prefix, and is where names are taken.
type index struct {
	mu    sync.RWMutex // guards all below
	ids   map[string]*instance
	names map[string]string // name → id, also of containers that are being created
	byAge []*instance       // oldest first

	// What removed containers ended with, for clients whose wait for the removal was cut off by
	// the end of the engine and who ask the next one again.
	farewells map[string]int // id → exit code
	departed  []string       // ids in farewells, oldest first
}

// farewellMemory bounds how many removed containers are remembered.
const farewellMemory = 1024

func newIndex() *index {
	return &index{ids: map[string]*instance{}, names: map[string]string{}, farewells: map[string]int{}}
}

// reserve takes a name for id before the container exists.
func (x *index) reserve(name, id string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if holder, taken := x.names[name]; taken {
		return fail.New(fail.Conflict, "Conflict. The container name %q is already in use by container %q."+
			" You have to remove (or rename) that container to be able to reuse that name.", "/"+name, holder)
	}
	x.names[name] = id
	return nil
}

// release gives a name back if id holds it.
func (x *index) release(name, id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.names[name] == id {
		delete(x.names, name)
	}
}

// add makes a container visible. Its name is reserved already.
func (x *index) add(i *instance) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ids[i.id] = i
	when := i.now().Created
	at := len(x.byAge)
	for at > 0 && x.byAge[at-1].now().Created.After(when) {
		at--
	}
	x.byAge = slices.Insert(slices.Clone(x.byAge), at, i)
}

// remove makes a container and its name unknown.
func (x *index) remove(i *instance) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.ids, i.id)
	if name := i.now().Name; x.names[name] == i.id {
		delete(x.names, name)
	}
	x.byAge = slices.DeleteFunc(slices.Clone(x.byAge), func(o *instance) bool { return o == i })
	if len(x.departed) == farewellMemory {
		delete(x.farewells, x.departed[0])
		x.departed = slices.Delete(x.departed, 0, 1)
	}
	x.departed = append(x.departed, i.id)
	x.farewells[i.id] = i.now().State.ExitCode
}

// farewell is the exit code of a removed container, by its full id.
func (x *index) farewell(id string) (code int, known bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	code, known = x.farewells[id]
	return code, known
}

// all lists the containers, oldest first. The slice must not be changed.
func (x *index) all() []*instance {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byAge
}

// find resolves a full id, a name or a unique prefix of an id, in this order.
func (x *index) find(ref string) (*instance, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if i := x.ids[ref]; i != nil {
		return i, nil
	}
	if id, ok := x.names[strings.TrimPrefix(ref, "/")]; ok && x.ids[id] != nil {
		return x.ids[id], nil
	}
	var found *instance
	if ref != "" {
		for id, i := range x.ids {
			if !strings.HasPrefix(id, ref) {
				continue
			}
			if found != nil {
				return nil, fail.New(fail.Invalid, "multiple IDs found with provided prefix: %s", ref)
			}
			found = i
		}
	}
	if found == nil {
		return nil, fail.New(fail.NotFound, "No such container: %s", ref)
	}
	return found, nil
}
