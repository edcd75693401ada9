package segment

import (
	"errors"
	"os"
	"syscall"
)

// syncData leaves out the times of the file, which are not needed. fdatasync writes whatever is needed to
// read the data, the conversion of reserved blocks included.
func syncData(f *os.File) error { return control(f, syscall.Fdatasync) }

// reserve uses fallocate, where the file system has it.
func reserve(f *os.File, size int64) error {
	err := control(f, func(fd int) error { return syscall.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return zeros(f, size)
	}
	return err
}

// control calls do with the descriptor of f, again where a signal interrupted it.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	err = raw.Control(func(fd uintptr) {
		for {
			if done = do(int(fd)); !errors.Is(done, syscall.EINTR) {
				return
			}
		}
	})
	return errors.Join(err, done)
}
