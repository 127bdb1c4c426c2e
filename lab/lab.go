package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// DefaultRoot is where labs live, one directory each.
const DefaultRoot = "/var/lib/warren-lab"

// envMark is in the environment of every process of a lab; its value is the lab's directory.
const envMark = "WARREN_LAB"

// Lab is one lab on disk; its processes may be running or not.
type Lab struct {
	Name string
	Dir  string
	Exe  string // the warren binary; warren-cni is in the same directory
	Spec Spec
	out  func(format string, args ...any)
}

// Options select a lab and its programs.
type Options struct {
	Root string // default DefaultRoot
	Name string // default "default"
	Exe  string // default: the running program
	Out  func(format string, args ...any)
}

// Open loads an existing lab.
func Open(o Options) (*Lab, error) {
	l, err := prepare(o)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(l.path("lab.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no lab %q; `warren lab up%s` makes one", l.Name, l.flags())
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &l.Spec); err != nil {
		return nil, fmt.Errorf("%s: %w", l.path("lab.json"), err)
	}
	return l, nil
}

func prepare(o Options) (*Lab, error) {
	orElse(&o.Root, DefaultRoot)
	orElse(&o.Name, "default")
	if !labName.MatchString(o.Name) {
		return nil, fmt.Errorf("lab name %q: expected lower case letters, digits and '-'", o.Name)
	}
	if o.Exe == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, err
		}
		o.Exe = exe
	}
	if o.Out == nil {
		o.Out = func(string, ...any) {}
	}
	return &Lab{Name: o.Name, Dir: filepath.Join(o.Root, o.Name), Exe: o.Exe, out: o.Out}, nil
}

func (l *Lab) path(parts ...string) string {
	return filepath.Join(append([]string{l.Dir}, parts...)...)
}

// machineDir is the directory of a node or an etcd member: run, lib, logs, pids.
func (l *Lab) machineDir(name string) string { return l.path("machines", name) }

// Socket is the path, seen from outside, of a node's agent socket.
func (l *Lab) Socket(node string) string {
	return filepath.Join(l.machineDir(node), "run", "warren", "agent.sock")
}

// NodeNames lists the nodes in order.
func (l *Lab) NodeNames() (out []string) {
	for i := 1; i <= l.Spec.Nodes; i++ {
		out = append(out, nodeName(i))
	}
	return out
}

func (l *Lab) etcdNames() (out []string) {
	for i := 1; i <= l.Spec.Etcd; i++ {
		out = append(out, etcdName(i))
	}
	return out
}

func (l *Lab) checkNode(name string) error {
	if l.Spec.has(name) {
		return nil
	}
	return fmt.Errorf("lab %s has no node %q; its nodes are %s", l.Name, name, strings.Join(l.NodeNames(), ", "))
}

// checkMachine is checkNode for a machine that may also be an etcd member or the switch.
func (l *Lab) checkMachine(name string) error {
	if name == switchName || slices.Contains(l.etcdNames(), name) {
		return nil
	}
	return l.checkNode(name)
}

// flags are the flags of `warren lab` that select this lab.
func (l *Lab) flags() (s string) {
	if root := filepath.Dir(l.Dir); root != DefaultRoot {
		s += " --root " + root
	}
	if l.Name != "default" {
		s += " --name " + l.Name
	}
	return s
}

// List names the labs below root.
func List(root string) ([]string, error) {
	orElse(&root, DefaultRoot)
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	sort.Strings(out)
	return out, err
}
