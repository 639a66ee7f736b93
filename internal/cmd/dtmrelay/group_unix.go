//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// inGroup makes a command the head of a process group of its own. When its context ends,
// all of the group are asked to end, and endGroup kills who is left: what a shell has
// started would work on after the command has failed, beside its repetition.
func inGroup(cmd *exec.Cmd) (endGroup func()) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	return func() {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // there may be nobody left
		}
	}
}
