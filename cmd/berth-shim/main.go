// Command berth-shim stands behind one container. It is started by berthd.
package main

import (
	"os"

	"berth/supervisor"
)

func main() { os.Exit(supervisor.Main(os.Args[1:])) }
