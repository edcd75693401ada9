//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package cursor

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// lockDirectory takes the lock, which the end of the process releases.
func lockDirectory(root *os.Root) (io.Closer, error) {
	f, err := root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func syncDirectory(d *os.File) error { return d.Sync() }

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
