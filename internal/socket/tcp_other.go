//go:build !linux

package socket

import "syscall"

// limitUnacknowledged does nothing: this system has no such limit, or none that is tested.
func limitUnacknowledged(_, _ string, _ syscall.RawConn) error { return nil }
