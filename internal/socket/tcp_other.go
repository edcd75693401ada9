//go:build !linux

package socket

import "syscall"

// setLimits does nothing: this system has no such limits, or none that are tested.
func setLimits(_, _ string, _ syscall.RawConn) error { return nil }
