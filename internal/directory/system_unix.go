//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package directory

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// lock takes the lock, which the end of the process releases.
func lock(root *os.Root) (io.Closer, error) {
	f, err := root.OpenFile(LockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrInUse
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func syncNames(d *os.File) error { return d.Sync() }

// IsFull reports whether err says that there is no room left.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
