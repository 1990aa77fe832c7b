package layer

import (
	"context"
	"io"
)

// Diff writes the tar of what a writable layer (dir as given to Rootfs) changes,
// reproducibly ordered.
func (s *Store) Diff(ctx context.Context, dir string, w io.Writer) error { panic("contract") }
