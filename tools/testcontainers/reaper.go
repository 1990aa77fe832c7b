package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"
)

// afterglow is how long the reaper waits for another connection after the last one has ended.
const afterglow = 2 * time.Second

// reap serves the reaper's protocol until everybody is gone, and removes what they named.
func reap(ctx context.Context) error {
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	var mu sync.Mutex
	wanted := map[string]bool{}
	fmt.Println("Started")                                    // what Testcontainers waits for
	last := time.AfterFunc(time.Minute, func() { l.Close() }) // nobody came
	open := 0
	for {
		conn, err := l.Accept()
		if err != nil {
			break
		}
		mu.Lock()
		open++
		last.Stop()
		mu.Unlock()
		go func() {
			defer func() {
				conn.Close()
				mu.Lock()
				defer mu.Unlock()
				if open--; open == 0 {
					last.Reset(afterglow)
				}
			}()
			for in := bufio.NewScanner(conn); in.Scan(); {
				mu.Lock()
				wanted[in.Text()] = true
				mu.Unlock()
				fmt.Fprintln(conn, "ACK")
			}
		}()
	}
	engine, err := client.New(client.WithHost("unix:///var/run/docker.sock"))
	if err != nil {
		return err
	}
	for line := range wanted {
		query, err := url.ParseQuery(line)
		if err != nil || len(query["label"]) == 0 {
			continue // nothing, rather than everything
		}
		if err := remove(ctx, engine, query["label"]); err != nil {
			return fmt.Errorf("remove what %s fits: %w", strings.Join(query["label"], " "), err)
		}
	}
	return nil
}

func remove(ctx context.Context, engine *client.Client, labels []string) error {
	filters := make(client.Filters).Add("label", labels...)
	boxes, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		return err
	}
	for _, b := range boxes.Items {
		if b.Labels["org.testcontainers.ryuk"] == "true" {
			continue // ourselves
		}
		if _, err := engine.ContainerRemove(ctx, b.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
			return err
		}
	}
	networks, err := engine.NetworkList(ctx, client.NetworkListOptions{Filters: filters})
	if err != nil {
		return err
	}
	for _, n := range networks.Items {
		if _, err := engine.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{}); err != nil {
			return err
		}
	}
	return nil
}
