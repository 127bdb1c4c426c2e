package veth

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrNoNS means that there is no network namespace at the path.
var ErrNoNS = errors.New("no network namespace")

// ErrSameNS means that the Pod's network namespace is the node's own.
var ErrSameNS = errors.New("is the network namespace of the node itself")

// openNS opens a Pod's network namespace and refuses the node's own.
func openNS(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoNS, err)
	}
	var pod, own unix.Stat_t
	var fs unix.Statfs_t
	err = errors.Join(unix.Fstat(int(f.Fd()), &pod), unix.Fstatfs(int(f.Fd()), &fs), unix.Stat("/proc/thread-self/ns/net", &own))
	switch {
	case err != nil:
		err = fmt.Errorf("read network namespace %s: %w", path, err)
	case fs.Type != unix.NSFS_MAGIC:
		err = fmt.Errorf("%w at %s: the file is not on nsfs", ErrNoNS, path)
	case pod.Ino == own.Ino && pod.Dev == own.Dev:
		err = fmt.Errorf("%s %w", path, ErrSameNS)
	default:
		return f, nil
	}
	f.Close()
	return nil, err
}

// same reports whether two files are the same namespace.
func same(a, b *os.File) bool {
	var x, y unix.Stat_t
	return unix.Fstat(int(a.Fd()), &x) == nil && unix.Fstat(int(b.Fd()), &y) == nil && x.Ino == y.Ino && x.Dev == y.Dev
}

// inside runs f with the thread in namespace ns. It panics when the thread cannot return to its own namespace, because the
// thread would then run other goroutines in the wrong one. The goroutine is locked to the thread only during f: if it were
// locked all the time, the Go runtime would start threads for all other goroutines, 60 us each.
func inside(ns *os.File, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	back, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open the network namespace of the thread: %w", err)
	}
	defer back.Close()
	if same(ns, back) {
		return f() // setns needs CAP_SYS_ADMIN also for the own namespace, and the agent may not have it
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", ns.Name(), err)
	}
	defer func() {
		if err := unix.Setns(int(back.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("cannot return to the node's network namespace: %v", err))
		}
	}()
	return f()
}
