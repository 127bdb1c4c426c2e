package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// exe is the warren under test, built once; warren-cni is in the same directory.
var exe string

func TestMain(m *testing.M) {
	if os.Getenv(hostileEnv) != "" {
		os.Exit(hostile())
	}
	if os.Getenv(loadEnv) != "" {
		os.Exit(httpLoad())
	}
	if os.Getenv(putEnv) != "" {
		os.Exit(putRecords())
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make network namespaces: run them as root")
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "warren-lab-test")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"warren", "warren-cni"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "../cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", name, err, out)
			os.Exit(1)
		}
	}
	exe = filepath.Join(dir, "warren")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// start starts a lab for the test and removes it at its end. It prints the logs of a failed test.
func start(t *testing.T, spec Spec) *Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	root, err := os.MkdirTemp("", "wl")
	if err != nil {
		t.Fatal(err)
	}
	l, err := Up(ctx, Options{Root: root, Name: "t", Exe: exe}, spec)
	if err != nil {
		os.RemoveAll(root)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range l.NodeNames() {
				raw, _ := os.ReadFile(filepath.Join(l.machineDir(n), "agent.log"))
				t.Logf("log of %s:\n%s", n, tail(string(raw), 30))
			}
		}
		if err := l.Down(); err != nil {
			t.Errorf("down: %v", err)
		}
		if left := l.processes(); len(left) > 0 {
			t.Errorf("processes left: %v", left)
		}
		os.RemoveAll(root)
	})
	return l
}

// killAndStart kills a node's agent, starts it again and waits until it is ready.
func killAndStart(t *testing.T, l *Lab, node string) {
	t.Helper()
	if err := l.StopAgent(node, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAgent(node); err != nil {
		t.Fatal(err)
	}
	if err := l.waitNode(t.Context(), node); err != nil {
		t.Fatal(err)
	}
}

// run attaches a Pod with the echo server.
func run(t *testing.T, l *Lab, node, name string, args ...string) *Pod {
	t.Helper()
	p, err := l.RunPod(context.Background(), PodSpec{Node: node, Name: name, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// onePodEach runs an echo Pod on every node.
func onePodEach(t *testing.T, l *Lab) (pods []*Pod) {
	t.Helper()
	for _, n := range l.NodeNames() {
		pods = append(pods, run(t, l, n, "echo-"+n))
	}
	return pods
}

// sh runs a shell command on a machine; it must succeed.
func sh(t *testing.T, l *Lab, machine, command string) string {
	t.Helper()
	out, err := l.Output(machine, "sh", "-c", command)
	if err != nil {
		t.Errorf("%s: %v", machine, err)
	}
	return out
}

// calls sends an HTTP request from one Pod to another and returns the answer.
func calls(l *Lab, from *Pod, to netip.Addr) (string, error) {
	return l.PodOutput(from, "curl", "-sS", "--max-time", "5", "http://"+host(to)+"/")
}

// mustCall checks that the call arrives at the right Pod with the client's own address.
func mustCall(t *testing.T, l *Lab, from, to *Pod) {
	t.Helper()
	for i, a := range to.Addresses {
		out, err := calls(l, from, a)
		if err != nil {
			t.Errorf("%s -> %s %s: %v", from.Name, to.Name, a, err)
			continue
		}
		if !strings.Contains(out, "host="+to.Name+" ") || !strings.Contains(out, "client="+
			strings.TrimSuffix(netip.AddrPortFrom(from.Addresses[i], 0).String(), "0")) {
			t.Errorf("%s -> %s %s: answered %q, expected host %s and client %s", from.Name, to.Name, a, out, to.Name, from.Addresses[i])
		}
	}
}

// task is a command that runs on a machine during the test.
type task struct {
	out  bytes.Buffer
	mu   sync.Mutex
	done chan error
	l    *Lab
	pid  int
}

func (k *task) Write(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.out.Write(b)
}

func (k *task) text() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.out.String()
}

// begin starts a command in the background; it is ended with the test.
func begin(t *testing.T, l *Lab, exec func(Cmd) error, args ...string) *task {
	t.Helper()
	k := &task{done: make(chan error, 1), l: l}
	script := `echo pid $$; exec "$@"`
	go func() {
		k.done <- exec(Cmd{Args: append([]string{"sh", "-c", script, "sh"}, args...), Stdout: k, Stderr: k})
	}()
	testutil.Eventually(t, "start of "+args[0], func() error {
		if _, err := fmt.Sscanf(k.text(), "pid %d\n", &k.pid); err != nil {
			return fmt.Errorf("no pid in %q", k.text())
		}
		return nil
	})
	t.Cleanup(func() { k.stop(syscall.SIGKILL) })
	return k
}

// stop ends the command and returns what it printed.
func (k *task) stop(sig syscall.Signal) string {
	_ = k.l.kill(k.pid, sig)
	err := <-k.done
	k.done <- err
	_, text, _ := strings.Cut(k.text(), "\n")
	return text
}

// wait lets the command end by itself.
func (k *task) wait(t *testing.T, atMost time.Duration) (string, error) {
	t.Helper()
	select {
	case err := <-k.done:
		k.done <- err
		_, text, _ := strings.Cut(k.text(), "\n")
		return text, err
	case <-time.After(atMost):
		t.Fatalf("the command did not end within %s; so far: %s", atMost, k.text())
		return "", errors.New("unreachable")
	}
}

// on makes an exec function of a machine or a Pod for begin.
func on(l *Lab, machine string) func(Cmd) error {
	return func(c Cmd) error { return l.Exec(machine, c) }
}
func in(l *Lab, p *Pod) func(Cmd) error { return func(c Cmd) error { return l.ExecPod(p, c) } }

// capture records every frame of a machine's eth0 and returns how to end it; the lines are tcpdump's.
func capture(t *testing.T, l *Lab, machine, dev, filter string) func() string {
	t.Helper()
	k := begin(t, l, on(l, machine), "tcpdump", "-nnl", "-i", dev, "--immediate-mode", filter)
	testutil.Eventually(t, "tcpdump", func() error {
		if !strings.Contains(k.text(), "listening on") {
			return errors.New(k.text())
		}
		return nil
	})
	return func() string {
		text := k.stop(syscall.SIGINT)
		var lines []string
		for _, s := range strings.Split(text, "\n") {
			if strings.Contains(s, " > ") || strings.Contains(s, "ARP") {
				lines = append(lines, s)
			}
		}
		return strings.Join(lines, "\n")
	}
}
