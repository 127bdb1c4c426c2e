package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// namespaces are those a machine of the lab has for itself.
var namespaces = []struct {
	name string
	flag int
}{{"net", unix.CLONE_NEWNET}, {"uts", unix.CLONE_NEWUTS}, {"mnt", unix.CLONE_NEWNS}}

// inside runs fn on a thread that has entered the namespaces of process pid. The thread ends with fn.
func inside(pid int, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with this goroutine
		done <- func() error {
			// A thread may enter a mount namespace only while it shares its root and cwd with no other.
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare fs: %w", err)
			}
			for _, ns := range namespaces {
				if err := enter(pid, ns.name, ns.flag); err != nil {
					return err
				}
			}
			return fn()
		}()
	}()
	return <-done
}

func enter(pid int, name string, flag int) error {
	path := fmt.Sprintf("/proc/%d/ns/%s", pid, name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, flag); err != nil {
		return fmt.Errorf("enter %s: %w", path, err)
	}
	return nil
}

// Cmd is a command to run on a machine of the lab.
type Cmd struct {
	Args           []string
	Env            []string // added to a plain environment
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

func (l *Lab) environ(extra []string) []string {
	env := []string{envMark + "=" + l.Dir, "PATH=" + filepath.Dir(l.Exe) + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", "TERM=" + os.Getenv("TERM")}
	return append(env, extra...)
}

// run starts a command in the namespaces of pid and waits for it.
func (l *Lab) run(pid int, c Cmd) error {
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Dir = l.environ(c.Env), c.Stdin, c.Stdout, c.Stderr, "/"
	if err := inside(pid, cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", c.Args[0], err)
	}
	return cmd.Wait()
}

// output runs a command and returns what it printed; on failure that is in the error.
func (l *Lab) output(pid int, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	err := l.run(pid, Cmd{Args: args, Stdout: &out, Stderr: &errOut})
	if err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// spawn starts a background process on a machine; its output goes to the machine's log of that name, its pid is kept.
func (l *Lab) spawn(machine string, pid int, name string, c Cmd) error {
	log, err := os.OpenFile(filepath.Join(l.machineDir(machine), name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.Dir = l.environ(c.Env), log, log, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	start := cmd.Start
	if pid > 0 {
		start = func() error { return inside(pid, cmd.Start) }
	}
	if err := start(); err != nil {
		return fmt.Errorf("start %s on %s: %w", name, machine, err)
	}
	go func() { _ = cmd.Wait() }() // a long-lived caller (a test) must not gather zombies
	return l.keepPid(machine, name, cmd.Process.Pid)
}

func (l *Lab) pidFile(machine, name string) string {
	return filepath.Join(l.machineDir(machine), name+".pid")
}

func (l *Lab) keepPid(machine, name string, pid int) error {
	return os.WriteFile(l.pidFile(machine, name), []byte(strconv.Itoa(pid)), 0o644)
}

// Pid returns the process of that name on a machine, 0 when it does not run. A pid that was reused by a process
// outside the lab does not count.
func (l *Lab) Pid(machine, name string) int {
	raw, err := os.ReadFile(l.pidFile(machine, name))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || !l.ours(pid) {
		return 0
	}
	return pid
}

// ours reports whether a process carries this lab's mark and is not a zombie. A process in the middle of execve shows an
// empty or unreadable environment, and for a moment even looks like a zombie, when another thread than its first one
// called execve. Therefore a young process is examined again.
func (l *Lab) ours(pid int) bool {
	mark := []byte("\x00" + envMark + "=" + l.Dir + "\x00")
	const looks, deadLooks = 5000, 50
	dead := 0
	for range looks {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && len(env) > 0 {
			return bytes.Contains(append([]byte{0}, env...), mark)
		}
		switch stateOf(pid) {
		case hopeless:
			return false
		case looksDead:
			if dead++; dead > deadLooks {
				return false
			}
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// look is the state of a process whose environment cannot be read.
type look int

const (
	hopeless  look = iota // gone, a kernel thread, or old: its environment is just empty
	looksDead             // a zombie, or young and about to become another program
	looksYoung
)

// stateOf reads /proc/PID/stat (proc(5)).
func stateOf(pid int) look {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return hopeless
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	f := strings.Fields(rest)
	if len(f) < 20 {
		return hopeless
	}
	const kthread, hz = 0x00200000, 100
	flags, errFlags := strconv.ParseUint(f[6], 10, 64)
	start, errStart := strconv.ParseInt(f[19], 10, 64)
	var now unix.Timespec
	if errFlags != nil || errStart != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return hopeless
	}
	switch {
	case flags&kthread != 0 || now.Sec-start/hz >= 5:
		return hopeless
	case f[0] == "X" || f[0] == "Z":
		return looksDead
	}
	return looksYoung
}

// processes lists every process with the lab's mark, also those with another parent than this program.
func (l *Lab) processes() (out []int) {
	entries, _ := os.ReadDir("/proc") // /proc is always readable
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() && l.ours(pid) {
			out = append(out, pid)
		}
	}
	return out
}

// kill sends sig to a process of the lab and waits for its end.
func (l *Lab) kill(pid int, sig syscall.Signal) error {
	if pid == 0 || !l.ours(pid) {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	deadline := time.Now().Add(10 * time.Second)
	for {
		n, err := unix.Poll(p, int(max(time.Until(deadline), 0)/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n > 0 {
			return err
		}
		return fmt.Errorf("process %d did not end within 10 s of %v", pid, sig)
	}
}
