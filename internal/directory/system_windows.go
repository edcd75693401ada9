package directory

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// lock takes the lock, which the end of the process releases: no other handle to the file can be
// opened.
func lock(root *os.Root) (io.Closer, error) {
	path, err := syscall.UTF16PtrFromString(filepath.Join(root.Name(), LockFile))
	if err != nil {
		return nil, err
	}
	const shared = 0
	h, err := syscall.CreateFile(path, syscall.GENERIC_READ|syscall.GENERIC_WRITE, shared, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL|syscall.FILE_FLAG_OPEN_REPARSE_POINT, 0)
	if errors.Is(err, errSharingViolation) {
		return nil, ErrInUse
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(h), LockFile), nil
}

const (
	errSharingViolation = syscall.Errno(32)
	errHandleDiskFull   = syscall.Errno(39)
	errDiskFull         = syscall.Errno(112)
)

func syncNames(*os.File) error { return nil }

// IsFull reports whether err says that there is no room left.
func IsFull(err error) bool {
	return errors.Is(err, errDiskFull) || errors.Is(err, errHandleDiskFull) || errors.Is(err, syscall.ENOSPC)
}
