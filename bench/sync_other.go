//go:build !linux

package main

import "os"

func reserve(f *os.File, size int64) error {
	_, err := f.WriteAt(make([]byte, size), 0)
	return err
}

func dataSync(f *os.File) error { return f.Sync() }
