//go:build !linux && !windows

package segment

import "os"

// syncData is F_FULLFSYNC on macOS, where fsync leaves data in the cache of the drive. package os falls
// back to fsync where a file system, such as SMB, does not have it.
func syncData(f *os.File) error { return f.Sync() }

// reserve writes the blocks: a file that is only extended may lack them later.
func reserve(f *os.File, size int64) error { return zeros(f, size) }
