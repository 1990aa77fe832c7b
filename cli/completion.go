package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	mobyclient "github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// completionPatience bounds how long a Tab waits for the engine.
const completionPatience = 2 * time.Second

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeContainers offers the names of the containers that keep is true for and that are
// not on the command line yet.
func (a *app) completeContainers(keep func(container.Summary) bool) completer {
	return func(cmd *cobra.Command, typed []string, _ string) ([]string, cobra.ShellCompDirective) {
		return without(a.containerNames(keep), typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeImages offers image names for the first limit arguments (0: for all of them).
func (a *app) completeImages(limit int) completer {
	return func(cmd *cobra.Command, typed []string, _ string) ([]string, cobra.ShellCompDirective) {
		if limit > 0 && len(typed) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return without(a.imageTags(), typed), cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) completeAny(_ *cobra.Command, typed []string, _ string) ([]string, cobra.ShellCompDirective) {
	return without(slices.Concat(a.containerNames(anyState), a.imageTags(), a.networkNames(anyNetwork)), typed), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) containerNames(keep func(container.Summary) bool) []string {
	engine, err := a.engine()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
	defer cancel()
	answer, err := engine.ContainerList(ctx, mobyclient.ContainerListOptions{All: true})
	if err != nil {
		return nil
	}
	var names []string
	for _, c := range answer.Items {
		if !keep(c) {
			continue
		}
		for _, name := range c.Names {
			names = append(names, strings.TrimPrefix(name, "/"))
		}
	}
	return names
}

func (a *app) imageTags() []string {
	engine, err := a.engine()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
	defer cancel()
	answer, err := engine.ImageList(ctx, mobyclient.ImageListOptions{})
	if err != nil {
		return nil
	}
	var names []string
	for _, i := range answer.Items {
		for _, tag := range i.RepoTags {
			names = append(names, strings.TrimSuffix(tag, ":latest"))
			if strings.HasSuffix(tag, ":latest") {
				names = append(names, tag)
			}
		}
	}
	return names
}

func without(names, typed []string) []string {
	seen := make(map[string]bool, len(typed))
	for _, t := range typed {
		seen[t] = true
	}
	kept := names[:0:0]
	for _, n := range names {
		if !seen[n] {
			kept = append(kept, n)
		}
	}
	return kept
}
