//go:build linux || darwin

package main

import (
	"errors"
	"os"
	"syscall"
)

// lock takes a file for this process until it is closed. False: another process has it.
// Where a file system has no locks, nobody is kept off.
func lock(file *os.File) bool {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	return !errors.Is(err, syscall.EWOULDBLOCK)
}
