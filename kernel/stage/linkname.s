// The functions without a body in child.go are linked from the Go runtime.
