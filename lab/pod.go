package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/warrennet/warren/internal/api"
)

// Pod is a network namespace on a node with a process in it, attached by the real CNI plugin.
type Pod struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Node        string            `json:"node"`
	ContainerID string            `json:"containerID"`
	Addresses   []netip.Addr      `json:"addresses"`
	Labels      map[string]string `json:"labels,omitempty"`
	PID         int               `json:"-"`
}

// PodSpec describes a Pod.
type PodSpec struct {
	Node, Name, Namespace string
	Labels                map[string]string
	IPs                   []netip.Addr // requested; empty: any
	MAC                   string
	Ports                 []PortMapping
	Args                  []string // default: the echo server
	Env                   []string
}

// podName matches valid names of Pods.
var podName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// netnsDir is the directory of the Pods' network namespaces on a node.
const netnsDir = "/run/netns"

func (p *Pod) netns() string { return filepath.Join(netnsDir, p.Namespace+"-"+p.Name) }

// RunPod attaches a Pod and starts its process. On failure it removes everything again.
func (l *Lab) RunPod(ctx context.Context, s PodSpec) (*Pod, error) {
	orElse(&s.Namespace, "default")
	if err := l.checkNode(s.Node); err != nil {
		return nil, err
	}
	if !podName.MatchString(s.Name) || !podName.MatchString(s.Namespace) {
		return nil, fmt.Errorf("Pod %s/%s: expected names of lower case letters, digits and '-', at most 63 characters", s.Namespace,
			s.Name)
	}
	if _, err := os.Stat(l.podFile(s.Node, s.Namespace, s.Name)); err == nil {
		return nil, fmt.Errorf("Pod %s/%s runs on %s already", s.Namespace, s.Name, s.Node)
	}
	pid, err := l.hold(s.Node)
	if err != nil {
		return nil, err
	}
	p := &Pod{Name: s.Name, Namespace: s.Namespace, Node: s.Node, Labels: s.Labels}
	raw, err := json.Marshal(attachRequest{Netns: p.netns(), Namespace: s.Namespace, Name: s.Name, Labels: s.Labels, IPs: s.IPs, MAC: s.MAC,
		Ports: s.Ports})
	if err != nil {
		return nil, err
	}
	var out, errOut bytes.Buffer
	if err := l.run(pid, Cmd{Args: []string{l.Exe, "lab", "attach", "add"}, Stdin: bytes.NewReader(raw), Stdout: &out,
		Stderr: &errOut}); err != nil {
		return nil, fmt.Errorf("attach Pod %s on %s: %s", s.Name, s.Node, strings.TrimSpace(errOut.String()))
	}
	var got attachReply
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		return nil, fmt.Errorf("attach Pod %s on %s: answer %q: %w", s.Name, s.Node, out.String(), err)
	}
	p.ContainerID, p.Addresses = got.ContainerID, got.Addresses
	if err := l.savePod(p); err != nil {
		return nil, errors.Join(err, l.RemovePod(p))
	}
	isEcho := len(s.Args) == 0
	if isEcho {
		s.Args = []string{l.Exe, "lab", "echo"}
		_ = os.Remove(l.podLog(p)) // a former Pod's line must not count
	}
	var env api.Env
	if err := l.call(ctx, s.Node, api.EnvPath+"?namespace="+s.Namespace, &env); err != nil {
		return nil, errors.Join(err, l.RemovePod(p))
	}
	args := append([]string{"ip", "netns", "exec", filepath.Base(p.netns()), l.Exe, "lab", "pod-init", p.Name}, s.Args...)
	if err := l.spawn(s.Node, pid, p.process(), Cmd{Args: args, Env: append(env.Variables, s.Env...)}); err != nil {
		return nil, errors.Join(err, l.RemovePod(p))
	}
	p.PID = l.Pid(s.Node, p.process())
	if isEcho {
		if err := l.waitEcho(ctx, p); err != nil {
			return nil, errors.Join(err, l.RemovePod(p))
		}
	}
	return p, nil
}

// EchoReady is what the echo server prints once it listens.
const EchoReady = "listening"

func (l *Lab) podLog(p *Pod) string { return filepath.Join(l.machineDir(p.Node), p.process()+".log") }

// waitEcho waits until the Pod's echo server listens.
func (l *Lab) waitEcho(ctx context.Context, p *Pod) error {
	for {
		raw, err := os.ReadFile(l.podLog(p))
		if err == nil && strings.Contains(string(raw), EchoReady+"\n") {
			return nil
		}
		if l.Pid(p.Node, p.process()) == 0 {
			return fmt.Errorf("the process of Pod %s ended: %s", p.Name, tail(string(raw), 5))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *Pod) process() string { return "pod-" + p.Namespace + "-" + p.Name }

func (l *Lab) podFile(node, namespace, name string) string {
	return filepath.Join(l.machineDir(node), "pods", namespace+"."+name+".json")
}

func (l *Lab) savePod(p *Pod) error {
	file := l.podFile(p.Node, p.Namespace, p.Name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(file, raw, 0o644)
}

// LabPods lists the lab's Pods, by node, namespace and name.
func (l *Lab) LabPods() ([]Pod, error) {
	var out []Pod
	for _, n := range l.NodeNames() {
		files, err := os.ReadDir(filepath.Join(l.machineDir(n), "pods"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			raw, err := os.ReadFile(filepath.Join(l.machineDir(n), "pods", f.Name()))
			if err != nil {
				return nil, err
			}
			var p Pod
			if err := json.Unmarshal(raw, &p); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Name(), err)
			}
			p.PID = l.Pid(n, p.process())
			out = append(out, p)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Namespace+"/"+out[i].Name < out[j].Namespace+"/"+out[j].Name })
	return out, nil
}

// FindPod returns the Pod called [NAMESPACE/]NAME.
func (l *Lab) FindPod(name string) (*Pod, error) {
	namespace := "default"
	if ns, n, ok := strings.Cut(name, "/"); ok {
		namespace, name = ns, n
	}
	pods, err := l.LabPods()
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if p.Name == name && p.Namespace == namespace {
			return &p, nil
		}
	}
	return nil, fmt.Errorf("lab %s has no Pod %s/%s", l.Name, namespace, name)
}

// RemovePod ends a Pod's process and detaches the Pod.
func (l *Lab) RemovePod(p *Pod) error {
	pid, err := l.hold(p.Node)
	if err != nil {
		return err
	}
	errs := []error{l.kill(l.Pid(p.Node, p.process()), syscall.SIGKILL)}
	raw, err := json.Marshal(attachRequest{Netns: p.netns(), Namespace: p.Namespace, Name: p.Name, ContainerID: p.ContainerID})
	if err != nil {
		return err
	}
	var errOut bytes.Buffer
	if err := l.run(pid, Cmd{Args: []string{l.Exe, "lab", "attach", "del"}, Stdin: bytes.NewReader(raw), Stderr: &errOut}); err != nil {
		errs = append(errs, fmt.Errorf("detach Pod %s on %s: %s", p.Name, p.Node, strings.TrimSpace(errOut.String())))
	}
	if errors.Join(errs...) == nil {
		errs = append(errs, os.Remove(l.podFile(p.Node, p.Namespace, p.Name)), os.Remove(l.pidFile(p.Node, p.process())))
	}
	return errors.Join(errs...)
}

// ExecPod runs a command in a Pod's network namespace.
func (l *Lab) ExecPod(p *Pod, c Cmd) error {
	pid, err := l.hold(p.Node)
	if err != nil {
		return err
	}
	c.Args = append([]string{"ip", "netns", "exec", filepath.Base(p.netns()), l.Exe, "lab", "pod-init", p.Name}, c.Args...)
	return l.run(pid, c)
}

// Exec runs a command on a node (or etcd member, or the switch).
func (l *Lab) Exec(machine string, c Cmd) error {
	pid, err := l.hold(machine)
	if err != nil {
		return err
	}
	return l.run(pid, c)
}

// Output runs a command on a machine and returns what it printed.
func (l *Lab) Output(machine string, args ...string) (string, error) {
	pid, err := l.hold(machine)
	if err != nil {
		return "", err
	}
	return l.output(pid, args...)
}

// PodOutput runs a command in a Pod and returns what it printed.
func (l *Lab) PodOutput(p *Pod, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	err := l.ExecPod(p, Cmd{Args: args, Stdout: &out, Stderr: &errOut})
	if err != nil {
		return out.String(), fmt.Errorf("%s in Pod %s: %w: %s", strings.Join(args, " "), p.Name, err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// PodInit gives a Pod's process its host name and becomes the command.
func PodInit(name string, args []string) error {
	runtime.LockOSThread() // the namespace is this thread's until it becomes the command
	if err := syscall.Unshare(syscall.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare uts: %w", err)
	}
	if err := syscall.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	path, err := lookPath(args[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, args, os.Environ())
}

func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, d := range filepath.SplitList(os.Getenv("PATH")) {
		p := filepath.Join(d, name)
		if fi, err := os.Stat(p); err == nil && fi.Mode()&0o111 != 0 && !fi.IsDir() {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: not found in %s", strconv.Quote(name), os.Getenv("PATH"))
}
