package cli

import (
	"maps"
	"slices"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newContainerGroup(a *app) *cobra.Command {
	return newGroup("container", "Manage containers",
		newAttach(a), newCreate(a), newExec(a), newContainerInspect(a), newKill(a), newLogs(a),
		newContainerList(a, "ls", []string{"ps", "list"}), newPause(a), newPort(a), newContainerPrune(a),
		newRename(a), newRestart(a), newRm(a), newRun(a), newStart(a), newStop(a), newTop(a), newUnpause(a), newWait(a))
}

func newImageGroup(a *app) *cobra.Command {
	return newGroup("image", "Manage images",
		newHistory(a), newImport(a), newImageInspect(a), newLoad(a), newImageList(a, "ls", []string{"list"}),
		newImagePrune(a), newPull(a), newPush(a), newImageRemove(a, "rm", []string{"remove"}), newSave(a), newTag(a))
}

func newSystemGroup(a *app) *cobra.Command {
	return newGroup("system", "Manage Berth", newDf(a), newDialStdio(a), newEvents(a), newInfo(a), newSystemPrune(a))
}

// filterLines are the filters as they are typed, in a fixed order.
func filterLines(filters mobyclient.Filters) []string {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(filters)) {
		for _, value := range slices.Sorted(maps.Keys(filters[key])) {
			lines = append(lines, key+"="+value)
		}
	}
	return lines
}
