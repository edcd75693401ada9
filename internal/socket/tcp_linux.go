package socket

import "syscall"

const tcpUserTimeout = 0x12 // TCP_USER_TIMEOUT of tcp(7), in milliseconds

// limitUnacknowledged sets userTimeout. A system that refuses it has none.
func limitUnacknowledged(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(userTimeout.Milliseconds()))
	})
}
