package socket

import "syscall"

// Options of tcp(7) that package syscall does not name.
const (
	tcpUserTimeout  = 0x12 // in milliseconds
	tcpNotSentLowat = 0x19 // in bytes
)

// setLimits sets userTimeout and unsentLimit. A system that refuses one does without it.
func setLimits(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(userTimeout.Milliseconds()))
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, unsentLimit)
	})
}
