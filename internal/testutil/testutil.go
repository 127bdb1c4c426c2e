// Package testutil holds the helpers that tests of several packages share: waiting for a condition, running commands,
// and running a test in its own network namespace.
//
// It is for tests only: internal/arch refuses an import from other code.
package testutil

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is how long Eventually and EventuallyTrue wait. It is generous because tests share the machine: a test fails
// after it only if the condition never becomes true.
const Patience = 45 * time.Second

// The pause between two checks of a condition doubles from minPause to maxPause, so that a cheap condition is noticed at
// once and an expensive check does not take the processor from what it waits for.
const (
	minPause = time.Millisecond
	maxPause = 64 * time.Millisecond
)

// Eventually repeats check until it returns nil, and fails the test with its last error after Patience.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	EventuallyWithin(t, Patience, what, check)
}

// EventuallyWithin is Eventually with another limit, for conditions that take longer or checks that are expensive.
func EventuallyWithin(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", limit, what, err)
		}
		time.Sleep(pause)
	}
}

// EventuallyTrue repeats condition until it returns true, and fails the test after Patience.
func EventuallyTrue(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for pause := minPause; !condition(); pause = min(2*pause, maxPause) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", Patience, what)
		}
		time.Sleep(pause)
	}
}

// Must fails the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Value returns a function that returns its first argument, and fails the test if the second one is not nil:
//
//	key := testutil.Value[Key](t)(NewKey())
func Value[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// NeedRoot fails the test if it does not run as root, and skips it in -short mode, which `make check` uses. Tests that make
// network namespaces call it first.
func NeedRoot(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs root: not in -short")
	}
	if os.Getuid() != 0 {
		t.Fatal("this test needs root: run it with sudo, or with -short to skip it")
	}
}

// NeedTools fails the test if one of the programs is not in PATH.
func NeedTools(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: install it (hack/deps.sh does)", tool)
		}
	}
}

// Command runs a program and returns its standard output and error. The test fails if the program does.
func Command(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Shell runs a shell command in the namespaces of the calling thread and returns its standard output and error. The test
// continues after a failure, which is an error.
func Shell(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// InNetns runs fn on a thread of its own in a new, empty network namespace. The thread ends with fn, and the namespace with
// the thread. The test fails without root.
func InNetns(t testing.TB, fn func()) {
	t.Helper()
	NeedRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("new network namespace: %v", err)
			return
		}
		fn()
	}()
	<-done
}
