package cli

import (
	"maps"
	"slices"

	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newContainerGroup(a *app) *cobra.Command {
	return newGroup(a, "container", "Manage containers", []entry{
		{name: "attach", build: newAttach},
		{name: "commit", build: newCommit},
		{name: "cp", build: newCp},
		{name: "create", build: newCreate},
		{name: "diff", build: newDiff},
		{name: "exec", build: newExec},
		{name: "export", build: newExport},
		{name: "inspect", build: newContainerInspect},
		{name: "kill", build: newKill},
		{name: "logs", build: newLogs},
		{name: "ls", aliases: []string{"ps", "list"}, build: newContainerLs},
		{name: "pause", build: newPause},
		{name: "port", build: newPort},
		{name: "prune", build: newContainerPrune},
		{name: "rename", build: newRename},
		{name: "restart", build: newRestart},
		{name: "rm", aliases: []string{"remove"}, build: newRm},
		{name: "run", build: newRun},
		{name: "start", build: newStart},
		{name: "stats", build: newStats},
		{name: "stop", build: newStop},
		{name: "top", build: newTop},
		{name: "unpause", build: newUnpause},
		{name: "update", build: newUpdate},
		{name: "wait", build: newWait},
	})
}

func newImageGroup(a *app) *cobra.Command {
	return newGroup(a, "image", "Manage images", []entry{
		{name: "build", build: newPluginCommand("build", "Build an image from a Dockerfile")},
		{name: "history", build: newHistory},
		{name: "import", build: newImport},
		{name: "inspect", build: newImageInspect},
		{name: "load", build: newLoad},
		{name: "ls", aliases: []string{"list"}, build: newImageLs},
		{name: "prune", build: newImagePrune},
		{name: "pull", build: newPull},
		{name: "push", build: newPush},
		{name: "rm", aliases: []string{"remove"}, build: newImageRm},
		{name: "save", build: newSave},
		{name: "tag", build: newTag},
	})
}

func newSystemGroup(a *app) *cobra.Command {
	return newGroup(a, "system", "Manage Berth", []entry{
		{name: "check", build: newCheck},
		{name: "df", build: newDf},
		{name: "dial-stdio", build: newDialStdio},
		{name: "events", build: newEvents},
		{name: "info", build: newInfo},
		{name: "prune", build: newSystemPrune},
	})
}

func newContainerLs(a *app) *cobra.Command { return newContainerList(a, "ls", []string{"ps", "list"}) }
func newImageLs(a *app) *cobra.Command     { return newImageList(a, "ls", []string{"list"}) }
func newImageRm(a *app) *cobra.Command     { return newImageRemove(a, "rm", []string{"remove"}) }

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
