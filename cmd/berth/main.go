// Command berth is the command line of Berth: a client of the Docker Engine API.
package main

import (
	"os"

	"berth/cli"
)

func main() {
	os.Exit(cli.Main(os.Args, cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
