//go:build !linux && !darwin && !freebsd && !netbsd && !openbsd && !dragonfly && !windows

package directory

import (
	"errors"
	"io"
	"os"
)

func lock(*os.Root) (io.Closer, error) { return nil, errors.ErrUnsupported }
func syncNames(*os.File) error         { return errors.ErrUnsupported }

// IsFull reports whether err says that there is no room left.
func IsFull(error) bool { return false }
