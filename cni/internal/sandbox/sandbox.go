// Package sandbox makes network namespaces that play a node and its Pods, for tests and measurements.
//
// A namespace lives as long as its file descriptor here, and has a path under /proc that other processes can open: no
// mount, no name, so nothing stays behind, however a test ends. The machine's own namespace is never changed. The
// package owns the descriptors it opened and, during Do, one locked thread each.
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace of its own, with lo up.
type Namespace struct{ f *os.File }

// New makes one.
func New() (*Namespace, error) {
	var f *os.File
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if f, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return loUp()
	})
	if err != nil {
		return nil, err
	}
	return &Namespace{f}, nil
}

// Here is the namespace that the process stands in.
func Here() (*Namespace, error) {
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	return &Namespace{f}, nil
}

// Path leads to the namespace for every process of the machine.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.f.Fd()) }

// Close lets the namespace go.
func (n *Namespace) Close() error { return n.f.Close() }

// Do runs f on a thread inside the namespace. Processes that f starts are inside as well, goroutines are not.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// Sysctl writes a value below /proc/sys/net of the namespace.
func (n *Namespace) Sysctl(name, value string) error {
	return n.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

// onThread runs f on a thread that ends afterwards: a goroutine that exits locked takes its thread with it.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		err := errors.New("the thread ended early")
		defer func() { done <- err }()
		runtime.LockOSThread()
		err = f()
	}()
	return <-done
}

// loUp switches the loopback interface of the calling thread's namespace on.
func loUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}
