package segment

import "os"

// syncData is FlushFileBuffers.
func syncData(f *os.File) error { return f.Sync() }

// reserve sets the end of the file: NTFS reserves the clusters, and returns zeros until they are written.
func reserve(f *os.File, size int64) error { return f.Truncate(size) }
