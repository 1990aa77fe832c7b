// Command berth-runtime is Berth's OCI runtime behind runc's command line.
package main

import (
	"os"

	"berth/runtimecli"
)

func main() { os.Exit(runtimecli.Main(os.Args[1:], os.Stdout, os.Stderr)) }
