//go:build !linux && !darwin && !freebsd && !netbsd && !openbsd && !dragonfly && !windows

package cursor

import (
	"errors"
	"io"
	"os"
)

func lockDirectory(*os.Root) (io.Closer, error) { return nil, errors.ErrUnsupported }
func syncDirectory(*os.File) error              { return errors.ErrUnsupported }
func isFull(error) bool                         { return false }
