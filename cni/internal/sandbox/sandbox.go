// Package sandbox makes network namespaces for a node and its Pods, for tests and benchmarks.
//
// A namespace exists as long as its file descriptor in this process. Other processes open it by a path under /proc. It has
// no mount and no name, so nothing remains after a test, however it ends. The package never changes the machine's own
// network namespace. It owns the descriptors that it opened and, during Do, one locked thread per call.
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

// New makes a network namespace.
func New() (*Namespace, error) {
	var f *os.File
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
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

// Here returns the namespace of the process.
func Here() (*Namespace, error) {
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	return &Namespace{f}, nil
}

// Path returns the path by which every process of the machine can open the namespace.
func (n *Namespace) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.f.Fd()) }

// Close closes the descriptor. The namespace ends with its last user.
func (n *Namespace) Close() error { return n.f.Close() }

// Do runs f on a thread inside the namespace. Processes that f starts are inside as well, goroutines are not.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
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

// loUp sets the loopback interface of the calling thread's namespace up.
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
